"""A training thread whose steps are made of microbatches: the production stage loop, and seconds for tensors.

What a payload holds is checked: the microbatch, the stage that made it and the size. A process that dies or
freezes takes its work with it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from diloco.pipeline.stage_loop import Backward, Evaluate, Forward, StageLoop, Step, Work
from peers.protocol import stage_work as work
from peers.protocol.events import EntryRefused, IdentitySuperseded, OfferWanted
from peers.protocol.placing import Wiring
from peers.protocol.stage_work import MicrobatchId
from peers.routing.state import StreamTerms
from tests.sim.violation import Violation
from transport.effects import Payload
from transport.limits import Limits

if TYPE_CHECKING:
    from tests.sim.world import Worker, World

TOKENS = 8
"""Of a microbatch."""
TARGETS_BYTES = 100


@dataclass(frozen=True)
class StreamShape:
    """How a world streams."""

    quota: int = 2
    window: int = 4
    activation_bytes: int = 2500
    wiring: Wiring = Wiring.LINES
    moves: bool = False
    """Workers say how fast they are, and move to another stage if they are told to."""
    evaluates: bool = False
    """Of five microbatches one goes forward only."""


def terms_of(stage: int, stages: int, shape: StreamShape, limits: Limits, timeout_s: float) -> StreamTerms:
    """What a member of a stage is told."""
    return StreamTerms(
        stage,
        stages,
        shape.activation_bytes if stage else 0,
        shape.activation_bytes if stage < stages - 1 else 0,
        TARGETS_BYTES,
        shape.window,
        limits.payload_bytes,
        4 * timeout_s,
        shape.wiring,
        7,
        shape.quota,
    )


def tensor(what: str, microbatch: MicrobatchId, stage: int, size: int) -> bytes:
    """Stands for a tensor of that microbatch that a stage made."""
    name = f"{what} {microbatch.feeder.hex()} {microbatch.incarnation} {microbatch.number} {stage} "
    return name.encode().ljust(size, b".")


@dataclass(eq=False)
class StageTrainer:
    """The training thread of one worker in a world that streams."""

    world: World
    worker: Worker
    shape: StreamShape
    rng: random.Random
    run: Callable[[work.StageCommand], bool]
    events: deque[object] = field(default_factory=deque)
    later: deque[object] = field(default_factory=deque)
    """What the outer loop is to hear, once nothing is in flight: parameters change then only."""
    counted: list[MicrobatchId] = field(default_factory=list)
    """In the order of steps, all that this process counted and that is not void."""
    membership: int = 0
    fed: int = 0
    may_feed: int = 0
    at_hand: Work | None = None
    leaves_by: float | None = None
    """It is to move: until then it finishes what is in flight, and offers it."""
    drained: bool = False
    has_offered: bool = False
    has_left: bool = False
    at_versions: dict[MicrobatchId, tuple[bytes, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stage, self.stages = self.worker.stage, self.world.stages
        is_last = self.stage == self.stages - 1
        early = self.shape.wiring is not Wiring.LINES
        self.loop = StageLoop(self.shape.quota, is_last=is_last, grace_s=1.0, ends_early=early)
        self.is_last = is_last

    def take(self, event: object) -> None:
        """One event of the member."""
        if isinstance(event, get_args(work.StageEvent)):
            for note in self.world.notes:
                note(self.world.net.now, self.worker, event)
            self.events.append(event)
        elif isinstance(event, (IdentitySuperseded, EntryRefused)):
            self.world.handle(self.worker, self.world.net.now, event)
        else:
            self.later.append(event)

    def live(self) -> None:
        """One turn of the training thread, and the next one later."""
        process, session, net = self.worker.process, self.worker.session, self.world.net
        if not process.alive or session.dismissal is not None:
            return
        net.at(self.rng.uniform(0.02, 0.08), self.live)
        if process.frozen or self.at_hand is not None:
            return
        while self.events:
            self._hear(self.events.popleft())
        while self.later and self.loop.drained and process.alive:
            self.world.handle(self.worker, net.now, self.later.popleft())
        if session.waits(net.now) or not (session.active or session.steps):
            self._look_what_is_due()
            if self.leaves_by is not None and net.now >= self.leaves_by:
                self._moves(self.leaves_by)
            return
        if self.leaves_by is not None and self._moves(self.leaves_by):
            return
        if self.stage == 0:
            self._feed()
        self.at_hand = self.loop.next_work(net.now)
        if self.at_hand is None:
            self._look_what_is_due()
            return
        if isinstance(self.at_hand, Forward):
            self.at_versions[self.at_hand.microbatch] = self._weights()
        if isinstance(self.at_hand, (Forward, Evaluate)) and self.stage:
            self.run(work.ForwardBegan(self.at_hand.microbatch))
        net.at(self.rng.uniform(0.005, 0.04), self._done)

    def _moves(self, leaves_by: float) -> bool:
        """One that is to move leaves once it has finished, and its offers are over."""
        world, worker = self.world, self.worker
        if self.drained and self.loop.at_rest and not self.has_offered:
            self.has_offered = True
            for fragment in range(len(worker.loop.progress)):
                world.handle(worker, world.net.now, OfferWanted(fragment))
            world.run_due(worker)
        offers = any(each.offered is not None for each in worker.loop.progress)
        if (not self.has_offered or offers) and world.net.now < leaves_by:
            return False
        if not self.has_left:
            self.has_left = True
            world.move(worker)
        return True

    def _look_what_is_due(self) -> None:
        if self.loop.drained:
            self.world.run_due(self.worker)

    def _done(self) -> None:
        process, todo = self.worker.process, self.at_hand
        if not process.alive:
            return
        if process.frozen:
            self.world.net.at(0.1, self._done)
            return
        assert todo is not None
        self.at_hand = None
        self.loop.done(todo, TOKENS)
        match todo:
            case Evaluate() if self.is_last:
                self.run(work.Evaluated(todo.microbatch, 2.5, TOKENS))
            case Forward() | Evaluate() if not self.is_last:
                made = tensor("up", todo.microbatch, self.stage, self.shape.activation_bytes)
                self.run(work.ForwardDone(todo.microbatch, made))
            case Forward() | Backward():
                self._count(todo.microbatch)
            case Step():
                self._step(todo)

    def _weights(self) -> tuple[bytes, ...]:
        """What the parameters stand on: other names of the same bits are the same."""
        return tuple(state.tobytes() for state in self.worker.replica.states)

    def _count(self, microbatch: MicrobatchId) -> None:
        if self.at_versions.pop(microbatch) != self._weights():
            raise Violation("PP2", f"worker {self.worker.index} counts {microbatch} at other weights")
        made = tensor("down", microbatch, self.stage, self.shape.activation_bytes) if self.stage else None
        self.run(work.Counted(microbatch, TOKENS, made))

    def _step(self, step: Step) -> None:
        self.counted += step.microbatches
        self.run(work.Stepped(step.microbatches, step.tokens))
        self.loop.others_wait(False)
        self.count_step(step)
        self.world.run_due(self.worker)

        if self.shape.moves:
            self.world.report(self.worker)

    def count_step(self, step: Step) -> None:
        """The session hears of a step."""
        self.worker.session.stepped(step.tokens, self.worker.step_s)

    def _feed(self) -> None:
        while self.fed < self.may_feed and self.loop.num_wanted > 0:
            microbatch = MicrobatchId(self.worker.key, self.membership, self.fed)
            evaluates = self.shape.evaluates and self.fed % 5 == 3
            targets = tensor("targets", microbatch, 0, TARGETS_BYTES)
            if not self.run(work.Feed(self.fed, targets, evaluates)):
                return
            self.fed += 1
            self._take_input(microbatch, evaluates)

    def _take_input(self, microbatch: MicrobatchId, evaluates: bool) -> None:
        if evaluates:
            self.loop.evaluation_arrived(microbatch)
        else:
            self.loop.input_arrived(microbatch)

    def _hear(self, event: object) -> None:
        match event:
            case work.StreamOpened():
                self._begin_anew(event)
            case work.MayFeed():
                self.may_feed = event.until
            case work.InputArrived():
                self._check(event.payload, "up", event.microbatch, self.stage - 1)
                if self.is_last:
                    assert event.targets is not None
                    self._check(event.targets, "targets", event.microbatch, 0)
                self._take_input(event.microbatch, event.evaluates)
            case work.GradientArrived():
                self._check(event.payload, "down", event.microbatch, self.stage + 1)
                self.loop.gradient_arrived(event.microbatch)
            case work.GivenUp():
                self.loop.given_up(event.microbatch)
            case work.MoveWanted():
                self.leaves_by = self.leaves_by or self.world.net.now + 8.0
                self.loop.more_come(False)
                self.run(work.Drain())
            case work.Drained():
                self.drained = True
            case work.QuotaIs():
                self.loop.take_quota(event.quota)
            case work.MoreCome():
                self.loop.more_come(event.more)
            case work.MayStepEarly():
                self.loop.others_wait(at_once=event.at_once)

    def _begin_anew(self, event: work.StreamOpened) -> None:
        self.loop.reset()
        self.membership, self.fed, self.may_feed = event.membership, 0, 0
        self.at_versions.clear()
        if event.void:
            self.world.seen["void"] += 1
            for fragment, each in enumerate(self.worker.loop.progress):
                if each.offered is None:
                    self.worker.loop.forget(fragment)
                else:
                    self.worker.loop.forget_since_offer(fragment)
        self.run(work.ConfirmOpened(event.membership))

    def _check(self, payload: Payload, what: str, microbatch: MicrobatchId, stage: int) -> None:
        size = TARGETS_BYTES if what == "targets" else self.shape.activation_bytes
        assert not isinstance(payload, (str, int))
        if bytes(payload) != tensor(what, microbatch, stage, size):  # type: ignore[arg-type]
            raise Violation("PP9", f"worker {self.worker.index} is handed another tensor of {microbatch}")
