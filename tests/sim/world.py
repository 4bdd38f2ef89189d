"""One simulated swarm: production cores and worker sessions, a trainer stub, and who does what when.

Builds peers, lets them knock, enter and train in virtual time, crashes, restarts and clones them. Training
takes each event at a random time of its own; nobody reports, so that every frame is one of the protocol.
Checkers see what happens through `observers` and `notes`; faults are scheduled from outside.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

from diloco.checkpoints.store import Store, folder_of
from diloco.loop.outer_loop import OuterLoop
from diloco.loop.session import Terms, WorkerSession
from diloco.methods.schedule import Schedule
from diloco.settings import Checkpoint
from diloco.simulation.worker import hashed
from peers.coordinator.rules import Rules
from peers.node import Node
from peers.protocol.commands import BeginSave, Command, ConfirmCaptured, ConfirmLoaded, LeaveRun
from peers.protocol.events import NameWanted, RecomputeWanted, Restored, RoundCommitted, StageAssigned
from peers.protocol.held import Held
from peers.protocol.manifest import layout_name
from peers.protocol.messages import Refused, Welcome
from peers.protocol.placing import ANY_STAGE
from peers.protocol.stage_work import StageCommand
from peers.seats import Contact, Hosting, Training
from tests.sim.disks import LEAST_S, Pinned, SimKeeper, newest_on
from tests.sim.doors import (
    HOST,
    SETTINGS,
    STRANGER,
    Stranger,
    identity_of,
    invite_of,
    key_of,
    knock_of,
    open_door,
)
from tests.sim.streams import StageTrainer, StreamShape, terms_of
from tests.sim.trainer import LAYOUT, SYNC_EVERY, VectorJudge, VectorReplica, computed
from tests.sim.violation import Violation
from transport.effects import Effect, KeepResult
from transport.frames import unpack
from transport.guarded import InputLostTrace
from transport.limits import Limits
from transport.simnet.disk import Killed, SimDisk
from transport.simnet.links import Endpoint
from transport.simnet.network import Access, SimNetwork

LIMITS = Limits(
    payload_bytes=1024,
    window_bytes=64 * 1024,
    buffer_bytes=1024 * 1024,
    spare_bytes=64 * 1024,
    early_bytes=16 * 1024,
    chunk_elements=64,
)
TIMEOUT_S = 2.0
GRACE_S = 4.0
KNOCK_AGAIN_S = 0.5


@dataclass(eq=False)
class Worker:
    """One life of one training peer: a process. With clones, several live at the same time."""

    index: int
    key: bytes
    life: int
    session: WorkerSession
    replica: VectorReplica
    step_s: float
    node: Node
    process: Endpoint
    keeper: SimKeeper | None = None
    stage: int = 0
    busy_until: float = 0.0
    inbox: deque[object] = field(default_factory=deque)
    trainer: StageTrainer | None = None

    @property
    def loop(self) -> OuterLoop:
        return self.session.loop

    @property
    def tokens(self) -> int:
        return self.session.tokens


@dataclass(frozen=True)
class Answered:
    """A command of a worker's loop, and whether its member took it."""

    command: Command
    taken: bool


@dataclass(frozen=True)
class Loaded:
    """A process of a worker with a disk begins, with what that had."""

    held: Held | None


Note = Callable[[float, Worker, object], None]
Observer = Callable[[float, bytes, Effect], None]


@dataclass
class World:
    """A swarm of one host and several workers on one simulated network."""

    seed: int
    num_workers: int
    min_peers: int = 2
    stages: int = 1
    """Parts of the model: each worker asks the host which one it trains."""
    wider: int = 0
    """So many elements each fragment of a stage has more than those of the one before."""
    sizes: tuple[int, ...] = (300,)
    host_trains: bool = False
    rounds: int = 1 << 30
    observers: list[Observer] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    make_node: Callable[..., Node] = Node
    limits: Limits = LIMITS
    tokens_per_step: int = 8
    streams: StreamShape | None = None
    """If so, microbatches travel between the stages, and make the workers' steps."""
    delay: int = 0
    """Inner steps that a result may take; SYNC_EVERY overlaps a whole outer step."""
    exchanges: int = 1
    """Commits that make one outer step: 1 or 2."""
    with_disks: bool = False
    """Workers write checkpoints and keep results; they begin with what their disk has."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    """What the run's settings say of them."""
    recomputes: bool = True
    """The host computes which state is right where members tell several."""
    resume: int | None = None
    """The owner has the next life of the host go on from that commit."""

    def __post_init__(self) -> None:
        self.net = SimNetwork(self.seed, self.observe)
        self.rng = self.net.stream("world")
        self.delays = self.net.stream("delays")
        self.names = self.net.stream("names")
        self.writes = self.net.stream("writes")
        self.disks: dict[int, SimDisk] = {}
        """By worker: the disk of its newest process."""
        self.lied: set[SimDisk] = set()
        """Disks that lost what they had said was sure."""
        self.workers: dict[int, Worker] = {}
        """The newest of each index."""
        self.older: list[Worker] = []
        """Those whose process ran when a newer one was let in."""
        self.knocking: set[int] = set()
        self.building: set[int] = set()
        """Workers that were let in and build the part that they are given."""
        self.stage_of: dict[int, int] = {}
        """By worker: the stage that it was given."""
        self.wishes: dict[int, int] = {}
        """By worker: the stage that it asks for; without one it takes any."""
        self.strangers: list[Stranger] = []
        self.moved: list[int] = []
        """Workers that left to train another stage, in that order."""
        self.let_in = 0
        """Strangers to whom the door was opened."""
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

    def observe(self, now: float, key: bytes, effect: Effect) -> None:
        """Tell every observer of an effect that is carried out. No input of a core fails here."""
        if isinstance(effect, InputLostTrace):
            raise Violation("X2", effect.traceback)
        for observer in self.observers:
            observer(now, key, effect)

    def terms(self) -> Terms:
        """Fragments staggered over H."""
        count = len(self.sizes)
        schedule = Schedule(
            periods=(SYNC_EVERY,) * count,
            offsets=tuple((f + 1) * SYNC_EVERY // count for f in range(count)),
            delay=self.delay,
            offers_before_landing=self.delay == SYNC_EVERY,
            exchanges_per_step=self.exchanges,
        )
        return Terms(SETTINGS, schedule, GRACE_S + 2 * TIMEOUT_S)

    def sizes_of(self, stage: int) -> tuple[int, ...]:
        """Elements of a stage's fragments."""
        return tuple(size + stage * self.wider for size in self.sizes)

    # -- lives --------------------------------------------------------------------------------

    def start_host(self) -> None:
        key = key_of(HOST)
        journal = [unpack(entry) for entry in self.net.journal(key)]
        self.host_lives += 1
        rules = Rules(
            SETTINGS,
            min_peers=self.min_peers,
            rounds=self.rounds,
            failure_timeout_s=TIMEOUT_S,
            grace_s=GRACE_S,
            stages=self.stages,
            copies=self.checkpoint.copies,
            save_every=self.checkpoint.every,
            save_least_s=LEAST_S,
        )
        self.host = self.make_node(
            key,
            1000 + self.host_lives,
            Contact(key, ()),
            failure_timeout_s=TIMEOUT_S,
            hosting=Hosting(
                rules,
                journal,
                open_door(),
                judge=VectorJudge(),
                resume=self.resume,
                recompute_bytes=1 << 20 if self.recomputes else 0,
            ),
            limits=self.limits,
            streams=self.streams is not None,
        )
        self.net.add(key, self.host, Access(latency_s=0.01), self._host_event)

    def _host_event(self, now: float, event: object) -> None:
        assert isinstance(event, RecomputeWanted), "a host that does not train is handed nothing else"
        coordinator, process = self.host.coordinator, self.net.peers[key_of(HOST)]
        assert coordinator is not None
        found = computed(event, self.exchanges, self.limits.payload_bytes)

        def answer() -> None:
            if process.alive:
                done = coordinator.recomputer.take_answer
                self.net.command(process, lambda core, now: done(event.version, found, ""))

        self.seen["recomputed"] += 1
        self.net.at(self.delays.uniform(0.0, 0.2), answer)

    def start_worker(self, index: int) -> None:
        """A process starts: as `join` does, it knocks until the host lets it in, and then it enters."""
        if index in self.knocking:
            return
        self.knocking.add(index)
        self.peer_names[key_of(index)] = index
        life = self.lives[index] = self.lives.get(index, 0) + 1

        def answered(now: float, reply: tuple[bytes, bytes] | None) -> None:
            if reply is None:
                self.net.at(KNOCK_AGAIN_S, knock)
                return
            welcome = unpack(reply[0])
            if isinstance(welcome, Refused) and index in self.poisoned | self.hostile:
                return  # it was put out
            assert isinstance(welcome, Welcome), f"worker {index} is not let in: {welcome}"
            assert welcome.settings == SETTINGS
            self.knocking.discard(index)
            self._enter(index, life)

        def knock() -> None:
            self.net.knock(key_of(index), invite_of("live"), key_of(HOST), knock_of(index), answered)

        knock()

    def _enter(self, index: int, life: int) -> None:
        key = key_of(index)
        up, down = self.rng.uniform(2e5, 4e6), self.rng.uniform(5e5, 8e6)
        access = Access(up, down, latency_s=self.rng.uniform(0.002, 0.05))
        node = self.make_node(
            key,
            1000 + life,
            Contact(key_of(HOST), ("tcp://host:1",)),
            failure_timeout_s=TIMEOUT_S,
            limits=self.limits,
            signer=identity_of(index),
            streams=self.streams is not None,
        )
        begun: list[Worker] = []
        address = self._free_address(index)

        def hear(now: float, event: object) -> None:
            if isinstance(event, StageAssigned):
                self.net.at(self.delays.uniform(0.0, 1.0), lambda: build(event.stage))
            else:
                self._event_later(begun[0], event)

        def build(stage: int) -> None:
            if process.frozen and process.alive:
                self.net.at(0.1, lambda: build(stage))
            elif process.alive:
                self.building.discard(index)
                begun.append(self._train(index, life, stage, node, process, address))

        process = self.net.add(
            key, node, access, hear, address, lambda effect: self._keep_result(begun[0], effect)
        )
        if self.stages == 1:
            build(0)
        else:
            self.building.add(index)
            wish = self.wishes.get(index, ANY_STAGE)
            moves = self.streams is not None and self.streams.moves
            self.net.command(process, lambda core, now: core.ask_stage(now, f"w{index}", 0, wish, moves))

    def _train(
        self, index: int, life: int, stage: int, node: Node, process: Endpoint, address: str
    ) -> Worker:
        """A worker knows its stage: it builds that part, and enters."""
        key, sizes = key_of(index), self.sizes_of(stage)
        replica = VectorReplica(index, list(sizes), self.limits, life=life, exchanges=self.exchanges)
        replica.poison, replica.explode = index in self.poisoned, index in self.exploded
        before = self.workers.get(index)
        is_clone = before is not None and before.process.alive
        keeper = self._keeper(index, replica, is_clone) if self.with_disks else None
        held = keeper.load() if keeper else None
        session = WorkerSession(self.terms(), replica, self.net.now)
        step_s = self.rng.uniform(0.05, 0.2)
        worker = Worker(index, key, life, session, replica, step_s, node, process, keeper, stage)
        if before is not None and is_clone:
            self.older.append(before)
        self.workers[index], self.stage_of[index] = worker, stage
        for note in self.notes if self.with_disks else ():
            note(self.net.now, worker, Loaded(held))
        profile = session.profile(
            f"w{index}",
            (address,),
            sizes,
            tensors=SETTINGS,
            shapes=layout_name(LAYOUT, self.limits.payload_bytes),
            layout=LAYOUT,
            model=f"vectors of {sum(sizes)}",
        )
        training = Training(
            replace(profile, stage=stage),
            replica,
            patience_s=2 * GRACE_S,
            stream=terms_of(stage, self.stages, self.streams, self.limits, TIMEOUT_S)
            if self.streams
            else None,
            held=held,
            keeps=keeper is not None,
            leads_on=keeper is not None and keeper.leads_on,
            later=keeper.later if keeper is not None else (),
            stored=keeper.parts if keeper is not None else None,
        )
        self.net.command(process, lambda core, now: core.train(now, training))
        if self.streams is None:
            self.net.at(worker.step_s, lambda: self._step(worker))
        else:
            rng = self.net.stream(f"stage {index} {life}")

            def run(command: StageCommand) -> bool:
                return self._run_one(worker, command)

            worker.trainer = StageTrainer(self, worker, self.streams, rng, run)
            self.net.at(worker.step_s, worker.trainer.live)
        return worker

    # -- disks --------------------------------------------------------------------------------

    def disks_with_state(self, stage: int = 0) -> list[SimDisk]:
        """Those on which a whole checkpoint of a stage is."""
        disks = [disk for index, disk in self.disks.items() if self.stage_of[index] == stage]
        stores = [(disk, Store(disk, folder_of(SETTINGS[:16]))) for disk in disks]
        return [disk for disk, store in stores if newest_on(store) is not None]

    def _keeper(self, index: int, replica: VectorReplica, is_clone: bool) -> SimKeeper:
        """A clone has a copy of the files: two processes do not share a folder."""
        rng = self.net.stream(f"disk {index} {self.lives[index]}")
        if index not in self.disks:
            self.disks[index] = SimDisk(rng)
        elif is_clone:
            self.disks[index] = self.disks[index].copy(rng)
        keeper = SimKeeper(self.disks[index], replica, self.checkpoint)
        replica.shelf = keeper.shelf
        return keeper

    def _keep_result(self, worker: Worker, effect: KeepResult) -> None:
        if worker.keeper is None:
            return
        try:
            worker.keeper.shelf.keep(effect)
        except Killed:
            self.net.crash(worker.process)

    def _hear(self, worker: Worker, now: float, event: object, answers: list[Command]) -> None:
        """Tell the keeper of an event, and write later what it wants written."""
        if worker.keeper is None:
            return
        try:
            pinned = worker.keeper.hear(now, event, answers)
        except Killed:  # in writing a record down
            self.net.crash(worker.process)
            return
        if told := worker.keeper.poll():
            self._run(worker, [told])
        if pinned is not None:
            self._run(worker, [BeginSave(pinned.held.head)])
            self.net.at(self.writes.choice([0.0, 0.2, 2.0]), lambda: self._write(worker, pinned))

    def _write(self, worker: Worker, pinned: Pinned) -> None:
        if not worker.process.alive or worker.keeper is None:
            return
        if worker.process.frozen:
            self.net.at(0.1, lambda: self._write(worker, pinned))
            return
        try:
            told = worker.keeper.write(self.net.now, pinned)
        except Killed:
            self.net.crash(worker.process)
        else:
            self._run(worker, [told] if told else [])

    def _free_address(self, index: int) -> str:
        """A restarted process listens where it did; a clone cannot, as that port is taken."""
        taken = {process.address for process in self.net.processes(key_of(index))}
        return next(a for port in count(1) if (a := f"tcp://w{index}:{port}") not in taken)

    def start_stranger(self) -> None:
        """Someone whom nobody let in dials everyone, the host too."""
        known = [(w.key, w.process.address) for w in self.workers.values()]
        self.strangers.append(Stranger([(key_of(HOST), "tcp://host:1"), *known]))
        self.net.add(key_of(STRANGER), self.strangers[-1], Access(), lambda now, event: None)

    def alive(self, index: int) -> bool:
        """Whether the newest process of a worker runs."""
        worker = self.workers.get(index)
        return worker is not None and self.net.can_run(worker.process)

    # -- training -----------------------------------------------------------------------------

    def _step(self, worker: Worker) -> None:
        session = worker.session
        if not worker.process.alive or session.dismissal is not None:
            return
        self.net.at(worker.step_s, lambda: self._step(worker))
        if worker.process.frozen:
            return
        now = self.net.now
        if not session.waits(now) and (session.active or session.steps):
            session.stepped(self.tokens_per_step, worker.step_s)
        self._run(worker, session.due(now))

    def _event_later(self, worker: Worker, event: object) -> None:
        """The training thread takes events in order, each when it comes to it."""
        if isinstance(
            event, Restored
        ):  # the state is as it was; only its name is new, and the member goes by it
            worker.replica.bases = [event.record.hash()] * len(self.sizes)
        if isinstance(event, NameWanted):
            self._name(worker, event)
            return
        worker.busy_until = max(worker.busy_until, self.net.now) + self.delays.uniform(0.0, 0.06)

        def take() -> None:
            if worker.process.frozen and worker.process.alive:
                self.net.at(0.1, take)
            elif worker.process.alive:
                self._event(worker, self.net.now, worker.inbox.popleft())

        worker.inbox.append(event)
        self.net.at(worker.busy_until - self.net.now, take)

    def _name(self, worker: Worker, wanted: NameWanted) -> None:
        """Hash a state beside training, as it is now."""
        named = hashed(worker.replica, wanted)

        def answer() -> None:
            if worker.process.frozen and worker.process.alive:
                self.net.at(0.1, answer)
            elif worker.process.alive:
                self._run(worker, [named])

        self.seen["named"] += 1
        self.net.at(self.names.uniform(0.0, 0.2), answer)

    def _event(self, worker: Worker, now: float, event: object) -> None:
        if worker.trainer is not None:
            worker.trainer.take(event)
        else:
            self.handle(worker, now, event)

    def handle(self, worker: Worker, now: float, event: object) -> None:
        """An event reaches a worker's session, and what comes of it its member."""
        commands = worker.session.event(now, event)
        if isinstance(event, RoundCommitted):
            worker.replica.bases[event.record.fragment] = event.record.hash()
        for note in self.notes:
            note(now, worker, event)
        self._hear(worker, now, event, commands)
        if worker.process.alive:
            self._run(worker, commands)

    def _run_one(self, worker: Worker, command: Command) -> bool:
        """Carry out one command; whether the member took it."""
        for note in self.notes:
            note(self.net.now, worker, command)
        done = self.net.command(worker.process, lambda core, now: core.command(now, command))
        for note in self.notes:
            note(self.net.now, worker, Answered(command, bool(done)))
        return bool(done)

    def run_due(self, worker: Worker) -> None:
        """Carry out what a worker's session has to say now."""
        self._run(worker, worker.session.due(self.net.now))

    def _run(self, worker: Worker, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, ConfirmLoaded):
                worker.replica.bases[command.fragment] = command.version
            done = self._run_one(worker, command)
            worker.session.told(command, bool(done))
            if isinstance(command, ConfirmCaptured) and worker.node.member:
                worker.replica.bases = [worker.node.member.versions.head] * len(self.sizes)

    def report(self, worker: Worker) -> None:
        """A worker says how it fares."""
        self._run(worker, worker.session.report(self.net.now, 0, 0))

    def move(self, worker: Worker) -> None:
        """A worker leaves to join anew, and puts aside what its disk has of its stage."""
        self.seen["moved"] += 1
        self.moved.append(worker.index)
        self._run_one(worker, LeaveRun("moves"))
        self.net.at(0.2, lambda: self._come_anew(worker))

    def _come_anew(self, worker: Worker) -> None:
        if worker.process.alive and self.workers[worker.index] is worker:
            self.net.crash(worker.process)
            self.disks.pop(worker.index, None)
            self.start_worker(worker.index)

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
        return [i for i in sorted(self.workers) if self.workers[i].process.alive]

    def processes(self) -> list[Worker]:
        """Every worker's process that lives, the older ones of clones last."""
        newest = [self.workers[i] for i in self.living()]
        return newest + [worker for worker in self.older if worker.process.alive]
