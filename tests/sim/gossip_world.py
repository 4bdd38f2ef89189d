"""A simulated swarm that gossips: production nodes and worker sessions over small vectors that name their
contributors."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from diloco.loop.outer_loop import OuterLoop
from diloco.loop.session import Terms, WorkerSession
from diloco.methods.schedule import Schedule
from diloco.simulation.vectors import VectorBlob, check_named
from diloco.simulation.worker import hashed
from peers.admission.door import Door
from peers.coordinator.rules import Rules
from peers.node import Node
from peers.protocol.commands import Command, Swap
from peers.protocol.events import NameWanted, SwapFailed, Swapped
from peers.protocol.held import Held
from peers.protocol.profile import Matching
from peers.seats import Contact, Hosting, Training
from tests.sim.trainer import digests_of
from tests.sim.world import LIMITS
from transport.collectives.reducer import NumpyReducer, Reducer
from transport.digests import tree_digest
from transport.effects import EncodedResult
from transport.frames import unpack
from transport.simnet.links import Access
from transport.simnet.network import SimNetwork

SETTINGS = hashlib.sha256(b"gossip").digest()
HOST = hashlib.sha256(b"gossip host").digest()
TIMEOUT_S, GRACE_S = 2.0, 4.0
SIZE = 100
EVERY = 4


def key_of(index: int) -> bytes:
    return hashlib.sha256(b"gossiper" + bytes([index])).digest()


@dataclass
class GossipReplica:
    """One vector: element ``index`` is this worker's own, the rest a value that gossip averages."""

    index: int
    state: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(SIZE, dtype=np.float32))
    steps: int = 0
    means: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state[-1] = self.index

    def sync_every(self, fragment: int) -> int:
        return EVERY

    def count(self, fragment: int) -> int:
        return self.steps

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        values = np.zeros(SIZE, dtype=np.float32)
        values[self.index] = 1.0
        values[-2], values[-1] = self.steps, self.state[-1]
        return NumpyReducer(SIZE, values), 1.0

    def apply(
        self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float, keep_old: bool
    ) -> None:
        if mean is not None:
            assert isinstance(mean, NumpyReducer)
            self.means.append(mean.output.copy())
            self.state[-1] = mean.output[-1]
        self.steps += 1

    def land(self, fragment: int, ours: Reducer | None, on_time: bool) -> None:
        """There are no local parameters."""

    def discard(self, fragment: int) -> None:
        """There are none to give up."""

    def load(self, fragment: int, data: bytearray) -> None:
        self.state = np.frombuffer(bytes(data), dtype=np.float32).copy()
        self.steps = int(self.state[-2])

    def digest(self, fragment: int) -> bytes:
        self.state[-2] = self.steps
        return tree_digest(digests_of(self.state, LIMITS.payload_bytes))

    def check(self, fragment: int) -> bytes:
        return check_named(self.digest(fragment))

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        name = self.digest(fragment)
        return (lambda: name) if check == check_named(name) else None

    def receiver(self, fragment: int) -> Reducer:
        return NumpyReducer(SIZE)

    def state_buffer(self, fragment: int) -> bytearray:
        return bytearray(4 * SIZE)

    def state_at_hand(self, fragment: int) -> None:
        return None

    def state_blob(self, fragment: int, blob: bytes) -> VectorBlob | None:
        found = digests_of(self.state, LIMITS.payload_bytes)
        if tree_digest(found) != blob:
            return None
        return VectorBlob(found, self.state.tobytes(), LIMITS.payload_bytes)

    def kept_result(self, result: bytes) -> EncodedResult | None:
        return None


@dataclass
class Gossiper:
    """One life of one worker."""

    index: int
    node: Node
    replica: GossipReplica
    session: WorkerSession
    step_s: float
    swaps: dict[int, str] = field(default_factory=dict)
    """By step: what became of it."""
    waiting_since: float | None = None
    longest_wait_s: float = 0.0
    held: Held | None = None
    """What its disk had when it began."""

    @property
    def loop(self) -> OuterLoop:
        return self.session.loop


class GossipWorld:
    """A host that only coordinates, and workers that gossip."""

    def __init__(
        self,
        seed: int,
        num_workers: int,
        kind: str = "pair",
        group_size: int = 2,
        make_node: Callable[..., Node] = Node,
        rounds: int = 1 << 30,
    ) -> None:
        self.make_node = make_node
        self.rounds = rounds
        self.net = SimNetwork(seed)
        self.rng: random.Random = self.net.stream("gossip world")
        self.matching = Matching(kind, seed, group_size, min_peers=1)  # type: ignore[arg-type]
        self.workers: dict[int, Gossiper] = {}
        self.lives: dict[int, int] = {}
        self.double_ends: list[str] = []
        self.start_host()
        for index in range(num_workers):
            self.net.at(self.rng.uniform(0.0, 1.0), partial(self.start, index))

    def start_host(self) -> None:
        """A life of the host begins, with the journal of those before."""
        rules = Rules(
            SETTINGS,
            min_peers=1,
            rounds=self.rounds,
            failure_timeout_s=TIMEOUT_S,
            grace_s=GRACE_S,
            gossips=True,
        )
        life = self.lives[-1] = self.lives.get(-1, 0) + 1
        journal = [unpack(entry) for entry in self.net.journal(HOST)]
        self.host = self.make_node(
            HOST,
            life,
            Contact(HOST, ()),
            failure_timeout_s=TIMEOUT_S,
            hosting=Hosting(rules, journal, Door(bytes(16), b"{}", SETTINGS, {})),
            limits=LIMITS,
        )
        address = "tcp://host:1"
        self.net.add(HOST, self.host, Access(latency_s=0.01), lambda now, event: None, address)

    def begin_with(self, index: int, replica: GossipReplica) -> Held | None:
        """Put what the worker's disk has into its replica; here it has none."""
        return None

    def heard(self, worker: Gossiper, event: object, answers: list[Command]) -> None:
        """A worker was told of an event, and answered."""

    def start(self, index: int) -> None:
        """A worker's life begins."""
        assert self.host.coordinator is not None
        self.host.coordinator.certify(key_of(index), f"g{index}")
        life = self.lives[index] = self.lives.get(index, 0) + 1
        node = self.make_node(
            key_of(index),
            100 + life,
            Contact(HOST, ("tcp://host:1",)),
            failure_timeout_s=TIMEOUT_S,
            limits=LIMITS,
        )
        replica = GossipReplica(index)
        schedule = Schedule((EVERY,), (EVERY,), 0, False, gossips=True)
        held = self.begin_with(index, replica)
        wait_s = GRACE_S + 2 * TIMEOUT_S
        terms = Terms(SETTINGS, schedule, wait_s, rounds=self.rounds, matching=self.matching)
        session = WorkerSession(terms, replica, self.net.now)
        worker = Gossiper(index, node, replica, session, self.rng.uniform(0.08, 0.12), held=held)
        self.workers[index] = worker
        address = f"tcp://g{index}:1"
        access = Access(self.rng.uniform(2e5, 4e6), self.rng.uniform(5e5, 8e6), self.rng.uniform(0.002, 0.05))
        self.net.add(key_of(index), node, access, lambda now, event: self._event(worker, event), address)
        profile = session.profile(
            f"g{index}", (address,), (SIZE,), tensors=SETTINGS, shapes=SETTINGS, model="vector"
        )
        training = Training(profile, replica, patience_s=GRACE_S, held=held)
        self.net.command(key_of(index), lambda _, now: node.train(now, training))
        self.net.at(worker.step_s, partial(self._step, worker))

    def living(self) -> list[Gossiper]:
        return [w for i, w in sorted(self.workers.items()) if self.net.peers[key_of(i)].alive]

    def _step(self, worker: Gossiper) -> None:
        endpoint = self.net.peers[key_of(worker.index)]
        if endpoint.core is not worker.node or not endpoint.alive:
            return
        self.net.at(worker.step_s, partial(self._step, worker))
        session = worker.session
        if endpoint.frozen or not session.active:
            return
        if session.report_is_due(self.net.now):
            self._run(worker, session.report(self.net.now, 0, 0))
        if session.finished:
            return
        now = self.net.now
        if session.waits(now):
            worker.waiting_since = now if worker.waiting_since is None else worker.waiting_since
            worker.longest_wait_s = max(worker.longest_wait_s, now - worker.waiting_since)
            return
        worker.waiting_since = None
        session.stepped(8, worker.step_s)
        self._run(worker, session.due(now))

    def _name(self, worker: Gossiper, wanted: NameWanted) -> None:
        """Hash a replica beside training, as it is now."""
        named = hashed(worker.replica, wanted)
        endpoint = self.net.peers[key_of(worker.index)]

        def answer() -> None:
            if endpoint.alive and endpoint.frozen:
                self.net.at(0.1, answer)
            elif endpoint.alive:
                self._run(worker, [named])

        self.net.at(0.02, answer)

    def _event(self, worker: Gossiper, event: object) -> None:
        if isinstance(event, NameWanted):
            self._name(worker, event)
            return
        if isinstance(event, (Swapped, SwapFailed)):
            if worker.swaps.get(event.step) != "begun":
                self.double_ends.append(f"g{worker.index} step {event.step}: {worker.swaps.get(event.step)}")
            worker.swaps[event.step] = type(event).__name__
        answers = worker.session.event(self.net.now, event)
        self._run(worker, answers)
        self.heard(worker, event, answers)

    def _run(self, worker: Gossiper, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Swap):
                worker.swaps[command.step] = "begun"
            done = self.net.command(key_of(worker.index), partial(_do, worker.node, command))
            if isinstance(command, Swap) and not done:
                del worker.swaps[command.step]
            worker.session.told(command, bool(done))


def _do(node: Node, command: Command, _: object, now: float) -> bool:
    return node.command(now, command)
