"""Runs the whole stack on the workers of `problem`, over loopback sockets or in simulated time, and tells
what came of it.

Owns no formula: what is to come out is said by the loops beside it. The two drivers train the same models
with the same data; what they return is compared by `assert_equal`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import diloco
from diloco.outer.replica import TensorReplica
from diloco.simulation.engine import Engine
from diloco.simulation.pace import Peer, StepTime
from diloco.simulation.report.report import Activity
from diloco.simulation.virtual_training import FAST
from diloco.simulation.worker import Trainer
from diloco.simulation.worker import Worker as SimulatedWorker
from peers.node import Node
from peers.protocol.commands import Command
from peers.protocol.events import SwapFailed, Swapped
from tests.reference.problem import MakeModel, MakeOptimizer, Net, Seen, inner_step, sgd, values
from transport.effects import Effect

_LOOK_S = 0.01


def settings(rounds: int, workers: int, method: dict[str, Any]) -> diloco.RunSettings:
    """The settings of a run."""
    run = {"rounds": rounds, "min_peers": workers, "failure_timeout_s": 5.0, "grace_s": 20.0}
    return diloco.RunSettings.model_validate({"run": run, "method": method})


def over_sockets(
    method: dict[str, Any],
    rounds: int,
    tokens: Sequence[int],
    make_optimizer: MakeOptimizer = sgd,
    *,
    timeout_s: float = 50.0,
    make_model: MakeModel = Net,
    ahead: int = 0,
    alone: bool = False,
) -> list[Seen]:
    """A host and one worker thread for each of ``tokens`` (those of its inner steps), over encrypted
    loopback sockets, until the run has its rounds. All begin at the same time, but worker 0 has done
    ``ahead`` inner steps by then, and with ``alone`` the others enter only after those."""
    seen = [Seen() for _ in tokens]
    errors: list[BaseException] = []
    together = threading.Barrier(len(tokens))

    enter = threading.Event()
    if not alone:
        enter.set()

    models = [make_model() for _ in tokens]  # not in the threads, which share torch's generator

    def train(index: int, swarm: diloco.Swarm) -> None:
        try:
            with swarm:
                model = models[index]
                optimizer = make_optimizer(model)

                def note(event: object) -> None:
                    _take(seen[index], event, index, lambda key: int(swarm.view.peers[key][1:]))

                if index:
                    enter.wait(timeout_s)
                with diloco.attach(
                    model,
                    optimizer,
                    swarm,
                    tokens_per_step=tokens[index],
                    timeout_s=timeout_s,
                    on_event=note,
                ) as outer:

                    def step() -> None:
                        seen[index].starts.append(values(model))
                        inner_step(model, optimizer, index, outer.step)

                    for _ in range(0 if index else ahead):
                        step()
                    if not index:
                        enter.set()
                    together.wait(timeout_s)
                    _wait_for_others(swarm, len(tokens) - 1, timeout_s)
                    while not outer.finished:
                        step()
                    seen[index].outer_steps = _outer_steps(outer.replica)
                    with outer.outer_parameters():
                        seen[index].outer = values(model)
                    seen[index].bytes_sent = swarm.bytes_sent
                    together.wait(timeout_s)  # nobody leaves before all have the last result
        except BaseException as error:
            errors.append(error)
            together.abort()

    run = settings(rounds, len(tokens), method)
    with (
        TemporaryDirectory() as state,
        diloco.host(run, listen="tcp://127.0.0.1:0", state=Path(state)) as host,
    ):
        threads = []
        for index in range(len(tokens)):
            swarm = diloco.join(host.ticket, name=f"w{index}", listen="tcp://127.0.0.1:0")
            threads.append(threading.Thread(target=train, args=(index, swarm)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout_s)
            assert not thread.is_alive(), "it did not come to its end"
    if errors:
        raise errors[0]
    return seen


def simulated(
    method: dict[str, Any],
    steps: int,
    tokens: Sequence[int],
    make_optimizer: MakeOptimizer = sgd,
    *,
    rounds: int = 10**6,
    make_model: MakeModel = Net,
    step_s: Sequence[float] = (),
    until_s: float = 0.0,
) -> list[Seen]:
    """The same in simulated time on links that cost nothing, each worker for ``steps`` inner steps of
    ``step_s`` each (a second if that is empty), or until ``until_s`` if that is given."""
    times = [StepTime(each) for each in step_s or [1.0] * len(tokens)]
    seen = [Seen() for _ in tokens]
    run = settings(rounds, len(tokens), method)
    made = [_trainer(run, index, seen[index], make_optimizer, make_model()) for index in range(len(tokens))]
    engine = Engine(
        run,
        [Peer(f"w{i}", FAST, times[i], tokens_per_step=each) for i, each in enumerate(tokens)],
        lambda peer, life: made[int(peer.name[1:])][1],
        host=FAST,
        num_steps=steps,
        watchers=[_Notes(seen, lambda key: int(engine.name_of(key)[1:]))],
    )
    engine.begin()

    def ended() -> bool:
        sessions = [worker.session for worker in engine.workers.values()]
        quiet = [each.patience_ends(engine.net.now) is None for each in sessions]
        return len(sessions) == len(tokens) and all(quiet) and all(s.steps >= steps for s in sessions)

    if until_s:
        engine.run(until_s)
    else:
        longest = 100.0 + 20.0 * steps * max(each.step_s for each in times)
        assert engine.run(longest, done=ended), "the workers did not come to an end"
    for index, (model, trainer) in enumerate(made):
        replica, worker = trainer.replica, engine.workers[f"w{index}"]
        assert isinstance(replica, TensorReplica)
        seen[index].starts.append(values(model))
        seen[index].outer_steps = _outer_steps(replica)
        for fragment in range(run.method.resolved().num_fragments):
            replica.model.scatter(fragment, replica.outer.outer_parameters(fragment))
        seen[index].outer = values(model)
        seen[index].bytes_sent = worker.bytes_sent
        sent = worker.process.sent
        seen[index].bulk_bytes = sum(sent[purpose] for purpose in sent if purpose not in ("control", "check"))
    return seen


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Fails unless all named tensors are equal to within ``tolerance``."""
    for name, value in expected.items():
        difference = float((found[name] - value).abs().max())
        bound = tolerance * max(1.0, float(value.abs().max()))
        assert difference <= bound, f"{name} differs by {difference:.3g}"


HEADER_BYTES = 100
"""Of a message with a part of a vector."""
CONTROL_BYTES = 8_000
"""Of all else that one worker says in a run of a reference test."""
INDEX_BYTES = 100
"""Of the index of a fragment's first state, if that is one piece: a digest of 32 bytes, and which it is."""


def assert_bytes(
    seen: Sequence[Seen], outer_steps: Sequence[int], payload_bytes: Sequence[int], *, chunks: int = 1
) -> None:
    """Fails unless the workers together sent what a direct exchange of ``payload_bytes`` (by fragment) takes,
    as often as ``outer_steps`` (by fragment): of M members each sends its part of every chunk to the chunk's
    owner, and the owner sends the mean to the others, so 2 (M - 1) times the payload. Besides that there are
    `HEADER_BYTES` for each of ``chunks`` on its way between two members, and `CONTROL_BYTES` for each
    worker; and of a chunk that is checked, up to M - 2 parts once more, and what its owner added, in fp32,
    which are not counted as bulk."""
    others = len(seen) - 1
    exact = sum(2 * others * n * size for n, size in zip(outer_steps, payload_bytes, strict=True))
    headers = HEADER_BYTES * chunks * sum(2 * len(seen) * others * n for n in outer_steps)
    bulk = sum(each.bulk_bytes for each in seen)
    if bulk:
        assert exact <= bulk <= exact + headers
    sent = sum(each.bytes_sent for each in seen)
    checks = sum(max(0, others - 1) * n * size for n, size in zip(outer_steps, payload_bytes, strict=True))
    checks += sum(outer_steps) * 4 * sum(tensor.numel() for tensor in seen[0].starts[0].values())
    assert exact <= sent <= exact + headers + checks + CONTROL_BYTES * len(seen)


def assert_same(found: Sequence[Seen], expected: Sequence[Seen]) -> None:
    """Fails unless all workers took the same path: local parameters before every inner step that the loop
    has, outer parameters at the end, and outer steps. Over sockets a worker may train on until it hears of
    the end."""
    for each, wanted in zip(found, expected, strict=True):
        assert len(each.starts) >= len(wanted.starts) - 1  # the last is after the last step
        for step, (mine, start) in enumerate(zip(each.starts, wanted.starts, strict=False)):
            try:
                assert_equal(mine, start)
            except AssertionError as error:
                raise AssertionError(f"before inner step {step}: {error}") from None
        assert_equal(each.outer, wanted.outer)
        assert each.outer_steps == wanted.outer_steps


def assert_told(
    seen: list[Seen], starts: list[list[dict[str, Tensor]]], outer: dict[str, Tensor], outer_steps: int
) -> None:
    """Fails unless each worker trained from ``starts``, step for step, and all came to ``outer``."""
    for found, expected in zip(seen, starts, strict=True):
        assert found.outer_steps == [outer_steps]
        for have, want in zip(found.starts, expected, strict=False):
            assert_equal(have, want)
        assert_equal(found.outer, outer)


def assert_nearly_told(seen: Seen, starts: list[dict[str, Tensor]], step: float, few: float = 0.02) -> None:
    """Fails unless a worker trained from ``starts``, but for a ``few`` of the values, which may be off by a
    ``step`` between two levels that values are rounded to."""
    for have, want in zip(seen.starts, starts, strict=False):
        off = torch.cat([(have[name] - want[name]).abs().reshape(-1) for name in want])
        assert float((off > 1e-6).float().mean()) <= few
        assert float(off.max()) <= step


def assert_bulk(seen: list[Seen], payload: int, messages: int) -> None:
    """Fails unless all sent ``payload`` bytes of numbers together, for each of at most ``messages`` parts and
    means a header of at most 40 bytes, and to all but one, by fragment, the index of the first state, which
    tells them that theirs is the same."""
    sent = sum(each.bulk_bytes for each in seen)
    indexes = INDEX_BYTES * (len(seen) - 1) * len(seen[0].outer_steps)
    assert payload <= sent <= payload + 40 * messages + indexes, f"{sent} bytes were sent for {payload}"


def _wait_for_others(swarm: diloco.Swarm, count: int, timeout_s: float) -> None:
    """Until this worker has heard that so many others hold a state: in gossip the roster is told in batches,
    and who has not read the last one takes its outer step alone."""
    if not swarm.settings.method.resolved().gossips:
        return
    pause = threading.Event()
    for _ in range(int(timeout_s / _LOOK_S)):
        if swarm.call(_active_others) >= count:
            return
        pause.wait(_LOOK_S)
    raise AssertionError("the others were not told active")


def _active_others(now: float, node: Node) -> int:
    assert node.member is not None
    return len(node.member.membership.active)


def _take(seen: Seen, event: object, me: int, index_of: Callable[[bytes], int]) -> None:
    """Note whom a worker swapped with."""
    if isinstance(event, Swapped) or (isinstance(event, SwapFailed) and event.alone):
        partners = event.partners if isinstance(event, Swapped) else ()
        seen.groups[event.step] = tuple(sorted((me, *map(index_of, partners))))
    elif isinstance(event, SwapFailed):
        seen.pauses.append(len(seen.starts))


def _trainer(
    run: diloco.RunSettings, index: int, seen: Seen, make_optimizer: MakeOptimizer, model: nn.Module
) -> tuple[nn.Module, Trainer]:
    optimizer = make_optimizer(model)
    replica = TensorReplica.of(model, run.method.resolved(), optimizer)
    steps = iter(range(10**9))

    def step() -> float:
        seen.starts.append(values(model))
        inner_step(model, optimizer, index, next(steps))
        return 0.0

    manifest = replica.layout.manifest()
    elements = tuple(replica.max_sent(f) for f in range(replica.num_fragments))
    return model, Trainer(replica, elements, step, manifest.names_sha256, manifest.text.encode())


def _outer_steps(replica: TensorReplica) -> list[int]:
    return [replica.count(fragment) for fragment in range(replica.num_fragments)]


class _Notes:
    """A watcher that notes swaps and looks away from all else."""

    def __init__(self, seen: list[Seen], index_of: Callable[[bytes], int]) -> None:
        self._seen = seen
        self._index_of = index_of

    def event(self, now: float, worker: SimulatedWorker, event: object) -> None:
        me = int(worker.name[1:])
        _take(self._seen[me], event, me, self._index_of)

    def effect(self, now: float, name: str, effect: Effect) -> None: ...

    def activity(self, now: float, worker: SimulatedWorker, activity: Activity | None) -> None: ...

    def command(self, now: float, worker: SimulatedWorker, command: Command) -> None: ...

    def stepped(self, now: float, worker: SimulatedWorker, steps: int) -> None: ...
