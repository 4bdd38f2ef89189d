"""The checker of scenarios finds each violation that is planted, and names it by its number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from diloco.methods.presets import method
from diloco.simulation.identities import HOST, key_of
from diloco.simulation.invariants import Invariants
from diloco.simulation.runner import simulate
from peers.coordinator.coordinator import Rules
from peers.coordinator.journal import CommitWritten, RunBegan
from peers.node import Node
from peers.protocol.commands import ConfirmApplied, ConfirmCaptured, ConfirmLoaded, Offer, Swap
from peers.protocol.events import (
    BecomeSeed,
    ContributionEnded,
    Fate,
    RoundCommitted,
    RoundOpened,
    StateFetched,
)
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.record import GENESIS, Record, genesis_head
from transport.collectives.reducer import PhantomReducer
from transport.effects import Store
from transport.frames import pack
from transport.guarded import InputLostTrace

MAX_WAIT_S = 60.0
FIRST = genesis_head([bytes(32)])
VECTOR = PhantomReducer(4, 4.0, b"")


class Watched:
    """A checker of a run that two workers, a and b, are in; the run's first state is a's."""

    def __init__(self, preset: str = "diloco") -> None:
        self.seen = Invariants(method(preset), Rules(bytes(32), min_peers=2), MAX_WAIT_S, key_of)
        self.a, self.b = (self.worker(name) for name in "ab")
        if preset != "noloco":
            self.seen.event(0.0, self.a, BecomeSeed())
            self.store(RunBegan(FIRST))
        for worker in (self.a, self.b):
            self.seen.command(0.0, worker, ConfirmCaptured(0, bytes(32), bytes(16)))

    @staticmethod
    def worker(name: str, life: int = 1, steps: int = 0) -> Any:
        loop = SimpleNamespace(follows=lambda now: False, progress=[SimpleNamespace(steps_since_offer=0)])
        session = SimpleNamespace(steps=steps, loop=loop)
        return SimpleNamespace(name=name, life=life, stage=0, session=session)

    def store(self, entry: object, now: float = 1.0) -> None:
        self.seen.effect(now, HOST, Store(pack(entry)))

    def offer(self, *workers: Any, weight: int = 10) -> None:
        for worker in workers:
            self.seen.command(1.0, worker, Offer(0, 10, weight, VECTOR, 1.0))

    def open(self, *workers: Any, serial: int = 1) -> None:
        for worker in workers:
            self.seen.event(1.0, worker, RoundOpened(serial, 0, 0, ()))

    def ended(self, worker: Any, fate: Fate, of: Record | None = None, number: int = 1) -> None:
        reason = of.hash().hex() if of is not None else "a reason"
        self.seen.event(2.0, worker, ContributionEnded(0, number, 10, fate, reason))

    def broken(self) -> list[str]:
        return [line.split()[1] for line in self.seen.violations]


def test_an_input_that_fails_anywhere_is_a_violation() -> None:
    run = Watched()
    run.seen.effect(1.0, "a", InputLostTrace(bytes(32), "KeyError: 'gone'", "Traceback", 1))
    assert run.broken() == ["X2"]


def record(parent: bytes = FIRST, index: int = 1, names: str = "ab", weight: float = 10.0) -> Record:
    members = tuple(key_of(name) for name in names)
    return Record(parent, index, 0, 1, 1, 4, members, tuple(weight for _ in members), bytes(32))


def committed(of: Record, number: int | None) -> RoundCommitted:
    return RoundCommitted(of, VECTOR, number, 10, 10.0, 0.1, 0)


def test_a_round_as_it_should_be_breaks_nothing() -> None:
    run = Watched()
    run.offer(run.a, run.b)
    run.open(run.a, run.b)
    run.store(CommitWritten.of(record()), now=2.0)
    for worker in (run.a, run.b):
        run.seen.event(2.0, worker, committed(record(), 1))
        run.seen.command(2.0, worker, ConfirmApplied(record(), b"same" * 8))
        run.ended(worker, Fate.APPLIED, record())
    assert run.seen.violations == []
    assert (run.seen.num_commits, run.seen.last_commit_s) == (1, 2.0)


def test_other_bits_at_the_same_commit_break_s1() -> None:
    run = Watched()
    run.seen.command(2.0, run.a, ConfirmApplied(record(), b"one " * 8))
    run.seen.command(3.2, run.b, ConfirmLoaded(0, record().hash(), b"two " * 8))
    assert run.seen.violations == [
        "invariant S1 at 3.200 s: b holds other bits than others at the same commit"
    ]


def test_replicas_of_gossip_may_differ() -> None:
    run = Watched("noloco")
    run.seen.command(2.0, run.a, ConfirmApplied(record(), b"one " * 8))
    run.seen.command(2.0, run.b, ConfirmApplied(record(), b"two " * 8))
    assert run.seen.violations == []


def test_a_second_history_breaks_s2() -> None:
    run = Watched()
    run.offer(run.a, run.b)
    run.store(CommitWritten.of(record()))
    run.store(CommitWritten.of(record(parent=GENESIS, index=2)))
    run.store(RunBegan(FIRST))
    assert run.broken() == ["S2", "S2"]


def test_a_record_that_counts_somebody_twice_or_with_another_weight_breaks_s3() -> None:
    run = Watched()
    run.offer(run.a, run.b)
    run.store(CommitWritten.of(record(names="aa")))
    assert run.broken() == ["S3"]
    run = Watched()
    run.offer(run.a, weight=10)
    run.offer(run.b, weight=9)
    run.store(CommitWritten.of(record()))
    assert run.broken() == ["S3"]
    assert "a weight above what was offered" in run.seen.violations[0]


def test_a_record_that_is_handed_out_twice_breaks_s3_in_one_life_and_not_in_two() -> None:
    run = Watched()
    run.seen.event(2.0, run.a, committed(record(), None))
    run.seen.event(2.0, run.worker("a", life=2), committed(record(), None))
    assert run.broken() == []
    run.seen.event(2.0, run.a, committed(record(), None))
    assert run.broken() == ["S3"]


def test_a_contribution_with_two_fates_breaks_s4() -> None:
    run = Watched()
    for fate in (Fate.LATE, Fate.APPLIED):
        run.seen.event(2.0, run.a, ContributionEnded(0, 7, 10, fate, ""))
    assert run.broken() == ["S4"]


@pytest.mark.parametrize("fate_is_told", ["before", "after"])
@pytest.mark.parametrize("fate", [Fate.LATE, Fate.REJECTED, Fate.SUPERSEDED])
def test_a_contribution_that_a_record_counts_and_is_told_otherwise_breaks_s4(
    fate: Fate, fate_is_told: str
) -> None:
    run = Watched()
    run.offer(run.a, run.b)
    run.open(run.a, run.b)
    if fate_is_told == "before":
        run.ended(run.a, fate)
    run.store(CommitWritten.of(record()))
    if fate_is_told == "after":
        run.ended(run.a, fate)
    assert run.broken() == ["S4"]


@pytest.mark.parametrize("why", ["no round", "left out", "another record", "told twice"])
def test_a_contribution_that_no_record_counts_and_is_told_applied_breaks_s4(why: str) -> None:
    run = Watched()
    run.offer(run.a, run.b, run.worker("c"))
    run.seen.violations.clear()  # c never held the state
    if why != "no round":
        run.open(run.a, run.b)
    counts = record(names="bc" if why == "left out" else "ab")
    run.store(CommitWritten.of(counts))
    run.ended(run.a, Fate.APPLIED, counts if why != "another record" else record(index=7))
    if why == "told twice":
        assert run.broken() == []
        run.ended(run.a, Fate.APPLIED, counts, number=2)
    assert run.broken() == ["S4"]


def test_a_fate_is_about_the_round_that_had_the_contribution_last() -> None:
    run = Watched()
    run.offer(run.a, run.b)
    run.open(run.a, run.b, serial=9)  # it is given up, and its contributions stand
    run.open(run.a, run.b)
    run.store(CommitWritten.of(record()))
    run.ended(run.a, Fate.APPLIED, record())
    run.ended(run.b, Fate.APPLIED, record())
    run.offer(run.a)
    run.ended(run.a, Fate.LATE, number=2)  # of the next one, which no round had
    assert run.broken() == []


@pytest.mark.parametrize("fate", [Fate.SUPERSEDED, Fate.LATE])
def test_what_a_restoring_record_undoes_is_superseded_or_was_applied(fate: Fate) -> None:
    run = Watched()
    run.offer(run.a, run.b)
    run.open(run.a, run.b)
    run.store(CommitWritten.of(record()))
    run.ended(run.a, Fate.APPLIED, record())
    back = Record(record().hash(), 2, ALL_FRAGMENTS, 1, 2, 0, (), (), FIRST)
    run.store(CommitWritten.of(back))
    run.ended(run.b, fate)
    assert run.broken() == (["S4"] if fate == Fate.LATE else [])


def test_being_told_to_count_in_a_record_of_others_breaks_s4() -> None:
    run = Watched()
    run.seen.event(2.0, run.a, committed(record(names="b"), 1))
    assert run.broken() == ["S4"]


@pytest.mark.parametrize("command", [Offer(0, 10, 10, VECTOR, 1.0), Swap(0, 0, 10, VECTOR)])
def test_a_contribution_before_the_shared_state_breaks_s8(command: Any) -> None:
    run = Watched()
    run.seen.command(2.0, run.worker("c"), command)
    assert run.broken() == ["S8"]


def test_a_seed_of_a_run_that_has_commits_breaks_s9() -> None:
    run = Watched()
    run.seen.event(1.0, run.b, BecomeSeed())
    assert run.broken() == [], "the first seed may have died before anyone had its state"
    run.offer(run.a, run.b)
    run.store(CommitWritten.of(record()))
    run.seen.event(2.0, run.b, BecomeSeed())
    assert run.broken() == ["S9"]


def test_a_record_with_too_few_members_breaks_l1() -> None:
    run = Watched()
    run.offer(run.a)
    run.store(CommitWritten.of(record(names="a")))
    assert run.broken() == ["L1"]


def test_waiting_with_nothing_that_is_late_breaks_l2() -> None:
    run = Watched("streaming")
    run.offer(run.a)
    run.a.session.steps = method("streaming").delay - 1
    run.seen.activity(2.0, run.a, "wait")
    assert run.broken() == ["L2"]


def test_the_second_exchange_of_an_outer_step_is_late_with_the_snapshot_of_the_first() -> None:
    run = Watched("dilocox")
    delay = run.a.session.steps = method("dilocox").delay
    run.a.session.loop.progress[0].steps_since_offer = delay
    run.offer(run.a)
    run.seen.activity(2.0, run.a, "wait")
    assert run.broken() == []


def test_waiting_for_what_is_late_or_for_commits_to_follow_breaks_nothing() -> None:
    run = Watched("streaming")
    run.offer(run.a)
    run.a.session.steps = method("streaming").delay
    run.seen.activity(2.0, run.a, "wait")
    run.b.session.loop.follows = lambda now: True
    run.seen.activity(2.0, run.b, "wait")
    assert run.broken() == []


def test_a_fetched_state_is_nothing_to_wait_for_any_more() -> None:
    run = Watched()
    run.offer(run.a)
    run.seen.event(2.0, run.a, StateFetched(0, FIRST, bytearray()))
    run.seen.activity(2.0, run.a, "wait")
    assert run.broken() == ["L2"]


def test_waiting_beyond_the_bound_breaks_l2_and_each_attempt_has_its_own_bound() -> None:
    run = Watched()
    run.offer(run.a, run.b)
    for worker in (run.a, run.b):
        run.seen.activity(0.0, worker, "wait")
    run.seen.event(50.0, run.a, RoundOpened(1, 0, 0, ()))
    run.seen.activity(MAX_WAIT_S + 1.0, run.a, "compute")
    assert run.broken() == []
    run.seen.activity(MAX_WAIT_S + 1.0, run.b, "compute")
    assert run.seen.violations == ["invariant L2 at 61.000 s: b waited 61.0 s for the network"]


def test_what_breaks_without_end_is_told_a_few_times_only() -> None:
    run = Watched()
    for _ in range(500):
        run.seen.event(2.0, run.a, ContributionEnded(0, 7, 10, Fate.LATE, ""))
    assert len(run.seen.violations) == 20


class HostThatStops(Node):
    """After 40 seconds the host's process lives and hears nothing."""

    def receive(self, now: float, peer: bytes, lane: int, items: Any, payload: Any) -> None:
        if self.coordinator is None or now < 40.0:
            super().receive(now, peer, lane, items, payload)


def test_no_commits_though_enough_members_live_break_l1() -> None:
    plain = {
        "name": "a host that stops",
        "end": "1h",
        "run": {"rounds": 20, "failure_timeout_s": 4.0, "grace_s": 5.0},
        "method": {"preset": "diloco", "sync_every": 10},
        "model": {"parameters": "1M"},
        "peers": [{"name": "p", "count": 3, "step": "1s"}],
    }
    assert simulate(plain).violations == []
    (problem,) = simulate(plain, make_node=HostThatStops).violations
    assert problem.startswith("invariant L1 at 3600.000 s: 3 members live and nothing was committed for")
