"""Why a member that wants to enter is refused: its place, its settings, its stage, its model, its addresses.

Keeps X6: each refusal is a sentence for whoever started the member. Changes nothing.
"""

from __future__ import annotations

from peers.coordinator.assignment import ABSENT, Assignment
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.layout_rows import first_difference
from peers.protocol.manifest import difference, manifest_in
from peers.protocol.messages import Enter, Refused
from peers.protocol.placing import stages_exchange


def entry_refusal(
    state: RunState, assignment: Assignment, max_members: int, entry: Entry, message: Enter
) -> Refused | None:
    """Why a member may not enter; None if it may."""
    if not entry.has_place:
        return ABSENT
    if message.settings != state.rules.settings:
        return Refused("settings", "the run's settings differ from this member's: join again")
    wrong_stage = assignment.refusal(entry, message.stage, holds_state=message.holds_state)
    if wrong_stage is not None:
        return wrong_stage
    course = state.courses[message.stage]
    if course.manifest is not None:
        found = difference(course.manifest, manifest_in(message), message.protocol)
        if found is not None:
            row, num_rows = first_difference(course.layout_rows, message.rows) or (-1, 0)
            return Refused(*found, row=row, num_rows=num_rows)
    if (unfit := _boundary_refusal(state, message)) is not None:
        return unfit
    here = state.roster.entered_in(course.number)
    if len(here) >= max_members:
        what = "the run" if assignment.num_stages == 1 else f"stage {course.number}"
        return Refused("full", f"{what} has {len(here)} members, as many as it may")
    return None if message.addresses else _unreachable(state, message.stage)


def _unreachable(state: RunState, stage: int) -> Refused | None:
    """Of two that exchange anything, rounds or microbatches, one must accept connections."""
    stages = state.rules.stages
    others = [each for each in range(stages) if each == stage or stages_exchange(stage, each, stages)]
    if all(each.addresses for other in others for each in state.roster.entered_in(other)):
        return None
    return Refused(
        "unreachable",
        "this member and another one both accept no connections, so they could never exchange: "
        "let this one listen on an address that the others reach (--listen)",
    )


def _boundary_refusal(state: RunState, message: Enter) -> Refused | None:
    """What a stage takes and gives must be what its neighbours, as far as they are here, give and take."""
    for other, mine, theirs in (
        (message.stage - 1, message.takes, "gives"),
        (message.stage + 1, message.gives, "takes"),
    ):
        for each in state.roster.entered_in(other):
            if getattr(each, theirs) != mine:
                verb = "takes" if theirs == "gives" else "gives"
                return Refused(
                    "boundary",
                    f"stage {message.stage} of this member {verb} {mine or 'nothing'}, and stage {other}"
                    f" {theirs} {getattr(each, theirs) or 'nothing'}: let recipes say the same boundary",
                )
    return None
