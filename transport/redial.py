"""When a lane is dialled again and at which address, and who is kept out for how long.

Nothing is retried in a rush: the wait doubles up to two seconds, with jitter so that peers of a host that
restarts do not come back in step (R4). State only: given the time, what happened and a random generator, it
says what is due; a driver opens and closes connections. Both drivers run it, so that a simulation waits as
long for a peer as sockets do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from transport.limits import LIMITS, Limits

ATTEMPT_S = 12.0
"""After this long an attempt that neither came up nor failed is given up."""
SILENCE_S = 5.0
"""After this long an attempt fails at which nobody says anything: a stopped process, a line that is cut."""
BARRED_S = 10.0
"""For this long a peer is refused that sent what our side never sends, the first time."""
MAX_BARRED_S = 600.0
"""The time doubles with every other time, up to this."""
FORGIVEN_S = 3600.0
"""Who did nothing of the kind for so long begins anew."""
REFUSAL_S = 2.0
"""An attempt that fails sooner was refused by a machine; later, it was given up or cut off."""
EAGER_S = 30.0
"""For this long a peer whose absence holds up everything is dialled at least every `_EAGER_REDIAL_S`."""
_FIRST_REDIAL_S = 0.1
_EAGER_REDIAL_S = 0.5
_LAST_REDIAL_S = 2.0


class Redial:
    """One lane of a peer that we dial. Each failed attempt moves on to the next address; a connection that
    stood and broke is tried at the same address first."""

    __slots__ = (
        "_addresses",
        "_eager_from",
        "_failures",
        "_random",
        "_refusing",
        "_stood_at",
        "_tried",
        "began_at",
        "due",
        "up",
    )

    def __init__(self, addresses: tuple[str, ...], random: Random, eager_from: float | None = None) -> None:
        """``eager_from`` is that of `transport.effects.Connect`."""
        self.up = False
        self.due = 0.0
        """When to dial next, or during an attempt, when to give it up."""
        self._addresses = addresses
        self._random = random
        self._failures = 0
        self._tried = 0
        self._eager_from = eager_from
        self._stood_at = ""
        """The address of the last connection that stood."""
        self._refusing: set[str] = set()
        """Addresses that refused since then."""
        self.began_at = 0.0
        """When the present or last attempt began."""

    @property
    def address(self) -> str:
        """Where the present or next attempt goes; nothing if no address is known."""
        return self._addresses[self._tried % len(self._addresses)] if self._addresses else ""

    def began(self, now: float, for_s: float = ATTEMPT_S) -> None:
        """An attempt is under way, which is given up after so many seconds."""
        self.began_at, self.due = now, now + for_s

    def came_up(self) -> None:
        """The attempt succeeded."""
        self.up = True
        self._failures = 0
        self._stood_at = self.address
        self._refusing.clear()

    def refused(self) -> bool:
        """The attempt was refused. Whether that means that nobody is there: it does where a connection has
        stood before, or once every address has refused. One of several may be another machine's."""
        self._refusing.add(self.address)
        return self._stood_at in self._refusing or self._refusing.issuperset(self._addresses)

    def went_down(self, now: float) -> None:
        """The attempt failed or the connection broke: another one is due a little later."""
        if self.up and self._eager_from is not None:
            self._eager_from = now
        is_eager = self._eager_from is not None and now < self._eager_from + EAGER_S
        longest_s = _EAGER_REDIAL_S if is_eager else _LAST_REDIAL_S
        wait_s = min(longest_s, _FIRST_REDIAL_S * 2 ** min(self._failures, 8))
        self.due = now + wait_s * self._random.uniform(0.5, 1.0)
        if not self.up:
            self._failures += 1
            self._tried += 1
        self.up = False

    def stop(self) -> None:
        """Dial this lane no more."""
        self.up, self.due = False, math.inf


@dataclass(slots=True)
class _Offender:
    times: int
    last: float
    until: float


class Bars:
    """The peers that one process refuses, and until when: longer each time. The first ``num_free`` times of
    a peer cost it nothing, and are forgotten ``free_s`` after the last of them."""

    def __init__(self, limits: Limits = LIMITS, num_free: int = 0, free_s: float = FORGIVEN_S) -> None:
        self._max_peers, self._num_free, self._free_s = limits.barred, num_free, free_s
        self._offenders: dict[bytes, _Offender] = {}

    def bar(self, now: float, peer: bytes) -> float:
        """Refuse a peer that broke the rules, for the seconds that are returned."""
        known = self._offenders.pop(peer, None)
        times = 1
        if known is not None:
            kept_s = self._free_s if known.times <= self._num_free else FORGIVEN_S
            times += known.times if now - max(known.last, known.until) < kept_s else 0
        bars = times - self._num_free
        seconds = min(MAX_BARRED_S, BARRED_S * 2.0 ** min(bars - 1, 16)) if bars > 0 else 0.0
        self._offenders[peer] = _Offender(times, now, now + seconds)
        if len(self._offenders) > self._max_peers:
            del self._offenders[next(iter(self._offenders))]
        return seconds

    def is_barred(self, now: float, peer: bytes) -> bool:
        """Whether the peer is refused now."""
        known = self._offenders.get(peer)
        return known is not None and known.until > now

    def clear(self) -> None:
        """Refuse nobody any more, and forget what was."""
        self._offenders.clear()
