"""The simulated driver: production cores under virtual time, on links that fail as real ones do.

Peers have access rates up and down and a latency; connections are ordered and lose nothing while they
stand; a reset loses what is in flight. Two processes may hold one key. Every draw comes from a named stream
of one seed, so the same seed gives the same trace hash (D1). Nothing of the protocol is written here again:
the network runs cores. Time, processes, connections and frames on their way are those of `timeline`,
`process_runner`, `connections` and `transit` beside this module.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from transport.effects import Close, Connect, Core, Effect, KeepResult, Probe, Send
from transport.simnet.connections import Connections
from transport.simnet.links import NS, Endpoint, Faults, Who, key_of
from transport.simnet.links import Access as Access
from transport.simnet.process_runner import ProcessRunner
from transport.simnet.routes import Paths, Route
from transport.simnet.timeline import Timeline
from transport.simnet.trace_log import TraceLog
from transport.simnet.transit import Transit

KNOCKERS = ("invite", "owner")
"""Kinds of keys that may ask one thing at a door."""
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
        self.timeline = Timeline()
        self.trace_log = TraceLog()
        self.peers: dict[bytes, Endpoint] = {}
        """The newest process of each key, alive or dead."""
        self._seed = seed
        self._living: dict[bytes, list[Endpoint]] = {}
        self._faults = Faults()
        self._runner = ProcessRunner(self.timeline, self.trace_log, self._use_network, self.crash, observe)
        paths = Paths(route, self.stream("jitter"), self.stream("losses"))
        self._connections = Connections(
            self.timeline, self._faults, paths, self._living, self._runner.feed, self.stream
        )
        frames = self.trace_log if trace_frames else None
        self._transit = Transit(self.timeline, self._connections, paths, frames, self._runner.carry_out)

    def stream(self, name: str) -> random.Random:
        """The named random stream of this seed."""
        return random.Random(f"{self._seed}:{name}")

    @property
    def now_ns(self) -> int:
        """Virtual time in nanoseconds."""
        return self.timeline.now_ns

    @property
    def now(self) -> float:
        """Virtual time in seconds."""
        return self.timeline.now_ns / NS

    @property
    def num_events(self) -> int:
        """Events so far."""
        return self.timeline.num_events

    @property
    def num_breaks(self) -> int:
        """Connections that stood and broke."""
        return self._connections.num_breaks

    @property
    def sent_again(self) -> Counter[bytes]:
        """Bytes of retransmissions by the sender's key."""
        return self._transit.sent_again

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
        keep: Callable[[KeepResult], None] | None = None,
    ) -> Endpoint:
        """A process of a peer begins; the journal of its earlier ones is kept. If one of them still runs, it
        is a clone: each has its own connections, and who dials an ``address`` reaches the one there. ``keep``
        puts results on its disk."""
        peer = Endpoint(key, core, access, on_event, address, self.journal(key), keep)
        if key in self.peers:
            peer.sent, peer.received = self.peers[key].sent, self.peers[key].received
        self._living.setdefault(key, []).append(peer)
        self.peers[key] = peer
        self._runner.feed(peer, lambda: core.start(self.now), "start")
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
        self._connections.end(peer)
        self._runner.run_backlog(peer)

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
        self._runner.run_backlog(peer)
        self._runner.set_timer(peer)

    def fill_disk(self, key: bytes) -> None:
        """No process with this key can store anything: from the next try on it stands still."""
        self._runner.full_disks.add(key)
        self._log(key, "disk full")

    def empty_disk(self, key: bytes) -> None:
        """There is room again; the process finds that out when it tries next."""
        if key in self._runner.full_disks:
            self._runner.full_disks.discard(key)
            self._log(key, "disk has room")

    def command(self, who: Who, run: Callable[[Core, float], Any]) -> Any:
        """Run a command of the program above a living core; None for one that is dead or frozen."""
        peer = self._of(who)
        if not peer.alive or peer.frozen:
            return None
        result = run(peer.core, self.now)
        self._runner.carry_out(peer)
        return result

    def next_event(self, who: Who) -> object | None:
        """Take the next event that came and that the program above was not called for yet: those of a command
        are here when it returns, as on a real driver."""
        peer = self._of(who)
        return peer.events.popleft() if peer.events and peer.alive and not peer.frozen else None

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
            core = peer.guarded
            said: list[tuple[bytes, bytes] | None] = [None]

            def put() -> None:
                said[0] = core.knock(self.now, invite, header) if core.admits(invite) in KNOCKERS else None

            # The answer leaves after the effects: whoever dies between two of them says nothing.
            self._runner.feed(peer, put, "knock", lambda: reply(said[0] if peer.alive else None))

        self.at(delay_s, ask)

    def can_run(self, who: Who) -> bool:
        peer = self._of(who)
        return peer.alive and not peer.stands_still

    # -- the network's faults -----------------------------------------------------------------

    def partition(self, groups: list[list[bytes]]) -> None:
        """Only peers of one group reach each other; who is in no group is with the first."""
        self._faults.groups = {key: i for i, group in enumerate(groups) for key in group}
        self._log(b"", f"partition {[len(g) for g in groups]}")
        self._connections.break_where(lambda c: self._faults.is_cut(c.dialer, c.acceptor))

    def heal(self) -> None:
        """No partition and no cut link any more."""
        self._faults.heal()
        self._log(b"", "heal")

    def cut(self, a: Who, b: Who) -> None:
        """Two peers do not reach each other any more; of a clone, only the process that is named."""
        self._faults.cuts.add(frozenset((a, b)))
        self._log(key_of(a), "cut")
        self._connections.break_where(lambda c: c.joins(a, b))

    def mend(self, a: Who, b: Who) -> None:
        """Two peers that were cut off from each other may connect again."""
        self._faults.cuts.discard(frozenset((a, b)))
        self._log(key_of(a), "mend")

    def reset(self, a: Who, b: Who) -> None:
        """Connections between two peers break and are dialled again; what is in flight is lost."""
        self._log(key_of(a), "reset")
        self._connections.break_where(lambda c: c.joins(a, b))

    def offend(self, by: bytes, to: Who) -> None:
        """A peer sends another one a message of a wrong shape, as no core of ours does."""
        self._log(by, "offend")
        self._connections.refuse(self._of(to), by)

    def degrade(self, who: Who, factor: float) -> None:
        """The peer's link is ``factor`` times slower from now on."""
        self._of(who).factor = factor

    def stall(self, who: Who, seconds: float) -> None:
        """The peer's link carries nothing for a while, and loses no connection."""
        self._of(who).stalled_until = self.now_ns + round(seconds * NS)

    # -- time ---------------------------------------------------------------------------------

    def at(self, delay_s: float, run: Callable[[], None]) -> None:
        """Schedule something of the world itself."""
        self.timeline.push(self.now_ns + round(delay_s * NS), run)

    def run(self, until_s: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass until ``until_s`` or until ``done``; True if it was done."""
        return self.timeline.run(round(until_s * NS), done)

    # -- inside -------------------------------------------------------------------------------

    def _of(self, who: Who) -> Endpoint:
        return who if isinstance(who, Endpoint) else self.peers[who]

    def _log(self, key: bytes, *what: Any) -> None:
        self.trace_log.add(self.timeline.now_ns, key, what)

    def _use_network(self, peer: Endpoint, effect: Send | Connect | Probe | Close) -> None:
        match effect:
            case Send():
                self._send(peer, effect)
            case Connect():
                self._connections.dial(peer, effect)
            case Probe():
                self._connections.probe(peer, effect)
            case Close():
                self._connections.hang_up(peer, effect.peer)

    def _send(self, peer: Endpoint, effect: Send) -> None:
        to, lane = effect.peer, effect.lane
        connection = peer.dialled.get((to, lane))
        if connection is None or not connection.up:
            connection = peer.accepted.get((to, lane))
        if connection is None or not connection.up:
            self._log(peer.key, "lost", lane)
        else:
            self._transit.send(connection, peer, effect)
