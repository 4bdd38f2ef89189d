"""What a member says of its states: checks at once, digests when they are wanted and hashed."""

from __future__ import annotations

from peers.member.own_states import OwnStates
from peers.member.versions import Versions
from peers.protocol.commands import ConfirmNamed
from peers.protocol.events import NameWanted
from peers.protocol.held import Held
from peers.protocol.messages import Applied
from peers.protocol.naming import NameEvery, NameState, StateNamed
from peers.protocol.record import NO_DIGEST
from tests.peers.member.fakes import BASE, HOST, FakeOutlet, record_on

FIRST, SECOND, NAME, OTHER_NAME = b"1" * 16, b"2" * 16, b"n" * 32, b"o" * 32
RECORD = record_on(BASE)


class Holder:
    """The states of one fragment of a member that holds the run's first state."""

    def __init__(self, name: bytes = b"") -> None:
        self.outlet, self.versions = FakeOutlet(), Versions()
        self.states = OwnStates(HOST, self.outlet, self.versions)
        self.versions.begin_at(BASE)
        self.states.replace(0, FIRST, name)

    def commit(self) -> None:
        self.states.move(0, SECOND)
        self.versions.move(RECORD)
        self.states.say(0.0, 0)

    def name(self, check: bytes, name: bytes, *, says: bool = True) -> None:
        self.states.confirm_named(0.0, ConfirmNamed(0, check, name), says=says)

    def told(self) -> list[object]:
        told, self.outlet.said = [message for _, message in self.outlet.said], []
        return told

    def wanted(self) -> list[bytes]:
        return [event.check for event in self.outlet.seen(NameWanted)]


def test_a_commit_is_told_by_its_check_alone_and_hashes_nothing() -> None:
    holder = Holder()
    holder.commit()
    assert holder.told() == [Applied(0, RECORD.hash(), SECOND)]
    assert holder.wanted() == []


def test_one_version_is_hashed_once_when_it_is_asked_for_and_told_when_it_is_done() -> None:
    holder = Holder()
    holder.states.order_every(0.0, NameEvery(True))
    holder.states.order_every(0.0, NameEvery(True))
    assert holder.wanted() == [FIRST]
    assert holder.told() == []
    holder.name(FIRST, NAME)
    assert holder.told() == [StateNamed(0, BASE, NAME)]
    holder.states.order(0.0, NameState(0, BASE))
    assert holder.told() == [StateNamed(0, BASE, NAME)]
    assert len(holder.wanted()) == 1, "it is known"


def test_what_is_asked_for_again_is_hashed_again_for_the_first_may_have_come_to_nothing() -> None:
    holder = Holder()
    holder.states.order(0.0, NameState(0, BASE))
    holder.states.order(0.0, NameState(0, BASE))
    assert holder.wanted() == [FIRST, FIRST]
    holder.name(FIRST, NAME)
    assert holder.told() == [StateNamed(0, BASE, NAME)]


def test_every_version_is_named_from_the_order_on_until_it_is_taken_back() -> None:
    holder = Holder()
    holder.states.order_every(0.0, NameEvery(True))
    holder.name(FIRST, NAME)
    holder.commit()
    holder.name(SECOND, OTHER_NAME)
    assert [message for message in holder.told() if isinstance(message, StateNamed)] == [
        StateNamed(0, BASE, NAME),
        StateNamed(0, RECORD.hash(), OTHER_NAME),
    ]
    holder.states.order_every(0.0, NameEvery(False))
    holder.states.replace(0, b"3" * 16)
    holder.states.say(0.0, 0)
    assert holder.wanted() == [FIRST, SECOND]


def test_the_version_before_can_be_named_and_one_that_is_gone_is_told_as_that() -> None:
    holder = Holder()
    holder.commit()
    holder.told()
    holder.states.order(0.0, NameState(0, BASE))
    assert holder.wanted() == [FIRST]
    holder.name(FIRST, NAME)
    assert holder.told() == [StateNamed(0, BASE, NAME)]
    holder.states.order(0.0, NameState(0, b"x" * 32))
    assert holder.told() == [StateNamed(0, b"x" * 32, NO_DIGEST)]


def test_a_digest_that_comes_after_the_next_commit_is_told_of_the_version_that_it_is_of() -> None:
    holder = Holder()
    holder.states.order(0.0, NameState(0, BASE))
    holder.commit()
    holder.told()
    holder.name(FIRST, NAME)
    assert holder.told() == [StateNamed(0, BASE, NAME)]
    assert 0 not in holder.states.names, "of what is held now nothing is known"


def test_of_what_was_fetched_the_version_before_is_gone() -> None:
    holder = Holder()
    holder.commit()
    holder.states.replace(0, b"3" * 16)
    holder.told()
    holder.states.order(0.0, NameState(0, BASE))
    assert holder.told() == [StateNamed(0, BASE, NO_DIGEST)]


def test_what_was_named_counts_no_more_for_a_state_that_is_loaded_in_its_place() -> None:
    holder = Holder(NAME)
    holder.states.replace(0, SECOND)
    holder.states.order(0.0, NameState(0, BASE))
    holder.states.replace(0, FIRST)
    holder.states.say(0.0, 0)
    holder.name(SECOND, OTHER_NAME)
    assert holder.told() == [Applied(0, BASE, FIRST)], "and nothing of what was hashed before"


def test_who_is_not_in_the_run_says_nothing_and_says_it_once_it_is() -> None:
    holder = Holder()
    holder.states.order(0.0, NameState(0, BASE))
    holder.states.begin_session()
    holder.name(FIRST, NAME, says=False)
    assert holder.told() == []
    holder.states.say(0.0, 0)
    assert holder.told() == [Applied(0, BASE, FIRST), StateNamed(0, BASE, NAME)]


def test_a_checkpoint_brings_its_digests() -> None:
    holder = Holder()
    holder.states.begin_with(Held(BASE, 0, (BASE,), (NAME,), checks=(SECOND,)))
    holder.states.say(0.0, 0)
    assert holder.told() == [Applied(0, BASE, SECOND), StateNamed(0, BASE, NAME)]
    holder.states.clear()
    assert (holder.states.checks, holder.states.names) == ({}, {})


def test_while_a_version_is_hashed_the_newest_one_alone_waits_in_line() -> None:
    holder = Holder()
    holder.states.order_every(0.0, NameEvery(True))
    newest = BASE
    for number in range(5):
        record = record_on(newest)
        newest = record.hash()
        holder.states.move(0, bytes([number]) * 16)
        holder.versions.move(record)
        holder.states.say(0.0, 0)
    assert holder.wanted() == [FIRST]
    holder.name(FIRST, NAME)
    assert holder.wanted() == [FIRST, bytes([4]) * 16]
    holder.told()
    holder.name(bytes([4]) * 16, OTHER_NAME)
    assert holder.told() == [StateNamed(0, newest, OTHER_NAME)]
