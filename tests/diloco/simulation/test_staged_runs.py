"""Scenarios with a model in stages: what happens, what is reported, and that planted bugs are seen."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from diloco.loop.session import WorkerSession
from diloco.pipeline.microbatch import random_seed
from diloco.pipeline.stage_loop import StageLoop
from diloco.simulation import stage_worker, staged_run
from diloco.simulation.identities import key_of
from diloco.simulation.report.report import SimulationReport
from diloco.simulation.runner import simulate
from diloco.simulation.stage_checks import StageChecks
from diloco.simulation.stage_recorder import StageRecorder
from peers.coordinator import moving
from peers.coordinator.placing import Move
from peers.protocol.stage_work import MicrobatchId
from peers.protocol.stream import StandsSince
from peers.routing import ending, receiving, streaming
from peers.routing.state import StreamState
from peers.routing.streaming import Streaming
from tests.diloco.simulation.small_pipeline import small
from transport import yielding


@pytest.fixture(scope="module")
def quiet() -> SimulationReport:
    return simulate(small())


def test_without_faults_everything_settles_and_every_stage_counts_the_same(quiet: SimulationReport) -> None:
    found = quiet.microbatches
    assert quiet.ended == "the run is finished"
    assert not quiet.violations
    assert found is not None
    assert (found.partial, found.lost, found.by_cause) == (0, 0, {})
    assert found.settled == 2 * 2 * 2 * 4  # rounds, steps, lines, quota
    assert [each.counted for each in quiet.stages] == [found.settled] * 3
    assert [each.rounds for each in quiet.stages] == [2, 2, 2]
    assert [each.short_steps for each in quiet.stages] == [0, 0, 0]


def test_a_run_has_the_tokens_that_settled_and_not_the_sum_over_stages(quiet: SimulationReport) -> None:
    assert quiet.tokens == quiet.tokens_applied == 32 * 1000
    assert quiet.tokens_per_s == pytest.approx(quiet.tokens / quiet.seconds)
    assert quiet.ideal_tokens_per_s == pytest.approx(2 * 1000, rel=0.05)


def test_a_stage_tells_its_peers_seconds_and_bytes(quiet: SimulationReport) -> None:
    first, middle, last = quiet.stages
    assert sorted(first.peers + middle.peers + last.peers) == [f"peer-{i + 1}" for i in range(6)]
    assert first.seconds["forward"] == pytest.approx(32 * 0.25, rel=0.1)
    assert middle.seconds["backward"] == pytest.approx(32 * 0.75, rel=0.1)
    assert last.seconds["compute"] == pytest.approx(32 * 1.0, rel=0.1)
    assert middle.sent["stream"] > 1.9 * last.sent["stream"]
    assert first.utilization == pytest.approx(sum(p.utilization for p in quiet.peers) / 6, rel=0.05)


def test_the_same_seed_gives_the_same_bytes(quiet: SimulationReport) -> None:
    assert simulate(small()).to_json() == quiet.to_json()


def test_what_is_about_stages_is_told_of_cut_models_only(quiet: SimulationReport) -> None:
    assert '"microbatches"' in quiet.to_json()
    whole = simulate(small(stages=1, num_peers=2, pipeline={"stages": 1}))
    assert '"microbatches"' not in whole.to_json()
    assert '"stage' not in whole.to_json()


FAULTS = [
    {"do": "crash", "peers": "peer-1", "at": "4s", "for": "60s"},
    {"do": "freeze", "peers": "peer-4", "at": "30s", "for": "5s"},
    {"do": "slow", "peers": "peer-5", "at": "10s", "for": "30s", "factor": 3},
    {"do": "degrade", "peers": "peer-6", "at": "10s", "for": "30s", "factor": 3},
    {"do": "cut", "peers": ["peer-1", "peer-2"], "at": "12s", "for": "6s"},
    {"do": "leave", "peers": "peer-2", "at": "40s"},
    {"do": "join", "peers": "late", "at": "50s"},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["do"])
def test_a_run_gets_over_every_fault(fault: dict[str, Any]) -> None:
    scenario = small(run={"rounds": 4}, events=[fault])
    scenario["peers"].append(dict(scenario["peers"][0], name="late", count=1, joins_at="event"))
    report = simulate(scenario)
    assert not report.violations
    assert report.ended == "the run is finished"
    found = report.microbatches
    assert found is not None
    assert found.partial + found.lost <= 2 * 4  # a window of each feeder


def test_a_slow_replica_holds_its_line_up() -> None:
    event = {"do": "slow", "peers": "peer-5", "at": 0.1, "factor": 4}
    assert simulate(small(events=[event])).seconds > 1.5 * simulate(small()).seconds


def test_who_asks_for_a_stage_gets_it() -> None:
    scenario = small()
    peer = scenario["peers"][0]
    scenario["peers"] = [dict(peer, name=f"s{stage}", count=2, stage=stage) for stage in (2, 0, 1)]
    found = simulate(scenario).stages
    assert [sorted(each.peers) for each in found] == [[f"s{n}-1", f"s{n}-2"] for n in range(3)]


def test_a_peer_moves_to_a_stage_that_lost_most() -> None:
    scenario = small(stages=2, run={"rounds": 8, "failure_timeout_s": 3.0}, method={"sync_every": 2})
    peer = dict(scenario["peers"][0])
    scenario["peers"] = [
        dict(peer, name="poor", count=3, stage=1),
        dict(peer, name="rich", count=3, joins_at=1),
    ]
    scenario["events"] = [{"do": "crash", "peers": ["poor-1", "poor-2"], "at": "8s"}]
    report = simulate(scenario)
    assert not report.violations
    assert report.ended == "the run is finished"
    moved = [mark.peer for mark in report.marks if "is told to move from stage 0 to stage 1" in mark.text]
    assert len(moved) == 1
    assert all(moved[0] in stage.peers for stage in report.stages), "it trained both"
    first, second = report.stages
    assert first.seconds["forward"] == pytest.approx(first.counted * 0.25, rel=0.05)
    assert "compute" not in first.seconds
    assert second.seconds["compute"] == pytest.approx(second.counted * 1.0, rel=0.05)
    assert "forward" not in second.seconds
    assert sum(sum(each.seconds.values()) for each in report.stages) == pytest.approx(
        sum(sum(each.seconds.values()) for each in report.peers)
    )
    for purpose in ("stream", "exchange"):
        sent = sum(each.sent.get(purpose, 0) for each in report.peers)
        assert sum(each.sent.get(purpose, 0) for each in report.stages) == sent
    assert report.ideal_tokens_per_s < 4 * 1000, "of a stage, what those who trained it could"


def test_an_offer_of_what_was_counted_before_its_sketch_counts_nothing_twice() -> None:
    method = {"preset": "dilocox", "sync_every": 4, "delay": 4, "codec": "int4"}
    report = simulate(small(run={"rounds": 3}, method=method, model={"parameters": "60M"}))
    assert not report.violations
    assert report.ended == "the run is finished"


# -- planted bugs -----------------------------------------------------------------------------------


class StepsInFlight(StageLoop):
    """A step ends though something is in flight."""

    def __init__(self, quota: int, **more: Any) -> None:
        super().__init__(quota, **{**more, "ends_early": True, "grace_s": 0.01})

    @property
    def drained(self) -> bool:
        return True


def test_a_step_with_one_in_flight_is_caught() -> None:
    assert any("PP2" in line for line in simulate(small(), make_loop=StepsInFlight).violations)


def test_dropout_seeded_by_the_attempt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent again draws what its first attempt drew, also at another replica."""

    def seed_of(seed: int, microbatch: MicrobatchId, stage: int, attempt: int) -> int:
        return random_seed(seed + len(calls), microbatch, stage)

    calls: list[int] = []

    class Staging(stage_worker.Staging):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, seed_of=lambda *what: calls.append(1) or seed_of(*what))  # type: ignore[func-returns-value]

    monkeypatch.setattr(staged_run, "Staging", Staging)
    assert any("PP6" in line for line in simulate(small()).violations)


def test_a_tensor_of_another_microbatch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = receiving.InputArrived

    def other(microbatch: MicrobatchId, *given: Any) -> object:
        feeder, incarnation, number = microbatch
        return arrived(MicrobatchId(feeder, incarnation, number ^ 1), *given)

    monkeypatch.setattr(receiving, "InputArrived", other)
    assert any("PP9" in line for line in simulate(small(end="2min")).violations)


def test_a_microbatch_that_ends_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    end = ending.end

    def twice(state: StreamState, now: float, number: int, *how: Any) -> None:
        fed = state.fed.get(number)
        end(state, now, number, *how)
        if fed is not None:
            state.fed[number] = fed
            end(state, now, number, *how)

    monkeypatch.setattr(ending, "end", twice)
    assert any("PP3" in line for line in simulate(small(end="1min")).violations)


def test_a_thawed_replica_whose_accumulation_is_still_offered_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its membership ended while it was frozen, and another one has counted the same since."""
    freeze = {"do": "freeze", "peers": "peer-3", "at": "25s", "for": "40s"}
    scenario = small(run={"rounds": 4}, events=[freeze])
    assert not simulate(scenario).violations
    stand, opened = Streaming.stand, streaming.StreamOpened

    def keeps(self: Streaming, now: float, message: StandsSince) -> bool:
        stand(self, now, message)
        return False

    monkeypatch.setattr(Streaming, "stand", keeps)
    monkeypatch.setattr(streaming, "StreamOpened", lambda membership, void: opened(membership, False))
    assert any("PP1:" in line or "PP1 " in line for line in simulate(scenario).violations)


def test_a_move_that_empties_a_stage_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = small(stages=2, run={"rounds": 8, "failure_timeout_s": 3.0})
    peer = dict(scenario["peers"][0])
    scenario["peers"] = [dict(peer, name="lone", count=1, stage=1), dict(peer, name="other", count=2)]
    assert not simulate(scenario).violations
    move = Move(key_of("lone"), 0)
    monkeypatch.setattr(moving, "best_move", lambda loads, movable, fewest: move)
    assert any("PP10" in line for line in simulate(scenario).violations)


def test_an_offer_without_what_a_step_counted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    stepped = WorkerSession.stepped

    def forgets(self: WorkerSession, tokens: int, seconds: float, steps: int) -> None:
        stepped(self, tokens if self.steps % 2 else 0, seconds, steps)

    monkeypatch.setattr(WorkerSession, "stepped", forgets)
    assert any("PP5" in line for line in simulate(small()).violations)


def test_bytes_that_no_settled_microbatch_accounts_for_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = StageRecorder.finish

    def fewer(self: StageRecorder, *given: Any) -> None:
        finish(self, *given)
        self.microbatches.fed = self.microbatches.settled = self.microbatches.settled // 2

    monkeypatch.setattr(StageRecorder, "finish", fewer)
    assert any("PP12" in line for line in simulate(small()).violations)


def test_a_boundary_that_waits_for_an_exchange_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    streaming = small(method={"num_fragments": 2, "delay": 1}, model={"parameters": "60M"})
    assert not simulate(streaming).violations
    monkeypatch.setattr(yielding, "HELD_S", 0.5)
    assert any("PP11" in line for line in simulate(streaming).violations)


def test_a_fault_that_nobody_told_of_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = StageChecks.__init__
    monkeypatch.setattr(StageChecks, "__init__", lambda self, shapes, faultless: made(self, shapes, True))
    crash = {"do": "crash", "peers": "peer-1", "at": "4s", "for": "60s"}
    lines = simulate(small(events=[crash])).violations
    assert any("PP4" in line for line in lines)


def test_a_report_of_stages_is_plain(quiet: SimulationReport) -> None:
    assert dataclasses.asdict(quiet)["stages"][1]["stage"] == 1
