"""Real workers whose step goes wrong by a bit fetch the right state, whether the host trains or not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

import diloco
from peers.protocol.traces import EnteredTrace, ParityTrace, RecomputedTrace
from tests.net.test_methods import Small, settings
from transport.effects import Trace

ROUNDS = 8
WRONG_AT = 3


class Trained:
    """A thread that trains in a swarm to its end."""

    def __init__(self, swarm: diloco.Swarm, seed: int, wrong_at: int | None, when: str = "after") -> None:
        self._swarm = swarm
        self._when = when
        self._seed = seed
        self._wrong_at = wrong_at
        self.error: BaseException | None = None
        self.parameters: list[Tensor] = []
        self.round = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._train()
        except BaseException as error:
            self.error = error

    def _train(self) -> None:
        model = Small()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        data = torch.Generator().manual_seed(self._seed)
        with diloco.attach(model, optimizer, self._swarm, tokens_per_step=8, timeout_s=30.0) as outer:
            if self._wrong_at is not None:
                go_wrong_once(outer, self._wrong_at, self._when)
            for x in outer.until_finished(iter(lambda: torch.randn(8, 24, generator=data), None)):
                optimizer.zero_grad()
                (model(x) - x).square().mean().backward()
                optimizer.step()
            with outer.outer_parameters():
                self.parameters = [p.detach().clone() for p in model.parameters()]
            self.round = outer.round


def go_wrong_once(outer: diloco.Outer, at: int, when: str) -> None:
    """Before or after the outer step with that count one value moves by a bit, as in worn memory."""
    state = outer.replica.outer
    step = state.step

    def wear(fragment: int) -> None:
        bits = state.outer_parameters(fragment)[:1].view(torch.int32)
        bits ^= 1 << 20  # a step must not round it away

    def wrong(fragment: int, mean: Tensor) -> Tensor:
        if when == "before" and state.count(fragment) == at - 1:
            wear(fragment)
        delta = step(fragment, mean)
        if when == "after" and state.count(fragment) == at:
            wear(fragment)
        return delta

    state.step = wrong  # type: ignore[method-assign]


def host_key(seen: list[Trace]) -> bytes:
    """The key of the host's own worker."""
    return next(each.peer for each in seen if isinstance(each, EnteredTrace) and each.peer_name == "host")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("who", ["worker", "host"])
def test_a_tie_is_broken_by_computing_the_step_once_more(who: str, when: str, tmp_path: Path) -> None:
    run = settings("diloco")
    run = run.model_copy(update={"run": run.run.model_copy(update={"rounds": ROUNDS})})
    seen: list[Trace] = []
    with (
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host", on_trace=seen.append) as host,
        diloco.join(host.ticket, name="w", listen="tcp://127.0.0.1:0") as other,
    ):
        own = Trained(host, 0, WRONG_AT if who == "host" else None, when)
        worker = Trained(other, 1, WRONG_AT if who == "worker" else None, when)
        for each in (own, worker):
            each.thread.join(60.0)
            assert not each.thread.is_alive(), "it waits for the other"
    assert (own.error, worker.error) == (None, None)
    computed = [trace for trace in seen if isinstance(trace, RecomputedTrace)]
    assert [trace.found for trace in computed] == [True], computed
    assert [trace.peer == host_key(seen) for trace in seen if isinstance(trace, ParityTrace)] == [
        who == "host"
    ]
    assert own.round == worker.round == ROUNDS
    assert all(torch.equal(a, b) for a, b in zip(own.parameters, worker.parameters, strict=True))


def test_a_host_that_does_not_train_computes_who_is_right_between_two(tmp_path: Path) -> None:
    run = settings("diloco")
    run = run.model_copy(update={"run": run.run.model_copy(update={"rounds": ROUNDS})})
    seen: list[Trace] = []
    with (
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host", on_trace=seen.append) as host,
        diloco.join(host.ticket, name="right", listen="tcp://127.0.0.1:0") as right,
        diloco.join(host.ticket, name="wrong", listen="tcp://127.0.0.1:0") as wrong,
    ):
        workers = [Trained(right, 0, None), Trained(wrong, 1, WRONG_AT)]
        for each in workers:
            each.thread.join(60.0)
            assert not each.thread.is_alive(), "it waits for the other"
    assert [each.error for each in workers] == [None, None]
    assert [trace.found for trace in seen if isinstance(trace, RecomputedTrace)] == [True]
    assert [each.peer for each in seen if isinstance(each, ParityTrace)] == [wrong.key]
    assert [each.round for each in workers] == [ROUNDS, ROUNDS]
    assert all(torch.equal(a, b) for a, b in zip(*(each.parameters for each in workers), strict=True))
