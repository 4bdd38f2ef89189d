"""Rounds as a member sees them: what does not fit is refused before anything is begun."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from peers.member.contributions import Contributions
from peers.member.exchanges import Exchanges
from peers.member.rounds import Rounds
from peers.protocol.commands import Offer, Swap
from peers.protocol.events import ContributionEnded, Fate, RoundAborted, RoundOpened
from peers.protocol.messages import Abort, Decline, Done, Open, Ready, Stuck
from tests.peers.member.fakes import (
    BASE,
    HOST,
    ME,
    OTHER,
    PATIENCE_S,
    SIZE,
    TIMEOUT_S,
    FakeOutlet,
    Partner,
    vector,
)
from transport.collectives.chunks import PartChunk
from transport.collectives.plan import Plan
from transport.errors import BadFrame


class Offering:
    """A member that has offered one vector of ones for fragment 0."""

    def __init__(self, value: float = 1.0) -> None:
        self.outlet = FakeOutlet()
        self.contributions = Contributions(ME, HOST, self.outlet)
        self.exchanges = Exchanges(self.outlet, TIMEOUT_S, PATIENCE_S)
        self.rounds = Rounds(ME, HOST, self.contributions, self.exchanges, self.outlet)
        self.contributions.offer(BASE, Offer(0, 100, 100, vector(value), 1.0))

    def exchange_with(self, partner: Partner, *, taking: int = 9) -> None:
        """Carry chunks to and fro, of the partner's at most ``taking``, until nothing moves."""
        while True:
            mine, self.outlet.bulk = self.outlet.bulk, []
            for _, message, payload in mine:
                partner.take(ME, message, payload)
            theirs = partner.chunks()[:taking]
            for _, message, payload in theirs:
                self.rounds.take_chunk(1.0, partner.me, message, payload, 10)
            if not mine and not theirs:
                return
            self.rounds.pump(1.0)


def round_of(weights: tuple[float, ...], attempt: int = 0, serial: int = 1) -> Open:
    return Open(serial, attempt, 0, BASE, SIZE // 2, (ME, OTHER), weights, ())


def partner_in(weights: tuple[float, ...], value: float = 3.0) -> Partner:
    return Partner(OTHER, 1, Plan(0, (ME, OTHER), weights), SIZE // 2, value)


def test_a_round_has_a_weight_above_nothing_for_each_member() -> None:
    member = Offering()
    for weights in [(100.0,), (100.0, 0.0), (100.0, -100.0), (), (100.0, 1.0, 1.0)]:
        with pytest.raises(BadFrame, match="weight"):
            member.rounds.open(0.0, round_of(weights))
    assert not member.exchanges.running
    member.rounds.open(0.0, round_of((100.0, 50.0)))
    with pytest.raises(BadFrame, match="weight"):
        member.rounds.open(1.0, round_of((100.0,), attempt=1))
    assert member.exchanges.running[1].exchange.attempt == 0
    assert member.exchanges.partners() == {ME, OTHER}


def test_a_member_beyond_the_last_is_neither_lost_nor_idle() -> None:
    member = Offering()
    member.rounds.open(0.0, replace(round_of((100.0, 50.0)), lost=(2, 99), idle=(2, 99)))
    plan = member.exchanges.running[1].plan
    assert plan is not None
    assert (plan.lost, plan.idle) == (frozenset(), frozenset())


def test_a_round_about_something_else_than_was_offered_is_declined() -> None:
    for change in ("weight", "base", "fragment", "committed"):
        member = Offering()
        message = round_of((100.0, 50.0))
        if change == "weight":
            message = round_of((101.0, 50.0))
        elif change == "base":
            message = Open(1, 0, 0, b"c" * 32, 4, (ME, OTHER), (100.0, 50.0), ())
        elif change == "fragment":
            message = Open(1, 0, 1, BASE, 4, (ME, OTHER), (100.0, 50.0), ())
        else:
            member.contributions.offered[0].counted_by = b"c" * 32
        member.rounds.open(0.0, message)
        assert [type(said) for _, said in member.outlet.said] == [Decline], change
        assert not member.exchanges.partners()


def test_a_round_with_a_smaller_weight_than_was_offered_is_taken() -> None:
    member = Offering()
    member.rounds.open(0.0, round_of((0.5, 50.0)))
    assert member.exchanges.partners() == {ME, OTHER}


def test_a_member_says_once_that_it_holds_the_mean() -> None:
    member, weights = Offering(), (100.0, 300.0)
    partner = partner_in(weights)
    member.rounds.open(0.0, round_of(weights))
    member.exchange_with(partner)
    member.rounds.pump(2.0)
    assert [event.members for event in member.outlet.seen(RoundOpened)] == [(ME, OTHER)]
    assert member.outlet.told(HOST, Done) == [Done(1, 0, partner.exchange.digest(), (0.0, 36.0))]
    reducer = member.exchanges.running[1].exchange.reducer
    assert np.allclose(reducer.output, 2.5)  # type: ignore[attr-defined]


def test_chunks_that_come_before_their_round_opens_are_held_and_taken_then() -> None:
    member, weights = Offering(), (100.0, 100.0)
    partner = partner_in(weights)
    for _, message, payload in partner.chunks():
        member.rounds.take_chunk(0.0, OTHER, message, payload, 10)
    assert member.outlet.returned == []
    member.rounds.open(1.0, round_of(weights))
    assert member.outlet.returned == [(OTHER, 10)]
    member.exchange_with(partner)
    assert member.outlet.told(HOST, Done)


def test_a_member_that_sends_what_cannot_be_added_is_named() -> None:
    member, weights = Offering(), (100.0, 100.0)
    member.rounds.open(0.0, round_of(weights))
    member.exchange_with(partner_in(weights, value=float("nan")))
    (said,) = member.outlet.told(HOST, Stuck)
    assert said.peers == (OTHER,)
    assert "finite" in said.poison


def test_a_silent_member_is_reported_once_an_attempt() -> None:
    member = Offering()
    member.rounds.open(0.0, round_of((100.0, 100.0)))
    member.rounds.tick(TIMEOUT_S)
    assert not member.outlet.told(HOST, Stuck)
    member.rounds.tick(TIMEOUT_S + 1.0)
    member.rounds.tick(TIMEOUT_S + 2.0)
    assert member.outlet.told(HOST, Stuck) == [Stuck(1, 0, (OTHER,), "")]


def test_an_aborted_round_leaves_its_contribution_offered_or_late() -> None:
    for again in (True, False):
        member = Offering()
        member.rounds.open(0.0, round_of((100.0, 100.0)))
        member.rounds.abort(1.0, Abort(1, "somebody left", again))
        member.rounds.abort(1.0, Abort(1, "somebody left", again))
        assert len(member.outlet.seen(RoundAborted)) == 1
        assert not member.exchanges.running
        assert [ready.number for ready in member.outlet.told(HOST, Ready)] == [1] * again
        fates = [event.fate for event in member.outlet.seen(ContributionEnded)]
        assert fates == ([] if again else [Fate.LATE])
        assert not again or member.contributions.offered[0].may_be_withdrawn


def test_a_member_that_enters_again_is_in_no_round() -> None:
    member = Offering()
    member.rounds.open(0.0, round_of((100.0, 100.0)))
    member.rounds.entered(1.0)
    assert not member.exchanges.running
    assert member.contributions.offered[0].may_be_withdrawn


def test_chunks_of_rounds_before_the_newest_one_return_their_credit() -> None:
    member = Offering()
    member.rounds.take_chunk(0.0, OTHER, PartChunk(4, 0, 0), bytes(16), 10)
    member.rounds.open(0.0, round_of((100.0, 100.0), serial=5))
    assert member.outlet.returned == [(OTHER, 10)]
    member.rounds.take_chunk(0.0, OTHER, PartChunk(4, 0, 0), bytes(16), 10)
    assert member.outlet.returned == [(OTHER, 10)] * 2


def test_chunks_of_a_round_that_was_declined_return_their_credit() -> None:
    member = Offering()
    member.rounds.open(0.0, round_of((99.0, 100.0)))
    member.rounds.take_chunk(0.0, OTHER, PartChunk(1, 0, 0), bytes(16), 10)
    assert member.outlet.returned == [(OTHER, 10)]


def test_a_round_goes_on_without_the_lost_and_one_who_is_lost_takes_no_part() -> None:
    founders = (ME, OTHER, b"t" * 32)
    for lost, members in (((2,), (ME, OTHER)), ((3,), founders), ((0,), None)):
        member = Offering()
        member.rounds.open(0.0, Open(1, 1, 0, BASE, SIZE, founders, (100.0, 1.0, 1.0), lost))
        opened = [event.members for event in member.outlet.seen(RoundOpened)]
        assert opened == ([] if members is None else [members])


def test_there_is_nothing_to_swap() -> None:
    with pytest.raises(AssertionError, match="rounds"):
        Offering().rounds.swap(0.0, Swap(0, 0, 1, vector(1.0)))


def test_a_result_is_on_the_disk_before_it_is_said_that_it_is_held() -> None:
    member, partner = Offering(), partner_in((100.0, 50.0))
    member.rounds.open(0.0, round_of((100.0, 50.0)))
    member.exchange_with(partner)
    said = [what for peer, what in member.outlet.said if peer == b"disk" or isinstance(what, Done)]
    (serial, result, encoded), done = said
    assert (serial, result) == (1, done.digest) == (1, partner.exchange.digest())
    assert (encoded.digests, encoded.chunks) == (partner.exchange.digests(), partner.exchange.means())
