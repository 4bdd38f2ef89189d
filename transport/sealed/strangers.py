"""Who may stand at the bulk port without having shown anything: so many in all, so many of one address, not
long.

Past a bound a connection is dropped when it is taken, and costs nothing more; whoever was offered a lane
dials again. What an admitted peer has open does not count and never waits for these. State only. Keeps X1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from transport.limits import Limits


@dataclass(slots=True)
class Strangers:
    """Connections over which the opening has not come yet, in the order in which they came."""

    limits: Limits
    _pending: dict[Hashable, tuple[str, float]] = field(default_factory=dict)
    _of_address: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._pending)

    def came(self, now: float, handle: Hashable, address: str) -> bool:
        """A connection came; False if it is to be dropped at once."""
        limits = self.limits
        if len(self._pending) >= limits.bulk_strangers:
            return False
        if self._of_address[address] >= limits.bulk_strangers_per_address:
            return False
        self._pending[handle] = address, now + limits.bulk_opening_s
        self._of_address[address] += 1
        return True

    def done(self, handle: Hashable) -> None:
        """It has opened its lane, or is closed."""
        address, _ = self._pending.pop(handle, ("", 0.0))
        self._of_address[address] -= 1
        if self._of_address[address] <= 0:
            del self._of_address[address]

    def due(self) -> float | None:
        """When the next one has had its time."""
        return next((until for _, until in self._pending.values()), None)

    def late(self, now: float) -> list[Hashable]:
        """Those that have had their time: they are to be closed, and are forgotten here."""
        late = [handle for handle, (_, until) in self._pending.items() if until <= now]
        for handle in late:
            self.done(handle)
        return late
