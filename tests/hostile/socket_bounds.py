"""Rows of `test_bounds`: what sockets and what watches them keep because of others."""

from __future__ import annotations

from tests.hostile.bounds_kit import SIZE_AND_BOUND, SMALL, Rows, keys
from transport.counters import MAX_PEERS, Counters
from transport.floods import MOST_SEEN, WINDOW_S, Floods
from transport.log_limit import LogLimit
from transport.redial import Bars
from transport.sealed.keys import LaneEnds
from transport.sealed.opening import Offers, ask
from transport.sealed.strangers import Strangers
from transport.sockets.admissions import REMEMBERED, Admissions
from transport.sockets.half_open import HalfOpen, HalfOpenBounds
from transport.sockets.unread import Unread
from transport.sockets.wire import FORGOTTEN, AcceptedConnection, AcceptedConnections, Outbox, Outgoing

SOCKETS = Rows()


@SOCKETS.add
def connections_of_one_address_over_which_nothing_came() -> SIZE_AND_BOUND:
    half_open = HalfOpen(HalfOpenBounds.of(SMALL, 1 << 16), lambda descriptor: None)
    for descriptor in range(500):
        half_open.opened((descriptor, (("10.0.0.0", 1), ("10.0.0.1", descriptor))), 0.0)
    return len(half_open), SMALL.half_open_per_address


@SOCKETS.add
def addresses_that_are_let_in_by_a_share() -> SIZE_AND_BOUND:
    floods = Floods(1)
    for address in range(5000):
        for _ in range(2):
            floods.came(0.0, str(address))
    size = floods.num_seen - MOST_SEEN
    floods.decide(WINDOW_S)
    return size + len(floods.shares), 33


@SOCKETS.add
def connections_of_all_addresses_over_which_nothing_came() -> SIZE_AND_BOUND:
    half_open = HalfOpen(HalfOpenBounds.of(SMALL, 1 << 16), lambda descriptor: None)
    for descriptor in range(500):
        half_open.opened((descriptor, (("10.0.0.0", 1), (f"10.0.0.{descriptor}", 1))), 0.0)
    return len(half_open), SMALL.half_open


@SOCKETS.add
def admissions_that_are_remembered() -> SIZE_AND_BOUND:
    admissions = Admissions()
    for number, each in zip(range(REMEMBERED + 1), keys(), strict=False):
        admissions.admitted(float(number), f"address {number}", each)
    first = admissions.only_key("address 0", 0.0)
    return REMEMBERED + (first is not None), REMEMBERED


@SOCKETS.add
def fresh_connections_of_which_it_is_known_what_they_hold() -> SIZE_AND_BOUND:
    half_open, unread = HalfOpen(HalfOpenBounds.of(SMALL, 1 << 16), lambda handle: None), Unread(SMALL)
    for descriptor in range(500):
        half_open.opened((descriptor, (("10.0.0.0", 1), (f"10.0.0.{descriptor}", 1))), 0.0)
        unread.excess(dict.fromkeys(half_open.handles(), 1), half_open.handles(), is_behind=False)
    return unread.num_fresh, SMALL.half_open


@SOCKETS.add
def messages_that_a_full_socket_does_not_take() -> SIZE_AND_BOUND:
    outbox = Outbox(SMALL)
    for _ in range(1000):
        outbox.push(Outgoing(0, b"header", None, "control", False))
    return len(outbox), 4 * SMALL.control_queue


@SOCKETS.add
def closed_connections_that_are_remembered() -> SIZE_AND_BOUND:
    table = AcceptedConnections(SMALL)
    routes = [route for _, route in zip(range(2 * FORGOTTEN), keys(), strict=False)]
    for route in routes:
        table.add(AcceptedConnection(b"p" * 32, 0, route, None, Outbox(SMALL)))
    return sum(map(table.is_gone, routes)), FORGOTTEN


@SOCKETS.add
def connections_of_one_peers_lane() -> SIZE_AND_BOUND:
    table = AcceptedConnections(SMALL)
    for _, route in zip(range(100), keys(), strict=False):
        table.add(AcceptedConnection(b"p" * 32, 0, route, None, Outbox(SMALL)))
    return len(table), 1


@SOCKETS.add
def peers_that_are_kept_out() -> SIZE_AND_BOUND:
    bars = Bars(SMALL)
    offenders = [peer for _, peer in zip(range(200), keys(), strict=False)]
    for peer in offenders:
        bars.bar(0.0, peer)
    return sum(bars.is_barred(0.0, peer) for peer in offenders), SMALL.barred


@SOCKETS.add
def peers_whose_log_lines_are_counted() -> SIZE_AND_BOUND:
    limit = LogLimit(SMALL)
    peers = [peer for _, peer in zip(range(100), keys(), strict=False)]
    for peer in peers:
        for _ in range(SMALL.lines_per_peer):
            limit.take(0.0, peer)
    known = 0
    for peer in reversed(peers):  # who is forgotten may have another line
        if limit.take(0.0, peer) is not None:
            break
        known += 1
    return known, SMALL.peers_told_of


@SOCKETS.add
def peers_whose_bytes_are_counted() -> SIZE_AND_BOUND:
    counters = Counters()
    for _, peer in zip(range(3 * MAX_PEERS), keys(), strict=False):
        counters.add(peer, "received", "control", 10)
    assert counters.total("received").frames == 3 * MAX_PEERS
    return len({peer for peer, _, _ in counters.snapshot()}), MAX_PEERS + 1


@SOCKETS.add
def lanes_that_are_offered_to_one_peer() -> SIZE_AND_BOUND:
    offers = Offers(SMALL)
    for number in range(500):
        ends = LaneEnds(b"run", b"u" * 32, b"t" * 32, (1, 0), (1, 0), 1 + number % SMALL.lanes)
        offers.offer(0.0, ends, ask(ends.lane), 80)
    return len(offers), SMALL.lanes


@SOCKETS.add
def connections_of_one_address_that_opened_no_lane() -> SIZE_AND_BOUND:
    strangers = Strangers(SMALL)
    for number in range(500):
        strangers.came(0.0, number, "10.0.0.1")
    return len(strangers), SMALL.bulk_strangers_per_address


@SOCKETS.add
def connections_of_all_addresses_that_opened_no_lane() -> SIZE_AND_BOUND:
    strangers = Strangers(SMALL)
    for number in range(500):
        strangers.came(0.0, number, f"10.0.0.{number}")
    return len(strangers), SMALL.bulk_strangers
