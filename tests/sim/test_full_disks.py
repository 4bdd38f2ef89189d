"""The host's disk is full for a while: nobody hears of what is not stored, and the run goes on afterwards.

Seeds draw that fault too (`tests.sim.faults`). Here it is the only one, beside crashes of the host, and each
rule of `transport.in_order` is broken once: a checker must find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from peers.coordinator.journal import CommitWritten
from peers.protocol.events import RoundCommitted
from tests.sim.doors import HOST, key_of
from tests.sim.faults import FULL_DISK, Fault, draw_full_disks
from tests.sim.run import plan, run_seed
from tests.sim.test_planted_bugs import rules_broken
from tests.sim.world import World
from transport.effects import Effect, Store
from transport.frames import unpack
from transport.in_order import InOrder

FULL = [Fault(4.0 + 6.0 * i, FULL_DISK, HOST, 0, 0.5) for i in range(4)]
AND_IT_DIES = [*FULL, *(Fault(5.5 + 6.0 * i, "host_crash", 0, 0, 0.1) for i in range(4))]


@pytest.mark.parametrize("faults", [FULL, AND_IT_DIES])
def test_a_full_disk_breaks_nothing_and_the_run_goes_on(faults: list[Fault]) -> None:
    for seed in range(1, 5):
        outcome = run_seed(seed, faults)
        assert outcome.fired[FULL_DISK] == 4
        assert outcome.seen["store_failed"] >= 3
        assert outcome.seen["store_recovered"] >= 1


def test_while_it_is_full_nothing_is_stored_and_no_commit_reaches_anybody_and_afterwards_they_do() -> None:
    world, heard, stored = World(3, 3), list[float](), list[float]()

    def note(now: float, worker: object, event: object) -> None:
        if isinstance(event, RoundCommitted):
            heard.append(now)

    def observe(now: float, key: bytes, effect: Effect) -> None:
        if isinstance(effect, Store) and isinstance(unpack(effect.entry), CommitWritten):
            stored.append(now)

    world.notes.append(note)
    world.observers.append(observe)
    world.net.run(8.0)
    world.net.fill_disk(key_of(HOST))
    world.net.run(14.0)
    world.net.empty_disk(key_of(HOST))
    world.net.run(30.0)
    for moments in (heard, stored):
        assert min(moments) < 8.0
        assert not [at for at in moments if 9.0 < at < 14.0]
        assert max(moments) > 25.0


def test_in_a_quarter_of_all_seeds_the_disk_is_full_and_other_faults_are_what_they_were() -> None:
    drawn = [plan(seed)[1] for seed in range(200)]
    full = [sum(fault.kind == FULL_DISK for fault in faults) for faults in drawn]
    assert 30 <= sum(count > 0 for count in full) <= 70
    assert max(full) == 3
    rng = World(1, 0).net.stream("disks")
    assert all(fault.kind == FULL_DISK for fault in draw_full_disks(rng, 30.0))


class SaysAtOnce(InOrder):
    """What follows a decision does not wait until that is stored."""

    def take(self, now: float, effects: Iterable[Effect], then: Callable[[], None] | None = None) -> None:
        effects = list(effects)
        for effect in effects:
            if not isinstance(effect, Store):
                self._carry_out(effect)
        super().take(now, [effect for effect in effects if isinstance(effect, Store)], then)


class TriesOnce(InOrder):
    """A decision that could not be stored is dropped."""

    def _hold(self, now: float, error: OSError) -> None:
        self._waiting.popleft()
        self._go_on(now)


class GivesUp(InOrder):
    """It never tries again."""

    def retry(self, now: float) -> None:
        self._due = now + 1.0


@pytest.mark.parametrize(
    ("bug", "faults", "rules"),
    [(SaysAtOnce, FULL, {"S2", "S4"}), (TriesOnce, FULL, {"S2", "S4"}), (GivesUp, FULL, {"L1", "L4"})],
)
def test_each_rule_of_a_full_disk_that_is_broken_is_found(
    bug: type[InOrder], faults: list[Fault], rules: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.simnet.process_runner.InOrder", bug)
    assert rules & rules_broken(range(1, 5), faults)
