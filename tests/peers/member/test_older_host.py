"""A coordinator that is behind its members overwrites no state of theirs."""

from __future__ import annotations

from peers.protocol.events import FellBehind, HostIsBehind
from peers.protocol.messages import CatchUp, Enter, HostBehind, NewestRecord, Seed
from peers.protocol.record import record_in
from tests.peers.member.fakes import HOST, OTHER, record_on
from tests.peers.member.training_kit import HEAD, STATE, Training

RECORD = record_on(HEAD, 7)


def ahead() -> Training:
    training = Training()
    training.member.versions.move(RECORD)
    return training


def test_before_it_enters_a_member_shows_its_newest_record() -> None:
    training = ahead()
    training.outlet.said.clear()
    training.member.begin_session(1.0, HOST)
    shown, enter = [message for peer, message in training.outlet.said if peer == HOST]
    assert isinstance(shown, NewestRecord)
    assert (shown.head, shown.index, record_in(shown.shown)) == (RECORD.hash(), 7, RECORD)
    assert isinstance(enter, Enter)


def test_of_a_state_that_it_fetched_it_knows_no_record() -> None:
    training = ahead()
    training.member.versions.arrive(CatchUp(0, HEAD, STATE, (OTHER,), HEAD, 9, 0))
    assert training.member.versions.newest() == NewestRecord(HEAD, 9, b"")


def test_a_state_older_than_its_own_is_not_fetched_and_that_is_told() -> None:
    training = ahead()
    training.hear(CatchUp(0, HEAD, STATE, (OTHER,), HEAD, 6, 0))
    assert training.outlet.seen(HostIsBehind) == [HostIsBehind(6, 7)]
    assert training.outlet.seen(FellBehind) == []
    assert training.member.versions.head == RECORD.hash()
    training.hear(CatchUp(0, HEAD, STATE, (OTHER,), HEAD, 8, 0))
    assert training.outlet.seen(FellBehind), "a newer one is"


def test_a_host_that_lost_its_journal_gets_no_seed_of_it() -> None:
    training = ahead()
    training.hear(HostBehind(0))
    training.hear(Seed(1))
    assert training.outlet.seen(HostIsBehind) == [HostIsBehind(0, 7)]
    assert training.member.versions.head == RECORD.hash()
