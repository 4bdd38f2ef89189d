"""What a worker holds, as its training thread knows it: first states, fetched ones, commits, returns."""

from __future__ import annotations

from diloco.checkpoints.position import Position
from peers.protocol.commands import ConfirmApplied, ConfirmCaptured, ConfirmLoaded, ConfirmMoved
from peers.protocol.events import BecameActive, Restored
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.held import Held
from peers.protocol.record import Record, record_in

HEAD = b"h" * 32


def name(text: str) -> bytes:
    return text.encode().ljust(32, b"-")


def record(parent: bytes, index: int, fragment: int, serial: int) -> Record:
    restores = fragment == ALL_FRAGMENTS
    members = () if restores else (name("me"),)
    return Record(
        parent, index, fragment, 1, serial, 0 if restores else 4, members, (1.0,) * len(members), HEAD
    )


def seeded(num_fragments: int = 2) -> Position:
    position = Position(num_fragments)
    for fragment in range(num_fragments):
        position.answer(ConfirmCaptured(fragment, b"d" * 32, name(f"first {fragment}")))
    position.event(BecameActive(HEAD, 0))
    return position


def test_nothing_is_held_before_all_of_a_first_state_is_captured_and_named() -> None:
    position = Position(2)
    assert position.held is None
    position.answer(ConfirmCaptured(0, b"d" * 32, name("first 0")))
    position.answer(ConfirmCaptured(1, b"d" * 32, name("first 1")))
    assert position.held is None
    position.event(BecameActive(HEAD, 0))
    assert position.held == Held(HEAD, 0, (HEAD, HEAD), (), checks=(name("first 0"), name("first 1")))


def test_a_commit_moves_the_head_and_one_fragment() -> None:
    position, first = seeded(), record(HEAD, 1, fragment=1, serial=5)
    position.answer(ConfirmApplied(first, name("second")))
    held = position.held
    assert held is not None
    assert (held.head, held.index) == (first.hash(), 1)
    assert held.versions == (HEAD, first.hash())
    assert held.checks == (name("first 0"), name("second"))
    assert record_in(held.record) == first
    assert position.serials == (0, 5)


def test_a_state_that_is_being_fetched_is_not_held_until_all_of_it_is_there() -> None:
    position = seeded()
    position.answer(ConfirmLoaded(0, name("v0"), name("d0")))
    assert position.held is None
    position.answer(ConfirmLoaded(1, name("v1"), name("d1")))
    assert position.held is None
    position.event(BecameActive(name("later"), 9))
    assert position.held == Held(
        name("later"), 9, (name("v0"), name("v1")), (), checks=(name("d0"), name("d1"))
    )
    assert position.serials == (0, 0)


def test_who_enters_again_holds_what_it_held() -> None:
    position, first = seeded(), record(HEAD, 1, 0, 3)
    position.answer(ConfirmApplied(first, name("second")))
    before = position.held
    position.event(BecameActive(first.hash(), 1))
    assert position.held == before


def test_a_restoring_record_names_every_fragment_anew() -> None:
    position = seeded()
    back = record(HEAD, 7, ALL_FRAGMENTS, serial=30)
    position.event(Restored(back))
    held = position.held
    assert held is not None
    assert (held.head, held.index) == (back.hash(), 7)
    assert held.versions == (back.hash(), back.hash())
    assert position.serials == (30, 30)


def test_who_begins_with_a_checkpoint_holds_it_at_once() -> None:
    first = record(HEAD, 4, 0, 3)
    held = Held(first.hash(), 4, (first.hash(), HEAD), (), checks=(name("d0"), name("d1")))
    position = Position(2, held)
    position.begin_after((3, 2))
    assert position.held == held
    assert position.serials == (3, 2)
    after = record(first.hash(), 5, 1, 4)
    position.answer(ConfirmApplied(after, name("d2")))
    assert position.held is not None
    assert position.held.versions == (first.hash(), after.hash())
    assert position.serials == (3, 4)


def test_a_swap_moves_the_state_and_not_the_head() -> None:
    position = seeded(num_fragments=1)
    position.answer(ConfirmMoved(0, name("moved")))
    assert position.held == Held(HEAD, 0, (HEAD,), (), checks=(name("moved"),))
