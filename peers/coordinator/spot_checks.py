"""Which mean is computed again, by whom, and what follows if it was not that of its parts.

In one round of as many as it has members one chunk is drawn once all are done, so that no owner knew before
whether its means would be looked at: the draw is a hash of the record with a secret of this host's process.
The record waits for nothing. A checker's word has the owner's next rounds proved, and nothing else; so do two
checks in a row for which an owner showed no part of its own. Keeps nothing but who was asked lately, and who
did not answer. Part of S3.
"""

from __future__ import annotations

import hashlib

from peers.coordinator.course import Course
from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.record import Record
from peers.protocol.spots import Spot, Spotted
from peers.protocol.traces import PoisonedTrace
from transport.collectives.plan import Plan

MAX_ASKED = 16
"""Checks that may still be answered; the oldest makes room."""
MAX_UNANSWERED = 2
"""Checks in a row to which an owner may send no part of its own: a slow line has that happen once."""
WRONG_MEAN = "a mean is not that of its parts"
NOT_SHOWN = "it does not show what it added to its means"
_MAX_SILENT = 64
"""Owners of whom that is remembered; the first makes room."""


def draw(state: RunState, course: Course, now: float, current: OpenRound, record: Record) -> None:
    """Perhaps have a mean of this round checked. To be called before the record is announced, for with that
    members are done with what they contributed."""
    drawn = hashlib.sha256(b"diloco spot\0" + state.secret + record.hash()).digest()
    which, chunk, who, section = (int.from_bytes(drawn[at : at + 8], "big") for at in (0, 8, 16, 24))
    assert course.manifest is not None
    num_chunks = record.num_chunks(course.manifest.elements[record.fragment])
    members = [member for member in current.members if member in current.done]
    if len(members) < 2 or which % len(members) or not num_chunks:
        return
    chunk %= num_chunks
    lost = frozenset(current.lost)
    plan = Plan(current.attempt, current.founders, current.weights, lost, frozenset(current.idle))
    owner = plan.owner(chunk, num_chunks)
    if owner not in members:
        return  # it is not done, or gone, and cannot be asked for its part
    checkers = [member for member in members if member != owner]
    checker = checkers[who % len(checkers)]
    while len(course.spots) >= MAX_ASKED:
        del course.spots[next(iter(course.spots))]
    course.spots[record.serial] = checker, owner
    for member in members:
        state.outlet.send(now, member, Spot(record.serial, chunk, section >> 2, checker))


def hear(state: RunState, now: float, course: Course, entry: Entry, message: Spotted) -> None:
    """The checker says what it came to."""
    checker, owner = course.spots.get(message.serial, (b"", b""))
    if checker != entry.key:
        return
    del course.spots[message.serial]
    unanswered = course.unanswered.pop(owner, 0) + 1
    if message.agrees:
        return
    if not message.answered and unanswered < MAX_UNANSWERED:
        while len(course.unanswered) >= _MAX_SILENT:
            del course.unanswered[next(iter(course.unanswered))]
        course.unanswered[owner] = unanswered
        return
    reason = WRONG_MEAN if message.answered else NOT_SHOWN
    state.outlet.trace(PoisonedTrace(peer=checker, peers=(owner,), reason=reason))
    course.suspicion.distrust(owner, course.chain.index)
