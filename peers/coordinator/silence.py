"""Which members are silent, and whose silence ends its membership.

Where a twentieth of all packets is lost TCP may take ten seconds over one of them, while the connection
stands. So a member whose link stands is not waited for after the failure timeout, and out after a third more;
whose link ended, and is not back, is out after the failure timeout. Part of L1 and L2.
"""

from __future__ import annotations

from collections.abc import Iterator

from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState

STANDING_TIMEOUTS = 4 / 3
"""Failure timeouts of silence after which a member is out though its link has not ended."""


def look(state: RunState, now: float) -> Iterator[tuple[Entry, float]]:
    """Note who is silent; those whose membership is over by that, and for how many seconds they were."""
    timeout_s = state.rules.failure_timeout_s
    for entry in state.roster.entered():
        silence_s = now - state.outlet.last_heard(now, entry.key)
        entry.is_silent = entry.key != state.me and silence_s > timeout_s
        if entry.is_silent and (entry.out_of_sight or silence_s > STANDING_TIMEOUTS * timeout_s):
            yield entry, silence_s
