"""Runs the core of a simulated process: feeds it inputs, carries out its effects, wakes it at its deadline.

A frozen process gets its inputs when it thaws, a dead one never, and a process may crash between any two
effects. What an effect does to connections is the network's; this module owns the journal, events for the
program above, and timers.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any

from transport.effects import (
    Close,
    Connect,
    Deliver,
    Effect,
    KeepFailedTrace,
    KeepResult,
    Probe,
    Send,
    Store,
    Trace,
)
from transport.simnet.links import NS, Endpoint
from transport.simnet.timeline import Timeline
from transport.simnet.trace_log import TraceLog

_SHORTEST_WAIT_NS = 1000
"""A deadline that has passed already fires so much later, so that time goes on."""


class ProcessRunner:
    """The only place where cores are called and drained, but for commands of the program above.

    ``use_network(process, effect)`` carries out what concerns connections, and ``crash(process)`` ends a
    process whose effects are used up. ``observe(now_s, key, effect)`` sees every effect but for frames."""

    def __init__(
        self,
        timeline: Timeline,
        trace_log: TraceLog,
        use_network: Callable[[Endpoint, Send | Connect | Probe | Close], None],
        crash: Callable[[Endpoint], None],
        observe: Callable[[float, bytes, Effect], None] | None,
    ) -> None:
        self._timeline = timeline
        self._trace_log = trace_log
        self._use_network = use_network
        self._crash = crash
        self._observe = observe

    def feed(
        self, peer: Endpoint, run: Callable[[], None], name: str, then: Callable[[], None] | None = None
    ) -> None:
        """Give one input, carry out its effects, then call ``then``; a frozen process gets it later. A dead
        process gets nothing, but ``then`` is called too for one that died while it was frozen."""

        def now_or_never() -> None:
            if peer.alive:
                run()
                self.carry_out(peer)
            if then is not None:
                then()

        if not peer.alive:
            return
        self._log(peer.key, name)
        if peer.frozen:
            peer.backlog.append(now_or_never)
        else:
            now_or_never()

    def run_backlog(self, peer: Endpoint) -> None:
        """Give a process the inputs that waited while it was frozen. One that is dead takes none, but whoever
        knocked learns that nobody will answer."""
        waiting, peer.backlog = peer.backlog, deque()
        for run in waiting:
            run()

    def carry_out(self, peer: Endpoint) -> None:
        """Carry out the effects of a core that was called, and set its timer."""
        for effect in peer.guarded.drain():  # carrying one out has no others at once
            if peer.effects_left is not None:
                if peer.effects_left <= 0:
                    self._crash(peer)
                    return
                peer.effects_left -= 1
            if isinstance(effect, Send):
                self._use_network(peer, effect)
                continue
            if self._observe is not None:
                self._observe(self._timeline.now_ns / NS, peer.key, effect)
            self._do(peer, effect)
            if not peer.alive:
                return
        self.set_timer(peer)

    def set_timer(self, peer: Endpoint) -> None:
        """Wake a process at its core's deadline."""
        deadline, now_ns = peer.guarded.deadline(), self._timeline.now_ns
        if deadline is None or (deadline == peer.armed_for and now_ns < peer.timer):
            return
        peer.armed_for = deadline
        at = max(round(deadline * NS), now_ns + _SHORTEST_WAIT_NS)
        if peer.timer and now_ns < peer.timer <= at:
            return
        peer.timer = at
        self._timeline.push(at, self._fire, peer, at)

    def _fire(self, peer: Endpoint, at: int) -> None:
        if not peer.alive or peer.timer != at:
            return
        peer.timer = 0
        wanted, now_ns = peer.guarded.deadline(), self._timeline.now_ns
        if wanted is not None and round(wanted * NS) > now_ns:
            self.set_timer(peer)  # the deadline was put off since
        elif wanted is not None:
            self.feed(peer, lambda: peer.guarded.tick(self._timeline.now_ns / NS), "tick")

    def _do(self, peer: Endpoint, effect: Effect) -> None:
        key = peer.key
        match effect:
            case Store():
                self._log(key, f"store {hashlib.sha256(effect.entry).hexdigest()[:8]}")
                peer.journal.append(effect.entry)
            case KeepResult():
                self._log(key, f"keep {effect.result.hex()[:8]}")
                self._keep(peer, effect)
            case Deliver():
                self._log(key, type(effect.event).__name__)
                peer.events.append(effect.event)
                self._timeline.push(self._timeline.now_ns, self._deliver, peer)
            case Trace():
                self._log(key, "trace", effect.name)
            case _:
                self._use_network(peer, effect)

    def _keep(self, peer: Endpoint, effect: KeepResult) -> None:
        try:
            if peer.keep is not None:
                peer.keep(effect)
        except OSError as error:
            failed = KeepFailedTrace(effect.serial, str(error))
            self._log(peer.key, "trace", failed.name)
            if self._observe is not None:
                self._observe(self._timeline.now_ns / NS, peer.key, failed)

    def _deliver(self, peer: Endpoint) -> None:
        if not peer.alive:
            return
        if peer.frozen:
            peer.backlog.append(lambda: self._deliver(peer))
        elif peer.events:  # the program may have taken it already
            peer.on_event(self._timeline.now_ns / NS, peer.events.popleft())

    def _log(self, key: bytes, *what: Any) -> None:
        self._trace_log.add(self._timeline.now_ns, key, what)
