"""One member that claims to have trained a million times as much, or sends values that are far too large.

What it moves is computed from the journal's records and from the true contributions, by the words of S12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median_low
from typing import Any

import numpy as np
import pytest

from diloco.simulation.roles.lying_reducer import LyingReducer, true_values
from peers.coordinator.open_round import OpenRound
from peers.coordinator.spot_checks import NOT_SHOWN, WRONG_MEAN
from peers.member.contributions import Contribution, Contributions
from peers.member.spot_checks import SpotChecks
from peers.protocol.commands import Offer
from peers.protocol.record import Record
from peers.protocol.spots import Spot
from peers.protocol.traces import CommittedTrace, PoisonedTrace, ProvedWrongTrace
from tests.sim.checkers import Checkers
from tests.sim.doors import key_of
from tests.sim.trainer import VectorReplica, contribution_of
from tests.sim.violation import Violation
from tests.sim.world import World
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.norms import NO_LIMITS
from transport.collectives.reducer import Reducer
from transport.effects import Effect, Payload

LIAR = 0
HONEST_WEIGHT = 32.0


class Boasts(Contributions):
    """One of the members offers with a weight that it made up."""

    def offer(self, base: bytes, offer: Offer) -> Contribution:
        if self._me == key_of(LIAR):
            offer = replace(offer, weight=10**12)
        return super().offer(base, offer)


class Records:
    """The records of a world, and its checkers, which recompute every mean from them."""

    def __init__(self, num_workers: int, seed: int = 5) -> None:
        self.world = World(seed, num_workers)
        self.world.hostile.add(LIAR)
        self.checkers = Checkers(self.world)

    def run(self, seconds: float) -> list[Record]:
        self.world.net.run(seconds)
        return self.checkers.records


def moves(records: Sequence[Record]) -> list[float]:
    """Of each record of four or more: how many times a median member's share the liar moves the mean by."""
    found = []
    for record in records:
        if len(record.members) < 4:
            continue
        norms = [
            float(np.linalg.norm(contribution_of(index_of(key), 1, record.parent, 0, 300)))
            for key in record.members
        ]
        moved = [weight * norm for weight, norm in zip(record.weights, norms, strict=True)]
        liar = [index_of(key) for key in record.members].index(LIAR)
        honest = median_low([HONEST_WEIGHT] * (len(norms) - 1)) * median_low(norms)
        found.append(moved[liar] / honest)
    return found


def index_of(key: bytes) -> int:
    return next(index for index in range(40) if key_of(index) == key)


def test_a_claimed_weight_moves_a_mean_by_twelve_shares_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.member.member.Contributions", Boasts)
    found = moves(Records(5).run(30.0))
    assert len(found) > 5
    assert max(found) <= 12.0


def test_without_the_rule_a_claimed_weight_is_the_whole_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_offered(weights: Sequence[float], norms: Any, limit: float) -> tuple[float, ...]:
        return tuple(weights)

    monkeypatch.setattr("peers.member.member.Contributions", Boasts)
    monkeypatch.setattr("peers.coordinator.rounds.effective_weights", as_offered)
    assert max(moves(Records(5).run(30.0))) > 1e6


def test_of_two_or_three_workers_every_one_weighs_as_it_offers() -> None:
    for count in (2, 3):
        records = Records(count).run(20.0)
        assert len(records) > 5
        assert {weight for record in records for weight in record.weights} == {HONEST_WEIGHT}


class Understates(VectorReplica):
    """What the liar sends is a million times as long as it says."""

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        made, norm = super().contribution(fragment)
        return made, norm / 1e6 if self.explode else norm


def understating(num_workers: int = 5) -> Records:
    run = Records(num_workers)
    run.world.exploded.add(LIAR)
    return run


def test_who_understates_its_norm_is_in_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.world.VectorReplica", Understates)
    records = understating().run(30.0)
    assert len(records) > 5
    assert not any(key_of(LIAR) in record.members for record in records)


def test_without_measures_who_understates_its_norm_is_caught_by_the_checkers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.sim.world.VectorReplica", Understates)
    monkeypatch.setattr("peers.member.rounds.NormLimits", lambda *limits: NO_LIMITS)
    monkeypatch.setattr(OpenRound, "disputes", lambda current: [])
    with pytest.raises(Violation, match="S12"):
        understating().run(30.0)


class MakesUpMeans(DirectReduce):
    """The liar's means have nothing to do with what it was sent."""

    def _take(self, owner: bytes, chunk: int, mean: Payload) -> None:
        if owner == self._me == key_of(LIAR):
            mean = (1e4 * np.ones(len(mean) // 4, np.float32)).tobytes()
        super()._take(owner, chunk, mean)


def test_a_mean_that_is_longer_than_every_contribution_is_in_no_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.member.rounds.DirectReduce", MakesUpMeans)
    assert len(Records(5).run(30.0)) > 5, "the checkers recompute each mean"


def test_without_limits_a_mean_that_its_owner_made_up_is_caught_by_the_checkers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.member.rounds.DirectReduce", MakesUpMeans)
    monkeypatch.setattr("peers.member.rounds.NormLimits", lambda *limits: NO_LIMITS)
    with pytest.raises(Violation, match="S3"):
        Records(5).run(30.0)


class MakesUpModestMeans(DirectReduce):
    """The liar's means are made up, and no longer than a contribution."""

    def _take(self, owner: bytes, chunk: int, mean: Payload) -> None:
        if owner == self._me == key_of(LIAR):
            mean = np.full(len(mean) // 4, 2.0, np.float32).tobytes()
        super()._take(owner, chunk, mean)


class AddsItselfTwice(DirectReduce):
    """In the liar's means its own contribution counts two and a half times: off by 1.5 of its share."""

    def _take(self, owner: bytes, chunk: int, mean: Payload) -> None:
        if owner == self._me == key_of(LIAR):
            assert self._plan is not None
            share = next(share for _, member, share in self._plan.shares if member == owner)
            own = np.frombuffer(self.reducer.encode(chunk), np.float32)  # type: ignore[arg-type]
            values = np.frombuffer(mean, np.float32)  # type: ignore[arg-type]
            mean = (values + np.float32(1.5 * share) * own).tobytes()
        super()._take(owner, chunk, mean)


class HidesItsPart(SpotChecks):
    """The liar sends no checker anything."""

    def begin(self, now: float, spot: Spot) -> None:
        if self._me != key_of(LIAR):
            super().begin(now, spot)


def distrusted(seconds: float) -> set[tuple[int, str]]:
    """Owners of whom checkers speak ill, and why, in a swarm that nobody else looks at."""
    world, found = World(5, 5), set()

    def observe(now: float, key: bytes, effect: Effect) -> None:
        if isinstance(effect, PoisonedTrace):
            found.update((index_of(peer), effect.reason) for peer in effect.peers)

    world.observers.append(observe)
    world.net.run(seconds)
    return found


def test_a_made_up_mean_is_found_by_a_spot_check_and_an_honest_one_never_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert distrusted(100.0) == set()
    for lies in (MakesUpModestMeans, AddsItselfTwice):
        monkeypatch.setattr("peers.member.rounds.DirectReduce", lies)
        found = distrusted(100.0)
        assert (LIAR, WRONG_MEAN) in found
        assert {index for index, _ in found} == {LIAR}


def test_an_owner_that_never_shows_what_it_added_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.member.member.SpotChecks", HidesItsPart)
    assert distrusted(200.0) == {(LIAR, NOT_SHOWN)}


class CallsHalfTheMean(VectorReplica):
    """The liar calls half of each mean that it makes the mean, and vouches for that."""

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        made, norm = super().contribution(fragment)
        values = true_values(made) if self.index == LIAR else None
        return (made if values is None else LyingReducer(values, 1.0, 0.5)), norm


def put_out(seconds: float) -> tuple[set[int], bool]:
    """Who is put out, and whether the liar is in a later record."""
    world, out, last = World(5, 5), set(), set()
    world.hostile.add(LIAR)

    def observe(now: float, key: bytes, effect: Effect) -> None:
        if isinstance(effect, ProvedWrongTrace):
            out.add(index_of(effect.peer))
        elif isinstance(effect, CommittedTrace):
            last.clear()
            last.update(effect.members)

    world.observers.append(observe)
    world.net.run(seconds)
    return out, key_of(LIAR) in last


def test_an_owner_that_calls_something_else_the_mean_is_put_out_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.sim.world.VectorReplica", CallsHalfTheMean)
    assert put_out(100.0) == ({LIAR}, False)
    monkeypatch.setattr("peers.coordinator.mean_proofs.draw", lambda *round: None)
    assert put_out(100.0) == (set(), True)


def test_without_spot_checks_a_made_up_mean_is_never_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.member.rounds.DirectReduce", MakesUpModestMeans)
    monkeypatch.setattr("peers.coordinator.spot_checks.draw", lambda *round: None)
    assert distrusted(60.0) == set()
