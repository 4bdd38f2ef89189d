"""Versions: a head, and the version of each fragment behind it."""

from __future__ import annotations

from peers.member.versions import Versions
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.messages import CatchUp
from peers.protocol.record import GENESIS
from tests.peers.member.fakes import BASE, record_on


def test_a_member_begins_at_no_state() -> None:
    versions = Versions()
    assert (versions.head, versions.base(0), versions.holds_state) == (GENESIS, GENESIS, False)


def test_a_record_moves_its_fragment_and_the_head() -> None:
    versions = Versions()
    versions.begin_at(BASE)
    assert versions.holds_state
    first = record_on(BASE, 1, fragment=1)
    second = record_on(first.hash(), 2, fragment=0)
    versions.move(first)
    versions.move(second)
    assert (versions.head, versions.index) == (second.hash(), 2)
    assert [versions.base(fragment) for fragment in range(3)] == [second.hash(), first.hash(), BASE]


def test_a_restoring_record_names_all_fragments_anew() -> None:
    versions = Versions()
    versions.begin_at(BASE)
    versions.move(record_on(BASE, 1))
    restoring = record_on(b"lost" * 8, 7, fragment=ALL_FRAGMENTS, result=versions.head)
    versions.move(restoring)
    assert versions.index == 7
    assert versions.base(0) == versions.base(1) == restoring.hash()


def test_a_fetched_state_is_held_once_it_has_arrived_whole() -> None:
    versions = Versions()
    versions.set_base(0, b"v" * 32)
    assert not versions.holds_state
    versions.arrive(CatchUp(0, b"v" * 32, b"s" * 32, (), b"n" * 32, 9, 0))
    assert (versions.head, versions.index, versions.holds_state) == (b"n" * 32, 9, True)
    assert versions.base(0) == b"v" * 32
