"""The simulated driver: production cores under virtual time, on links that fail as real ones do.

One heap of events, keyed by (nanoseconds, sequence), in one thread; no clock, no sleeping. Peers have
access rates up and down and a latency; connections are ordered and lose nothing while they stand;
a reset loses what is in flight, and a frozen peer's inputs wait. A peer may crash between any two
effects. Every draw comes from a named stream of one seed, so the same seed gives the same trace hash
(D1). Nothing of the protocol is written here again: the network feeds cores and carries out effects.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transport.effects import CONTROL_LANE, Close, Connect, Core, Deliver, Effect, Send, Store, Trace
from transport.simlinks import NS, Connection, Faults, Pipe
from transport.simlinks import Access as Access

_REDIAL_S = 0.3
_FRAME_OVERHEAD = 64
"""Bytes that encryption and framing add to a frame."""
_STORM = 100_000
"""Events at one instant after which the cores are talking in circles."""


Answer = Callable[[float, tuple[bytes, bytes] | None], None]


@dataclass(slots=True, eq=False)
class _Peer:
    core: Core
    access: Access
    up: Pipe
    down: Pipe
    on_event: Callable[[float, object], None]
    life: int
    """Counts restarts: what belongs to an earlier life is void."""
    alive: bool = True
    frozen: bool = False
    backlog: deque[Callable[[], None]] = field(default_factory=deque)
    journal: list[bytes] = field(default_factory=list)
    timer: int = 0
    """When the armed timer fires, in ns; 0 for none."""
    effects_left: int | None = None
    """The peer crashes after this many more effects."""
    factor: float = 1.0
    """Slows its link by this."""


class SimNetwork:
    """Peers by key, and the time. ``observe(now_s, key, effect)`` sees every effect carried out."""

    def __init__(self, seed: object, observe: Callable[[float, bytes, Effect], None] | None = None) -> None:
        self.now_ns = 0
        self.peers: dict[bytes, _Peer] = {}
        self.num_events = 0
        self._seed = seed
        self._observe = observe
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._connections: dict[tuple[bytes, bytes, int], Connection] = {}
        self._dialling: dict[tuple[bytes, bytes], Connect] = {}
        self._faults = Faults()
        self._hash = hashlib.sha256()
        self.lines: list[str] | None = None
        """Set to a list to keep the trace as text."""
        self._jitter = self.stream("jitter")
        self._at_instant = 0

    def stream(self, name: str) -> random.Random:
        """The named random stream of this seed."""
        return random.Random(f"{self._seed}:{name}")

    @property
    def now(self) -> float:
        return self.now_ns / NS

    def trace_hash(self) -> str:
        """Over everything that happened so far."""
        return self._hash.hexdigest()

    # -- peers --------------------------------------------------------------------------------

    def add(self, key: bytes, core: Core, access: Access, on_event: Callable[[float, object], None]) -> None:
        """A peer begins a life; its journal of earlier lives is kept."""
        before = self.peers.get(key)
        life = before.life + 1 if before else 0
        peer = _Peer(core, access, Pipe(access.up), Pipe(access.down), on_event, life)
        if before is not None:
            assert not before.alive, "a peer restarts only after it crashed"
            peer.journal = before.journal
        self.peers[key] = peer
        self._feed(key, lambda: core.start(self.now), "start")

    def journal(self, key: bytes) -> list[bytes]:
        """What the peer stored, over all its lives."""
        return self.peers[key].journal if key in self.peers else []

    def crash(self, key: bytes) -> None:
        """The process is gone: connections break, nothing of it is carried out any more."""
        peer = self.peers[key]
        if not peer.alive:
            return
        peer.alive = False
        peer.backlog.clear()
        self._log(key, "crash")
        for pair in [p for p in self._dialling if p[0] == key]:
            del self._dialling[pair]
        self._break(lambda c: key in (c.dialer, c.acceptor))

    def crash_after(self, key: bytes, effects: int) -> None:
        """Crash once ``effects`` more effects were carried out: between any two of them."""
        self.peers[key].effects_left = effects

    def freeze(self, key: bytes) -> None:
        """The process stops as by SIGSTOP: its connections stand, inputs wait."""
        self.peers[key].frozen = True
        self._log(key, "freeze")

    def thaw(self, key: bytes) -> None:
        peer = self.peers[key]
        peer.frozen = False
        self._log(key, "thaw")
        waiting, peer.backlog = peer.backlog, deque()
        for run in waiting:
            run()
        self._arm(key)

    def command(self, key: bytes, run: Callable[[Core, float], Any]) -> Any:
        """Run a command of the program above a living core; None for one that is dead or frozen."""
        peer = self.peers[key]
        if not peer.alive or peer.frozen:
            return None
        result = run(peer.core, self.now)
        self._carry_out(key, peer)
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
            if peer is None or not peer.alive or self._faults.part(by, to):
                reply(None)
                return
            core = peer.core

            def put() -> None:
                reply(core.knock(self.now, invite, header) if core.admits(invite) == "invite" else None)

            self._feed(to, put, "knock")

        self.at(delay_s, ask)

    def can_run(self, key: bytes) -> bool:
        return self.peers[key].alive and not self.peers[key].frozen

    # -- the network's faults -----------------------------------------------------------------

    def partition(self, groups: list[list[bytes]]) -> None:
        """Only peers of one group reach each other; who is in no group is with the first."""
        self._faults.groups = {key: i for i, group in enumerate(groups) for key in group}
        self._log(b"", f"partition {[len(g) for g in groups]}")
        self._break(lambda c: self._faults.part(c.dialer, c.acceptor))

    def heal(self) -> None:
        """No partition and no cut link any more."""
        self._faults.heal()
        self._log(b"", "heal")

    def cut(self, a: bytes, b: bytes) -> None:
        """Two peers do not reach each other any more."""
        self._faults.cuts.add(frozenset((a, b)))
        self._log(a, "cut")
        self._break(lambda c: c.joins(a, b))

    def mend(self, a: bytes, b: bytes) -> None:
        """Two peers that were cut off from each other may connect again."""
        self._faults.cuts.discard(frozenset((a, b)))
        self._log(a, "mend")

    def reset(self, a: bytes, b: bytes) -> None:
        """Connections between two peers break and are dialled again; what is in flight is lost."""
        self._log(a, "reset")
        self._break(lambda c: c.joins(a, b))

    def degrade(self, key: bytes, factor: float) -> None:
        """The peer's link is ``factor`` times slower from now on."""
        self.peers[key].factor = factor

    # -- time ---------------------------------------------------------------------------------

    def at(self, delay_s: float, run: Callable[[], None]) -> None:
        """Schedule something of the world itself."""
        self._push(self.now_ns + round(delay_s * NS), run)

    def run(self, until_s: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass until ``until_s`` or until ``done``; True if it was done."""
        until = round(until_s * NS)
        while self._heap and self._heap[0][0] <= until:
            at, _, run = heapq.heappop(self._heap)
            self._at_instant = self._at_instant + 1 if at == self.now_ns else 0
            assert self._at_instant < _STORM, f"more than {_STORM} events at {self.now} s"
            self.now_ns = at
            self.num_events += 1
            run()
            if done is not None and done():
                return True
        self.now_ns = until
        return False

    # -- inside: feeding and carrying out -----------------------------------------------------

    def _push(self, at: int, run: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, run))

    def _log(self, key: bytes, line: str) -> None:
        entry = f"{self.now_ns} {key[:4].hex()} {line}"
        self._hash.update(entry.encode() + b"\n")
        if self.lines is not None:
            self.lines.append(entry)

    def _feed(self, key: bytes, run: Callable[[], None], name: str) -> None:
        """One input, then its effects; a frozen peer gets it later."""
        peer = self.peers[key]
        life = peer.life

        def now_or_never() -> None:
            current = self.peers[key]
            if not current.alive or current.life != life:
                return
            run()
            self._carry_out(key, current)

        if not peer.alive:
            return
        self._log(key, name)
        if peer.frozen:
            peer.backlog.append(now_or_never)
        else:
            now_or_never()

    def _carry_out(self, key: bytes, peer: _Peer) -> None:
        while effects := peer.core.drain():
            for effect in effects:
                if peer.effects_left is not None:
                    if peer.effects_left <= 0:
                        self.crash(key)
                        return
                    peer.effects_left -= 1
                self._do(key, peer, effect)
                if not peer.alive:
                    return
        self._arm(key)

    def _do(self, key: bytes, peer: _Peer, effect: Effect) -> None:
        if self._observe is not None:
            self._observe(self.now, key, effect)
        match effect:
            case Send():
                self._send(key, peer, effect)
            case Store():
                self._log(key, f"store {hashlib.sha256(effect.entry).hexdigest()[:8]}")
                peer.journal.append(effect.entry)
            case Connect():
                self._dialling[key, effect.peer] = effect
                for lane in range(effect.lanes + 1):
                    self._dial_later(key, effect.peer, lane, 0.0)
            case Close():
                self._dialling.pop((key, effect.peer), None)
                self._break(lambda c: c.joins(key, effect.peer), by=key)
            case Deliver():
                self._log(key, type(effect.event).__name__)
                life = peer.life
                self._push(self.now_ns, lambda: self._deliver(key, life, effect.event))
            case Trace():
                self._log(key, f"trace {effect.name}")

    def _deliver(self, key: bytes, life: int, event: object) -> None:
        peer = self.peers[key]
        if not peer.alive or peer.life != life:
            return
        if peer.frozen:
            peer.backlog.append(lambda: self._deliver(key, life, event))
            return
        peer.on_event(self.now, event)

    def _arm(self, key: bytes) -> None:
        peer = self.peers[key]
        deadline = peer.core.deadline()
        if deadline is None:
            return
        at = max(round(deadline * NS), self.now_ns + 1000)
        if peer.timer and self.now_ns < peer.timer <= at:
            return
        peer.timer = at
        life = peer.life

        def fire() -> None:
            current = self.peers[key]
            if current.life != life or current.timer != at:
                return
            current.timer = 0
            wanted = current.core.deadline()
            if wanted is not None and round(wanted * NS) > self.now_ns:
                self._arm(key)  # it was put off since
            elif wanted is not None:
                self._feed(key, lambda: current.core.tick(self.now), "tick")

        self._push(at, fire)

    # -- inside: connections ------------------------------------------------------------------

    def _latency_ns(self, a: bytes, b: bytes) -> int:
        one, two = self.peers[a], self.peers[b]
        base = one.access.latency_s * one.factor + two.access.latency_s * two.factor
        jitter = self._jitter.random() * max(one.access.jitter, two.access.jitter)
        return round(base * (1 + jitter) * NS)

    def _dial_later(self, key: bytes, to: bytes, lane: int, delay_s: float) -> None:
        life = self.peers[key].life
        wanted = self._dialling.get((key, to))

        def dial() -> None:
            if self._dialling.get((key, to)) is wanted and self.peers[key].life == life:
                self._dial(key, to, lane)

        self.at(delay_s, dial)

    def _dial(self, key: bytes, to: bytes, lane: int) -> None:
        other = self.peers.get(to)
        able = other is not None and other.alive and not other.frozen and not self._faults.part(key, to)
        if not able or other is None or other.core.admits(key) != "member":
            self._dial_later(key, to, lane, _REDIAL_S)
            return
        connection = Connection(key, to, lane)
        self._connections[key, to, lane] = connection

        def established() -> None:
            if self._connections.get((key, to, lane)) is connection:
                connection.up = True
                self._feed(key, lambda: self.peers[key].core.connected(self.now, to, lane), f"up {lane}")

        self._push(self.now_ns + 2 * self._latency_ns(key, to), established)

    def _break(self, which: Callable[[Connection], bool], by: bytes | None = None) -> None:
        for name, connection in list(self._connections.items()):
            if not which(connection):
                continue
            del self._connections[name]
            connection.up = False
            key, to, lane = name
            if (key, to) not in self._dialling or key == by:
                continue
            self._feed_later(key, to, lane)
            self._dial_later(key, to, lane, _REDIAL_S)

    def _feed_later(self, key: bytes, to: bytes, lane: int) -> None:
        life = self.peers[key].life

        def broken() -> None:
            peer = self.peers[key]
            if peer.alive and peer.life == life:
                self._feed(key, lambda: peer.core.disconnected(self.now, to, lane), f"down {lane}")

        self._push(self.now_ns + 1000, broken)

    def _send(self, key: bytes, peer: _Peer, effect: Send) -> None:
        to, lane = effect.peer, effect.lane
        connection = self._connections.get((key, to, lane)) or self._connections.get((to, key, lane))
        if connection is None or not connection.up:
            self._log(key, f"lost {lane}")
            return
        size = len(effect.header) + len(effect.payload or b"") + _FRAME_OVERHEAD
        self._log(key, f"send {lane} {size} {hashlib.sha256(effect.header).hexdigest()[:8]}")
        other = self.peers[to]
        if lane == CONTROL_LANE:
            # Flows share a link, so control on its own connection never waits for all queued bulk.
            ns = peer.up.time(size, peer.factor) + other.down.time(size, other.factor)
            lands = connection.in_order(to, self.now_ns + ns + self._latency_ns(key, to))
            self._push(lands, lambda: self._arrive(connection, key, to, effect))
            return
        left = peer.up.put(self.now_ns, size, peer.factor)
        reaches = connection.in_order(to, left + self._latency_ns(key, to))
        self._push(reaches, lambda: self._reach(connection, key, to, effect, size))

    def _reach(self, connection: Connection, key: bytes, to: bytes, effect: Send, size: int) -> None:
        """A bulk frame comes to the receiver's access link, and waits for what came there before it."""
        if connection.up:
            peer = self.peers[to]
            lands = peer.down.put(self.now_ns, size, peer.factor)
            self._push(lands, lambda: self._arrive(connection, key, to, effect))

    def _arrive(self, connection: Connection, key: bytes, to: bytes, effect: Send) -> None:
        if connection.up and self.peers[to].alive:
            core, header, payload = self.peers[to].core, effect.header, effect.payload
            lane = effect.lane
            self._feed(to, lambda: core.receive(self.now, key, lane, header, payload), f"recv {lane}")
