"""How long inner steps take over links, in virtual time: the order of work is 1F1B's; splitting pays."""

from __future__ import annotations

import heapq

import pytest

from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.stage_loop import Backward, Forward, StageLoop, Step, Weights, Work

FORWARD_S, INPUT_S, WEIGHTS_S = 1.0, 1.0, 1.0
T = FORWARD_S + INPUT_S + WEIGHTS_S
Event = tuple[float, int, int, Work | None, MicrobatchId | None, bool]


class Virtual:
    """Inner steps of a line whose members have one access line each way. Messages to a member take ``line_s``
    on the sender's way out and its way in, and ``latency_s`` beside."""

    def __init__(self, stages: int, quota: int, latency_s: float, line_s: float, *, split: bool) -> None:
        last = stages - 1
        self.loops = [
            StageLoop(quota, is_last=stage == last, grace_s=1e9, split_backward=split)
            for stage in range(stages)
        ]
        self.split, self.latency_s, self.line_s = split, latency_s, line_s
        self.out, self.into = [0.0] * stages, [0.0] * stages
        self.busy = [False] * stages
        self.events: list[Event] = []
        self.count = 0

    def seconds(self, steps: int) -> float:
        """From the end of the first step of stage 0 to that of its last, a step."""
        ends: list[float] = []
        for number in range(self.loops[0].quota * steps):
            self.loops[0].input_arrived(MicrobatchId(b"", 0, number))
        self.start(0, 0.0)
        while len(ends) < steps:
            now, _, stage, work, microbatch, up = heapq.heappop(self.events)
            if work is not None:
                self.busy[stage] = False
                self.loops[stage].done(work, 1)
                self.pass_on(stage, work, now)
                if isinstance(work, Step) and stage == 0:
                    ends.append(now)
            elif microbatch is not None and up:
                self.loops[stage].input_arrived(microbatch)
            elif microbatch is not None:
                self.loops[stage].gradient_arrived(microbatch)
            self.start(stage, now)
        return (ends[-1] - ends[0]) / (steps - 1)

    def start(self, stage: int, now: float) -> None:
        if self.busy[stage] or (work := self.loops[stage].next_work(now)) is None:
            return
        self.busy[stage] = True
        backward = INPUT_S if self.split else INPUT_S + WEIGHTS_S
        match work:
            case Forward():
                takes = FORWARD_S + (backward if stage == len(self.loops) - 1 else 0.0)
            case Backward():
                takes = backward
            case Weights():
                takes = WEIGHTS_S
            case Step():
                takes = 0.0
        self.push(now + takes, stage, work, None, up=False)

    def pass_on(self, stage: int, work: Work, now: float) -> None:
        if isinstance(work, Forward | Backward):
            up = isinstance(work, Forward) and stage < len(self.loops) - 1
            to = stage + 1 if up else stage - 1
            if to >= 0:
                begins = max(now, self.out[stage], self.into[to])
                self.out[stage] = self.into[to] = begins + self.line_s
                self.push(begins + self.line_s + self.latency_s, to, None, work.microbatch, up=up)

    def push(
        self, at: float, stage: int, work: Work | None, microbatch: MicrobatchId | None, *, up: bool
    ) -> None:
        self.count += 1
        heapq.heappush(self.events, (at, self.count, stage, work, microbatch, up))


def utilization(stages: int, quota: int, latency_s: float, line_s: float, *, split: bool) -> float:
    return quota * T / Virtual(stages, quota, latency_s, line_s, split=split).seconds(6)


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("quota", [1, 8, 32])
def test_without_distance_the_bubble_is_that_of_1f1b(stages: int, quota: int) -> None:
    assert utilization(stages, quota, 0, 0, split=False) == pytest.approx(quota / (quota + stages - 1))


@pytest.mark.parametrize(
    ("stages", "latency_s", "line_s", "quota"),
    [(4, 0.05, 0.1, 8), (8, 0.1, 0.5, 32), (8, 0.1, 0.3, 16)],
)
def test_with_distance_it_is_the_formulas(stages: int, latency_s: float, line_s: float, quota: int) -> None:
    """Where computing takes longer than a line: U = G t / ((G - 1) t + P)."""
    once = stages * T + (stages - 1) * 2 * (latency_s + line_s)
    formula = quota * T / ((quota - 1) * T + once)
    assert utilization(stages, quota, latency_s, line_s, split=False) == pytest.approx(formula, rel=0.005)


@pytest.mark.parametrize(
    ("quota", "line_s", "unsplit", "split"), [(16, 0.3, 0.643, 0.896), (32, 0.5, 0.766, 1.0)]
)
def test_weights_fill_the_wait(quota: int, line_s: float, unsplit: float, split: float) -> None:
    """Stages step on their own: the first one begins the next step while the last does its weights."""
    assert utilization(8, quota, 0.1, line_s, split=False) == pytest.approx(unsplit, abs=0.001)
    assert utilization(8, quota, 0.1, line_s, split=True) == pytest.approx(split, abs=0.001)
