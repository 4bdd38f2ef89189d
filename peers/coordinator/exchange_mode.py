"""What differs between a run whose members share one state by rounds and one whose members gossip.

One protocol with two implementations, `rounds_mode` and `gossip`; a coordinator chooses one when it is made,
and nobody else asks which it is. An implementation reads the roster and courses, tells members about each
other, and answers questions; commits and memberships stay with the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from peers.coordinator.agreement import Agreement
from peers.coordinator.course import Course
from peers.coordinator.roster import Entry
from peers.protocol.messages import MemberGone, Ready, Report

FragmentSources = list[tuple[int, bytes, list[bytes]]]
"""By fragment: digest of its state, and the keys of members that hold it (none: nobody is known to)."""


class ExchangeMode(Protocol):
    """How members of a run exchange, as far as its coordinator has to know."""

    @property
    def max_members(self) -> int:
        """Members that a course may have."""
        ...

    def num_rounds(self, course: Course) -> int:
        """How often the model of a course was moved."""
        ...

    # -- who is here --------------------------------------------------------------------------

    def tell_entered(self, now: float, entry: Entry) -> None:
        """A member entered: it and the others learn of each other."""

    def tell_active(self, now: float, entry: Entry) -> None:
        """A member holds a state from now on."""

    def tell_gone(self, now: float, gone: MemberGone) -> None:
        """A membership is over: the others learn of it."""

    def flush(self, now: float) -> None:
        """Send the messages that were held back to be sent together."""

    # -- state --------------------------------------------------------------------------------

    def dissenters(self, course: Course, fragment: int) -> list[Entry]:
        """Active members that hold other bits of a fragment than most, at its current version."""
        ...

    def differing_fragment(self, course: Course, entry: Entry) -> int | None:
        """The first fragment of which a member holds other bits than are agreed on."""
        ...

    def agreed(self, course: Course, fragment: int) -> Agreement:
        """The state of a fragment's newest version that members agree on; an empty one where they do not."""
        ...

    def disputed(self, course: Course, fragment: int) -> tuple[tuple[str, ...], ...]:
        """Names of members by the state that they hold, where none is held by most; else empty."""
        ...

    def sources(self, course: Course) -> FragmentSources:
        """The members from which a newcomer gets each fragment."""
        ...

    def next_donor(self, course: Course) -> Entry | None:
        """With gossip: the member whose replica the next newcomer copies, if there is one."""
        ...

    def left_behind(self, course: Course, entry: Entry | None = None) -> list[Entry]:
        """Active members whose states are so old that they are to fetch another one; and ``entry``, which is
        about to become active, if its is."""
        ...

    # -- contributions and the end ------------------------------------------------------------

    def offered(self, now: float, course: Course, entry: Entry, message: Ready) -> None:
        """A member offers a contribution to a round."""

    def reported(self, now: float, course: Course, message: Report) -> list[Entry]:
        """A member told how far it is. Returns the members to be told that the run is over, if it is now."""
        ...

    def tells_end_on_entering(self, entry: Entry) -> bool:
        """Whether one who enters a finished run is told so at once."""
        ...

    def awaiting_end(self, now: float, courses: Mapping[int, Course]) -> list[Entry]:
        """Members of a finished run that are to be told now that it is over."""
        ...
