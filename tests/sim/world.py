"""One simulated swarm: production cores and outer loops, a trainer stub, and who does what when.

Builds peers, lets them train in virtual time, crashes and restarts them. Checkers see what happens
through `observe` and `note`; faults are scheduled from outside.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from diloco.loop import Captured, Command, Loaded, OuterLoop
from peers.admission import Door
from peers.coordinator import Rules
from peers.events import Restored, RoundCommitted
from peers.manifest import Manifest
from peers.member import Profile
from peers.node import Contact, Hosting, Node, Training
from tests.sim.trainer import VectorNumbers
from transport.effects import Effect
from transport.frames import unpack
from transport.limits import Limits
from transport.simnet import Access, SimNetwork

SETTINGS = hashlib.sha256(b"settings").digest()
LIMITS = Limits(payload_bytes=1024, window_bytes=64 * 1024, buffer_bytes=1024 * 1024, chunk_elements=64)
TIMEOUT_S = 2.0
GRACE_S = 4.0
SYNC_EVERY = 4


def key_of(index: int) -> bytes:
    """The transport key of a simulated peer; 255 is the host."""
    return hashlib.sha256(b"peer" + bytes([index])).digest()


HOST = 255


@dataclass
class Worker:
    """One life of one training peer."""

    index: int
    key: bytes
    life: int
    loop: OuterLoop
    numbers: VectorNumbers
    step_s: float
    node: Node
    steps: int = 0
    tokens: int = 0
    busy_until: float = 0.0
    inbox: deque[object] = field(default_factory=deque)


Note = Callable[[float, Worker, object], None]


@dataclass
class World:
    """A swarm of one host and several workers on one simulated network."""

    seed: int
    num_workers: int
    min_peers: int = 2
    sizes: tuple[int, ...] = (300,)
    host_trains: bool = False
    rounds: int = 1 << 30
    observe: Callable[[float, bytes, Effect], None] | None = None
    notes: list[Note] = field(default_factory=list)
    make_node: Callable[..., Node] = Node
    limits: Limits = LIMITS
    tokens_per_step: int = 8

    def __post_init__(self) -> None:
        self.net = SimNetwork(self.seed, self.observe)
        self.rng = self.net.stream("world")
        self.delays = self.net.stream("delays")
        self.workers: dict[int, Worker] = {}
        self.host_lives = 0
        self.lives: dict[int, int] = {}
        self.peer_names: dict[bytes, int] = {key_of(HOST): HOST}
        self.poisoned: set[int] = set()
        self.exploded: set[int] = set()
        self.hostile: set[int] = set()
        """Members whose own words about themselves prove nothing."""
        self.seen: Counter[str] = Counter()
        self.start_host()
        for index in range(self.num_workers):
            self.net.at(self.rng.uniform(0.0, 1.0), lambda i=index: self.start_worker(i))

    # -- lives --------------------------------------------------------------------------------

    def start_host(self) -> None:
        key = key_of(HOST)
        journal = [unpack(entry) for entry in self.net.journal(key)]
        self.host_lives += 1
        rules = Rules(SETTINGS, self.min_peers, self.rounds, TIMEOUT_S, GRACE_S)
        door = Door(bytes(16), b"{}", SETTINGS, {})
        node = self.make_node(
            key,
            1000 + self.host_lives,
            Contact(key, ()),
            failure_timeout_s=TIMEOUT_S,
            hosting=Hosting(rules, journal, door),
            limits=self.limits,
        )
        assert node.coordinator is not None
        for index in range(64):
            node.coordinator.roster.certify(key_of(index), f"w{index}")
        self.host = node
        self.net.add(key, node, Access(latency_s=0.01), self._host_event)

    def _host_event(self, now: float, event: object) -> None:
        assert not isinstance(event, RoundCommitted), "a host that does not train is handed no result"

    def start_worker(self, index: int) -> Worker:
        key = key_of(index)
        self.peer_names[key] = index
        life = self.lives[index] = self.lives.get(index, 0) + 1
        up, down = self.rng.uniform(2e5, 4e6), self.rng.uniform(5e5, 8e6)
        access = Access(up, down, latency_s=self.rng.uniform(0.002, 0.05))
        node = self.make_node(
            key,
            1000 + life,
            Contact(key_of(HOST), ("tcp://host:1",)),
            failure_timeout_s=TIMEOUT_S,
            limits=self.limits,
        )
        numbers = VectorNumbers(index, list(self.sizes), self.limits)
        numbers.poison, numbers.explode = index in self.poisoned, index in self.exploded
        wait_s = GRACE_S + 2 * TIMEOUT_S
        loop = OuterLoop(len(self.sizes), SYNC_EVERY, wait_s, numbers)
        worker = Worker(index, key, life, loop, numbers, self.rng.uniform(0.05, 0.2), node)
        self.workers[index] = worker
        self.net.add(key, node, access, lambda now, event: self._event_later(worker, event))
        manifest = Manifest(
            SETTINGS, SETTINGS, SETTINGS, "plain", tuple(self.sizes), f"vectors of {sum(self.sizes)}"
        )
        profile = Profile(f"w{index}", (f"tcp://w{index}:1",), manifest)
        training = Training(profile, numbers, patience_s=2 * GRACE_S)
        self.net.command(key, lambda core, now: core.train(now, training))
        self.net.at(worker.step_s, lambda: self._step(worker))
        return worker

    def alive(self, index: int) -> bool:
        worker = self.workers.get(index)
        return worker is not None and self.net.can_run(worker.key) and worker.life == self.lives[index]

    # -- training -----------------------------------------------------------------------------

    def _step(self, worker: Worker) -> None:
        peer = self.net.peers[worker.key]
        if not peer.alive or worker.life != self.lives[worker.index] or worker.loop.superseded:
            return
        self.net.at(worker.step_s, lambda: self._step(worker))
        if peer.frozen:
            return
        now = self.net.now
        if worker.loop.waits(now) or (not worker.loop.active and worker.steps == 0):
            self._run(worker, worker.loop.due(now))
            return
        worker.steps += 1
        worker.tokens += self.tokens_per_step
        self._run(worker, worker.loop.stepped(now, self.tokens_per_step))

    def _event_later(self, worker: Worker, event: object) -> None:
        """The training thread takes events in order, each when it comes to it."""
        worker.busy_until = max(worker.busy_until, self.net.now) + self.delays.uniform(0.0, 0.06)

        def take() -> None:
            peer = self.net.peers[worker.key]
            if peer.frozen and peer.alive:
                self.net.at(0.1, take)
            elif peer.alive and worker.life == self.lives[worker.index]:
                self._event(worker, self.net.now, worker.inbox.popleft())

        worker.inbox.append(event)
        self.net.at(worker.busy_until - self.net.now, take)

    def _event(self, worker: Worker, now: float, event: object) -> None:
        if isinstance(event, Restored):
            worker.numbers.bases = [event.record.hash()] * len(self.sizes)
        commands = worker.loop.handle(now, event)
        if isinstance(event, RoundCommitted):
            worker.numbers.bases[event.record.fragment] = event.record.hash()
        for note in self.notes:
            note(now, worker, event)
        self._run(worker, commands)

    def _run(self, worker: Worker, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Loaded):
                worker.numbers.bases[command.fragment] = command.version
            for note in self.notes:
                note(self.net.now, worker, command)
            tell = command.tell
            done = self.net.command(worker.key, lambda core, now, tell=tell: core.command(now, tell))
            worker.loop.told(command, bool(done))
            if isinstance(command, Captured) and worker.node.member:
                worker.numbers.bases = [worker.node.member.following.head] * len(self.sizes)

    # -- faults -------------------------------------------------------------------------------

    def crash(self, index: int) -> None:
        key = key_of(index)
        if key in self.net.peers:
            self.net.crash(key)

    def restart(self, index: int) -> None:
        key = key_of(index)
        if key in self.net.peers and self.net.peers[key].alive:
            return
        if index == HOST:
            self.start_host()
        else:
            self.start_worker(index)

    def living(self) -> list[int]:
        return [i for i in sorted(self.workers) if self.net.peers[key_of(i)].alive]
