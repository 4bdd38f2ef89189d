"""When members write a checkpoint of which each has a share, and when all of it is on their disks.

One is under way at a time. It is named just before its commit is announced, so that all who follow pin the
same state, and who writes what is computed from the record by everybody (`peers.protocol.shares`). It is
covered once everyone who was to write a fragment has it on its disk, or, after a wait, each fragment is on
one disk at least; that is journaled, and told with the next naming: only then do members part with older
shares. One that is not covered in time is given up for good. Keeps DU3 where states are shared out.
"""

from __future__ import annotations

from peers.coordinator.course import Course
from peers.coordinator.journal import StateCovered
from peers.coordinator.shared_save import SharedSave
from peers.coordinator.state import RunState
from peers.protocol.record import Record
from peers.protocol.shares import SaveShare, holders
from peers.protocol.traces import CoveredTrace
from transport.frames import pack

PATIENCE_TIMEOUTS = 30
"""Failure timeouts in which a checkpoint is to be covered; twice as many after each that was given up."""
_MAX_DOUBLINGS = 6


def about_to_commit(state: RunState, course: Course, now: float, record: Record) -> None:
    """That record is about to be announced: name it if a checkpoint is due."""
    shared, rules = course.shared, state.rules
    if not rules.copies or course.manifest is None:
        return
    look_at(state, course, now)
    num_fragments = course.manifest.num_fragments
    is_last = state.mode.num_rounds(course) + 1 >= rules.rounds or record.fragment == rules.buffers_fragment
    num_trained = num_fragments - (num_fragments > rules.buffers_fragment >= 0)
    is_boundary = record.index % (rules.save_every * num_trained) == 0
    is_free = shared.pending is None and now - shared.named_at >= rules.save_least_s
    if not (is_last or shared.is_wanted or (is_boundary and is_free)):
        return
    head = record.hash()
    each = range(num_fragments)
    shared.pending = SharedSave(
        record.index, head, now, tuple(holders(head, f, record.members, rules.copies) for f in each)
    )
    shared.named_at, shared.is_wanted = now, False
    covered = course.saves.covered_index(course.chain)
    for entry in state.roster.entered_in(course.number):
        state.outlet.send(now, entry.key, SaveShare(record.index, rules.copies, max(0, covered)))


def look_at(state: RunState, course: Course, now: float | None = None) -> None:
    """Somebody has saved its share, or time has passed: the one that is under way may be covered by now."""
    shared, pending = course.shared, course.shared.pending
    if pending is None:
        return
    if not course.chain.stands(pending.index):
        shared.pending = None  # the run went back
        return
    num_fragments = len(pending.holders)
    had = course.saves.shares(pending.head, num_fragments)
    found = [{key for key, fragments in had.items() if f in fragments} for f in range(num_fragments)]
    is_over = now is not None and now - pending.named_at >= patience_s(state, course)
    if all(set(wanted) <= have for wanted, have in zip(pending.holders, found, strict=True)) or (
        is_over and all(found)
    ):
        covered = StateCovered(pending.index, pending.head, course.number)
        state.outlet.store(pack(covered))
        course.saves.cover(covered)
        shared.pending, shared.num_in_vain = None, 0
        state.outlet.trace(CoveredTrace(index=pending.index))
    elif is_over:
        shared.pending, shared.num_in_vain = None, min(_MAX_DOUBLINGS, shared.num_in_vain + 1)


def patience_s(state: RunState, course: Course) -> float:
    """How long the shares of a checkpoint may take."""
    return PATIENCE_TIMEOUTS * state.rules.failure_timeout_s * float(2**course.shared.num_in_vain)
