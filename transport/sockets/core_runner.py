"""One core on one thread: an input goes in, its effects are carried out in order, bytes are counted.

It owns the core's clock and the counters, and tells of what happens as traces. An input that fails is lost,
as `transport.guarded` says; a decision that cannot be stored holds back all that follows it, as
`transport.in_order` says. What carrying out an effect means is the driver's business; it knows no socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transport.counters import OTHERS, Counters
from transport.effects import CONTROL_LANE, Core, Effect, Store, Trace, size_bytes
from transport.guarded import Guarded
from transport.in_order import InOrder
from transport.sockets.wire import TAIL_BYTES, Outgoing


class CoreRunner:
    """All methods run on the driver's thread, but for `counters`, which any thread may read."""

    def __init__(
        self,
        core: Core,
        clock: Callable[[], float],
        on_trace: Callable[[Trace], None],
        carry_out: Callable[[Effect], None],
    ) -> None:
        self.core = Guarded(core)
        self.clock = clock
        self.counters = Counters()
        self._on_trace, self._carry_out = on_trace, carry_out
        self.order = InOrder(carry_out, on_trace)
        self.on_control: Callable[[bytes], None] = lambda peer: None
        """Told of every peer that says something on the lane of control."""

    def feed(self, run: Callable[[float], Any], then: Callable[[Any], None] | None = None) -> Any:
        """One input, ``run(now)``, then its effects, and then ``then`` with what the input returned; returns
        that too. The last two come later if the journal cannot be written."""
        now = self.clock()
        result = run(now)
        self.order.take(now, self.core.drain(), None if then is None else lambda: then(result))
        return result

    def say_beside(self, say: Callable[[float], None]) -> None:
        """Have the core say something that follows from no decision: it leaves before what is held."""
        say(self.clock())
        for effect in self.core.drain():
            assert not isinstance(effect, Store), "that is a decision"
            self._carry_out(effect)

    def receive(self, peer: bytes, lane: int, header: bytes, payload: memoryview | None) -> None:
        """One frame came from ``peer``."""
        if lane == CONTROL_LANE:
            self.on_control(peer)
        purpose = "bulk" if payload is not None else "control"
        self.counters.add(peer, "received", purpose, TAIL_BYTES + len(header) + size_bytes(payload))
        self.feed(lambda now: self.core.receive(now, peer, lane, header, payload))

    def count_sent(self, peer: bytes, message: Outgoing) -> None:
        """One frame was handed to a socket."""
        named = OTHERS if message.purpose == "knock" else peer
        self.counters.add(named, "sent", message.purpose, message.size_bytes, message.again)

    def trace(self, trace: Trace) -> None:
        """Tell of something that the driver did by itself."""
        self._on_trace(trace)
