"""A coordinator without its journal, or with an old copy, overwrites nobody, and goes on from the members'
record when its owner says so."""

from __future__ import annotations

from typing import Any

from peers.coordinator.adoption import Proposal
from peers.coordinator.journal import CommitWritten, RunBegan
from peers.protocol.messages import (
    CatchUp,
    CaughtUp,
    Committed,
    Done,
    HostBehind,
    NeedState,
    NewestRecord,
    Open,
    Ready,
    Seed,
)
from peers.protocol.record import Record, record_in
from peers.protocol.traces import BehindTrace
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained
from transport.frames import pack, unpack

STATE = b"s" * 32


def commit(swarm: Swarm, *indexes: int) -> Record:
    serial = opened(swarm, *indexes).serial
    for index in indexes:
        swarm.hear(index, Done(serial, 0, RESULT))
    record = record_in(swarm.told(indexes[0], Committed)[-1].record)
    for index in indexes:
        swarm.hold(index, swarm.chain.head, STATE)
    return record


def before() -> tuple[Swarm, Record]:
    """Three members, two commits."""
    swarm = trained(3)
    commit(swarm, 1, 2, 3)
    return swarm, commit(swarm, 1, 2, 3)


def after(journal: list[bytes] | None = None, *, adopting: bool = False) -> Swarm:
    swarm = Swarm(journal=journal)
    swarm.core.state.adopting = adopting
    return swarm


def come_back(swarm: Swarm, index: int, record: Record, packed: bytes | None = None) -> None:
    swarm.core.certify(key(index), f"w{index}")
    shown = pack(record) if packed is None else packed
    swarm.hear(index, NewestRecord(record.hash(), record.index, shown))
    swarm.greet(index, head=record.hash(), holds_state=True)
    swarm.applied(index, record.hash(), STATE)
    swarm.hear(index, CaughtUp(record.hash()))


def said(swarm: Swarm, *kinds: type) -> list[Any]:
    return [message for _, message in swarm.said if isinstance(message, kinds)]


def up_to(journal: list[bytes], index: int) -> list[bytes]:
    """A copy that is as old as that commit."""
    kept: list[bytes] = []
    for entry in journal:
        found = unpack(entry)
        if isinstance(found, CommitWritten) and found.commit().index > index:
            return kept
        kept.append(entry)
    return kept


def test_without_its_journal_a_host_seeds_opens_and_hands_out_nothing_and_says_so() -> None:
    _, record = before()
    swarm = after()
    for index in (1, 2):
        come_back(swarm, index, record)
        swarm.hear(index, Ready(0, record.hash(), 8, 8, 1, 1.0))
    swarm.enter(4)
    swarm.later(100.0)
    assert said(swarm, Seed, CatchUp, Open, Committed) == []
    assert swarm.told(1, HostBehind) == [HostBehind(0)]
    told = [each for each in swarm.traces if isinstance(each, BehindTrace)]
    assert [(each.index, each.newest) for each in told] == [(0, 2)]


def test_an_old_copy_is_found_too() -> None:
    old, record = before()
    swarm = after(up_to(old.journal, 1))
    assert swarm.chain.index == 1
    come_back(swarm, 1, record)
    swarm.later(100.0)
    assert said(swarm, CatchUp, Open) == []
    assert swarm.told(1, HostBehind) == [HostBehind(1)]


def test_one_that_lies_about_its_record_stops_no_run_whose_journal_is_whole() -> None:
    old, record = before()
    swarm = after(old.journal)
    forged = Record(ROOT, 1000, 0, 1, 1, 1, (key(3),), (1.0,), RESULT)
    come_back(swarm, 3, forged)
    for index in (1, 2):
        come_back(swarm, index, record)
    assert swarm.told(3, CatchUp)[-1].head == record.hash()
    assert commit(swarm, 1, 2).index == 3


def test_a_claim_after_the_first_commit_of_this_life_counts_for_nothing() -> None:
    swarm, record = before()
    forged = Record(ROOT, 1000, 0, 1, 1, 1, (key(4), key(5)), (1.0, 1.0), RESULT)
    for index in (4, 5, 6, 7):
        come_back(swarm, index, forged)
    assert said(swarm, HostBehind) == []
    assert swarm.told(4, CatchUp)[-1].head == record.hash()


def test_the_owner_adopts_what_more_than_half_of_the_records_members_hold() -> None:
    old, record = before()
    swarm = after(up_to(old.journal, 1), adopting=True)
    for index in (1, 2, 3):
        come_back(swarm, index, record)
    proposal = swarm.core.proposal()
    assert proposal is not None
    names = [swarm.core.roster.entries[key(index)].full_name for index in (1, 2, 3)]
    assert proposal == Proposal(record.hash(), 2, 1, 3, tuple((name, True) for name in names))
    assert swarm.core.adopt(swarm.now, proposal.head)
    restoring = record_in(swarm.told(2, Committed)[-1].record)
    assert (restoring.restores, restoring.parent, restoring.result) == (True, record.hash(), record.hash())
    for index in (1, 2, 3):
        swarm.applied(index, restoring.hash(), STATE)
        swarm.hear(index, CaughtUp(restoring.hash()))
    assert commit(swarm, 1, 2, 3).index == 4
    assert commit(swarm, 1, 2, 3).serial > record.serial


def test_of_several_stages_each_goes_on_from_what_its_own_members_hold() -> None:
    """The journal is gone, and with it who was given which stage: whoever holds a state says that."""
    old = Swarm(stages=2, min_peers=1)
    records = []
    for index in (1, 2, 3, 4):
        old.join_stage(index, index % 2)
        old.hold(index, bytes([index % 2]) * 32)
    for stage, members in ((1, (1, 3)), (0, (2, 4))):
        for index in members:
            old.ready(index, stage=stage)
        serial = old.told(members[0], Open)[-1].serial
        for index in members:
            old.hear(index, Done(serial, 0, RESULT))
        records.append(record_in(old.told(members[0], Committed)[-1].record))
    swarm = Swarm(stages=2, min_peers=1)
    swarm.core.state.adopting = True
    for index in (1, 2, 3, 4):
        record = records[0] if index % 2 else records[1]
        swarm.core.certify(key(index), f"w{index}")
        swarm.hear(index, NewestRecord(record.hash(), record.index, pack(record)))
        swarm.greet(index, stage=index % 2, head=record.hash(), holds_state=True)
    assert len(swarm.core.members_ahead()) == 4
    adopted = []
    while (proposal := swarm.core.proposal()) is not None:
        assert swarm.core.state.adopting
        adopted.append(proposal.head)
        assert swarm.core.adopt(swarm.now, proposal.head)
    assert set(adopted) == {record.hash() for record in records}
    assert not swarm.core.state.adopting
    again = Swarm(swarm.journal, stages=2)
    courses = again.core.state.courses
    assert [course.chain.head for course in courses.values()] == [
        record_in(swarm.told(index, Committed)[-1].record).hash() for index in (2, 1)
    ]
    assert [again.core.roster.entries[key(index)].given_stage for index in (1, 2, 3, 4)] == [1, 0, 1, 0]


def test_what_was_adopted_stands_after_a_restart() -> None:
    _, record = before()
    swarm = after(adopting=True)
    for index in (1, 2):
        come_back(swarm, index, record)
    assert swarm.core.adopt(swarm.now, record.hash())
    again = after(swarm.journal)
    assert (again.chain.head, again.chain.index) == (swarm.chain.head, 3)
    assert not [entry for entry in map(unpack, swarm.journal) if isinstance(entry, RunBegan)]


def test_a_record_that_its_own_members_do_not_hold_is_not_proposed() -> None:
    _, record = before()
    swarm = after(adopting=True)
    forged = Record(ROOT, 1000, 0, 1, 1, 1, (key(1), key(2), key(3)), (1.0, 1.0, 1.0), RESULT)
    come_back(swarm, 3, forged)
    for index in (1, 2):
        come_back(swarm, index, record)
    proposal = swarm.core.proposal()
    assert proposal is not None
    assert proposal.head == record.hash()
    assert [holds for _, holds in proposal.voters] == [False, True, True]
    assert not swarm.core.adopt(swarm.now, forged.hash())


def test_of_different_records_none_is_proposed_and_it_is_told_who_holds_which() -> None:
    """They come from their disks, with checkpoints of different commits."""
    old, record = before()
    swarm = after(adopting=True)
    first = next(entry for entry in map(unpack, old.journal) if isinstance(entry, CommitWritten)).commit()
    come_back(swarm, 1, first)
    come_back(swarm, 2, record)
    assert swarm.core.proposal() is None
    names = [swarm.core.roster.entries[key(index)].full_name for index in (1, 2)]
    assert swarm.core.members_ahead() == {names[0]: 1, names[1]: 2}
    alone = after(old.journal, adopting=True)
    come_back(alone, 1, record)
    assert alone.core.members_ahead() == {}


def test_a_record_that_is_not_what_it_is_called_is_not_looked_at() -> None:
    _, record = before()
    swarm = after(adopting=True)
    come_back(swarm, 1, record, packed=b"rubbish")
    assert swarm.core.proposal() is None
    come_back(swarm, 2, record, packed=pack(Record(ROOT, 7, 0, 1, 1, 1, (key(2),), (1.0,), RESULT)))
    assert swarm.core.proposal() is None


def test_nothing_happens_until_the_owner_chose_and_then_the_journal_may_stand() -> None:
    old, record = before()
    swarm = after(old.journal, adopting=True)
    for index in (1, 2, 3):
        come_back(swarm, index, record)
        swarm.hear(index, Ready(0, record.hash(), 8, 8, 1, 1.0))
    assert swarm.core.proposal() is None
    assert said(swarm, Open) == []
    swarm.core.adopt_nothing(swarm.now)
    assert said(swarm, Open) != []


def test_one_that_claims_a_record_does_not_keep_a_new_run_from_beginning() -> None:
    _, record = before()
    swarm = after()
    come_back(swarm, 1, record)
    swarm.enter(2)
    assert swarm.told(2, Seed)
    swarm.hold(2)
    assert swarm.chain.head == ROOT


def test_whoever_is_further_held_the_record_that_all_came_to() -> None:
    """Two come back from their disks, and only one had followed the last two commits."""
    old, _ = before()
    last = [commit(old, 1, 2, 3) for _ in range(2)][-1]
    records = [entry.commit() for entry in map(unpack, old.journal) if isinstance(entry, CommitWritten)]
    assert records[-1] == last
    swarm = after(adopting=True)
    come_back(swarm, 1, records[0])
    come_back(swarm, 2, records[0])
    for index, reached in ((1, records[1:2]), (2, records[1:])):
        for record in reached:
            swarm.hear(index, NewestRecord(record.hash(), record.index, pack(record)))
            swarm.hear(index, CaughtUp(record.hash()))
    proposal = swarm.core.proposal()
    assert proposal is not None
    assert (proposal.head, [holds for _, holds in proposal.voters]) == (records[1].hash(), [True, True])
    assert swarm.core.adopt(swarm.now, proposal.head)


def test_members_that_go_on_by_themselves_are_no_reason_to_begin_another_run_or_to_tell_each_step() -> None:
    old, record = before()
    swarm = after()
    first = next(entry for entry in map(unpack, old.journal) if isinstance(entry, CommitWritten)).commit()
    come_back(swarm, 1, first)
    swarm.hear(1, NewestRecord(record.hash(), record.index, pack(record)))
    swarm.hear(1, CaughtUp(record.hash()))
    assert said(swarm, Seed, CatchUp, Open) == []
    told = [each for each in swarm.traces if isinstance(each, BehindTrace)]
    assert [each.newest for each in told] == [1]
    swarm.later(100.0)
    told = [each for each in swarm.traces if isinstance(each, BehindTrace)]
    assert [each.newest for each in told] == [1, 2]


def test_whoever_is_further_than_what_was_adopted_is_told_donors_once_and_when_it_asks() -> None:
    """Whatever it fetched until then is void each time."""
    old, _ = before()
    last = commit(old, 1, 2, 3)
    records = [entry.commit() for entry in map(unpack, old.journal) if isinstance(entry, CommitWritten)]
    swarm = after(adopting=True)
    come_back(swarm, 1, records[1])
    come_back(swarm, 3, records[1])
    come_back(swarm, 2, last)
    assert swarm.core.adopt(swarm.now, records[1].hash())
    restoring = record_in(swarm.told(1, Committed)[-1].record)
    for index in (1, 3):
        swarm.applied(index, restoring.hash(), STATE)
        swarm.hear(index, CaughtUp(restoring.hash()))
    for expected in (1, 2):
        for _ in range(5):
            swarm.later(1.0)
        assert [message.head for message in swarm.told(2, CatchUp)] == [restoring.hash()] * expected
        swarm.hear(2, NeedState("the swarm went back to an earlier state"))
