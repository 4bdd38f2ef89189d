"""A member that begins with a checkpoint: it enters with its head, and follows by what its disk has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from peers.member.member import Member
from peers.protocol.commands import ConfirmApplied, ConfirmMoved, ConfirmSaved
from peers.protocol.events import BecameActive, BecomeSeed, Restored, RoundCommitted
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.held import Held
from peers.protocol.manifest import Manifest
from peers.protocol.messages import (
    Applied,
    CatchUp,
    CaughtUp,
    Committed,
    Enter,
    Entered,
    HostBehind,
    NeedState,
    NewestRecord,
    Saved,
    Seed,
)
from peers.protocol.profile import Matching, Profile
from peers.protocol.record import Record, record_in
from tests.peers.member.fakes import (
    BASE,
    HOST,
    LIMITS,
    ME,
    OTHER,
    PATIENCE_S,
    SIZE,
    TIMEOUT_S,
    FakeApp,
    FakeOutlet,
    check_of,
    entry,
    record_on,
    result_of,
)
from transport.collectives.fetch import Want
from transport.digests import digest_of
from transport.effects import EncodedResult
from transport.errors import BadFrame
from transport.frames import pack

STATE = b"s" * 32
CHECKS = (check_of(STATE),)
RECORD = record_on(BASE, 7)
HELD = Held(RECORD.hash(), 7, (RECORD.hash(),), (STATE,), pack(RECORD), CHECKS)


def going_back_to(record: Record, index: int) -> Record:
    head = record.hash()
    return record_on(head, index, fragment=ALL_FRAGMENTS, result=head)


class Resumed:
    """A member of a run with one fragment, which loaded ``held``."""

    def __init__(
        self,
        held: Held = HELD,
        *,
        keeps: bool = True,
        leads_on: bool = True,
        later: tuple[Record, ...] = (),
        on_disk: tuple[Record, ...] = (),
        matching: Matching | None = None,
    ) -> None:
        self.outlet = FakeOutlet()
        self.app = FakeApp()
        for record in on_disk:
            chunk = result_of(record.index)
            self.app.disk[record.result] = EncodedResult([digest_of(chunk)], [chunk])
        self.member = Member(
            ME,
            HOST,
            Profile("me", (), Manifest(BASE, BASE, BASE, "fp32", (SIZE,), "a model"), matching=matching),
            self.app,
            self.outlet,
            failure_timeout_s=TIMEOUT_S,
            patience_s=PATIENCE_S,
            limits=LIMITS,
            held=held,
            keeps=keeps,
            leads_on=leads_on,
            later=later,
        )
        self.member.start(0.0)
        self.member.begin_session(0.0, HOST)

    def hear(self, message: Any) -> None:
        self.member.take_control(0.0, HOST, message)

    def said(self, kind: type) -> list[Any]:
        return self.outlet.told(HOST, kind)


def test_it_shows_its_record_and_enters_with_its_head() -> None:
    resumed = Resumed()
    (shown,), (enter,) = resumed.said(NewestRecord), resumed.said(Enter)
    assert (shown.head, record_in(shown.shown)) == (RECORD.hash(), RECORD)
    assert (enter.head, enter.holds_state) == (RECORD.hash(), True)


def test_without_a_checkpoint_a_member_enters_with_nothing() -> None:
    resumed = Resumed(Held(BASE, 0, (BASE,), (STATE,), checks=CHECKS), keeps=False)
    assert resumed.said(Enter)[0].head == BASE
    assert resumed.said(NewestRecord) == []


def test_once_it_is_in_it_tells_what_it_holds_and_that_its_disk_has_it() -> None:
    resumed = Resumed()
    resumed.hear(Entered(1))
    assert resumed.said(Applied) == [Applied(0, RECORD.hash(), *CHECKS)]
    assert resumed.said(CaughtUp) == [CaughtUp(RECORD.hash())]
    assert resumed.said(Saved) == [Saved(7, RECORD.hash(), HELD.digest(), True)]
    assert resumed.outlet.seen(BecameActive) == [BecameActive(RECORD.hash(), 7)]


def test_with_gossip_it_tells_how_far_its_replica_is_until_that_moves() -> None:
    replica = Held(BASE, 0, (BASE,), (STATE,), checks=CHECKS, steps=12)
    resumed = Resumed(replica, keeps=False, matching=Matching("pair"))
    assert resumed.said(NewestRecord) == [NewestRecord(BASE, 12, b"")]
    resumed.hear(Entered(1))
    assert resumed.said(CaughtUp) == [CaughtUp(BASE)], "it is active at the run's first head, as all are"
    assert resumed.said(Saved) == [Saved(12, BASE, replica.digest(), False)]
    resumed.member.do(0.0, ConfirmMoved(0, b"m" * 16))
    assert resumed.said(Applied)[-1] == Applied(0, BASE, b"m" * 16)
    resumed.member.begin_session(0.0, HOST)
    assert len(resumed.said(NewestRecord)) == 1, "the host restarted, and this one never was away"


def test_with_gossip_it_goes_on_from_its_own_replica_if_nobody_is_left_to_copy_from() -> None:
    resumed = Resumed(Held(BASE, 0, (BASE,), (STATE,), checks=CHECKS, steps=12), matching=Matching("pair"))
    resumed.hear(Entered(1))
    resumed.hear(CatchUp(0, BASE, b"o" * 32, (OTHER,), BASE, 0, 0))
    assert not resumed.member.active
    resumed.hear(Seed(1))
    assert resumed.member.active
    assert resumed.said(CaughtUp) == [CaughtUp(BASE), CaughtUp(BASE)]
    assert resumed.outlet.seen(BecomeSeed) == []


def test_it_follows_by_the_results_on_its_disk_and_asks_nobody_for_them() -> None:
    first = record_on(RECORD.hash(), 8)
    second = record_on(first.hash(), 9)
    resumed = Resumed(on_disk=(first, second))
    resumed.hear(Committed(pack(first)))
    resumed.hear(Committed(pack(second)))
    resumed.hear(Entered(1))
    resumed.member.do(0.0, ConfirmApplied(first, *CHECKS))
    handed = [event.record.index for event in resumed.outlet.seen(RoundCommitted)]
    assert handed == [8, 9]
    assert not resumed.outlet.told(OTHER, Want)


def test_of_a_host_without_its_journal_it_needs_no_word_and_shows_each_record_that_it_comes_to() -> None:
    first = record_on(RECORD.hash(), 8)
    second = record_on(first.hash(), 9)
    resumed = Resumed(on_disk=(first, second), later=(RECORD, first, second))
    resumed.hear(Entered(1))
    assert resumed.outlet.seen(RoundCommitted) == [], "as long as the host tells what follows"
    resumed.hear(HostBehind(0))
    for record in (first, second):
        resumed.member.do(0.0, ConfirmApplied(record, *CHECKS))
    assert [event.record.index for event in resumed.outlet.seen(RoundCommitted)] == [8, 9]
    told = [each for peer, each in resumed.outlet.said if isinstance(each, (NewestRecord, CaughtUp))]
    assert [each.head for each in told[2:]] == [first.hash(), first.hash(), second.hash(), second.hash()]
    assert [record_in(each.shown) for each in told if isinstance(each, NewestRecord)][1:] == [first, second]


def test_where_nobody_has_the_next_result_it_stays_where_it_is_and_holds_its_state() -> None:
    first = record_on(RECORD.hash(), 8)
    resumed = Resumed(later=(first,))
    resumed.hear(Entered(1))
    resumed.hear(HostBehind(0))
    resumed.member.tick(1.0)
    assert resumed.said(NeedState) == []
    assert (resumed.member.versions.head, resumed.member.versions.holds_state) == (RECORD.hash(), True)
    resumed.hear(Committed(pack(going_back_to(RECORD, 8))))
    assert resumed.outlet.seen(Restored)


def test_what_the_owner_goes_on_from_is_fetched_by_who_is_further_by_itself() -> None:
    first = record_on(RECORD.hash(), 8)
    second = record_on(first.hash(), 9)
    resumed = Resumed(on_disk=(first, second), later=(first, second))
    resumed.hear(Entered(1))
    resumed.hear(HostBehind(0))
    for record in (first, second):
        resumed.member.do(0.0, ConfirmApplied(record, *CHECKS))
    back = going_back_to(RECORD, 8)
    resumed.hear(Committed(pack(back)))
    assert resumed.said(NeedState)
    resumed.hear(CatchUp(0, back.hash(), STATE, (OTHER,), back.hash(), 8, 0))
    assert resumed.outlet.told(OTHER, Want)[-1].blob == STATE


def test_a_result_that_its_disk_lacks_comes_from_others() -> None:
    resumed = Resumed()
    resumed.hear(entry(OTHER))
    record = record_on(RECORD.hash(), 8)
    resumed.hear(Committed(pack(record)))
    resumed.hear(Entered(1))
    assert resumed.outlet.seen(RoundCommitted) == []
    assert resumed.outlet.told(OTHER, Want)[0].blob == record.result


def test_one_that_wants_no_results_kept_says_at_once_that_none_lead_on_from_its_checkpoint() -> None:
    resumed = Resumed(leads_on=False)
    resumed.hear(Entered(1))
    assert resumed.said(Saved) == [Saved(7, RECORD.hash(), HELD.digest(), False)]


def test_what_is_saved_is_told_at_once_and_again_when_it_enters_again() -> None:
    resumed = Resumed()
    resumed.hear(Entered(1))
    later = Held(b"n" * 32, 9, (b"n" * 32,), (STATE,), checks=CHECKS)
    resumed.member.do(0.0, ConfirmSaved(later, keeps=False))
    assert resumed.said(Saved)[-1] == Saved(9, later.head, later.digest(), False)
    assert (resumed.member.keeps, resumed.member.leads_on) == (True, False), "more of them go to the disk"
    resumed.member.begin_session(1.0, HOST)
    resumed.hear(Entered(2))
    assert [each.index for each in resumed.said(Saved)] == [7, 9, 9]


@pytest.mark.parametrize(
    "held",
    [
        Held(BASE, 7, (BASE, BASE), (STATE, STATE), checks=2 * CHECKS),
        Held(BASE, 7, (BASE,), (STATE,)),
        Held(BASE, 7, (BASE,), (), checks=CHECKS),
        Held(BASE, 7, (BASE,), (STATE,), b"rubbish", CHECKS),
        Held(BASE, 7, (BASE,), (STATE,), pack(replace(RECORD, course=1)), CHECKS),
    ],
)
def test_a_checkpoint_of_another_model_or_stage_or_with_no_record_is_refused(held: Held) -> None:
    with pytest.raises(BadFrame):
        Resumed(held)


def test_who_enters_is_asked_again_for_what_it_was_asked_before_it_was_there() -> None:
    """It is known by a record that it is in; what is said to who is not there is lost."""
    first = record_on(RECORD.hash(), 8)
    resumed = Resumed()
    resumed.hear(Committed(pack(first)))
    asked = resumed.outlet.told(OTHER, Want)
    assert asked
    resumed.hear(entry(b"q" * 32))
    assert resumed.outlet.told(OTHER, Want) == asked, "somebody else is no reason"
    resumed.hear(entry(OTHER))
    assert resumed.outlet.told(OTHER, Want) == asked * 2
    assert resumed.outlet.met == [OTHER], "a link comes first"
