"""The roster as a member knows it: who comes, who goes, and who holds a state."""

from __future__ import annotations

import pytest

from peers.member.membership import Membership
from peers.protocol.events import PeerLeft, PeersJoined
from peers.protocol.messages import MemberActive, MemberGone, RosterBatch, Seed
from peers.protocol.roster_feed import packed
from tests.peers.member.fakes import ME, OTHER, THIRD, FakeOutlet, entry
from transport.errors import BadFrame
from transport.frames import to_items


class Watched:
    """A roster, and what was known of a member when its leaving was told."""

    def __init__(self) -> None:
        self.outlet = FakeOutlet()
        self.told: list[tuple[bytes, str, bool]] = []
        self.membership = Membership(ME, self.outlet, self.leaving)

    def leaving(self, now: float, key: bytes, reason: str) -> None:
        self.told.append((key, reason, key in self.membership.others))

    def read(self, *news: object) -> None:
        for batch in packed([to_items(each) for each in news]):
            self.membership.apply_batch(1.0, RosterBatch(batch))


def test_a_member_is_not_in_its_own_roster() -> None:
    watched = Watched()
    watched.membership.welcome([entry(ME), entry(OTHER, "tcp://o:1")])
    assert set(watched.membership.others) == {OTHER}
    assert watched.outlet.events == [PeersJoined(((OTHER, "name of o"),))]
    watched.membership.welcome([entry(ME)])
    assert len(watched.outlet.events) == 1


def test_whoever_exchanges_with_a_member_is_told_before_the_roster_forgets_it() -> None:
    watched = Watched()
    watched.membership.welcome([entry(OTHER)])
    watched.membership.gone(1.0, MemberGone(1, OTHER, "it crashed"))
    assert watched.told == [(OTHER, "it crashed", True)]
    assert watched.membership.others == {}
    assert watched.outlet.events[1:] == [PeerLeft(OTHER, "name of o", "it crashed")]


def test_one_who_was_never_known_leaves_without_an_event() -> None:
    watched = Watched()
    watched.membership.gone(1.0, MemberGone(1, OTHER, "it crashed"))
    assert watched.outlet.events == []


def test_a_batch_is_read_in_order_and_arrivals_are_told_together() -> None:
    watched = Watched()
    watched.read(
        entry(OTHER), entry(THIRD), MemberActive(OTHER), MemberActive(ME), MemberGone(1, THIRD, "bye")
    )
    assert watched.outlet.events == [
        PeersJoined(((OTHER, "name of o"), (THIRD, "name of t"))),
        PeerLeft(THIRD, "name of t", "bye"),
    ]
    assert set(watched.membership.others) == watched.membership.active == {OTHER}


def test_one_who_leaves_and_comes_back_in_one_batch_is_in_and_holds_no_state() -> None:
    watched = Watched()
    watched.read(entry(OTHER), MemberActive(OTHER), MemberGone(1, OTHER, "bye"), entry(OTHER))
    assert set(watched.membership.others) == {OTHER}
    assert watched.membership.active == set()


def test_who_holds_a_state_is_forgotten_where_the_coordinator_says_it_anew() -> None:
    watched = Watched()
    watched.read(entry(OTHER), MemberActive(OTHER))
    watched.membership.forget_active()
    assert watched.membership.active == set()
    assert set(watched.membership.others) == {OTHER}


def test_a_batch_of_something_else_changes_nothing() -> None:
    watched = Watched()
    with pytest.raises(BadFrame):
        watched.read(entry(OTHER), Seed(1))
    assert watched.membership.others == {}
