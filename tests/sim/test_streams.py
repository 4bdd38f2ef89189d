"""Microbatches between stages, in whole swarms: seeds with faults, planted bugs, and what is on the wire."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from diloco.pipeline.stage_loop import StageLoop, Step
from peers.coordinator import assignment, moving
from peers.coordinator.placing import Move
from peers.protocol.events import StageAssigned
from peers.protocol.placing import Wiring
from peers.protocol.stage_work import StreamOpened
from peers.routing import ending
from peers.routing.state import StreamState
from tests.peers.routing.planted import nothing
from tests.sim import streams
from tests.sim import world as world_module
from tests.sim.doors import HOST, key_of
from tests.sim.run import Outcome, counts_in, failures_in, outcomes_of, run_seed
from tests.sim.stages import StageCheckers
from tests.sim.streams import TOKENS, StageTrainer, StreamShape
from tests.sim.violation import Violation
from tests.sim.world import World

NUM_SEEDS = 6
MOVING = (2006, 2010)
"""Seeds in which somebody moves to another stage, and some microbatches only evaluate."""
FAILED_ONCE = (323, 332, 596, 617)
"""Every seed that ever failed, kept for ever."""


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome | str]:
    return outcomes_of([*range(NUM_SEEDS), *MOVING, *FAILED_ONCE], stages=True, streams=True)


@pytest.mark.timeout(900)
def test_whatever_happens_to_a_swarm_that_streams_it_counts_once_and_converges(
    outcomes: dict[int, Outcome | str],
) -> None:
    failures = failures_in(outcomes)
    assert not failures, failures
    _, seen = counts_in(outcomes)
    assert seen["settled"] > 100 * NUM_SEEDS
    assert seen["partial"] + seen["lost"] > 0
    assert seen["moved"] >= len(MOVING)
    assert seen["evaluated"] > 0


class StepsInFlight(StageLoop):
    """A step ends though something is in flight."""

    def __init__(self, quota: int, **more: Any) -> None:
        super().__init__(quota, **{**more, "ends_early": True, "grace_s": 0.01})

    @property
    def drained(self) -> bool:
        return True


def test_a_step_with_one_in_flight_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "StageLoop", StepsInFlight)
    with pytest.raises(Violation, match="PP"):
        run_seed(1, stages=True, streams=True)


def test_a_slot_that_is_not_given_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "grant_one", nothing)
    with pytest.raises(Violation, match=r"PP8|L1|L4"):
        run_seed(3, faults=[], stages=True, streams=True)


class LandsAtOnce(StageTrainer):
    """What the outer loop is to hear it hears at once: parameters change while something is in flight."""

    def take(self, event: object) -> None:
        super().take(event)
        while self.later:
            self.world.handle(self.worker, self.world.net.now, self.later.popleft())


def test_a_recompute_after_a_landing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "StageTrainer", LandsAtOnce)
    with pytest.raises(Violation, match="PP2"):
        run_seed(1, stages=True, streams=True)


class WeighsByQuota(StageTrainer):
    """A step counts as many tokens as it should have had."""

    def count_step(self, step: Step) -> None:
        super().count_step(replace(step, tokens=self.loop.quota * TOKENS))


def test_a_weight_by_quota_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "StageTrainer", WeighsByQuota)
    with pytest.raises(Violation, match=r"PP5|PP1"):
        run_seed(2, stages=True, streams=True)


class KeepsWhatIsVoid(StageTrainer):
    """What it had counted before its membership ended it offers all the same."""

    def _hear(self, event: object) -> None:
        super()._hear(replace(event, void=False) if isinstance(event, StreamOpened) else event)


def test_what_an_ended_membership_counted_and_is_offered_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "StageTrainer", KeepsWhatIsVoid)
    with pytest.raises(Violation, match="PP1:"):
        run_seed(596, stages=True, streams=True)


def test_a_microbatch_that_ends_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    end = ending.end

    def twice(state: StreamState, now: float, number: int, *how: Any) -> None:
        fed = state.fed.get(number)
        end(state, now, number, *how)
        if fed is not None:
            state.fed[number] = fed
            end(state, now, number, *how)

    monkeypatch.setattr(ending, "end", twice)
    with pytest.raises(Violation, match="PP3"):
        run_seed(1, faults=[], stages=True, streams=True)


class HostTrains(World):
    """The host's own process trains a part too."""

    def start_host(self) -> None:
        super().start_host()
        self.lives[HOST] = 1
        process = self.net.peers[key_of(HOST)]
        self.net.at(0.1, lambda: self.net.command(process, lambda core, now: core.ask_stage(now, "host")))

    def _host_event(self, now: float, event: object) -> None:
        if isinstance(event, StageAssigned):
            process = self.net.peers[key_of(HOST)]
            self._train(HOST, 1, event.stage, self.host, process, "tcp://host:1")
        else:
            self._event_later(self.workers[HOST], event)


def test_a_host_that_trains_exchanges_microbatches_like_everyone() -> None:
    world = HostTrains(3, 3, 1, 2, streams=StreamShape())
    checkers = StageCheckers(world)
    world.net.run(15.0)
    checkers.sweep()
    host = world.workers[HOST].trainer
    assert host is not None
    assert len(host.counted) > 20
    assert checkers.streams is not None
    assert checkers.streams.given_up == 0


def test_without_faults_nothing_is_given_up_and_lines_keep_step() -> None:
    world = World(1, 4, 1, 2, streams=StreamShape(quota=2, window=4))
    checkers = StageCheckers(world)
    assert checkers.streams is not None
    world.net.run(20.0)
    checkers.sweep()
    assert checkers.streams.given_up == 0
    assert len(checkers.streams.ends) > 40
    lines = [[], []]  # type: list[list[int]]
    for worker in world.workers.values():
        assert worker.trainer is not None
        member = worker.node.member
        assert member is not None
        assert member.stages is not None
        replica = member.stages.streaming.state.replicas.of(worker.key)
        assert replica is not None
        lines[replica.line].append(worker.session.steps)
    assert all(max(steps) - min(steps) <= 4 for steps in lines), lines


def starved(seed: int = 4) -> tuple[World, StageCheckers]:
    """Of two stages with three replicas each one loses two for good."""
    world = World(seed, 6, 1, 2, streams=StreamShape(wiring=Wiring.THROUGHPUT, moves=True))
    checkers = StageCheckers(world)
    world.net.run(15.0)
    for index in [i for i, stage in sorted(world.stage_of.items()) if stage == 1][:2]:
        world.crash(index)
    return world, checkers


def test_one_moves_to_a_stage_that_is_starved_and_nothing_is_lost() -> None:
    world, checkers = starved()
    streams = checkers.streams
    assert streams is not None
    world.net.run(25.0)
    given_up = streams.given_up  # by the deaths
    world.net.run(150.0)
    checkers.sweep()
    checkers.check_end()
    assert world.seen["moved"] == 1
    living = Counter(world.stage_of[index] for index in world.living())
    assert living == {0: 2, 1: 2}
    assert streams.given_up == given_up
    mover = next(worker for worker in world.workers.values() if worker.life > 1)
    assert mover.trainer is not None
    assert mover.stage == 1
    assert len(mover.trainer.counted) > 20


def test_a_move_from_a_stage_with_one_replica_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = World(4, 3, 1, 2, streams=StreamShape(wiring=Wiring.THROUGHPUT, moves=True))
    StageCheckers(alone)
    alone.net.run(15.0)
    stages = list(alone.stage_of.values())
    lone = next(index for index, stage in alone.stage_of.items() if stages.count(stage) == 1)
    move = Move(key_of(lone), 1 - alone.stage_of[lone])
    monkeypatch.setattr(moving, "best_move", lambda loads, movable, fewest: move)
    monkeypatch.setattr(assignment, "take_up", lambda state, entry: entry.moves_to)
    with pytest.raises(Violation, match="PP10"):
        alone.net.run(120.0)
