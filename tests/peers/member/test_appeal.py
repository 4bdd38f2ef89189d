"""What a member shows of a chunk that it refuses: the chunk, as its author vouched for it, or nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peers.admission.identity import Identity, verify
from peers.coordinator.judgement import Court
from peers.coordinator.measured import LengthsShown
from peers.coordinator.open_round import OpenRound
from peers.member.appeal import roots_held, shown_by, two_things_told
from peers.member.contributions import Contributions
from peers.member.exchanges import Exchanges
from peers.member.notary import MemberNotary
from peers.member.rounds import Rounds
from peers.protocol.commands import Offer
from peers.protocol.evidence import MAX_LONG, ROOT_BYTES, Roots, Shown
from peers.protocol.messages import Decline, Open, Stuck
from tests.peers.member.fakes import (
    BASE,
    HOST,
    ME,
    OTHER,
    PATIENCE_S,
    SIZE,
    TIMEOUT_S,
    FakeOutlet,
    entry,
    vector,
)
from transport.collectives.chunks import PartChunk
from transport.collectives.direct_reduce import DirectReduce, Poison
from transport.collectives.plan import Plan
from transport.collectives.proofs import Terms
from transport.collectives.prover import Prover
from transport.effects import Payload

MINE, THEIRS = Identity(b"1" * 32), Identity(b"2" * 32)
RUN = b"r" * 32
PLAN = Plan(0, (ME, OTHER), (100.0, 100.0), proved=True)
OPEN = Open(1, 0, 0, BASE, SIZE // 2, (ME, OTHER), (100.0, 100.0), (), proved=True)


class Finite:
    def fault(self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None) -> str | None:
        assert not isinstance(payload, int)
        return "" if np.isfinite(np.frombuffer(payload, np.float32)).all() else "not finite"  # type: ignore[arg-type]

    def square(
        self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None
    ) -> float | None:
        assert not isinstance(payload, int)
        return float(np.square(np.frombuffer(payload, np.float32)).sum())  # type: ignore[arg-type]


def offering(signs: bool = True) -> tuple[FakeOutlet, Rounds, Exchanges]:
    outlet = FakeOutlet()
    contributions, exchanges = Contributions(ME, HOST, outlet), Exchanges(outlet, TIMEOUT_S, PATIENCE_S)
    roster = {OTHER: replace(entry(OTHER), identity=THEIRS.public)}
    notary = MemberNotary(MINE, verify, roster) if signs else None
    contributions.offer(BASE, Offer(0, 100, 100, vector(1.0), 1.0))
    return outlet, Rounds(ME, HOST, contributions, exchanges, outlet, RUN, notary), exchanges


def partner(value: float, life: bytes = OPEN.life, chunk_elements: int = SIZE // 2) -> DirectReduce:
    roster = {ME: replace(entry(ME), identity=MINE.public)}
    prover = Prover(OTHER, MemberNotary(THEIRS, verify, roster), Terms(RUN, 1, BASE, 0, SIZE, life))
    made = DirectReduce(1, OTHER, vector(value), chunk_elements, 0.0, prover)
    made.begin(0.0, PLAN)
    return made


def sent_by(exchange: DirectReduce) -> list[tuple[Any, Payload]]:
    sent: list[tuple[Any, Payload]] = []
    while exchange.pump(lambda peer: 1 << 30, lambda peer, *each: sent.append(each)):
        pass
    return sent


def carry(outlet: FakeOutlet, rounds: Rounds, other: DirectReduce) -> None:
    for _ in range(20):
        for message, payload in sent_by(other):
            rounds.take_chunk(1.0, OTHER, message, payload, 10)
        rounds.pump(1.0)
        mine, outlet.bulk = outlet.bulk, []
        for _, message, payload in mine:
            take = other.part if isinstance(message, PartChunk) else other.mean
            take(0.0, ME, message, payload)


def test_a_member_without_a_key_takes_no_part_in_a_proved_round() -> None:
    outlet, rounds, exchanges = offering(signs=False)
    rounds.open(0.0, OPEN)
    assert len(outlet.told(HOST, Decline)) == 1
    assert not exchanges.running


def test_what_cannot_be_added_is_shown_once_and_the_coordinator_can_judge_it() -> None:
    outlet, rounds, exchanges = offering()
    rounds.open(0.0, OPEN)
    carry(outlet, rounds, partner(float("nan")))
    rounds.tick(2.0)
    ((message, payload),) = outlet.shown
    assert isinstance(message, Shown)
    assert (message.author, message.mean, message.num_elements) == (OTHER, False, SIZE)
    assert not outlet.told(HOST, Stuck)
    current = OpenRound(1, 0, BASE, SIZE // 2, PLAN.founders, PLAN.weights, opened_at=0.0)
    current.plans = {0: PLAN}
    verdict = Court(RUN, verify, Finite()).of_shown(current, ME, THEIRS.public, message, payload)
    assert verdict is not None
    assert verdict.guilty == OTHER
    assert shown_by(exchanges.running[1].exchange) == [(message, payload)]
    assert two_things_told(exchanges.running[1].exchange) is None


LIMITED = replace(OPEN, chunk_elements=1, part_limits=(20.0, 20.0), mean_limit=1e9)
"""Eight chunks of one element, four of them this member's."""


def judged(shown: list[tuple[Any, Payload]]) -> bool | None:
    """Whether the coordinator finds too long what it is shown."""
    current = OpenRound(1, 0, BASE, 1, PLAN.founders, PLAN.weights, opened_at=0.0)
    current.plans, found = {0: PLAN}, LengthsShown(shown[0][0])
    court = Court(RUN, verify, Finite())
    for message, payload in shown:
        square = court.square_of(current, ME, THEIRS.public, message, payload)
        assert isinstance(square, float)
        assert found.takes(message)
        found.squares[message.chunk] = square
    assert found.complete
    return found.too_long(20.0)


def test_of_a_part_that_is_too_long_the_chunks_are_shown_that_make_it_so() -> None:
    for value, count in ((5.0, 1), (4.0, 2), (2.5, 4)):
        outlet, rounds, _ = offering()
        rounds.open(0.0, LIMITED)
        carry(outlet, rounds, partner(value, chunk_elements=1))
        rounds.tick(2.0)
        assert [message.num_long for message, _ in outlet.shown] == [count] * count
        assert {(message.author, message.mean) for message, _ in outlet.shown} == {(OTHER, False)}
        assert judged(outlet.shown) is True
        assert not outlet.told(HOST, Stuck)


def test_in_another_attempt_they_are_shown_again() -> None:
    outlet, rounds, _ = offering()
    rounds.open(0.0, LIMITED)
    carry(outlet, rounds, partner(2.5, chunk_elements=1))
    rounds.open(1.0, replace(LIMITED, attempt=1))
    for _ in range(9):
        rounds.pump(1.0)
    assert [message.attempt for message, _ in outlet.shown] == [0] * 4 + [1] * 4


def test_means_that_are_too_long_are_shown_too() -> None:
    outlet, rounds, _ = offering()
    rounds.open(0.0, replace(LIMITED, part_limits=(1e9, 1e9), mean_limit=20.0))
    carry(outlet, rounds, partner(5.0, chunk_elements=1))  # means of 3
    ((first, _), *others) = outlet.shown
    assert (first.author, first.mean, first.num_long, len(others)) == (OTHER, True, 3, 2)
    assert judged(outlet.shown) is True


def test_chunks_for_which_there_is_no_room_follow_and_nobody_is_called_silent() -> None:
    outlet, rounds, _ = offering()
    rounds.open(0.0, LIMITED)
    outlet.room_bytes = 0
    other = partner(2.5, chunk_elements=1)
    for message, payload in sent_by(other):
        rounds.take_chunk(1.0, OTHER, message, payload, 10)
    for _ in range(9):
        rounds.pump(1.0)
    rounds.tick(1.0 + 2 * PATIENCE_S)
    assert outlet.shown == []
    assert not outlet.told(HOST, Stuck)
    outlet.room_bytes = 1 << 30
    for _ in range(3):
        rounds.tick(2.0 + 2 * PATIENCE_S)
    assert len(outlet.shown) == 4, "each once"


def test_what_takes_more_chunks_than_may_be_shown_is_a_word() -> None:
    outlet, rounds, exchanges = offering()
    rounds.open(0.0, LIMITED)
    carry(outlet, rounds, partner(5.0, chunk_elements=1))
    exchange = exchanges.running[1].exchange
    exchange.poisoned = Poison(OTHER, "too long", 0, False, False, (0,) * MAX_LONG)
    assert len(shown_by(exchange)) == MAX_LONG
    exchange.poisoned = Poison(OTHER, "too long", 0, False, False, (0,) * (MAX_LONG + 1))
    assert shown_by(exchange) == []


def test_without_room_it_is_shown_later() -> None:
    outlet, rounds, _ = offering()
    rounds.open(0.0, OPEN)
    carry(outlet, rounds, partner(float("nan")))
    shown = outlet.shown
    outlet, rounds, _ = offering()
    rounds.open(0.0, OPEN)
    other = partner(float("nan"))
    outlet.room_bytes = 0
    for message, payload in sent_by(other):
        rounds.take_chunk(1.0, OTHER, message, payload, 10)
    for _ in range(9):
        rounds.pump(1.0)
    assert outlet.shown == []
    outlet.room_bytes = 1 << 30
    rounds.tick(3.0)
    assert [message for message, _ in outlet.shown] == [message for message, _ in shown]


def test_a_sender_of_what_it_did_not_vouch_for_is_accused_at_once_with_a_word() -> None:
    outlet, rounds, _ = offering()
    rounds.open(0.0, OPEN)
    for message, payload in sent_by(partner(1.0)):
        assert isinstance(payload, bytes | memoryview)
        rounds.take_chunk(0.0, OTHER, message, bytes(len(payload)), 10)
    rounds.pump(0.0)
    rounds.tick(0.0)
    assert [(s.peers, s.poison) for s in outlet.told(HOST, Stuck)] == [
        ((OTHER,), "it sent what it did not vouch for")
    ]
    assert outlet.shown == []


@pytest.mark.parametrize("value", [1.0, 3.0])
def test_of_what_can_be_added_only_the_roots_of_means_are_shown(value: float) -> None:
    outlet, rounds, exchanges = offering()
    rounds.open(0.0, OPEN)
    carry(outlet, rounds, partner(value))
    exchange = exchanges.running[1].exchange
    assert exchange.done
    ((message, roots),) = outlet.shown
    assert (message, roots) == roots_held(exchange)
    assert message == Roots(1, 0, SIZE)
    assert len(roots) == 2 * ROOT_BYTES


def test_what_was_vouched_for_in_another_life_of_the_host_is_not_taken_and_is_no_proof() -> None:
    for life, num_parts in ((OPEN.life, 1), (b"the life before.", 0)):
        outlet, rounds, exchanges = offering()
        rounds.open(0.0, OPEN)
        carry(outlet, rounds, partner(1.0, life))
        prover = exchanges.running[1].exchange.prover
        assert prover is not None
        assert (prover.proof_of(OTHER, 0, mean=False) is not None) == bool(num_parts)
        assert not any(isinstance(message, Shown) for message, _ in outlet.shown)
