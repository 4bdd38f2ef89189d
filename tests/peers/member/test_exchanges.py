"""Running exchanges: chunks that come early or late, links that begin anew, and who is silent."""

from __future__ import annotations

import pytest

from peers.member.exchanges import STEPS_PER_INPUT, Exchanges, RunningExchange
from tests.peers.member.fakes import (
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
from transport.collectives.chunks import MeanChunk, PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import Plan
from transport.errors import BadFrame

PAIR = Plan(0, (ME, OTHER), (1.0, 1.0))


def chunk(serial: int, attempt: int = 0) -> PartChunk:
    return PartChunk(serial, attempt, 0)


class ExchangingMember:
    """A member's exchanges; `begin` starts one with the other member."""

    def __init__(self) -> None:
        self.outlet = FakeOutlet()
        self.exchanges = Exchanges(self.outlet, TIMEOUT_S, PATIENCE_S)

    def begin(self, serial: int, plan: Plan = PAIR, chunk_elements: int = SIZE // 2) -> DirectReduce:
        exchange = DirectReduce(serial, ME, vector(1.0), chunk_elements, 0.0)
        self.exchanges.running[serial] = RunningExchange(0, exchange, 0.0, 100)
        exchange.begin(0.0, plan)
        return exchange

    def take(self, serial: int, attempt: int = 0, peer: bytes = OTHER) -> None:
        self.exchanges.take_chunk(0.0, peer, chunk(serial, attempt), bytes(4 * SIZE // 2), 10)


def test_an_early_chunk_keeps_its_credit_until_its_exchange_takes_it() -> None:
    member = ExchangingMember()
    member.take(3)
    assert member.outlet.returned == []
    exchange = member.begin(3)
    member.exchanges.replay_early(0.0, 3)
    assert member.outlet.returned == [(OTHER, 10)]
    assert exchange.owing_parts() == set()
    member.exchanges.close(0.0, 3)
    assert member.outlet.returned == [(OTHER, 10)]  # once


def test_a_chunk_of_a_later_attempt_waits_for_that_attempt() -> None:
    member = ExchangingMember()
    exchange = member.begin(3)
    member.take(3, attempt=1)
    member.exchanges.replay_early(0.0, 3)
    assert member.outlet.returned == []
    exchange.begin(1.0, Plan(1, (ME, OTHER), (1.0, 1.0)))
    member.exchanges.replay_early(1.0, 3)
    assert member.outlet.returned == [(OTHER, 10)]


def test_an_early_chunk_that_fits_no_plan_is_as_good_as_not_sent_and_one_in_time_is_rubbish() -> None:
    member = ExchangingMember()
    too_short = bytes(3)
    member.exchanges.take_chunk(0.0, OTHER, chunk(3), too_short, 10)
    exchange = member.begin(3)
    member.exchanges.replay_early(0.0, 3)
    assert exchange.owing_parts() == {OTHER}
    with pytest.raises(BadFrame):
        member.exchanges.take_chunk(0.0, OTHER, chunk(3), too_short, 10)


def test_what_is_passed_by_gives_its_credit_back_but_for_what_runs() -> None:
    member = ExchangingMember()
    member.begin(2)
    member.take(1)
    member.take(2, attempt=1)
    member.take(3)
    member.take(4, peer=THIRD)
    assert member.exchanges.early_senders(lambda serial: serial < 3) == [(OTHER, 1), (OTHER, 2)]
    member.exchanges.pass_by(0.0, 3)
    assert member.outlet.returned == [(OTHER, 10)] * 2
    assert member.exchanges.early_senders(lambda serial: True) == [(OTHER, 2), (THIRD, 4)]
    assert [member.exchanges.has_passed(serial) for serial in (1, 2, 3, 4)] == [True, False, True, False]


def test_chunks_of_an_exchange_that_has_ended_are_late() -> None:
    member = ExchangingMember()
    member.begin(2)
    member.exchanges.know(2)
    member.take(2, attempt=1)
    assert member.exchanges.close(0.0, 2) is not None
    assert member.outlet.returned == [(OTHER, 10)]
    member.take(2)
    assert member.outlet.returned == [(OTHER, 10)] * 2
    assert member.exchanges.close(0.0, 2) is None


def test_a_result_is_found_by_its_name_once_it_is_whole() -> None:
    member = ExchangingMember()
    exchange = member.begin(1)
    partner = Partner(OTHER, 1, PAIR, SIZE // 2)
    member.exchanges.pump(0.0)
    assert member.exchanges.find_result(1, exchange.digest()) is None
    for sender, message, payload in member.outlet.bulk:
        assert sender == OTHER
        partner.take(ME, message, payload)
    for _, message, payload in partner.chunks():
        member.exchanges.take_chunk(0.0, OTHER, message, payload, 10)
    member.exchanges.pump(0.0)
    assert [type(message) for _, message, _ in member.outlet.bulk][-1] is MeanChunk
    assert member.exchanges.busy, "nothing is decoded before what others wait for has left"
    assert member.exchanges.find_result(1, exchange.digest()) is None
    member.exchanges.pump(0.0)
    assert not member.exchanges.busy
    assert member.exchanges.find_result(1, exchange.digest()) is exchange
    assert member.exchanges.find_result(1, b"x" * 32) is None
    assert member.exchanges.find_result(2, exchange.digest()) is None


def test_only_so_much_is_done_between_two_looks_at_the_sockets() -> None:
    member = ExchangingMember()
    member.begin(1, chunk_elements=1)
    num_sent = []
    member.exchanges.pump(0.0)
    while member.exchanges.busy:
        num_sent.append(len(member.outlet.bulk))
        member.exchanges.pump(0.0)
    num_sent.append(len(member.outlet.bulk))
    assert len(num_sent) > 1
    assert num_sent[0] == STEPS_PER_INPUT
    assert len(member.outlet.bulk) == SIZE // 2  # one part for each chunk of the other's


def test_each_exchange_that_moved_is_reported_and_an_idle_one_is_not() -> None:
    member = ExchangingMember()
    running = []
    for serial in (1, 2):
        member.begin(serial)
        running.append(member.exchanges.running[serial])
    reports: list[object] = []
    for _ in range(2):
        member.exchanges.pump(7.0, lambda *report: reports.append(report))
    assert reports == [(7.0, 1, running[0]), (7.0, 2, running[1])]


def test_what_was_under_way_over_a_link_that_began_anew_is_sent_again() -> None:
    member = ExchangingMember()
    member.begin(1)
    member.take(2)
    member.exchanges.pump(0.0)
    sent = [message for _, message, _ in member.outlet.bulk]
    member.exchanges.resume_link(OTHER)
    member.exchanges.pump(0.0)
    assert [message for _, message, _ in member.outlet.bulk] == sent * 2
    assert member.exchanges.early_senders(lambda serial: True) == []
    assert member.outlet.returned == []  # the credit is void with the link


def test_in_gossip_a_partner_whose_link_lives_may_be_late_to_begin() -> None:
    member = ExchangingMember()
    member.outlet.heard[OTHER] = 1e9
    exchange = member.begin(1)
    assert member.exchanges.silent(PATIENCE_S, exchange, may_be_late=True) == ()
    assert member.exchanges.silent(PATIENCE_S + 0.1, exchange, may_be_late=True) == (OTHER,)


def test_a_cut_link_is_given_less_patience_than_a_slow_one_and_parts_less_than_means() -> None:
    for heard, owes, patience_s in (
        (0.0, "parts", TIMEOUT_S),
        (1e9, "parts", TIMEOUT_S),  # one small chunk takes less than half of it
        (1e9, "means", 2 * TIMEOUT_S),
    ):
        member = ExchangingMember()
        member.outlet.heard[OTHER] = heard
        exchange = member.begin(1)
        if owes == "means":
            member.take(1)
        assert member.exchanges.silent(patience_s, exchange) == (), owes
        assert member.exchanges.silent(patience_s + 0.1, exchange) == (OTHER,), owes


def test_partners_are_those_of_all_exchanges_that_run() -> None:
    member = ExchangingMember()
    member.begin(1)
    member.begin(2, Plan(0, (ME, THIRD), (1.0, 1.0)))
    assert member.exchanges.partners() == {ME, OTHER, THIRD}
    member.exchanges.close_all(0.0)
    assert member.exchanges.partners() == set()


def test_a_mean_is_taken_as_a_mean() -> None:
    member = ExchangingMember()
    exchange = member.begin(1)
    member.exchanges.take_chunk(0.0, OTHER, MeanChunk(1, 0, 1), bytes(4 * SIZE // 2), 10)
    assert exchange.owing_parts() == {OTHER}
    member.take(1)
    assert exchange.waiting_for() == set()
