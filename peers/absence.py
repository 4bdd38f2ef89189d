"""Whose process seems to be dead: its link ended and is not back, or its machine refuses connections.

That is a guess, made within a second, for what costs little when it is wrong: a round goes on without a
member, a swap is given up. Who is in the run is judged by silence alone, since of the connections that break
on a line that loses packets a tenth needs more than a second to come back. A link that stalls does not end:
heartbeats tell of it. State only, with the time handed in. Keeps L2.
"""

from __future__ import annotations

import math

BACK_WITHIN_S = 1.0
"""A link that ended may take this long to come back before its peer counts as absent."""
LAST_WORDS_S = 0.3
"""If a machine refuses, nothing comes back; but what its process sent last may still be on its way to others,
and may be all that they need."""
PROBE_EVERY_S = 5.0
"""Whether anybody listens where a peer lives is asked at most so often, whoever wants to know."""


class Absences:
    """What one process knows of the links that ended. A sign of life of a peer wipes out what was known."""

    def __init__(self) -> None:
        self._gone_at: dict[bytes, float] = {}
        """Of each whose link ended and is not back: when it counts as absent, or counted first."""
        self._absent: set[bytes] = set()
        self._probed_at: dict[bytes, float] = {}

    def __bool__(self) -> bool:
        return bool(self._gone_at)

    def link_ended(self, now: float, peer: bytes) -> None:
        """A connection of a peer ended. Several do when it dies; the first one counts."""
        self._gone_at.setdefault(peer, now + BACK_WITHIN_S)

    def refused(self, now: float, peer: bytes, *, stands: bool) -> None:
        """A machine refused a connection where the peer listened. If our own link to it ``stands``, that may
        be another machine: the peer has as long as after the end of a link to say something."""
        if stands and peer not in self._gone_at:
            self.link_ended(now, peer)
        else:
            self._gone_at[peer] = min(now + LAST_WORDS_S, self._gone_at.get(peer, math.inf))

    def heard(self, peer: bytes) -> bool:
        """A sign of life; True if the peer counted as absent."""
        self._gone_at.pop(peer, None)
        was_absent = peer in self._absent
        self._absent.discard(peer)
        return was_absent

    def due(self, now: float) -> list[bytes]:
        """Those who count as absent from now on; each is told once."""
        due = [peer for peer, at in self._gone_at.items() if at <= now and peer not in self._absent]
        self._absent.update(due)
        return due

    def deadline(self) -> float:
        """When `due` has somebody next; infinity for never."""
        return min((at for peer, at in self._gone_at.items() if peer not in self._absent), default=math.inf)

    def may_probe(self, now: float, peer: bytes) -> bool:
        """Whether a probe of this peer may go out now; it counts as sent then."""
        if now - self._probed_at.get(peer, -math.inf) < PROBE_EVERY_S:
            return False
        self._probed_at = {each: at for each, at in self._probed_at.items() if now - at < PROBE_EVERY_S}
        self._probed_at[peer] = now
        return True
