"""Swaps: each ends in one event, whatever becomes of the partners, and partners who cannot are told."""

from __future__ import annotations

import numpy as np
import pytest

from peers.member.contributions import Contributions
from peers.member.exchanges import Exchanges
from peers.member.membership import Membership
from peers.member.swaps import Swaps
from peers.protocol.commands import Swap
from peers.protocol.events import ContributionEnded, Fate, SwapFailed, Swapped
from peers.protocol.messages import MemberActive, MemberGone, NoSwap
from peers.protocol.profile import Matching
from tests.peers.member.fakes import (
    HOST,
    LIMITS,
    ME,
    OTHER,
    PATIENCE_S,
    SIZE,
    THIRD,
    TIMEOUT_S,
    FakeOutlet,
    Partner,
    vector,
)
from transport.collectives.chunks import PartChunk
from transport.collectives.plan import Plan
from transport.collectives.reducer import PhantomReducer
from transport.limits import LIMITS as PRODUCTION
from transport.limits import Limits

STEP = 4
SERIAL = STEP + 1


class Gossiping:
    """A member that holds a state and knows of others who do."""

    def __init__(
        self, *active: bytes, min_peers: int = 1, element_bytes: float = 4.0, limits: Limits = LIMITS
    ) -> None:
        self.outlet = FakeOutlet()
        self.contributions = Contributions(ME, HOST, self.outlet)
        self.exchanges = Exchanges(self.outlet, TIMEOUT_S, PATIENCE_S)
        self.membership = Membership(ME, self.outlet, lambda *left: self.swaps.partner_left(*left))
        self.swaps = Swaps(
            ME,
            Matching("pair", min_peers=min_peers, element_bytes=element_bytes),
            self.membership,
            self.contributions,
            self.exchanges,
            self.outlet,
            limits,
        )
        for key in active:
            self.membership.became_active(MemberActive(key))

    def swap(self, step: int = STEP, value: float = 1.0) -> None:
        self.swaps.swap(0.0, Swap(0, step, 30, vector(value)))

    def partner(self, value: float = 3.0) -> Partner:
        plan = Plan(0, tuple(sorted((ME, OTHER))), (1.0, 1.0))
        return Partner(OTHER, SERIAL, plan, SIZE // 2, value)

    def exchange_with(self, partner: Partner) -> None:
        while True:
            mine, self.outlet.bulk = self.outlet.bulk, []
            for _, message, payload in mine:
                partner.take(ME, message, payload)
            theirs = partner.chunks()
            for _, message, payload in theirs:
                self.swaps.take_chunk(1.0, OTHER, message, payload, 10)
            if not mine and not theirs:
                return
            self.swaps.pump(1.0)

    def refuse_chunk(self, peer: bytes, serial: int) -> bool:
        """Whether a chunk is answered with a refusal, and its credit given back."""
        self.outlet.said.clear()
        self.outlet.returned.clear()
        self.swaps.take_chunk(0.0, peer, PartChunk(serial, 0, 0), bytes(16), 10)
        refused = self.outlet.told(peer, NoSwap) == [NoSwap(serial)]
        assert refused == (self.outlet.returned == [(peer, 10)])
        return refused


def test_a_pair_swaps_and_both_hold_the_mean() -> None:
    member = Gossiping(OTHER)
    member.swap()
    assert member.outlet.met == [OTHER]
    partner = member.partner()
    member.exchange_with(partner)
    (event,) = member.outlet.seen(Swapped)
    assert (event.step, event.tokens, event.partners) == (STEP, 30, (OTHER,))
    assert np.allclose(event.mean.output, 2.0)
    assert partner.exchange.done
    assert not member.exchanges.running
    assert [each.fate for each in member.outlet.seen(ContributionEnded)] == [Fate.APPLIED]
    assert not member.outlet.seen(SwapFailed)


def test_a_swap_for_which_all_has_come_early_ends_at_once() -> None:
    ahead, member = Gossiping(OTHER), Gossiping(OTHER)
    ahead.swap()
    partner = ahead.partner()
    carried = ahead.outlet.bulk
    for _, message, payload in carried:
        partner.take(ME, message, payload)
    for _, message, payload in partner.chunks():  # its part and its mean, though it heard another of us
        member.swaps.take_chunk(0.0, OTHER, message, payload, 10)
    member.swap()
    member.swaps.pump(0.0)
    assert len(member.outlet.seen(Swapped)) == 1


def test_with_too_few_members_nothing_is_swapped_and_nothing_counts() -> None:
    member = Gossiping(OTHER, min_peers=3)
    member.swap()
    (event,) = member.outlet.events
    assert (event.reason, event.alone) == ("2 active members of at least 3", False)
    assert member.contributions.tokens_trained == 0


def test_one_who_is_left_alone_goes_on_alone_and_refuses_whoever_began() -> None:
    member = Gossiping()
    member.swaps.take_chunk(0.0, OTHER, PartChunk(SERIAL, 0, 0), bytes(16), 10)
    member.swap()
    (event,) = member.outlet.seen(SwapFailed)
    assert event.alone
    assert member.outlet.said == [(OTHER, NoSwap(SERIAL))]
    assert member.outlet.returned == [(OTHER, 10)]
    assert member.contributions.tokens_by_fate[Fate.APPLIED] == 30


def test_one_who_is_matched_with_somebody_else_is_refused_early_and_late() -> None:
    member = Gossiping(OTHER)
    assert not member.refuse_chunk(THIRD, SERIAL)  # nobody knows yet
    assert not member.refuse_chunk(THIRD, SERIAL - 1)
    member.swap()
    assert member.outlet.told(THIRD, NoSwap) == [NoSwap(SERIAL - 1), NoSwap(SERIAL)]
    assert member.refuse_chunk(THIRD, SERIAL)
    assert member.refuse_chunk(OTHER, SERIAL - 1)
    assert not member.refuse_chunk(OTHER, SERIAL + 1)


@pytest.mark.parametrize("why", ["left", "out of sight", "refused", "silent", "poisoned"])
def test_a_swap_that_cannot_end_fails_once_and_its_partner_is_told(why: str) -> None:
    member = Gossiping(OTHER)
    member.swap()
    if why == "left":
        member.membership.gone(1.0, MemberGone(1, OTHER, "it crashed"))
    elif why == "out of sight":
        member.swaps.lose_sight(1.0, THIRD)
        assert not member.outlet.seen(SwapFailed)
        member.swaps.lose_sight(1.0, OTHER)
    elif why == "refused":
        member.swaps.refused(1.0, OTHER, NoSwap(SERIAL))
        member.swaps.refused(1.0, OTHER, NoSwap(SERIAL))
    elif why == "silent":
        member.swaps.tick(PATIENCE_S)
        assert not member.outlet.seen(SwapFailed)
        member.swaps.tick(PATIENCE_S + 1.0)
    else:
        member.exchange_with(member.partner(value=float("nan")))
    (event,) = member.outlet.seen(SwapFailed)
    assert event.alone
    assert event.partners == (OTHER,)
    assert member.outlet.told(OTHER, NoSwap) == [NoSwap(SERIAL)]
    assert not member.exchanges.running
    assert member.contributions.tokens_by_fate[Fate.APPLIED] == 30
    assert member.refuse_chunk(OTHER, SERIAL)


def test_a_refusal_by_somebody_else_or_of_another_swap_changes_nothing() -> None:
    member = Gossiping(OTHER)
    member.swap()
    member.swaps.refused(1.0, THIRD, NoSwap(SERIAL))
    member.swaps.refused(1.0, OTHER, NoSwap(SERIAL - 1))
    member.swaps.entered(1.0)
    assert list(member.exchanges.running) == [SERIAL]


def test_one_who_has_left_is_matched_no_more() -> None:
    member = Gossiping(OTHER)
    member.membership.gone(1.0, MemberGone(1, OTHER, "it crashed"))
    member.swap()
    assert member.outlet.met == []
    assert member.outlet.seen(SwapFailed)[0].partners == ()


def test_one_who_goes_on_alone_has_not_passed_the_next_swap() -> None:
    member = Gossiping()
    member.swap()
    assert member.refuse_chunk(OTHER, SERIAL)
    assert not member.refuse_chunk(OTHER, SERIAL + 1), "that one may still begin here"


@pytest.mark.parametrize(("element_bytes", "elements"), [(4.0, 1 << 18), (2.0, 1 << 19)])
def test_chunks_have_as_many_bytes_whatever_an_element_takes(element_bytes: float, elements: int) -> None:
    member = Gossiping(ME, OTHER, element_bytes=element_bytes, limits=PRODUCTION)
    member.swaps.swap(0.0, Swap(0, STEP, 30, PhantomReducer(1 << 30, element_bytes, b"")))
    assert member.exchanges.running[SERIAL].exchange.chunk_elements == elements
