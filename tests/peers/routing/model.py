"""A small swarm around production streams: links that begin anew, a coordinator that is away, replicas that
die between any two effects, freeze and come back, training threads that take their time, and rounds.

Everything is drawn from one seed. What microbatches are counted by commits, and how each ends, is checked
while it runs; `check_end` says what must hold once all is quiet.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

from diloco.pipeline.stage_loop import Backward, Evaluate, Forward, StageLoop, Step
from peers.protocol import stage_work as work
from peers.protocol.placing import Wiring
from peers.protocol.stream import ReplicaGone, ReplicaIs, RosterIs, StandsSince
from peers.routing.state import StreamTerms
from peers.routing.streaming import AMONG_REPLICAS, Streaming
from transport.effects import Payload

TIMEOUT_S = 2.0
GRACE_S = 1.5
SIZE, PIECE = 8, 3
"""Bytes of every payload, and of a piece."""


class Broken(Exception):
    """A rule was broken: its number, and what happened."""


@dataclass(frozen=True)
class Shape:
    """What a swarm is."""

    stages: int = 3
    replicas: int = 2
    quota: int = 4
    window: int = 6
    steps: int = 2
    """Inner steps of an outer one."""
    ends_early: bool = False
    wiring: Wiring = Wiring.LINES
    evaluates: bool = False
    """Some microbatches go forward only."""


@dataclass(eq=False)
class Process:
    """One life of a replica: its stream, its training thread, and what that accumulated."""

    key: bytes
    stage: int
    name: str
    stream: Streaming
    loop: StageLoop
    alive: bool = True
    frozen: bool = False
    inbox: deque[Any] = field(default_factory=deque)
    busy: bool = False
    waits: bool = False
    """The hook waits for a commit."""
    steps: int = 0
    counted: list[work.MicrobatchId] = field(default_factory=list)
    """Since the last offer."""
    offered: tuple[list[work.MicrobatchId], set[Any]] | None = None
    """What it offers, and what must be acknowledged before."""
    told: bool = False
    """The coordinator is told of it: whatever becomes of this membership, it counts once."""
    was_told: bool = False
    may_feed: int = 0
    fed: int = 0
    membership: int = 0
    at_weights: dict[work.MicrobatchId, int] = field(default_factory=dict)
    weights: int = 0
    effects_left: int | None = None
    all_fed: set[work.MicrobatchId] = field(default_factory=set)
    stepped: list[tuple[work.MicrobatchId, ...]] = field(default_factory=list)


class Outlet:
    """What a stream asks of its node; a process may die after any of its effects."""

    def __init__(self, world: ModelSwarm, key: bytes) -> None:
        self.world, self.key = world, key
        self.process: Process | None = None

    def _lives(self) -> bool:
        process = self.process
        assert process is not None
        if process.effects_left is not None:
            process.effects_left -= 1
            if process.effects_left < 0 and process.alive:
                self.world.kill(process)
        return process.alive

    def send(self, now: float, peer: bytes, message: Any) -> None:
        if self._lives():
            self.world.carry(self.key, peer, message, None)

    def send_stream(self, now: float, peer: bytes, message: Any, payload: Payload) -> None:
        if self._lives():
            self.world.carry(self.key, peer, message, payload)

    def stream_room(self, peer: bytes) -> int:
        return self.world.rng.choice([0, SIZE, SIZE]) if self.world.stingy else SIZE

    def deliver(self, event: object) -> None:
        if self._lives():
            assert self.process is not None
            self.process.inbox.append(event)


@dataclass(eq=False)
class Link:
    """Between two processes: its session, and which one each end has seen."""

    session: int = 1
    seen: dict[bytes, int] = field(default_factory=dict)
    cut: bool = False
    last_at: dict[bytes, float] = field(default_factory=dict)


class ModelSwarm:
    """Replicas, a coordinator and a seed."""

    def __init__(
        self,
        seed: int,
        shape: Shape = Shape(),
        make: Callable[..., Streaming] = Streaming,
        make_loop: Callable[..., StageLoop] = StageLoop,
    ) -> None:
        self.rng = random.Random(seed)
        self.shape, self.make, self.make_loop = shape, make, make_loop
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.processes: dict[bytes, Process] = {}
        self.names: dict[bytes, str] = {}
        self.links: dict[frozenset[bytes], Link] = {}
        self.stingy = False
        self.slow = 1.0
        self.feeds = True
        self.log: list[str] = []
        # the coordinator
        self.up = True
        self.epoch = 1
        self.settled = True
        self.standing: dict[bytes, int] = {}
        self.stage_of: dict[bytes, int] = {}
        self.line_of: dict[bytes, int] = {}
        self.present: set[bytes] = set()
        self.said: list[tuple[bytes, Any]] = []
        """By members to the coordinator."""
        self.rests: set[bytes] = set()
        """Feeders that said that they have no more."""
        self.speed_of: dict[bytes, float] = {}
        """As all are told, which need not be true."""
        self.offers: dict[bytes, list[work.MicrobatchId]] = {}
        self.offered_at: dict[int, float] = {}
        self.in_records: dict[int, list[work.MicrobatchId]] = {}
        """Contributions that were committed, in the journal: each once, though the word of it may be lost."""
        self.committed: dict[tuple[int, work.MicrobatchId], bytes] = {}
        self.held_back: dict[bytes, deque[Any]] = defaultdict(deque)
        """Messages to the coordinator while it is away are lost; from it they come in order."""
        self.evaluations: dict[work.MicrobatchId, work.EvaluationEnded] = {}
        self.ends: dict[work.MicrobatchId, work.MicrobatchEnded] = {}
        self.fed: set[work.MicrobatchId] = set()
        self.seen: Counter[str] = Counter()
        self.intercept: Callable[[bytes, bytes, Any], float | None] = lambda frm, to, message: None
        """For stories: how long a message takes; None for as long as is drawn."""
        for stage in range(shape.stages):
            for number in range(shape.replicas):
                self.start(bytes([stage, number]), stage)

    # -- time ---------------------------------------------------------------------------------

    def at(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now + delay_s, next(self.order), do))

    def run(self, until: float) -> None:
        while self.heap and self.heap[0][0] <= until:
            self.now, _, do = heapq.heappop(self.heap)
            do()
        self.now = until

    def run_until(self, done: Callable[[], bool], within_s: float = 60.0) -> None:
        """Until something holds; fails if it does not in that time."""
        end = self.now + within_s
        while not done():
            if not self.heap or self.heap[0][0] > end:
                raise AssertionError("it did not come to that")
            self.now, _, do = heapq.heappop(self.heap)
            do()

    # -- processes ----------------------------------------------------------------------------

    def start(self, key: bytes, stage: int) -> Process:
        """A process begins, in the place of an earlier one of that key."""
        before = self.processes.get(key)
        if before is not None:
            before.alive = False
        shape = self.shape
        terms = StreamTerms(
            stage,
            shape.stages,
            SIZE if stage else 0,
            SIZE if stage < shape.stages - 1 else 0,
            SIZE,
            shape.window,
            PIECE,
            4 * TIMEOUT_S,
            shape.wiring,
            7,
            shape.quota,
        )
        outlet = Outlet(self, key)
        stream = self.make(key, terms, outlet, self._to_coordinator(key), self._heard(key))
        is_last = stage == shape.stages - 1
        loop = self.make_loop(shape.quota, is_last=is_last, grace_s=GRACE_S, ends_early=shape.ends_early)
        process = Process(key, stage, self.name_of(key, stage), stream, loop)
        outlet.process = process
        self.processes[key] = process
        self.stage_of[key] = stage
        for other in self.processes.values():
            if other.alive and other.key != key:
                self.links[frozenset((key, other.key))] = Link()
                self.begin_session(key, other.key)
        self.at(self.rng.uniform(0.01, 0.1), lambda: self.enter(process))
        self.at(0.05, lambda: self._work(process))
        self.at(0.5, lambda: self._tick(process))
        return process

    def name_of(self, key: bytes, stage: int) -> str:
        if key not in self.names:
            self.names[key] = "abcdefgh"[stage] + str(len(self.names))
        return self.names[key]

    def kill(self, process: Process) -> None:
        """The coordinator notices after a while."""
        self.seen["killed"] += 1
        process.alive = False
        self.at(TIMEOUT_S, lambda: self._notice(process))

    def _notice(self, process: Process) -> None:
        """It gave no sign of life for so long; while the coordinator is away nobody notices."""
        if not self.up:
            self.at(0.5, lambda: self._notice(process))
        elif self.processes[process.key] is process and (not process.alive or process.frozen):
            self.end(process.key)

    def freeze(self, process: Process, seconds: float) -> None:
        process.frozen = True
        self.at(TIMEOUT_S, lambda: self._notice(process))
        self.at(seconds, lambda: self.thaw(process))

    def thaw(self, process: Process) -> None:
        if process.frozen and process.alive:
            process.frozen = False
            if process.key not in self.standing or self.rng.random() < 0.3:
                self.enter(process)

    def living(self, stage: int | None = None) -> list[Process]:
        found = [each for each in self.processes.values() if each.alive and not each.frozen]
        return [each for each in found if stage is None or each.stage == stage]

    def _tick(self, process: Process) -> None:
        if process.alive:
            if not process.frozen:
                process.stream.tick(self.now)
                process.stream.pump(self.now)
                self._after(process)
            self.at(0.5, lambda: self._tick(process))

    # -- links --------------------------------------------------------------------------------

    def begin_session(self, one: bytes, other: bytes) -> None:
        """What is on its way is lost; each end learns of it in its own time."""
        link = self.links[frozenset((one, other))]
        link.session += 1
        session = link.session

        def begin(me: bytes, peer: bytes) -> None:
            process = self.processes[me]
            if link.session != session or not process.alive:
                return
            if process.frozen or link.cut:
                self.at(0.2, lambda: begin(me, peer))
                return
            link.seen[me] = session
            process.stream.link_began(self.now, peer)
            self._after(process)

        for me, peer in ((one, other), (other, one)):
            self.at(self.rng.uniform(0.01, 0.1), lambda me=me, peer=peer: begin(me, peer))

    def carry(self, frm: bytes, to: bytes, message: Any, payload: Payload | None) -> None:
        """Control in order, payloads in any."""
        link = self.links.get(frozenset((frm, to)))
        if link is None or link.seen.get(frm) != link.session:
            return
        session, sender = link.session, self.processes[frm]
        delay = self.intercept(frm, to, message)
        delay = self.rng.uniform(0.005, 0.08) * self.slow if delay is None else delay
        if payload is None:
            delay = max(self.now + delay, link.last_at.get(frm, 0.0)) - self.now
            link.last_at[frm] = self.now + delay

        def arrive() -> None:
            process = self.processes[to]
            if link.session != session or not process.alive or self.processes[frm] is not sender:
                return
            if process.frozen or link.cut or link.seen.get(to) != session:
                again = 0.05
                if payload is None:
                    link.last_at[frm] = max(link.last_at.get(frm, 0.0), self.now + again)
                self.at(again, arrive)
                return
            self.seen[type(message).__name__] += 1
            if isinstance(message, AMONG_REPLICAS):
                process.stream.take_control(self.now, frm, message)
            else:
                assert payload is not None
                process.stream.take_payload(self.now, frm, message, bytes(payload))
            self._after(process)

        self.at(delay, arrive)

    def cut_link(self, one: bytes, other: bytes, seconds: float) -> None:
        link = self.links[frozenset((one, other))]
        link.cut = True

        def mend() -> None:
            link.cut = False
            if self.rng.random() < 0.5:
                self.begin_session(one, other)

        self.at(seconds, mend)

    # -- the coordinator ----------------------------------------------------------------------

    def _to_coordinator(self, key: bytes) -> Callable[[float, Any], None]:
        return lambda now, message: self.said.append((key, message))

    def tell(self, key: bytes, message: Any) -> None:
        """In order, and lost if that one is gone."""
        self.held_back[key].append((self.processes[key], message))
        delay = self.intercept(b"coordinator", key, message)
        self.at(self.rng.uniform(0.005, 0.3) if delay is None else delay, lambda: self._hand_out(key))

    def _hand_out(self, key: bytes) -> None:
        waiting = self.held_back[key]
        if not waiting:
            return
        process, message = waiting[0]
        if not process.alive or self.processes[key] is not process:
            waiting.popleft()
            return
        if process.frozen:
            self.at(0.1, lambda: self._hand_out(key))
            return
        waiting.popleft()
        stream, now = process.stream, self.now
        match message:
            case StandsSince():
                stream.stand(now, message)
            case ReplicaIs():
                stream.replica_is(now, message)
            case ReplicaGone():
                stream.replica_gone(now, message)
            case RosterIs():
                stream.roster_is(now, message)
            case "committed":
                process.offered, process.waits = None, False
                process.weights += 1
            case "wanted":
                stream.others_offer()
        self._after(process)

    def enter(self, process: Process) -> None:
        if not process.alive or self.processes[process.key] is not process:
            return
        if not self.up or process.frozen:
            self.at(0.3, lambda: self.enter(process))
            return
        key, claim = process.key, process.stream.before_entering()
        self.held_back[key].clear()
        self.present.add(key)
        since = self.standing.get(key, 0)
        if claim is None or claim.since != since:
            self.end(key)
            self.present.add(key)
            self.epoch += 1
            self.standing[key] = since = self.epoch
            used = {self.line_of[each] for each in self.standing if self._same_stage(each, key)}
            self.line_of[key] = min(set(range(100)) - used)
            for other in sorted(self.present - {key}):
                self.tell(other, self.is_in(key, self.epoch))
        self.tell(key, StandsSince(since))
        for other in sorted(self.standing):
            self.tell(key, self.is_in(other, 0))
        if self.settled:
            self.tell(key, RosterIs(self.epoch))
        if process.offered is not None and process.told:
            self.offer(process)
        else:
            self._commit(process.stage)

    def _same_stage(self, one: bytes, other: bytes) -> bool:
        return one != other and self.stage_of[one] == self.stage_of[other]

    def is_in(self, key: bytes, epoch: int) -> ReplicaIs:
        stage, line = self.stage_of[key], self.line_of[key]
        speed = self.speed_of.get(key, 0.0)
        return ReplicaIs(epoch, key, self.standing[key], stage, line, (), speed, False, key not in self.rests)

    def say_speed(self, key: bytes, speed: float) -> None:
        """All who are here are told how fast a replica is."""
        self.speed_of[key] = speed
        if self.up and key in self.standing:
            for other in sorted(self.present):
                self.tell(other, self.is_in(key, 0))

    def end(self, key: bytes) -> None:
        """A membership is over."""
        self.present.discard(key)
        self.offers.pop(key, None)
        if self.standing.pop(key, 0):
            self.epoch += 1
            for other in sorted(self.present):
                self.tell(other, ReplicaGone(self.epoch, key))
            self._commit(self.stage_of[key])

    def coordinator_dies(self, seconds: float) -> None:
        if not self.up:
            return
        self.up, self.settled = False, False
        self.present.clear()
        self.offers.clear()
        for waiting in self.held_back.values():
            waiting.clear()
        self.at(seconds, self._coordinator_returns)

    def _coordinator_returns(self) -> None:
        self.up = True
        self.epoch += 1000
        for process in list(self.processes.values()):
            if process.alive:
                self.at(self.rng.uniform(0.0, 1.0), lambda process=process: self.enter(process))
        self.at(TIMEOUT_S, self._settle)

    def _settle(self) -> None:
        if not self.up:
            return
        for key in sorted(self.standing.keys() - self.present):
            self.end(key)
        self.settled = True
        for key in sorted(self.present):
            self.tell(key, RosterIs(self.epoch))

    def offer(self, process: Process) -> None:
        """Its gradients were acknowledged: the coordinator hears of it."""
        if process.offered is not None and id(process.offered[0]) in self.in_records:
            self.tell(process.key, "committed")
            self._commit(process.stage)  # who enters again is asked again
        elif self.up and process.key in self.present and process.offered is not None:
            self.offers[process.key] = process.offered[0]
            self._commit(process.stage)

    def _commit(self, stage: int) -> None:
        here = [key for key in sorted(self.present) if self.stage_of[key] == stage]
        if not self.up or not here or not any(key in self.offers for key in here):
            return
        lacking = [key for key in here if key not in self.offers]
        if lacking:
            for key in lacking:
                self.tell(key, "wanted")
            return
        for key in here:
            self.in_records[id(self.offers[key])] = self.offers[key]
            for microbatch in self.offers.pop(key):
                if (stage, microbatch) in self.committed:
                    who = self.names[self.committed[stage, microbatch]], self.names[key]
                    raise Broken(f"PP1: stage {stage} counts {microbatch} twice, at {who}")
                self.committed[stage, microbatch] = key
            self.tell(key, "committed")
        self.seen["commits"] += 1

    # -- training threads ---------------------------------------------------------------------

    def _heard(self, key: bytes) -> Callable[[float], None]:
        return lambda now: None

    def _after(self, process: Process) -> None:
        """An input was handled: what is offered may go now."""
        present = Counter(name[0] for name in process.stream.state.items)
        if present and max(present.values()) > 3 * self.shape.window:
            raise Broken(f"PP7: {process.name} has {present}")
        if process.offered is not None and not process.told and process.stream.confirmed and process.alive:
            waits = process.offered[1] & process.stream.unheard()
            process.offered = process.offered[0], waits
            if not waits:
                process.told = True
                self.offer(process)

    def _do(self, process: Process, command: work.StageCommand) -> bool:
        taken = process.stream.do(self.now, command)
        self._after(process)
        return taken

    def _work(self, process: Process) -> None:
        """The training thread: take what came, feed, compute one thing."""
        if not process.alive:
            return
        again = self.rng.uniform(0.01, 0.06) * self.slow * (1 if process.busy or process.inbox else 2)
        if not process.frozen and not process.busy:
            while process.inbox:
                self._event(process, process.inbox.popleft())
            if process.stage == 0:
                self._feed(process)
            if not process.waits:
                self._compute(process)
        self.at(again, lambda: self._work(process))

    def _feed(self, process: Process) -> None:
        while self.feeds and process.fed < process.may_feed and process.loop.num_wanted > 0:
            fed = work.MicrobatchId(process.key, process.membership, process.fed)
            evaluates = self.shape.evaluates and process.fed % 5 == 3
            if not self._do(process, work.Feed(process.fed, bytes(SIZE), evaluates)):
                return
            process.fed += 1
            if evaluates:
                process.loop.evaluation_arrived(fed)
                continue
            self.fed.add(fed)
            process.all_fed.add(fed)
            process.loop.input_arrived(fed)
            unsettled = sum(each not in self.ends for each in self.fed if each[:2] == fed[:2])
            if unsettled > self.shape.window:
                raise Broken(f"PP3: {unsettled} microbatches of {process.name} have not ended")

    def _event(self, process: Process, event: Any) -> None:
        loop = process.loop
        match event:
            case work.StreamOpened():
                loop.reset()
                process.membership, process.may_feed, process.fed = event.membership, 0, 0
                process.at_weights.clear()
                self.seen["opened"] += 1
                if event.void:
                    self.seen["void"] += 1
                    process.counted = []
                    process.offered = process.offered if process.told else None
                    process.waits = process.offered is not None
                self._do(process, work.ConfirmOpened(event.membership))
            case work.MayFeed():
                process.may_feed = event.until
            case work.InputArrived() if event.evaluates:
                loop.evaluation_arrived(event.microbatch)
            case work.EvaluationEnded():
                if event.microbatch in self.evaluations:
                    raise Broken(f"PP3: {event.microbatch} ends twice")
                self.evaluations[event.microbatch] = event
            case work.InputArrived():
                loop.input_arrived(event.microbatch)
            case work.GradientArrived():
                loop.gradient_arrived(event.microbatch)
            case work.GivenUp():
                loop.given_up(event.microbatch)
            case work.MicrobatchEnded():
                if event.microbatch in self.ends:
                    raise Broken(f"PP3: {event.microbatch} ends twice")
                self.ends[event.microbatch] = event
                self.seen[event.how.name] += 1
                self.seen[event.cause.name] += 1
            case work.QuotaIs():
                loop.take_quota(event.quota)
            case work.MoreCome():
                loop.more_come(event.more)
            case work.MayStepEarly() if process.offered is None:
                process.was_told = True
                loop.others_wait(at_once=event.at_once)

    def _compute(self, process: Process) -> None:
        todo = process.loop.next_work(self.now)
        if todo is None:
            return
        process.busy = True
        if isinstance(todo, (Forward, Evaluate)) and process.stage:
            self._do(process, work.ForwardBegan(todo.microbatch))
        if isinstance(todo, Forward):
            process.at_weights[todo.microbatch] = process.weights
        self.at(self.rng.uniform(0.01, 0.05) * self.slow, lambda: self._done(process, todo))

    def _done(self, process: Process, todo: Any) -> None:
        if not process.alive:
            return
        if process.frozen:
            self.at(0.1, lambda: self._done(process, todo))
            return
        process.busy = False
        process.loop.done(todo, 1)
        is_last = process.stage == self.shape.stages - 1
        match todo:
            case Evaluate() if is_last:
                self.seen["evaluated"] += 1
                self._do(process, work.Evaluated(todo.microbatch, 2.5, 1))
            case Forward() | Evaluate() if not is_last:
                self._do(process, work.ForwardDone(todo.microbatch, bytes(SIZE)))
            case Forward() | Backward():
                self._count(process, todo.microbatch)
            case Step():
                self._step(process, todo)

    def _count(self, process: Process, microbatch: work.MicrobatchId) -> None:
        if process.at_weights.pop(microbatch, process.weights) != process.weights:
            raise Broken(f"PP2: {process.name} counts {microbatch} at other weights")
        process.counted.append(microbatch)
        payload = bytes(SIZE) if process.stage else None
        self._do(process, work.Counted(microbatch, 1, payload))

    def _step(self, process: Process, step: Step) -> None:
        process.weights += 1
        process.steps += 1
        process.stepped.append(step.microbatches)
        self._do(process, work.Stepped(step.microbatches, step.tokens))
        if process.steps % self.shape.steps == 0 or process.was_told:
            process.was_told = False
            process.loop.others_wait(False)
            process.offered = process.counted, set(process.stream.unheard())
            process.counted, process.waits, process.told = [], True, False
            self._after(process)


# -- faults ---------------------------------------------------------------------------------------


def faults(world: ModelSwarm, until: float, rate: float, kinds: list[str]) -> None:
    """Schedule random faults."""
    rng, at = world.rng, world.rng.uniform(1.0, 3.0)
    while at < until:
        world.at(at, partial(_fault, world, rng.choice(kinds), rng.random()))
        at += rng.expovariate(rate)


def _fault(world: ModelSwarm, kind: str, draw: float) -> None:
    rng, here = world.rng, world.living()
    one = rng.choice(here) if here else None
    world.seen[kind] += 1
    if kind == "coordinator":
        world.coordinator_dies(0.5 + 4 * draw)
        return
    if one is None:
        return
    others = [each for each in here if each is not one]
    if kind in ("kill", "kill_between"):
        if len(world.living(one.stage)) < 2 and draw < 0.7:
            return
        if kind == "kill":
            world.kill(one)
        else:
            one.effects_left = int(draw * 12)
        world.at(0.3 + 6 * rng.random(), lambda: _restart(world, one))
    elif kind == "freeze":
        world.freeze(one, 0.2 + 6 * draw)
    elif kind == "reenter":
        world.enter(one)
    elif kind == "join" and len(world.living(one.stage)) < 4:
        world.start(bytes([one.stage, 10 + len(world.processes)]), one.stage)
    elif kind in ("reset", "cut") and others:
        other = rng.choice(others)
        if kind == "reset":
            world.begin_session(one.key, other.key)
        else:
            world.cut_link(one.key, other.key, 0.2 + 3 * draw)
    elif kind == "speed":
        world.say_speed(one.key, rng.choice([0.25, 0.5, 1.0, 1.0, 2.0]))
    elif kind == "stingy":
        world.stingy = not world.stingy


def _restart(world: ModelSwarm, process: Process) -> None:
    if world.processes[process.key] is process:
        process.alive = False
        world.start(process.key, process.stage)


WIRED_FROM = 1000
"""Seeds from here on have any wiring; those before failed once, with lines."""
KINDS = ["kill", "kill_between", "freeze", "reenter", "join", "reset", "cut", "stingy", "coordinator"]


def run_seed(
    seed: int,
    make: Callable[..., Streaming] = Streaming,
    make_loop: Callable[..., StageLoop] = StageLoop,
    *,
    faulty: bool = True,
) -> ModelSwarm:
    """Faults for a while, then quiet, in which everything ends. Raises `Broken`."""
    rng = random.Random(-seed - 1)
    shape = Shape(
        stages=rng.choice([2, 3, 3, 4, 5]),
        replicas=rng.choice([1, 2, 2, 3]),
        quota=rng.choice([1, 2, 4]),
        window=rng.choice([2, 4, 8]),
        steps=rng.choice([1, 2, 3]),
        ends_early=faulty and rng.random() < 0.3,
    )
    known = KINDS
    if seed >= WIRED_FROM:
        wiring = random.Random(seed).choice([*Wiring, Wiring.THROUGHPUT])
        shape = replace(shape, wiring=wiring, ends_early=wiring is not Wiring.LINES, evaluates=seed % 2 > 0)
        known = [*KINDS, "speed", "speed"]
    world = ModelSwarm(seed, shape, make, make_loop)
    if faulty:
        kinds = [kind for kind in known if rng.random() < 0.6] or ["kill"]
        faults(world, 20.0, rng.choice([0.2, 0.5, 1.0]), kinds)
    world.run(20.0 if faulty else 8.0)
    if not faulty:
        _check_lines(world)
    quiet(world)
    return world


def _check_lines(world: ModelSwarm) -> None:
    """Without faults nothing is given up, and every stage of a line counts the same, in the same order (PP4).
    What was fed while not everybody was in may have taken another way."""
    if world.seen["PARTIAL"] + world.seen["LOST"]:
        raise Broken("PP4: microbatches are given up without a fault")
    if world.shape.replicas > 1:
        return
    counted = [[each for step in p.stepped for each in step] for p in world.processes.values()]
    shortest = min(map(len, counted))
    if any(each[:shortest] != counted[0][:shortest] for each in counted):
        raise Broken("PP4: the stages of a line count in different orders")


def quiet(world: ModelSwarm) -> None:
    """All faults end; then microbatches settle, and what is fed ends (PP8)."""
    world.stingy = False
    for process in list(world.processes.values()):
        process.effects_left = None
        if process.frozen:
            world.thaw(process)
    for stage in range(world.shape.stages):
        for process in [each for each in world.processes.values() if each.stage == stage]:
            if not process.alive:
                _restart(world, process)
    world.run(world.now + 30.0)
    before, partial = world.seen["SETTLED"], world.seen["PARTIAL"] + world.seen["LOST"]
    world.run(world.now + 20.0)
    if world.seen["SETTLED"] - before < 8:
        raise Broken(f"PP8: {world.seen['SETTLED'] - before} microbatches settled in 20 quiet seconds")
    if world.seen["PARTIAL"] + world.seen["LOST"] > partial:
        raise Broken("PP8: microbatches are given up in the quiet")
    world.feeds = False
    world.run(world.now + 30.0)
    _check_ended(world)


def fed_by_the_living(world: ModelSwarm, microbatch: work.MicrobatchId) -> bool:
    """Whether the process that fed a microbatch still lives, with whatever membership."""
    return microbatch in world.processes[microbatch.feeder].all_fed


def _check_ended(world: ModelSwarm) -> None:
    here = {(p.key, p.membership) for p in world.living(0)}
    for each in sorted(world.fed - world.ends.keys()):
        if each[0] in {key for key, _ in here} and fed_by_the_living(world, each):
            raise Broken(f"PP3: {each} never ended")
    for process in world.living():
        if process.stream.state.items:
            raise Broken(f"PP8: {process.name} still has {list(process.stream.state.items.values())}")
