"""The coordinator comes back without its journal, or with an old copy: members hold newer records.

What a member says it holds counts only until this life has committed something, and only if more members hold
what the journal does not know than hold what it knows, or, while the journal knows of no state, than do not;
one that lies alone stops nothing. Then nothing is opened, seeded or handed out, members are told, and the
owner is. Only the owner can have the members' record adopted (`propose` shows whose word that is): the chain
then goes on behind it with a restoring record.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.coordinator.course import Course
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.fields import ALL_FRAGMENTS, MAX_TERM
from peers.protocol.messages import HostBehind, NewestRecord
from peers.protocol.record import GENESIS, Record, record_in
from peers.protocol.traces import AdoptedTrace, BehindTrace
from transport.errors import BadFrame


@dataclass(frozen=True, slots=True)
class Proposal:
    """A record that could be adopted, and on whose word."""

    head: bytes
    index: int
    journal_index: int
    """Where the journal ends."""
    num_members: int
    """Members that the record counts."""
    voters: tuple[tuple[str, bool], ...]
    """Those of them who are here, by full name, and whether they hold it or are further: more than half
    are."""

    @property
    def num_holders(self) -> int:
        return sum(holds for _, holds in self.voters)


def is_newer(course: Course, entry: Entry) -> bool:
    """Whether a member says that it holds a record that the journal does not know."""
    claim, chain = entry.claim, course.chain
    if claim is None or not entry.holds_state or chain.index_of(entry.head) >= 0:
        return False
    return claim.head == entry.head and claim.index >= max(1, chain.index)


def is_behind(state: RunState, course: Course) -> bool:
    """Whether the journal may end before what members hold, or its owner is about to choose."""
    return not course.committed and (state.adopting or bool(members_ahead(state, course)))


def members_ahead(state: RunState, course: Course) -> list[Entry]:
    """Members that say they hold a record which the journal does not know, if these are more than hold what
    it knows."""
    newer = _newer_members(state, course)
    if not newer:
        return []
    here = state.roster.entered_in(course.number)
    if (
        course.chain.head == GENESIS
    ):  # of a run that begins nobody holds anything: all others speak against it
        at_home = len(here) - len(newer)
    else:
        at_home = sum(entry.holds_state and course.chain.index_of(entry.head) >= 0 for entry in here)
    return newer if len(newer) > at_home else []


def all_ahead(state: RunState) -> dict[str, int]:
    """By full name, of all stages: the commits that `members_ahead` say they hold."""
    ahead = [entry for each in state.courses.values() for entry in members_ahead(state, each)]
    return {entry.full_name: entry.claim.index for entry in ahead if entry.claim is not None}


def _newer_members(state: RunState, course: Course) -> list[Entry]:
    return [entry for entry in state.roster.claiming_in(course.number) if is_newer(course, entry)]


def holds_still(state: RunState, course: Course, now: float) -> bool:
    """Whether the coordinator is to change nothing, since it may be behind its members: they are told."""
    if not is_behind(state, course):
        return False
    newer = _newer_members(state, course)
    newest = max((entry.claim.index for entry in newer if entry.claim), default=0)
    is_due = now - course.told_behind_at >= state.rules.failure_timeout_s  # they may go on record by record
    if newest > course.told_behind and is_due and not state.adopting:
        course.told_behind, course.told_behind_at = newest, now
        names = ", ".join(entry.full_name for entry in newer)
        state.outlet.trace(BehindTrace(index=course.chain.index, newest=newest, names=names))
    for entry in newer:
        if not entry.told_behind:
            entry.told_behind = True
            state.outlet.send(now, entry.key, HostBehind(course.chain.index))
    return True


def propose(state: RunState, course: Course) -> Proposal | None:
    """The newest record that more than half of its members who are here hold; None without any."""
    here = _newer_members(state, course)
    records = {record.hash(): record for entry in here if (record := _record_of(entry.claim)) is not None}
    for head, record in sorted(records.items(), key=lambda each: (-each[1].index, each[0])):
        proposal = _proposal(state, course, head, record)
        if 2 * proposal.num_holders > len(proposal.voters):
            return proposal
    return None


def adopt(state: RunState, course: Course, now: float, head: bytes) -> bool:
    """Go on from that record, if it can still be proposed; False if not."""
    proposal = propose(state, course)
    if proposal is None or proposal.head != head:
        return False
    claims = [entry.claim for entry in state.roster.entered_in(course.number) if entry.head == head]
    record = next(found for claim in claims if (found := _record_of(claim)) is not None)
    state.follow_term(record.serial >> 32)
    state.outlet.trace(AdoptedTrace(index=record.index, journal_index=proposal.journal_index))
    restoring = Record(
        parent=head,
        index=record.index + 1,
        fragment=ALL_FRAGMENTS,
        epoch=state.roster.epoch,
        serial=state.next_serial(),
        chunk_elements=0,
        members=(),
        weights=(),
        result=head,
        course=course.number,
    )
    state.adopt(now, course, record, restoring)
    return True


def _proposal(state: RunState, course: Course, head: bytes, record: Record) -> Proposal:
    here = state.roster.entered_in(course.number)
    voters = [entry for entry in here if entry.key in record.members or record.restores]
    told = tuple((entry.full_name, is_newer(course, entry) and head in entry.held) for entry in voters)
    return Proposal(head, record.index, course.chain.index, len(record.members), told)


def _record_of(claim: NewestRecord | None) -> Record | None:
    """The record that a member shows, if it is the one that it names."""
    try:
        record = record_in(claim.shown) if claim is not None and claim.shown else None
    except BadFrame:
        return None
    if record is None or claim is None or (record.hash(), record.index) != (claim.head, claim.index):
        return None
    return record if record.serial >> 32 < MAX_TERM else None
