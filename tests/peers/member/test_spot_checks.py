"""A member's part in spot checks: what it sends, what it keeps, and when it says that a mean is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from peers.member.exchanges import Exchanges, RunningExchange
from peers.member.spot_checks import SpotChecks
from peers.protocol.spots import Spot, SpotPart, Spotted
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

MEMBERS = (ME, OTHER, THIRD)
CHUNK = 2
"""Elements; of four chunks ME owns the first two, OTHER the third, THIRD the fourth."""
OTHERS_CHUNK = 2


def floats(value: float, count: int = CHUNK) -> bytes:
    return np.full(count, value, np.float32).tobytes()


class Checking:
    """A member whose round of three is done; all contribute ones, and claim as much."""

    def __init__(self, mean: float = 1.0) -> None:
        self.outlet = FakeOutlet()
        self.exchanges = Exchanges(self.outlet, TIMEOUT_S, PATIENCE_S)
        limits = NormLimits((float(SIZE),) * 3, 1e9)
        plan = Plan(0, MEMBERS, (1.0, 1.0, 1.0), limits=limits)
        exchange = DirectReduce(1, ME, vector(1.0), CHUNK, 0.0)
        exchange.begin(0.0, plan)
        self.exchanges.running[1] = RunningExchange(0, exchange, 0.0, 10, plan=plan)
        partners = [Partner(each, 1, plan, CHUNK, 1.0) for each in (OTHER, THIRD)]
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
        self.checks = SpotChecks(ME, HOST, FakeApp(), self.exchanges, 3, self.outlet)
        self.outlet.said.clear()

    @staticmethod
    def _carry(partners: list[Partner], sender: bytes, to: bytes, message: Any, payload: Any) -> None:
        next(each for each in partners if each.me == to).take(sender, message, payload)

    def said(self) -> list[bool]:
        return [message.agrees for message in self.outlet.told(HOST, Spotted)]

    def check(self, value: float = 1.0) -> list[bool]:
        """It is told to check OTHER's chunk, and gets THIRD's part of it."""
        self.checks.begin(0.0, Spot(1, OTHERS_CHUNK, ME))
        self.checks.take_part(0.0, THIRD, SpotPart(1, OTHERS_CHUNK), floats(value))
        return self.said()


def test_a_mean_that_is_that_of_its_parts_is_agreed_with() -> None:
    assert Checking().check() == [True]


@pytest.mark.parametrize(("mean", "agrees"), [(1.3, True), (1.9, True), (2.1, False), (-8.0, False)])
def test_a_mean_may_be_off_by_what_its_owner_may_have_contributed(mean: float, agrees: bool) -> None:
    # 2 / 3 of the others, and the owner has a third of root of 8: 0.67 in each of 2 elements; twice that
    assert Checking(mean).check() == [agrees]


def test_parts_may_come_before_it_is_told_and_others_do_not_count() -> None:
    member = Checking()
    member.checks.take_part(0.0, THIRD, SpotPart(1, OTHERS_CHUNK + 1), floats(1.0))
    member.checks.begin(0.0, Spot(1, OTHERS_CHUNK, ME))
    assert member.said() == []
    member = Checking()
    member.checks.take_part(0.0, THIRD, SpotPart(1, OTHERS_CHUNK), floats(1.0))
    member.checks.begin(0.0, Spot(1, OTHERS_CHUNK, ME))
    assert member.said() == [True]


def test_a_part_that_cannot_be_added_is_not_the_owners_fault() -> None:
    assert Checking().check(float("nan")) == []


def test_an_author_sends_the_checker_the_bytes_that_the_owner_got_and_the_owner_sends_nothing() -> None:
    member = Checking()
    member.checks.begin(0.0, Spot(1, OTHERS_CHUNK, THIRD))
    assert [(to, message) for to, message, _ in member.outlet.bulk] == [(THIRD, SpotPart(1, OTHERS_CHUNK))]
    assert bytes(member.outlet.bulk[0][2]) == floats(1.0)
    member.outlet.bulk.clear()
    member.checks.begin(0.0, Spot(1, 0, THIRD))
    member.checks.begin(0.0, Spot(1, 99, THIRD))
    member.checks.begin(0.0, Spot(2, 0, THIRD))
    assert not member.outlet.bulk


def test_one_part_is_kept_of_each_peer_and_none_of_one_that_is_gone() -> None:
    member = Checking()
    for serial in range(100):
        member.checks.take_part(0.0, THIRD, SpotPart(serial, 0), floats(1.0))
    for index in range(10):
        member.checks.take_part(0.0, bytes([index]) * 32, SpotPart(1, 0), floats(1.0))
    assert len(member.checks.parts) == 3
    member.checks.drop(THIRD)
    assert THIRD not in member.checks.parts
