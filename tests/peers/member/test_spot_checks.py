"""A member's part in spot checks: what it sends, what it keeps, and when it says that a mean is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from peers.member.exchanges import Exchanges, RunningExchange
from peers.member.spot_checks import SpotChecks
from peers.protocol.spots import SECTION_ELEMENTS, Spot, SpotPart, Spotted, section_of
from tests.peers.member.fakes import (
    HOST,
    ME,
    OTHER,
    PATIENCE_S,
    SIZE,
    THIRD,
    TIMEOUT_S,
    FakeApp,
    FakeOutlet,
    Partner,
    vector,
)
from transport.collectives.chunks import MeanChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.norms import NormLimits
from transport.collectives.plan import Plan
from transport.limits import LIMITS as PRODUCTION

MEMBERS = (ME, OTHER, THIRD)
CHUNK = 2
"""Elements; of four chunks ME owns the first two, OTHER the third, THIRD the fourth."""
OTHERS_CHUNK = 2


def floats(value: float, count: int = CHUNK) -> bytes:
    return np.full(count, value, np.float32).tobytes()


class Checking:
    """A member whose round of three is done; all contribute ones, and claim as much."""

    def __init__(
        self,
        mean: float = 1.0,
        weights: tuple[float, ...] = (1.0, 1.0, 1.0),
        lost: frozenset[bytes] = frozenset(),
        attempt: int = 0,
    ) -> None:
        self.outlet = FakeOutlet()
        self.exchanges = Exchanges(self.outlet, TIMEOUT_S, PATIENCE_S)
        limits = NormLimits((float(SIZE),) * 3, 1e9)
        plan = Plan(attempt, MEMBERS, weights, lost, limits=limits)
        exchange = DirectReduce(1, ME, vector(1.0), CHUNK, 0.0)
        exchange.begin(0.0, plan)
        self.exchanges.running[1] = RunningExchange(0, exchange, 0.0, 10, plan=plan)
        partners = [Partner(each, 1, plan, CHUNK, 1.0) for each in plan.members if each != ME]
        for _ in range(4):
            while exchange.pump(lambda peer: 1 << 20, lambda to, m, p: self._carry(partners, ME, to, m, p)):
                pass
            for partner in partners:
                for to, message, payload in partner.chunks():
                    if isinstance(message, MeanChunk) and partner.me == OTHER and to == ME:
                        payload = floats(mean)
                    if to == ME:
                        take: Any = exchange.mean if isinstance(message, MeanChunk) else exchange.part
                        take(0.0, partner.me, message, payload)
                    else:
                        self._carry(partners, partner.me, to, message, payload)
        assert exchange.done
        self.app = FakeApp()
        self.checks = SpotChecks(ME, HOST, self.app, self.exchanges, 3, self.outlet, PATIENCE_S)
        self.outlet.said.clear()

    @staticmethod
    def _carry(partners: list[Partner], sender: bytes, to: bytes, message: Any, payload: Any) -> None:
        next(each for each in partners if each.me == to).take(sender, message, payload)

    def said(self) -> list[bool]:
        return [message.agrees for message in self.outlet.told(HOST, Spotted)]

    def check(self, value: float = 1.0, own: float = 1.0) -> list[bool]:
        """It is told to check OTHER's chunk, and gets THIRD's part of it, and OTHER's own."""
        self.checks.begin(0.0, Spot(1, OTHERS_CHUNK, 0, ME))
        self.checks.take_part(0.0, THIRD, SpotPart(1, OTHERS_CHUNK), floats(value))
        assert not self.said()
        self.checks.take_part(0.0, OTHER, SpotPart(1, OTHERS_CHUNK), floats(own))
        return self.said()


def test_a_mean_that_is_that_of_its_parts_is_agreed_with() -> None:
    assert Checking().check() == [True]


def test_a_check_is_of_the_round_that_was_though_the_next_one_is_of_another_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A method whose outer step takes two exchanges applies the first before parts of it come."""
    member = begun(THIRD)
    monkeypatch.setattr(member.app, "receiver", lambda fragment: None)
    member.checks.take_part(0.0, OTHER, SpotPart(1, OTHERS_CHUNK), floats(1.0))
    assert member.said() == [True]


def test_weights_lost_members_and_later_attempts_are_as_in_the_round() -> None:
    assert Checking(weights=(1.0, 3.0, 0.5)).check() == [True]
    assert Checking(mean=0.9, weights=(0.1, 3.0, 0.5)).check(value=0.28) == [True]
    assert Checking(mean=0.9, weights=(0.1, 3.0, 0.5)).check(value=0.4) == [False]
    member = Checking(lost=frozenset([THIRD]), attempt=3, weights=(1.0, 3.0, 9.0))
    member.checks.begin(0.0, Spot(1, OTHERS_CHUNK, 0, ME))
    member.checks.take_part(0.0, OTHER, SpotPart(1, OTHERS_CHUNK), floats(1.0))
    assert member.said() == [True], "a round of two"


@pytest.mark.parametrize("mean", [1.5, 0.5, 1.001, -8.0])
def test_a_mean_that_is_not_that_of_the_parts_that_are_shown_is_found(mean: float) -> None:
    assert Checking(mean).check() == [False], "1.5 is off by 1.5 of the owner's share"


@pytest.mark.parametrize(("mean", "own", "agrees"), [(1.3, 1.9, True), (1.5, 2.5, False), (0.3, -1.1, True)])
def test_a_part_that_is_made_up_to_fit_has_to_be_within_what_its_owner_claims(
    mean: float, own: float, agrees: bool
) -> None:
    # 2 / 3 of the others and a third of its own; two elements of 2 are the whole norm that it claims.
    assert Checking(mean).check(own=own) == [agrees]


@pytest.mark.parametrize("own", [b"", bytes(4), bytes(16), floats(float("nan"))])
def test_an_owners_part_that_cannot_be_added_is_its_own_fault(own: bytes) -> None:
    member = Checking()
    member.checks.begin(0.0, Spot(1, OTHERS_CHUNK, 0, ME))
    member.checks.take_part(0.0, OTHER, SpotPart(1, OTHERS_CHUNK), own)
    member.checks.take_part(0.0, THIRD, SpotPart(1, OTHERS_CHUNK), floats(1.0))
    assert member.said() == [False]


def test_parts_may_come_before_it_is_told_and_others_do_not_count() -> None:
    member = Checking()
    for peer in (OTHER, THIRD):
        member.checks.take_part(0.0, peer, SpotPart(1, OTHERS_CHUNK + 1), floats(1.0))
    member.checks.begin(0.0, Spot(1, OTHERS_CHUNK, 0, ME))
    assert member.said() == []
    member = Checking()
    for peer in (OTHER, THIRD):
        member.checks.take_part(0.0, peer, SpotPart(1, OTHERS_CHUNK), floats(1.0))
    member.checks.begin(0.0, Spot(1, OTHERS_CHUNK, 0, ME))
    assert member.said() == [True]


def test_a_part_that_cannot_be_added_is_not_the_owners_fault() -> None:
    assert Checking().check(float("nan")) == []


def begun(*senders: bytes) -> Checking:
    member = Checking()
    member.checks.begin(0.0, Spot(1, OTHERS_CHUNK, 0, ME))
    for peer in senders:
        member.checks.take_part(0.0, peer, SpotPart(1, OTHERS_CHUNK), floats(1.0))
    return member


def test_an_owner_that_alone_sends_nothing_is_named_once_and_anybody_else_is_not() -> None:
    member = begun(THIRD)
    member.checks.tick(PATIENCE_S - 0.1)
    assert member.outlet.told(HOST, Spotted) == []
    for _ in range(2):
        member.checks.tick(PATIENCE_S)
    assert member.outlet.told(HOST, Spotted) == [Spotted(1, agrees=False, answered=False)]
    for senders in ((), (OTHER,)):
        member = begun(*senders)
        member.checks.tick(PATIENCE_S)
        member.checks.take_part(PATIENCE_S, OTHER, SpotPart(1, OTHERS_CHUNK), floats(1.0))
        member.checks.take_part(PATIENCE_S, THIRD, SpotPart(1, OTHERS_CHUNK), floats(1.0))
        assert member.said() == []


@pytest.mark.parametrize("lost", [OTHER, THIRD])
def test_after_the_loss_of_a_link_a_check_comes_to_nothing(lost: bytes) -> None:
    member = begun(THIRD)
    member.checks.drop(lost)
    member.checks.tick(PATIENCE_S)
    assert member.said() == []


def test_an_author_sends_the_checker_the_bytes_that_the_owner_got_and_the_owner_what_it_added() -> None:
    member = Checking()
    for chunk in (OTHERS_CHUNK, 0):
        member.outlet.bulk.clear()
        member.checks.begin(0.0, Spot(1, chunk, 0, THIRD))
        assert [(to, message) for to, message, _ in member.outlet.bulk] == [(THIRD, SpotPart(1, chunk))]
        assert bytes(member.outlet.bulk[0][2]) == floats(1.0)
    member.outlet.bulk.clear()
    member.checks.begin(0.0, Spot(1, 99, 0, THIRD))
    member.checks.begin(0.0, Spot(2, 0, 0, THIRD))
    member.checks.begin(0.0, Spot(1, 0, 0, ME))
    assert not member.outlet.bulk


def test_a_part_for_which_there_is_no_room_is_sent_when_there_is_and_not_over_another_link() -> None:
    member = Checking()
    member.outlet.room_bytes = 0
    member.checks.begin(0.0, Spot(1, 0, 0, THIRD))
    member.checks.tick(1.0)
    assert not member.outlet.bulk
    member.outlet.room_bytes = 1 << 20
    for _ in range(2):
        member.checks.tick(2.0)
    assert len(member.outlet.bulk) == 1
    member.outlet.room_bytes = 0
    member.checks.begin(0.0, Spot(1, 1, 0, THIRD))
    member.checks.drop(THIRD)
    member.outlet.room_bytes = 1 << 20
    member.checks.tick(3.0)
    assert len(member.outlet.bulk) == 1


def test_one_part_is_kept_of_each_peer_and_none_of_one_that_is_gone() -> None:
    member = Checking()
    for serial in range(100):
        member.checks.take_part(0.0, THIRD, SpotPart(serial, 0), floats(1.0))
    for index in range(10):
        member.checks.take_part(0.0, bytes([index]) * 32, SpotPart(1, 0), floats(1.0))
    assert len(member.checks.parts) == 3
    member.checks.drop(THIRD)
    assert THIRD not in member.checks.parts


@pytest.mark.parametrize("num_elements", [1, SECTION_ELEMENTS, SECTION_ELEMENTS + 1, 3 * SECTION_ELEMENTS])
def test_the_sections_of_a_chunk_cover_it_and_each_fits_a_frame(num_elements: int) -> None:
    num_sections = -(-num_elements // SECTION_ELEMENTS)
    found = [section_of(num_sections * 7 + each, num_elements) for each in range(num_sections)]
    assert [element for each in found for element in (each.start, each.stop)][1:-1:2] == [
        each.start for each in found[1:]
    ]
    assert (found[0].start, found[-1].stop) == (0, num_elements)
    assert all(4 * (each.stop - each.start) <= PRODUCTION.payload_bytes for each in found)
