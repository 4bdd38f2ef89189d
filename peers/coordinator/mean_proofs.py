"""Which owner has to show of what it made a mean, and what follows if it does not.

In the proved rounds of a distrusted owner (`peers.coordinator.spot_checks`) one of its chunks is drawn now
and then once all are done, where this host decodes what it is shown. Whoever called something else the mean
is out for good; whoever shows nothing owns no chunks for a while. Part of S3 and X10.
"""

from __future__ import annotations

import hashlib

from peers.coordinator.course import Course
from peers.coordinator.mean_case import MeanCase
from peers.coordinator.open_round import OpenRound
from peers.coordinator.state import RunState
from peers.protocol.evidence import ProveMean
from peers.protocol.record import Record

ONE_IN = 4
"""So many proved rounds of a distrusted owner: it sends all parts of a chunk, which others got once."""
ANSWER_S = 60.0
"""So long an owner may take, and as much longer as the slowest line takes for what it is to send."""


def draw(state: RunState, course: Course, now: float, current: OpenRound, record: Record) -> None:
    """Perhaps have an owner show one of its means of this round. To be called before the record is announced,
    for with that members are done with what they got."""
    case, index = course.mean_case, course.chain.index
    if case is not None and now >= case.until:
        course.suspicion.owes_proof(case.owner, index)
        course.mean_case = case = None
    plan = current.plans[current.attempt]
    here = [each for each in plan.owners if current.done.get(each) == record.result]
    suspects = course.suspicion.distrusted(here, index)
    if case is not None or not suspects or not plan.proved or not state.judges:
        return
    digest = hashlib.sha256(b"diloco mean\0" + state.secret + record.hash()).digest()
    which, who, drawn = (int.from_bytes(digest[i : i + 4], "big") for i in (0, 4, 8))
    owner = suspects[who % len(suspects)]
    assert course.manifest is not None
    num_chunks = record.num_chunks(course.manifest.elements[record.fragment])
    if which % ONE_IN or plan.drawn_of(owner, drawn, num_chunks) is None:
        return
    identities = {each: state.roster.entries[each].identity for each in plan.members}
    num_bytes = 4 * current.chunk_elements * (len(plan.members) + 1)
    until = now + ANSWER_S + num_bytes / state.limits.least_upload
    course.mean_case = MeanCase(current, record.result, owner, drawn, until, identities)
    state.outlet.send(now, owner, ProveMean(record.serial, drawn))
