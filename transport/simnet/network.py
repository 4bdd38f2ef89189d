"""The simulated driver: production cores under virtual time, on links that fail as real ones do.

One heap of events, keyed by (nanoseconds, sequence), in one thread; no clock, no sleeping. Peers have
access rates up and down and a latency; connections are ordered and lose nothing while they stand;
a reset loses what is in flight, and a frozen peer's inputs wait. A peer may crash between any two
effects, and two processes may hold one key: of their connections to the same acceptor, the one that
spoke first most recently replaces the other, as `sockets.wire.Connections` does it. Every draw comes
from a named stream of one seed, so the same seed gives the same trace hash (D1). Nothing of the protocol is
written here again: the network feeds cores and carries out effects.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any
from zlib import crc32

from transport.effects import (
    CONTROL_LANE,
    Close,
    Connect,
    Core,
    Deliver,
    Effect,
    Send,
    Store,
    Trace,
    size_bytes,
)
from transport.simnet.links import NS, Endpoint, Faults, Pipe, SimConnection, Who, key_of
from transport.simnet.links import Access as Access
from transport.simnet.routes import Paths, Route
from transport.simnet.trace_log import TraceLog

_REDIAL_S = 0.3
_FRAME_OVERHEAD = 64
"""Bytes that encryption and framing add to a frame."""
_STORM = 100_000
"""Events at one instant after which the cores are talking in circles."""


Answer = Callable[[float, tuple[bytes, bytes] | None], None]


class SimNetwork:
    """Processes by key, and the time. ``observe(now_s, key, effect)`` sees every effect carried out but for
    frames, which are many and counted. Where a method takes a key or a process, a key means the newest
    process that has it."""

    def __init__(
        self,
        seed: object,
        observe: Callable[[float, bytes, Effect], None] | None = None,
        route: Callable[[bytes, bytes], Route | None] | None = None,
        trace_frames: bool = True,
    ) -> None:
        """``route(from, to)`` is what lies between two peers beside their access links. Frames in the trace
        cost a twentieth of the time; without them the hash is over everything else."""
        self.now_ns = 0
        self.peers: dict[bytes, Endpoint] = {}
        """The newest process of each key, alive or dead."""
        self.num_events = 0
        self.num_breaks = 0
        """Connections that stood and broke."""
        self.sent_again: Counter[bytes] = Counter()
        """Bytes of retransmissions by the sender's key."""
        self._seed = seed
        self._observe = observe
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._living: dict[bytes, list[Endpoint]] = {}
        self._connections: dict[SimConnection, None] = {}
        self._faults = Faults()
        self.trace_log = TraceLog()
        self._trace_frames = trace_frames
        self._paths = Paths(route, self.stream("jitter"), self.stream("losses"))
        self._instant_began = 0
        """How many events there had been when this instant began."""

    def stream(self, name: str) -> random.Random:
        """The named random stream of this seed."""
        return random.Random(f"{self._seed}:{name}")

    @property
    def now(self) -> float:
        return self.now_ns / NS

    def trace_hash(self) -> str:
        """Over everything that happened so far."""
        return self.trace_log.digest()

    # -- peers --------------------------------------------------------------------------------

    def add(
        self,
        key: bytes,
        core: Core,
        access: Access,
        on_event: Callable[[float, object], None],
        address: str = "",
    ) -> Endpoint:
        """A process of a peer begins; the journal of its earlier ones is kept. If one of them still runs, it
        is a clone: each has its own connections, and who dials an ``address`` reaches the one there."""
        peer = Endpoint(key, core, access, on_event, address, self.journal(key))
        if key in self.peers:
            peer.sent, peer.received = self.peers[key].sent, self.peers[key].received
        self._living.setdefault(key, []).append(peer)
        self.peers[key] = peer
        self._feed(peer, lambda: core.start(self.now), "start")
        return peer

    def journal(self, key: bytes) -> list[bytes]:
        """What the peer stored, over all its lives."""
        return self.peers[key].journal if key in self.peers else []

    def processes(self, key: bytes) -> list[Endpoint]:
        """Those that live and have this key, the oldest first."""
        return list(self._living.get(key, ()))

    def crash(self, who: Who) -> None:
        """The process is gone: connections break, nothing of it is carried out any more."""
        peer = self._of(who)
        if not peer.alive:
            return
        peer.alive = False
        self._living[peer.key].remove(peer)
        self._log(peer.key, "crash")
        peer.dialling.clear()
        self._break(lambda c: True, among=peer.connections)
        waiting, peer.backlog = peer.backlog, deque()
        for run in waiting:
            run()  # to no effect, except that who knocked learns that nobody will answer

    def crash_after(self, who: Who, effects: int) -> None:
        """Crash once ``effects`` more effects were carried out: between any two of them."""
        self._of(who).effects_left = effects

    def freeze(self, who: Who) -> None:
        """The process stops as by SIGSTOP: its connections stand, inputs wait."""
        peer = self._of(who)
        peer.frozen = True
        self._log(peer.key, "freeze")

    def thaw(self, who: Who) -> None:
        peer = self._of(who)
        peer.frozen = False
        self._log(peer.key, "thaw")
        waiting, peer.backlog = peer.backlog, deque()
        for run in waiting:
            run()
        self._arm(peer)

    def command(self, who: Who, run: Callable[[Core, float], Any]) -> Any:
        """Run a command of the program above a living core; None for one that is dead or frozen."""
        peer = self._of(who)
        if not peer.alive or peer.frozen:
            return None
        result = run(peer.core, self.now)
        self._carry_out(peer)
        return result

    def knock(self, by: bytes, invite: bytes, to: bytes, header: bytes, answer: Answer) -> None:
        """Who is no member yet asks ``to`` one thing with an invite's key. ``answer`` gets the reply, or None
        if there is none: nobody is there, the key opens nothing, or the core has nothing to say."""
        there = self.peers.get(to)
        delay_s = 2 * there.access.latency_s if there else 0.0

        def reply(found: tuple[bytes, bytes] | None) -> None:
            self.at(delay_s, lambda: answer(self.now, found))

        def ask() -> None:
            peer = self.peers.get(to)
            if peer is None or not peer.alive or self._faults.is_cut(by, to):
                reply(None)
                return
            core = peer.core
            said: list[tuple[bytes, bytes] | None] = [None]

            def put() -> None:
                said[0] = core.knock(self.now, invite, header) if core.admits(invite) == "invite" else None

            # The answer leaves after the effects: whoever dies between two of them says nothing.
            self._feed(peer, put, "knock", lambda: reply(said[0] if peer.alive else None))

        self.at(delay_s, ask)

    def can_run(self, who: Who) -> bool:
        peer = self._of(who)
        return peer.alive and not peer.frozen

    # -- the network's faults -----------------------------------------------------------------

    def partition(self, groups: list[list[bytes]]) -> None:
        """Only peers of one group reach each other; who is in no group is with the first."""
        self._faults.groups = {key: i for i, group in enumerate(groups) for key in group}
        self._log(b"", f"partition {[len(g) for g in groups]}")
        self._break(lambda c: self._faults.is_cut(c.dialer, c.acceptor))

    def heal(self) -> None:
        """No partition and no cut link any more."""
        self._faults.heal()
        self._log(b"", "heal")

    def cut(self, a: Who, b: Who) -> None:
        """Two peers do not reach each other any more; of a clone, only the process that is named."""
        self._faults.cuts.add(frozenset((a, b)))
        self._log(key_of(a), "cut")
        self._break(lambda c: c.joins(a, b))

    def mend(self, a: Who, b: Who) -> None:
        """Two peers that were cut off from each other may connect again."""
        self._faults.cuts.discard(frozenset((a, b)))
        self._log(key_of(a), "mend")

    def reset(self, a: Who, b: Who) -> None:
        """Connections between two peers break and are dialled again; what is in flight is lost."""
        self._log(key_of(a), "reset")
        self._break(lambda c: c.joins(a, b))

    def degrade(self, who: Who, factor: float) -> None:
        """The peer's link is ``factor`` times slower from now on."""
        self._of(who).factor = factor

    # -- time ---------------------------------------------------------------------------------

    def at(self, delay_s: float, run: Callable[[], None]) -> None:
        """Schedule something of the world itself."""
        self._push(self.now_ns + round(delay_s * NS), run)

    def run(self, until_s: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass until ``until_s`` or until ``done``; True if it was done."""
        until = round(until_s * NS)
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            at, _, run, given = pop(heap)
            if at != self.now_ns:
                self.now_ns, self._instant_began = at, self.num_events
            elif self.num_events - self._instant_began >= _STORM:
                raise AssertionError(f"more than {_STORM} events at {self.now} s")
            self.num_events += 1
            run(*given)
            if done is not None and done():
                return True
        self.now_ns = until
        return False

    # -- inside: feeding and carrying out -----------------------------------------------------

    def _of(self, who: Who) -> Endpoint:
        return who if isinstance(who, Endpoint) else self.peers[who]

    def _push(self, at: int, run: Callable[..., None], *given: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, run, given))

    def _log(self, key: bytes, *what: Any) -> None:
        self.trace_log.add(self.now_ns, key, what)

    def _feed(
        self, peer: Endpoint, run: Callable[[], None], name: str, then: Callable[[], None] | None = None
    ) -> None:
        """One input, then its effects, then whatever follows; a frozen peer gets it later."""

        def now_or_never() -> None:
            if peer.alive:
                run()
                self._carry_out(peer)
            if then is not None:
                then()

        if not peer.alive:
            return
        self._log(peer.key, name)
        if peer.frozen:
            peer.backlog.append(now_or_never)
        else:
            now_or_never()

    def _carry_out(self, peer: Endpoint) -> None:
        for effect in peer.core.drain():  # carrying one out has no others at once
            if peer.effects_left is not None:
                if peer.effects_left <= 0:
                    self.crash(peer)
                    return
                peer.effects_left -= 1
            if isinstance(effect, Send):
                self._send(peer, effect)
                continue
            if self._observe is not None:
                self._observe(self.now, peer.key, effect)
            self._do(peer, effect)
            if not peer.alive:
                return
        self._arm(peer)

    def _do(self, peer: Endpoint, effect: Effect) -> None:
        key = peer.key
        match effect:
            case Store():
                self._log(key, f"store {hashlib.sha256(effect.entry).hexdigest()[:8]}")
                peer.journal.append(effect.entry)
            case Connect():
                peer.dialling[effect.peer] = effect
                for lane in range(effect.lanes + 1):
                    self._dial_later(peer, effect, lane, 0.0)
            case Close():
                peer.dialling.pop(effect.peer, None)
                self._break(lambda c: c.joins(peer, effect.peer), by=peer, among=peer.connections)
            case Deliver():
                self._log(key, type(effect.event).__name__)
                self._push(self.now_ns, self._deliver, peer, effect.event)
            case Trace():
                self._log(key, "trace", effect.name)

    def _deliver(self, peer: Endpoint, event: object) -> None:
        if not peer.alive:
            return
        if peer.frozen:
            peer.backlog.append(lambda: self._deliver(peer, event))
            return
        peer.on_event(self.now, event)

    def _arm(self, peer: Endpoint) -> None:
        deadline = peer.core.deadline()
        if deadline is None or (deadline == peer.armed_for and self.now_ns < peer.timer):
            return
        peer.armed_for = deadline
        at = max(round(deadline * NS), self.now_ns + 1000)
        if peer.timer and self.now_ns < peer.timer <= at:
            return
        peer.timer = at

        def fire() -> None:
            if not peer.alive or peer.timer != at:
                return
            peer.timer = 0
            wanted = peer.core.deadline()
            if wanted is not None and round(wanted * NS) > self.now_ns:
                self._arm(peer)  # it was put off since
            elif wanted is not None:
                self._feed(peer, lambda: peer.core.tick(self.now), "tick")

        self._push(at, fire)

    # -- inside: connections ------------------------------------------------------------------

    def _dial_later(self, peer: Endpoint, wanted: Connect, lane: int, delay_s: float) -> None:
        def dial() -> None:
            if peer.alive and peer.dialling.get(wanted.peer) is wanted:
                self._dial(peer, wanted, lane)

        self.at(delay_s, dial)

    def _listener(self, wanted: Connect) -> Endpoint | None:
        """The process that answers a dial: of several with one key, the one at an address that is tried."""
        for peer in reversed(self._living.get(wanted.peer, ())):
            if not peer.address or peer.address in wanted.addresses:
                return peer
        return None

    def _dial(self, peer: Endpoint, wanted: Connect, lane: int) -> None:
        there = self._listener(wanted)
        able = there is not None and not there.frozen and not self._faults.is_cut(peer, there)
        if peer.frozen or not able or there is None or there.core.admits(peer.key) != "member":
            self._dial_later(peer, wanted, lane, _REDIAL_S)
            return
        connection = SimConnection(peer, there, lane, self._paths.is_plain(peer, there))
        for held in (self._connections, peer.connections, there.connections):
            held[connection] = None
        peer.dialled[wanted.peer, lane] = connection

        def established() -> None:
            if connection in self._connections:
                connection.up = True
                self._feed(peer, lambda: peer.core.connected(self.now, wanted.peer, lane), f"up {lane}")

        self._push(self.now_ns + 2 * self._paths.latency_ns(peer, there), established)

    def _break(
        self,
        which: Callable[[SimConnection], bool],
        by: Endpoint | None = None,
        among: dict[SimConnection, None] | None = None,
    ) -> None:
        for connection in [c for c in (self._connections if among is None else among) if which(c)]:
            dialer, acceptor, lane = connection.dialer, connection.acceptor, connection.lane
            for held in (self._connections, dialer.connections, acceptor.connections):
                held.pop(connection, None)
            self.num_breaks += connection.up
            connection.up, connection.closed_by = False, by
            for table, key in ((dialer.dialled, acceptor.key), (acceptor.accepted, dialer.key)):
                if table.get((key, lane)) is connection:
                    del table[key, lane]
            wanted = dialer.dialling.get(acceptor.key)
            if wanted is not None and dialer is not by:
                self._down_later(dialer, acceptor.key, lane)
                self._dial_later(dialer, wanted, lane, _REDIAL_S)

    def _down_later(self, peer: Endpoint, to: bytes, lane: int) -> None:
        def broken() -> None:
            self._feed(peer, lambda: peer.core.disconnected(self.now, to, lane), f"down {lane}")

        self._push(self.now_ns + 1000, broken)

    def _send(self, peer: Endpoint, effect: Send) -> None:
        to, lane = effect.peer, effect.lane
        connection = peer.dialled.get((to, lane))
        if connection is None or not connection.up:
            connection = peer.accepted.get((to, lane))
        if connection is None or not connection.up:
            self._log(peer.key, "lost", lane)
            return
        other = connection.acceptor if peer is connection.dialer else connection.dialer
        size = len(effect.header) + size_bytes(effect.payload)
        peer.sent[effect.purpose] += size
        other.received[effect.purpose] += size
        if effect.again:
            self.sent_again[peer.key] += size
        size += _FRAME_OVERHEAD
        if self._trace_frames:
            self._log(peer.key, "send", lane, size, crc32(effect.header))
        pipes = [] if connection.plain else self._paths.pipes(peer, other)
        if lane == CONTROL_LANE:
            # Flows share a link, so control on its own connection never waits for all queued bulk.
            ns = peer.up.time(size, peer.factor) + other.down.time(size, other.factor)
            ns += sum(pipe.time(size, 1.0) for pipe in pipes)
            ns += self._delay_ns(connection, peer, other, size)
            lands = connection.in_order(other, self.now_ns + ns)
            self._push(lands, self._arrive, connection, other, effect)
            return
        left = peer.up.put(self.now_ns, size, peer.factor)
        if pipes:
            self._push(left, self._pass, connection, other, effect, size, pipes)
        else:
            self._cross(connection, other, effect, size, left)

    def _pass(
        self, connection: SimConnection, to: Endpoint, effect: Send, size: int, pipes: list[Pipe]
    ) -> None:
        """A bulk frame comes to a shared line, and waits for what came there before it."""
        if not connection.up:
            return
        left = pipes[0].put(self.now_ns, size, 1.0)
        if pipes[1:]:
            self._push(left, self._pass, connection, to, effect, size, pipes[1:])
        else:
            self._cross(connection, to, effect, size, left)

    def _cross(self, connection: SimConnection, to: Endpoint, effect: Send, size: int, left: int) -> None:
        sender = connection.acceptor if to is connection.dialer else connection.dialer
        reaches = connection.in_order(to, left + self._delay_ns(connection, sender, to, size))
        self._push(reaches, self._reach, connection, to, effect, size)

    def _delay_ns(self, connection: SimConnection, sender: Endpoint, to: Endpoint, size: int) -> int:
        latency = self._paths.latency_ns(sender, to)
        return latency if connection.plain else latency + self._paths.resent_ns(sender, to, size)

    def _reach(self, connection: SimConnection, to: Endpoint, effect: Send, size: int) -> None:
        """A bulk frame comes to the receiver's access link, and waits for what came there before it."""
        if connection.up:
            lands = to.down.put(self.now_ns, size, to.factor)
            self._push(lands, self._arrive, connection, to, effect)

    def _arrive(self, connection: SimConnection, to: Endpoint, effect: Send) -> None:
        if not connection.up or not to.alive:
            return
        if self._trace_frames:
            self._log(to.key, "recv", effect.lane)
        if to.frozen:
            to.backlog.append(lambda: self._take(connection, to, effect))
        else:
            self._take(connection, to, effect)

    def _take(self, connection: SimConnection, to: Endpoint, effect: Send) -> None:
        if not to.alive or connection.closed_by is to:
            return
        dialer, sender = connection.dialer, connection.acceptor
        if to is not dialer:
            sender = dialer
            if not connection.heard:
                self._heard(connection)
        to.core.receive(self.now_ns / NS, sender.key, effect.lane, effect.header, effect.payload)
        self._carry_out(to)

    def _heard(self, connection: SimConnection) -> None:
        """Something came over it, so the acceptor answers there: an older connection of that key is shut."""
        acceptor, dialer = connection.acceptor, connection.dialer
        before = acceptor.accepted.get((dialer.key, connection.lane))
        connection.heard = True
        if before is not None:
            self._break(lambda c: c is before, by=acceptor)
        acceptor.accepted[dialer.key, connection.lane] = connection
