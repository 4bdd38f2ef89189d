"""Proofs and faults meet: rounds that are proved at random, members without chunks, and every other fault."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peers.coordinator import accusations, rounds
from peers.coordinator.judgement import Court, Verdict
from peers.coordinator.mean_case import MeanCase
from peers.coordinator.suspicion import DISTRUSTED_FOR, Suspicion
from peers.member.rounds import Rounds
from peers.protocol.evidence import Shown
from peers.protocol.messages import Open, Stuck
from peers.protocol.signing import INDEX_TAG
from peers.protocol.traces import SetAsideTrace
from tests.sim.checkers import Checkers
from tests.sim.doors import identity_of, key_of
from tests.sim.run import run_seed
from tests.sim.suspicious import SuspiciousNode
from tests.sim.trainer import VectorJudge, VectorReplica
from tests.sim.violation import Violation
from tests.sim.world import World
from transport.collectives.chunks import MeanChunk, PartChunk, ProvedMean, ProvedPart
from transport.collectives.direct_reduce import DirectReduce, Poison
from transport.collectives.proofs import GROUP, Index, Notary, Terms, place_of
from transport.collectives.prover import Prover
from transport.collectives.reducer import Reducer
from transport.digests import digest_of


@pytest.mark.timeout(600)
def test_no_fault_makes_an_honest_member_look_like_a_liar(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[str] = Counter()

    class Counting(Prover):
        def take_part(self, *part: Any) -> bool:
            taken["part"] += 1
            return super().take_part(*part)

        def take_mean(self, *mean: Any) -> bool:
            taken["mean"] += 1
            return super().take_mean(*mean)

    class CountingCourt(Court):
        def of_mean(self, case: MeanCase) -> Verdict | None:
            taken["of mean"] += 1
            return super().of_mean(case)

    monkeypatch.setattr("peers.member.rounds.Prover", Counting)
    monkeypatch.setattr("peers.node.Court", CountingCourt)
    seen: Counter[str] = Counter()
    for seed in range(1, 9):
        seen.update(run_seed(seed, None, SuspiciousNode).seen)
    assert min(taken["part"], taken["mean"]) > 1000
    assert taken["of mean"] > 20
    assert seen["proved_wrong"] >= 1, "the worker that sends NaN"
    assert seen["repaired"] >= 5


class Accuser(Rounds):
    """Worker 0 says of another in every attempt that it sent what is not finite."""

    def open(self, now: float, message: Open) -> None:
        super().open(now, message)
        others = [key for key in message.founders if key != self._me]
        if self._me == key_of(0) and others:
            whom = others[(message.serial + message.attempt) % len(others)]
            self._outlet.send(now, self._coordinator, Stuck(message.serial, message.attempt, (whom,), "lie"))


def commits_of_the_others(seconds: float) -> tuple[int, Counter[str]]:
    world = World(5, 6)
    world.hostile.add(0)
    checkers = Checkers(world)
    world.net.run(seconds)
    checkers.sweep()
    honest = {key_of(index) for index in range(1, 6)}
    return sum(honest <= set(record.members) for record in checkers.records), world.seen


def believe(state: Any, course: Any, now: float, current: Any, accuser: Any, message: Stuck) -> None:
    """What a coordinator did that believed every word."""
    rounds.set_aside(state, course, now, current, list(message.peers), message.poison)


def test_a_member_that_accuses_others_all_the_time_does_not_keep_them_from_committing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed, _ = commits_of_the_others(30.0)
    monkeypatch.setattr("peers.member.member.Rounds", Accuser)
    lied_to, seen = commits_of_the_others(30.0)
    assert seen["poisoned"] >= 10
    assert lied_to >= 0.8 * undisturbed
    monkeypatch.setattr(accusations, "hear", believe)
    believed, _ = commits_of_the_others(30.0)
    assert believed < 0.5 * undisturbed


class Remembering(Prover):
    """It can be asked what its statements are about."""

    def __init__(self, me: bytes, notary: Notary, terms: Terms) -> None:
        super().__init__(me, notary, terms)
        self.terms = terms


class TwoFaced(DirectReduce):
    """Worker 0 sends worker 1 other means than the rest, and vouches for either."""

    def _send_mean(self, peer: bytes, room: Any, send: Any) -> bool:
        def send_other(to: bytes, message: MeanChunk, payload: Any) -> None:
            if isinstance(message, ProvedMean):
                message = self._vouched(message)
            send(to, message, other_than(payload))

        two_faced = self._me == key_of(0) and peer == key_of(1)
        return super()._send_mean(peer, room, send_other if two_faced else send)

    def _vouched(self, message: ProvedMean) -> ProvedMean:
        mine = [chunk for chunk, owner in enumerate(self._owners) if owner == self._me]
        place = place_of(mine.index(message.chunk), len(mine))
        group = mine[place.group * GROUP :][:GROUP]
        index = Index([digest_of(other_than(self._means[chunk])) for chunk in group])
        assert isinstance(self.prover, Remembering)
        assert self._plan is not None
        plan, terms = self._plan, self.prover.terms
        statement = terms.statement(index.root, place.group, plan.founders, plan.attempt, plan.lost)
        signature = identity_of(0).sign(INDEX_TAG, statement)
        return replace(message, path=index.path(place.leaf), signature=signature)


def other_than(payload: Any) -> bytes:
    values = np.frombuffer(payload, dtype=np.float32).copy()
    values[-1] += 1.0
    return values.tobytes()


def test_an_owner_that_sends_different_means_is_put_out_and_its_victim_is_not_punished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.member.rounds.Prover", Remembering)
    monkeypatch.setattr("peers.member.rounds.DirectReduce", TwoFaced)
    world = World(5, 5)
    world.hostile.add(0)
    checkers = Checkers(world)
    set_aside: set[bytes] = set()
    world.observers.append(
        lambda now, key, effect: set_aside.add(effect.peer) if isinstance(effect, SetAsideTrace) else None
    )
    world.net.run(30.0)
    checkers.sweep()
    assert world.seen["proved_wrong"] == 1, "worker 0: any other is a violation"
    assert world.seen["dissent"] >= 2
    assert not set_aside
    assert {key_of(index) for index in range(1, 5)} == set(checkers.records[-1].members)


class Sly(DirectReduce):
    """Worker 0 sends worker 1 other means than the rest, where it need not vouch for them."""

    def _send_mean(self, peer: bytes, room: Any, send: Any) -> bool:
        def send_other(to: bytes, message: MeanChunk, payload: Any) -> None:
            send(to, message, other_than(payload))

        lies = self.prover is None and self._me == key_of(0) and peer == key_of(1)
        return super()._send_mean(peer, room, send_other if lies else send)


def dissents_and_commits(seconds: float) -> tuple[int, int]:
    world = World(5, 5)
    world.hostile.add(0)
    checkers = Checkers(world)
    world.net.run(seconds)
    checkers.sweep()
    return world.seen["dissent"], len(checkers.records)


def test_one_that_lies_only_where_it_need_not_vouch_for_it_costs_one_attempt_in_sixteen_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.member.rounds.DirectReduce", Sly)
    dissents, commits = dissents_and_commits(60.0)
    assert commits > 2 * DISTRUSTED_FOR
    assert 1 <= dissents <= 1 + commits / DISTRUSTED_FOR
    monkeypatch.setattr(Suspicion, "distrust_all", lambda *_: None)
    dissents, commits = dissents_and_commits(60.0)
    assert dissents > commits / 2


class FalseWitness(DirectReduce):
    """Worker 0 refuses the first proved part that it gets, which is all right."""

    def part(self, now: float, peer: bytes, message: PartChunk, payload: Any) -> bool:
        taken = super().part(now, peer, message, payload)
        if taken and self._me == key_of(0) and isinstance(message, ProvedPart) and not self.poisoned:
            self.poisoned = Poison(peer, "a value is not finite", message.chunk, mean=False, alone=True)
        return taken


class BelievesWhatIsShown(Court):
    """It decodes nothing."""

    def of_shown(self, current: Any, accuser: bytes, identity: bytes, shown: Shown, payload: Any) -> Verdict:
        return Verdict(shown.author, "somebody says so")


def run_with_a_false_witness() -> Counter[str]:
    world = World(5, 5, make_node=SuspiciousNode)
    world.hostile.add(0)
    checkers = Checkers(world)
    world.net.run(20.0)
    checkers.sweep()
    assert {key_of(index) for index in range(1, 5)} == set(checkers.records[-1].members)
    return world.seen


def test_whoever_shows_what_is_all_right_is_put_out_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.member.rounds.DirectReduce", FalseWitness)
    assert run_with_a_false_witness()["proved_wrong"] == 1, "worker 0: any other is a violation"
    monkeypatch.setattr("peers.node.Court", BelievesWhatIsShown)
    with pytest.raises(Violation, match="X10"):
        run_with_a_false_witness()


class CallsItTooLong(DirectReduce):
    """Worker 0 says of the first proved part that it gets that it is longer than its author says."""

    def part(self, now: float, peer: bytes, message: PartChunk, payload: Any) -> bool:
        taken = super().part(now, peer, message, payload)
        if taken and self._me == key_of(0) and isinstance(message, ProvedPart) and not self.poisoned:
            self.poisoned = Poison(peer, "too long", message.chunk, False, False, (message.chunk,))
        return taken


def test_whoever_calls_too_long_what_is_as_long_as_its_author_says_is_put_out_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.member.rounds.DirectReduce", CallsItTooLong)
    assert run_with_a_false_witness()["proved_wrong"] == 1, "worker 0: any other is a violation"
    monkeypatch.setattr(VectorJudge, "square", lambda *chunk: 1e9)
    with pytest.raises(Violation, match="X10"):
        run_with_a_false_witness()


class SendsMore(VectorReplica):
    """What worker 0 sends is four times as long as it says: no single chunk is too long, but all that an
    owner gets of it."""

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        made, norm = super().contribution(fragment)
        return made, norm / 4 if self.index == 0 else norm


def test_who_sends_more_than_it_says_is_put_out_once_the_host_has_measured_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.sim.world.VectorReplica", SendsMore)
    seen = run_with_a_false_witness()
    assert seen["proved_wrong"] == 1, "worker 0: any other is a violation"
    monkeypatch.setattr(VectorJudge, "square", lambda *chunk: None)
    assert run_with_a_false_witness()["proved_wrong"] == 0, "without a measure there are words only"
