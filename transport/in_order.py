"""Effects in their order over a journal that may fail: what follows a decision waits until that is durable.

A `Store` that raises `OSError` (a full disk, say) is not the end: it is held, and with it every effect behind
it, those of later inputs too, so that nothing that follows from a decision leaves before the decision is on
the disk. It is tried again every `RETRY_S` seconds, and then all that was held is carried out in its order.

What a driver owes to this, while `is_held`: it gives its core neither frames, nor questions, nor ticks. To
others the process is one that stands still: their links to it may die, workers train on, and it comes back as
one that was paused. Calls of the program in the same process go on, until `is_full`. Whoever owns the driver
is told by the two traces, the first of them before anything is held back, and may end the process at any
moment: that is a crash between two effects. Any other error of a `Store` is no fault of the disk: it is
raised. State only; it reads no clock. Keeps S2 and R4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from transport.effects import Effect, Store, Trace

RETRY_S = 1.0
"""So long after a failed try the next one is made."""
MAX_HELD = 1 << 16
"""Effects that wait; with more the program's calls wait too."""


@dataclass(frozen=True, slots=True)
class StoreFailedTrace(Trace):
    """The journal cannot be written: nothing is decided and nothing said until it can. Told once."""

    error: str


@dataclass(frozen=True, slots=True)
class StoreRecoveredTrace(Trace):
    """The journal was written again, ``seconds`` after it first failed; what waited is carried out now."""

    seconds: float


class InOrder:
    """Carries out effects by ``carry_out``, and tells ``on_trace`` at once of a journal that fails."""

    def __init__(self, carry_out: Callable[[Effect], None], on_trace: Callable[[Trace], None]) -> None:
        self.error: str | None = None
        """Why the journal cannot be written just now; any thread may read it."""
        self._carry_out = carry_out
        self._on_trace = on_trace
        self._waiting: deque[Effect | Callable[[], None]] = deque()
        self._failed_at = 0.0
        self._due: float | None = None

    @property
    def is_held(self) -> bool:
        """A `Store` failed, and what follows it waits."""
        return self._due is not None

    @property
    def is_full(self) -> bool:
        """So much waits that not even the program's calls may add to it."""
        return len(self._waiting) >= MAX_HELD

    @property
    def due(self) -> float | None:
        """When `retry` has something to do."""
        return self._due

    def take(self, now: float, effects: Iterable[Effect], then: Callable[[], None] | None = None) -> None:
        """Carry out the effects of one input, and call ``then`` after them; or both when their turn comes."""
        self._waiting.extend(effects)
        if then is not None:
            self._waiting.append(then)
        if not self.is_held:
            self._go_on(now)

    def retry(self, now: float) -> None:
        """Try again what failed, and carry out what waits behind it."""
        if self.is_held:
            self._go_on(now)

    def _go_on(self, now: float) -> None:
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, Store):
                try:
                    self._carry_out(first)
                except OSError as error:
                    self._hold(now, error)
                    return
                self._recover(now)
                self._waiting.popleft()
                continue
            self._waiting.popleft()
            if callable(first):
                first()
            else:
                self._carry_out(first)

    def _hold(self, now: float, error: OSError) -> None:
        if not self.is_held:
            self._failed_at = now
            self.error = f"{type(error).__name__}: {error}"
            self._on_trace(StoreFailedTrace(self.error))
        self._due = now + RETRY_S

    def _recover(self, now: float) -> None:
        if self.is_held:
            self._due, self.error = None, None
            self._on_trace(StoreRecoveredTrace(now - self._failed_at))
