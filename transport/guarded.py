"""A core whose inputs may fail: it loses the one that does, and the process goes on.

Both drivers call the core of a process through this. An input that raises is told with its traceback and
counted, what the core had decided before that is carried out, and the peer whose input it was begins anew.
A peer at which it fails again and again is not heard for a while, longer each time (`transport.redial`).
Two things still stop a process, in order: an assertion, for then our own state is broken, and a core that
fails again and again at what no peer caused. Commands of the program above raise in the program. Keeps X2.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from transport.effects import NEVER, Core, Effect, Payload, Trace
from transport.redial import Bars

TICK_REST_S = 1.0
"""After a tick that failed the next one comes so much later: its cause may still be there."""
MAX_FAILED_TICKS = 10
"""So many in a row are a broken state of our own."""
NUM_FORGIVEN = 2
"""So many lost inputs cost a peer nothing but a new link: they may be our fault."""


@dataclass(frozen=True, slots=True)
class InputLostTrace(Trace):
    """An input failed in the core and was lost; ``peer`` caused it, or nobody (no bytes) if it was a tick."""

    peer: bytes
    error: str
    traceback: str
    number: int
    """How many were lost here so far, this one included."""
    barred_s: float = 0.0
    """For so long the peer is not heard."""


class Guarded:
    """A `Core` around another one."""

    __slots__ = ("_bars", "_core", "_failed_ticks", "_lost", "_now", "_tick_from", "num_lost")

    def __init__(self, core: Core) -> None:
        self.num_lost = 0
        """Inputs that failed."""
        self._core = core
        self._lost: list[InputLostTrace] = []
        self._failed_ticks = 0
        self._tick_from = NEVER
        self._bars = Bars(num_free=NUM_FORGIVEN)
        self._now = NEVER

    def start(self, now: float) -> None:
        """The first input is not guarded: a core that cannot begin is of no use."""
        self._now = now
        self._core.start(now)

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        try:
            self._core.connected(now, peer, lane)
        except Exception as error:
            self._lose_of(now, peer, error)

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        try:
            self._core.disconnected(now, peer, lane)
        except Exception as error:
            self._lose_of(now, peer, error)

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        try:
            self._core.ended(now, peer, lane)
        except Exception as error:
            self._lose_of(now, peer, error)

    def refused(self, now: float, peer: bytes) -> None:
        try:
            self._core.refused(now, peer)
        except Exception as error:
            self._lose_of(now, peer, error)

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        self._now = now
        if self._bars.is_barred(now, peer):
            return
        try:
            self._core.receive(now, peer, lane, header, payload)
        except Exception as error:
            self._lose_of(now, peer, error)

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        """The answer, or None: the driver closes whoever gets none."""
        self._now = now
        try:
            return self._core.knock(now, invite, header)
        except Exception as error:
            # Many hold one ticket, and their questions are few a minute: it is not barred for one of them.
            self._lose(now, b"", error, invite)
            self._core.expel(now, invite, _reason(error))
            return None

    def admits(self, key: bytes) -> str | None:
        """A key about which the core fails is not let in, nor a barred one as it was at the last input."""
        if self._bars.is_barred(self._now, key):
            return None
        try:
            return self._core.admits(key)
        except Exception as error:
            self._lose(self._now, b"", error, key)
            return None

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        self._core.expel(now, peer, reason)

    def tick(self, now: float) -> None:
        self._now = now
        try:
            self._core.tick(now)
        except Exception as error:
            self._failed_ticks += 1
            if self._failed_ticks >= MAX_FAILED_TICKS:
                raise
            self._tick_from = now + TICK_REST_S
            self._lose(now, b"", error)
        else:
            self._failed_ticks = 0

    def deadline(self) -> float | None:
        due = self._core.deadline()
        return due if due is None or due > self._tick_from else self._tick_from

    def drain(self) -> list[Effect]:
        """The effects of the core, and then what was lost."""
        effects = self._core.drain()
        if self._lost:
            effects += self._lost
            self._lost = []
        return effects

    def digest(self) -> str:
        return self._core.digest()

    # -- inside -------------------------------------------------------------------------------

    def _lose_of(self, now: float, peer: bytes, error: Exception) -> None:
        self._lose(now, peer, error, peer)
        # What it said after that, the core may have half taken. If this fails too, nothing is sure any more.
        self._core.expel(now, peer, _reason(error))

    def _lose(self, now: float, barred: bytes, error: Exception, peer: bytes = b"") -> None:
        if isinstance(error, AssertionError):
            raise error
        self.num_lost += 1
        told = "".join(traceback.format_exception(error))
        barred_s = self._bars.bar(now, barred) if barred else 0.0
        said = f"{type(error).__name__}: {error}"
        self._lost.append(InputLostTrace(peer, said, told, self.num_lost, barred_s))


def _reason(error: Exception) -> str:
    return f"an input of it failed here: {type(error).__name__}"
