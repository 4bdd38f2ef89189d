"""How much libzmq may hold of a connection before we have read it, and which connections have too much.

libzmq keeps all parts of a message until the last one came, bounds neither their number nor their sum, and
tells nobody. What it took from the kernel, less what we took from it, is what it holds. Pure: numbers come
in, and whom to cut comes out. Keeps R1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from transport.limits import Limits
from transport.sockets.kernel import Handle

LOOK_S = 0.1
"""Connections are looked at so often."""
LOOKS = 128
"""Connections that are looked at in one turn."""
TOO_MUCH = "too much came over it that is no whole message"
_LONGEST_SHORT = 222
"""Of parts up to this, ZMTP's frame has a length of one byte."""
_CURVE_BYTES = 33
"""What CURVE adds to a part: a name, a nonce, flags and an authenticator."""


def wire_bytes(part_bytes: int) -> int:
    """What a part of a message takes on the wire, as a frame of ZMTP 3 under CURVE."""
    return part_bytes + _CURVE_BYTES + (2 if part_bytes <= _LONGEST_SHORT else 9)


@dataclass(slots=True)
class Unread:
    """Which connections are looked at next, and who holds too much. *Fresh* ones are those from which no
    message has been read."""

    limits: Limits
    _fresh: dict[Handle, int] = field(default_factory=dict)
    """What each of them held when it was looked at last."""
    _last: int = -1
    """The descriptor that was looked at last."""

    @property
    def num_fresh(self) -> int:
        """Fresh connections of which it is known what they hold."""
        return len(self._fresh)

    def next_ones(self, connections: Collection[Handle]) -> list[Handle]:
        """Those whose turn it is, by descriptor, and from the lowest again after the highest."""
        ordered = sorted(connections, key=lambda handle: handle[0])
        turn = [each for each in ordered if each[0] > self._last][:LOOKS]
        turn += [each for each in ordered if each[0] <= self._last][: LOOKS - len(turn)]
        self._last = turn[-1][0] if turn else -1
        return turn

    def excess(
        self, held: Mapping[Handle, int], fresh: Collection[Handle], *, is_behind: bool
    ) -> dict[Handle, bool]:
        """Whom to cut, of those that were looked at and of all fresh ones; true if it alone holds too much.

        ``held`` is what libzmq held of those that were looked at, less what was read since then; with
        ``is_behind``, messages that were whole by then have not all been read."""
        most = self.limits.unread_bytes if is_behind else self.limits.unfinished_bytes
        cut = {handle: True for handle, num_bytes in held.items() if num_bytes > most}
        self._fresh = {each: held.get(each, self._fresh.get(each, 0)) for each in fresh if each not in cut}
        in_all = sum(self._fresh.values())
        for handle in sorted(self._fresh, key=self._fresh.__getitem__, reverse=True):
            if in_all <= self.limits.fresh_bytes:
                break
            in_all -= self._fresh.pop(handle)
            cut[handle] = False
        return cut
