"""Runs the core of a simulated process: feeds it inputs, carries out its effects, wakes it at its deadline.

A frozen process gets its inputs when it thaws, a dead one never, and a process may crash between any two
effects. One whose disk is full stands still as a real one does (`transport.in_order`). What an effect does to
connections is the network's; this module owns the journal, events for the program above, and timers.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from functools import partial
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
from transport.in_order import RETRY_S, InOrder
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
        self.full_disks: set[bytes] = set()
        """Keys whose processes can store nothing now."""
        self._timeline = timeline
        self._trace_log = trace_log
        self._use_network = use_network
        self._crash = crash
        self._observe = observe

    def feed(
        self, peer: Endpoint, run: Callable[[], None], name: str, then: Callable[[], None] | None = None
    ) -> None:
        """Give one input, carry out its effects, then call ``then``. A process that stands still gets it
        later, a dead one never, but ``then`` is called too if it died while it stood still."""

        def now_or_never() -> None:
            if peer.alive:
                run()
                self.carry_out(peer, then)
            elif then is not None:
                then()

        if not peer.alive:
            return
        self._log(peer.key, name)
        if peer.stands_still:
            peer.backlog.append(now_or_never)
        else:
            now_or_never()

    def run_backlog(self, peer: Endpoint) -> None:
        """Give a process the inputs that waited while it stood still. One that is dead takes none, but
        whoever knocked learns that nobody will answer."""
        while peer.backlog and not (peer.alive and peer.stands_still):
            peer.backlog.popleft()()

    def carry_out(self, peer: Endpoint, then: Callable[[], None] | None = None) -> None:
        """Carry out the effects of a core that was called, call ``then``, and set its timer."""
        effects = peer.guarded.drain()  # carrying one out has no others at once
        if peer.order is None and peer.key in self.full_disks:
            peer.order = InOrder(partial(self._carry_out_one, peer), partial(self._see, peer))
        if peer.order is not None:
            peer.order.take(self._timeline.now_ns / NS, effects, then)
            self._retry_later(peer)
        else:
            for effect in effects:
                self._carry_out_one(peer, effect)
                if not peer.alive:
                    break
            if then is not None:
                then()
        if peer.alive:
            self.set_timer(peer)

    def _carry_out_one(self, peer: Endpoint, effect: Effect) -> None:
        """Raises `OSError` for a decision that cannot be stored."""
        if not peer.alive:
            return
        if isinstance(effect, Store) and peer.key in self.full_disks:
            raise OSError(errno.ENOSPC, "No space left on device")
        if peer.effects_left is not None:
            if peer.effects_left <= 0:
                self._crash(peer)
                return
            peer.effects_left -= 1
        if isinstance(effect, Send):
            self._use_network(peer, effect)
        else:
            self._see(peer, effect)

    def _retry_later(self, peer: Endpoint) -> None:
        """Have a journal that failed tried again."""
        due = peer.order.due if peer.order is not None else None
        if due is not None and due != peer.retries_at:
            peer.retries_at = due
            self._timeline.push(round(due * NS), self._retry, peer)

    def _retry(self, peer: Endpoint) -> None:
        """A dead process stores nothing; whoever knocked there learns it."""
        assert peer.order is not None
        if peer.alive and peer.frozen:
            self._timeline.push(self._timeline.now_ns + round(RETRY_S * NS), self._retry, peer)
            return
        peer.order.retry(self._timeline.now_ns / NS)
        if peer.order.is_held:
            self._retry_later(peer)
            return
        self.run_backlog(peer)
        if peer.alive:
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

    def _see(self, peer: Endpoint, effect: Effect) -> None:
        """An effect that is no frame: it is observed, and done."""
        if not peer.alive:
            return
        if self._observe is not None:
            self._observe(self._timeline.now_ns / NS, peer.key, effect)
        self._do(peer, effect)

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
            self._see(peer, KeepFailedTrace(effect.serial, str(error)))

    def _deliver(self, peer: Endpoint) -> None:
        if not peer.alive:
            return
        if peer.frozen:
            peer.backlog.append(lambda: self._deliver(peer))
        elif peer.events:  # the program may have taken it already
            peer.on_event(self._timeline.now_ns / NS, peer.events.popleft())

    def _log(self, key: bytes, *what: Any) -> None:
        self._trace_log.add(self._timeline.now_ns, key, what)
