"""Links: which there are, who dials, and who must not take whose place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peers.links import LinksByNeed, LinksToAll, LinkTable, MemberLinks
from peers.protocol.messages import MemberIs, Wanted
from peers.protocol.traces import MessagesDroppedTrace
from transport.effects import NEVER, Close, Connect, Effect, Send
from transport.frames import to_items
from transport.limits import LIMITS
from transport.link.messages import GENERATIONS, NOBODY, Hello, Session, Stale, Started
from transport.link.streams import FRAME_COST

LOW, ME, HIGH, HOST = b"a" * 32, b"m" * 32, b"z" * 32, b"h" * 32
TIMEOUT_S, MAX_IDLE_S = 4.0, 30.0


class Table:
    """A table of links, and what it hands to the driver."""

    def __init__(self, **limits: int) -> None:
        self.out: list[Effect] = []
        self.limits = replace(LIMITS, **limits)  # type: ignore[arg-type]
        self.table = LinkTable(7, TIMEOUT_S, self.limits, self.out)

    def greet(self, peer: bytes, incarnation: int = 1, *, now: float = 0.0) -> None:
        """The other end begins a session."""
        link = self.table.by_peer[peer]
        hello = Hello(incarnation, 1, *link.session, 0, 0, 1 << 20, False)
        for lane in range(1 + self.limits.lanes):
            link.receive(now, lane, [to_items(hello)], None)

    def hear(self, peer: bytes, hello: Hello) -> list[object]:
        """A greeting comes on the lane of control."""
        return list(self.table.by_peer[peer].receive(0.0, 0, [to_items(hello)], None))

    def dialled(self) -> list[bytes]:
        return [each.peer for each in self.out if isinstance(each, Connect)]

    def closed(self) -> list[tuple[bytes, str]]:
        return [(each.peer, each.reason) for each in self.out if isinstance(each, Close)]


class Member:
    """A table whose links follow a roster that the test changes."""

    def __init__(self, way: type[MemberLinks], addresses: tuple[str, ...] = ("tcp://m:1",)) -> None:
        self.seen = Table()
        self.table = self.seen.table
        self.roster: dict[bytes, MemberIs] = {}
        self.lost: list[bytes] = []
        ends = (self.table, ME, HOST, addresses, self.roster, lambda now, peer: self.lost.append(peer))
        self.links = LinksToAll(*ends) if way is LinksToAll else LinksByNeed(*ends, max_idle_s=MAX_IDLE_S)
        self.table.open(0.0, HOST, ("tcp://h:1",), dials=True)
        self.seen.out.clear()

    def hear(self, *members: tuple[bytes, str]) -> None:
        """The roster is this from now on."""
        self.roster.clear()
        for key, address in members:
            self.roster[key] = MemberIs(1, key, "", (address,) if address else (), 0)
        self.table.changed = True
        self.links.update(0.0)


# -- the table ------------------------------------------------------------------------------------


def test_without_a_link_nothing_is_sent_and_there_is_no_room() -> None:
    seen = Table()
    seen.table.send(0.0, LOW, Wanted(0))
    seen.table.send_bulk(0.0, LOW, Wanted(0), b"x", "state")
    seen.table.consumed(0.0, LOW, 10)
    seen.table.connected(0.0, LOW, 0)
    seen.table.disconnected(0.0, LOW, 0)
    assert seen.out == []
    assert (seen.table.room(LOW), seen.table.last_heard(LOW), seen.table.is_up(LOW)) == (-1, NEVER, False)


def test_a_link_that_has_greeted_is_up_and_carries_messages() -> None:
    seen = Table()
    seen.table.open(0.0, LOW, ("tcp://a:1",), dials=True)
    assert seen.dialled() == [LOW]
    assert not seen.table.is_up(LOW)
    seen.greet(LOW, now=3.0)
    assert seen.table.is_up(LOW)
    assert seen.table.last_heard(LOW) == 3.0
    room = seen.table.room(LOW)
    seen.out.clear()
    seen.table.send(3.0, LOW, Wanted(0))
    seen.table.send_bulk(3.0, LOW, Wanted(0), b"x" * 100, "state")
    assert [(each.peer, each.lane, each.purpose) for each in seen.out if isinstance(each, Send)] == [
        (LOW, 0, "control"),
        (LOW, 1, "state"),
    ]
    assert seen.table.room(LOW) == room - 100 - FRAME_COST
    seen.out.clear()
    seen.table.consumed(3.0, LOW, seen.limits.window_bytes)
    assert len(seen.out) == 1  # the credit is said to be there again
    seen.out.clear()
    seen.table.disconnected(0.0, LOW, 0)
    seen.table.send(3.0, LOW, Wanted(0))
    assert seen.out == []
    seen.table.connected(3.0, LOW, 0)
    assert len(seen.out) == 1


def test_credit_is_shared_among_all_links() -> None:
    seen = Table(buffer_bytes=64 << 20)
    first = seen.table.open(0.0, LOW, (), dials=False)
    assert first.streams.window.base == 32 << 20
    for index in range(3):
        seen.table.open(0.0, bytes([index]) * 32, (), dials=False)
    assert {link.streams.window.base for link in seen.table.by_peer.values()} == {16 << 20}


def test_an_older_process_does_not_take_the_place_of_one_whose_link_was_dropped() -> None:
    seen = Table()
    seen.table.open(0.0, LOW, (), dials=False)
    seen.greet(LOW, incarnation=5)
    seen.table.forget(LOW, "bye")
    seen.table.forget(LOW, "bye")
    assert seen.closed() == [(LOW, "bye")]
    assert seen.table.changed
    seen.table.open(0.0, LOW, (), dials=False)
    seen.out.clear()
    seen.greet(LOW, incarnation=4)
    assert not seen.table.is_up(LOW)
    stale = to_items(Stale(5))
    assert all(isinstance(each, Send) and bytes(stale[:1]) in each.header for each in seen.out)
    seen.greet(LOW, incarnation=5)
    assert seen.table.is_up(LOW)


def test_each_link_has_a_session_of_its_own() -> None:
    seen = Table()
    sessions = [seen.table.open(0.0, LOW, (), dials=False).session for _ in range(3)]
    assert sessions == [Session(7, generation) for generation in (1, 2, 3)]


@pytest.mark.parametrize("reached", [1 << 12, 1 << 32, (1 << 62) - 10])
def test_a_peer_is_taken_back_after_however_many_links_of_its_process(reached: int) -> None:
    here, there = Table(), Table()
    here.table.generation = reached - 3
    there.table.open(0.0, LOW, (), dials=False)
    met = []
    for _ in range(9):
        here.table.forget(HIGH, "it went")
        link = here.table.open(0.0, HIGH, (), dials=False)
        met.append(link.session)
        hello = Hello(*link.session, *NOBODY, 0, 0, 1 << 20, False)
        assert [type(each) for each in there.hear(LOW, hello)] == [Started]
    assert met == sorted(met)
    assert met[-1] < Session(7, GENERATIONS)


def test_a_process_that_has_used_up_its_generations_does_not_begin_them_again() -> None:
    table = Table().table
    table.generation = GENERATIONS - 2
    assert table.open(0.0, LOW, (), dials=False).session == Session(7, GENERATIONS - 1)
    with pytest.raises(AssertionError, match="used up"):
        table.open(0.0, HIGH, (), dials=False)


def test_a_peer_that_takes_nothing_for_too_long_begins_anew() -> None:
    seen = Table(control_queue=2)
    link = seen.table.open(0.0, LOW, (), dials=False)
    seen.greet(LOW)
    session = link.session
    for _ in range(2):
        seen.table.send(0.0, LOW, Wanted(0))
    assert link.session == session
    seen.table.send(0.0, LOW, Wanted(0))
    assert MessagesDroppedTrace(peer=LOW) in seen.out
    assert link.session > session


def test_only_peers_that_matter_now_are_asked_for_a_sign_of_life() -> None:
    for waits_for, asked in ((None, {LOW, HIGH}), ({HIGH}, {HIGH}), (set[bytes](), set[bytes]())):
        seen = Table()
        for peer in (LOW, HIGH):
            seen.table.open(0.0, peer, (), dials=False)
            seen.greet(peer)
        seen.table.tick(0.1, waits_for)
        seen.out.clear()
        seen.table.tick(0.1 + TIMEOUT_S / 2, waits_for)
        assert {each.peer for each in seen.out if isinstance(each, Send)} == asked


def test_equal_tables_have_equal_digests() -> None:
    one, other = Table(), Table()
    one.table.open(0.0, LOW, (), dials=False)
    one.table.open(0.0, HIGH, (), dials=False)
    assert one.table.digest_parts() != other.table.digest_parts()
    other.table.open(0.0, LOW, (), dials=False)
    other.table.open(0.0, HIGH, (), dials=False)
    assert one.table.digest_parts() == other.table.digest_parts()


# -- a link to every member -----------------------------------------------------------------------


def test_of_two_members_the_lower_key_dials_unless_only_one_can_be_reached() -> None:
    for mine, theirs, dialled in (
        (("tcp://m:1",), "tcp://x:1", [HIGH]),
        ((), "tcp://x:1", [LOW, HIGH]),
        (("tcp://m:1",), "", []),
        ((), "", []),
    ):
        member = Member(LinksToAll, mine)
        member.hear((LOW, theirs), (HIGH, theirs))
        assert set(member.table.by_peer) == {HOST, LOW, HIGH}
        assert member.seen.dialled() == dialled


def test_the_coordinator_in_the_roster_gets_no_second_link_and_loses_none() -> None:
    for way in (LinksToAll, LinksByNeed):
        member = Member(way)
        link = member.table.by_peer[HOST]
        member.hear((HOST, "tcp://elsewhere:1"))
        member.hear()
        assert member.table.by_peer == {HOST: link}


@pytest.mark.parametrize("way", [LinksToAll, LinksByNeed])
def test_the_link_to_one_who_left_is_dropped_and_told(way: type[MemberLinks]) -> None:
    member = Member(way)
    member.hear((LOW, "tcp://a:1"), (HIGH, "tcp://z:1"))
    member.links.meet(0.0, LOW)
    member.links.meet(0.0, HIGH)
    member.hear((HIGH, "tcp://z:1"))
    assert member.lost == [LOW]
    assert member.seen.closed() == [(LOW, "it left")]
    assert set(member.table.by_peer) == {HOST, HIGH}


def test_one_who_moved_is_looked_for_where_it_is_now() -> None:
    member = Member(LinksToAll)
    member.hear((HIGH, "tcp://z:1"))
    member.hear((HIGH, "tcp://z:2"))
    assert member.seen.closed() == [(HIGH, "it moved")]
    assert member.lost == [HIGH]
    assert member.table.by_peer[HIGH].addresses == ("tcp://z:2",)


def test_links_are_compared_only_after_a_change() -> None:
    member = Member(LinksToAll)
    member.hear((HIGH, "tcp://z:1"))
    member.roster[LOW] = MemberIs(1, LOW, "", (), 0)
    member.links.update(1.0)
    assert LOW not in member.table.by_peer
    member.table.forget(HIGH, "rubbish")
    member.links.update(1.0)
    assert set(member.table.by_peer) == {HOST, LOW, HIGH}


def test_a_link_to_every_member_is_never_idle_and_needs_no_meeting() -> None:
    member = Member(LinksToAll)
    member.hear((HIGH, "tcp://z:1"))
    assert not member.links.meet(0.0, HIGH)
    assert not member.links.meet(0.0, LOW)
    member.links.drop_idle(1e9, set())
    assert set(member.table.by_peer) == {HOST, HIGH}


# -- links by need --------------------------------------------------------------------------------


def test_gossip_makes_no_link_before_somebody_is_met_and_whoever_wants_one_dials() -> None:
    member = Member(LinksByNeed)
    member.hear((LOW, "tcp://a:1"), (HIGH, ""))
    assert set(member.table.by_peer) == {HOST}
    assert member.links.meet(0.0, LOW)
    assert not member.links.meet(0.0, LOW)
    assert member.links.meet(0.0, HIGH)
    assert member.seen.dialled() == [LOW]


def test_nobody_is_met_of_whom_the_roster_does_not_tell() -> None:
    member = Member(LinksByNeed)
    member.hear((HOST, "tcp://h:1"))
    assert not member.links.meet(0.0, LOW)
    assert not member.links.meet(0.0, HOST)
    assert set(member.table.by_peer) == {HOST}


def test_a_gossip_link_is_given_up_when_nothing_has_used_it_for_long() -> None:
    member = Member(LinksByNeed)
    member.hear((LOW, "tcp://a:1"), (HIGH, "tcp://z:1"))
    for peer in (LOW, HIGH):
        member.links.meet(0.0, peer)
    member.links.meet(1.0, HIGH)
    needed = {HOST}
    member.links.drop_idle(MAX_IDLE_S, needed)
    assert member.seen.closed() == []
    member.links.drop_idle(MAX_IDLE_S + 0.5, {*needed, LOW})
    assert member.seen.closed() == []
    member.links.drop_idle(MAX_IDLE_S + 0.5, needed)
    assert [peer for peer, _ in member.seen.closed()] == [LOW]
    assert member.lost == []


def test_a_link_that_begins_again_is_idle_from_then_on() -> None:
    member = Member(LinksByNeed)
    member.hear((LOW, "tcp://a:1"))
    member.links.meet(0.0, LOW)
    member.links.drop_idle(2 * MAX_IDLE_S, {HOST})
    member.table.open(2 * MAX_IDLE_S, LOW, (), dials=False)
    for seconds, linked in ((0.0, True), (MAX_IDLE_S, True), (MAX_IDLE_S + 1.0, False)):
        member.links.drop_idle(2 * MAX_IDLE_S + seconds, {HOST})
        assert (LOW in member.table.by_peer) == linked


def test_bulk_keeps_a_gossip_link() -> None:
    member = Member(LinksByNeed)
    member.hear((LOW, "tcp://a:1"))
    member.links.meet(0.0, LOW)
    member.seen.greet(LOW)
    member.table.send_bulk(20.0, LOW, Wanted(0), b"x", "exchange")
    member.links.drop_idle(20.0 + MAX_IDLE_S, {HOST})
    assert LOW in member.table.by_peer


def test_a_gossip_link_that_the_other_dialled_has_no_address_to_move_from() -> None:
    member = Member(LinksByNeed)
    member.table.open(0.0, LOW, (), dials=False)
    member.table.open(0.0, HIGH, ("tcp://z:1",), dials=True)
    member.hear((LOW, "tcp://a:1"), (HIGH, "tcp://z:2"))
    assert member.seen.closed() == [(HIGH, "it moved")]
    assert set(member.table.by_peer) == {HOST, LOW}  # it is met anew when it is wanted
