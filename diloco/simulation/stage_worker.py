"""One life of a simulated replica of a stage: the production stage loop over seconds in the place of tensors.

It asks the coordinator which stage it is to train, and does what `diloco.pipeline.serving` does with a real
part, in virtual time: what to compute next is the loop's word, what becomes of a microbatch the member's, and
what the outer loop hears waits until no inner step is begun (PP2). Payloads are phantoms that name the
microbatch, the stage that made them and the way. Decides nothing of the protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, get_args

from diloco.loop.session import WorkerSession
from diloco.pipeline.microbatch import random_seed
from diloco.pipeline.stage_loop import Backward, Forward, StageLoop, Step, Weights, Work
from diloco.simulation.pace import Peer
from diloco.simulation.report.report import Activity
from diloco.simulation.stages import StageShape
from diloco.simulation.worker import REPORT_EVERY_S, Trainer, Worker
from peers.protocol import stage_work as said
from peers.protocol.commands import LeaveRun
from peers.protocol.events import (
    EntryRefused,
    IdentitySuperseded,
    NameWanted,
    RunFinished,
    StageAssigned,
)
from peers.protocol.placing import ANY_STAGE, Wiring
from peers.protocol.stage_work import MicrobatchId, StageCommand
from peers.routing.state import StreamTerms
from peers.seats import Training
from transport.effects import Core, Phantom
from transport.simnet.links import NS

_ENDINGS = (RunFinished, EntryRefused, IdentitySuperseded)
_STAGE_EVENTS = get_args(said.StageEvent)


@dataclass(frozen=True, slots=True)
class Did:
    """A replica carried out one thing that its loop named."""

    work: Work
    began_s: float
    seeds: tuple[int, ...] = ()
    """From which dropout would have drawn: of forward, or of the forward that is run again."""


class StageWatcher(Protocol):
    """Sees every work item and all that is said about microbatches; changes nothing."""

    def did(self, now: float, worker: StageWorker, did: Did) -> None:
        """A work item is done."""

    def said(self, now: float, worker: StageWorker, command: StageCommand, taken: bool) -> None:
        """The training thread told its member something."""

    def heard(self, now: float, worker: StageWorker, event: object) -> None:
        """It takes an event about microbatches."""


@dataclass(frozen=True, slots=True)
class Staging:
    """What all replicas of a run are told."""

    shapes: Sequence[StageShape]
    make_trainer: Callable[[Peer, int, StageShape], Trainer]
    watchers: list[StageWatcher]
    rejoin: Callable[[str], None]
    """A peer joins anew, to train another stage."""
    make_loop: Callable[..., StageLoop] = StageLoop
    seed_of: Callable[[int, MicrobatchId, int, int], int] = lambda seed, microbatch, stage, attempt: (
        random_seed(seed, microbatch, stage)
    )
    """By the run's seed, microbatch, stage and how often it was begun there: the last is for planted bugs."""


def phantom_of(way: str, microbatch: MicrobatchId, stage: int, size_bytes: int) -> Phantom:
    """What stands for a tensor of a microbatch that a stage made."""
    feeder, incarnation, number = microbatch
    name = f"{way} {stage} {incarnation} {number} ".encode() + feeder
    return Phantom(size_bytes, name)


class StageWorker(Worker):
    """As `Worker`, of the stage that it is told."""

    def __init__(self, *given: Any, staging: Staging) -> None:
        super().__init__(*given)
        self.shape: StageShape | None = None
        """Of its stage, once that is known."""
        self.num_begun: dict[MicrobatchId, int] = {}
        """How often each microbatch's forward was begun here."""
        self._staging = staging
        self._terms = given[4]
        self._heard: deque[object] = deque()
        """Events about microbatches that it has not taken."""
        self._at_hand: Work | None = None
        self._began_s = self._ends_s = self._computed_s = 0.0
        self.membership = self._fed = self._may_feed = 0
        self._step_tokens = 0
        self._has_opened = self._is_over = False
        self._leaves = self._moves = self._drained = self._offers_last = False
        self._looks_again_ns = 0

    def tokens_of(self, steps: int) -> int:
        """An inner step has those of the microbatches that it counted."""
        return self._step_tokens

    # -- its life -----------------------------------------------------------------------------

    def enter(self, patience_s: float) -> None:
        """Ask for a stage, then take part."""
        self._patience_s = patience_s
        peer, node = self.peer, self.node
        wish = ANY_STAGE if peer.stage is None else peer.stage
        self._set_activity("join")
        self._net.command(
            self.process, lambda _, now: node.ask_stage(now, peer.name, peer.memory_bytes, wish, moves=True)
        )

    def _assigned(self, stage: int) -> None:
        staging, limits = self._staging, self.node.limits
        shape = self.shape = staging.shapes[stage]
        self.stage = stage
        self.trainer = staging.make_trainer(self.peer, self.life, shape)
        self.session = WorkerSession(
            self._terms, self.trainer.replica, self._net.now, report_every_s=REPORT_EVERY_S
        )
        self.loop = staging.make_loop(
            shape.quota,
            is_last=shape.is_last,
            grace_s=shape.grace_s,
            split_backward=shape.split_backward,
            ends_early=shape.wiring is not Wiring.LINES,
        )
        terms = StreamTerms(
            stage=stage,
            stages=shape.stages,
            input_bytes=shape.activation_bytes if stage else 0,
            output_bytes=0 if shape.is_last else shape.gradient_bytes,
            targets_bytes=shape.targets_bytes,
            window=shape.window,
            piece_bytes=limits.payload_bytes,
            patience_s=shape.patience_s,
            wiring=shape.wiring,
            seed=shape.seed,
            quota=shape.quota,
        )
        profile = replace(self._profile(), stage=stage)
        self._train_on(Training(profile, self.trainer.replica, self._patience_s, stream=terms))

    def freeze(self) -> None:
        """Stopped as by SIGSTOP, in the midst of what it computes."""
        self._looks_again_ns = 0
        super().freeze()

    def thaw(self) -> None:
        """It goes on as if no time had passed."""
        if self._at_hand is not None:
            self._ends_s += self._net.now - self._frozen_s
            self._began_s += self._net.now - self._frozen_s
        super().thaw()
        if self._at_hand is not None and self.runs:
            self._set_activity(self._activity_of(self._at_hand))
            self._net.at(max(0.0, self._ends_s - self._net.now), partial(self._over_with, self._at_hand))

    def leave(self) -> None:
        """It finishes what is in flight, for others wait for that, and says goodbye; no later than after two
        failure timeouts."""
        if self.shape is None or not self._has_opened:
            self._depart()
            return
        self._drain()
        self._look()

    def _drain(self) -> None:
        """Nothing new comes through here, and what is counted makes a last step."""
        assert self.shape is not None, "it streams"
        self._leaves = True
        self.loop.more_come(False)
        self._tell(said.Drain())
        self._net.at(2 * self.shape.grace_s, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        if not self._moves or not self._offers_last:
            self._depart()

    def _leaves_now(self) -> bool:
        """Drained: who moves offers what it trained before, and waits for its rounds."""
        if not self._moves:
            self._depart()
            return True
        if not self._offers_last:
            self._offers_last = True
            self._net.at(self._patience_s, self._depart)
        if self.session.offer_last():
            self._rest()
            self._set_activity("wait")
        else:
            self._depart()
        return True

    def _depart(self) -> None:
        if not self.runs:
            return
        self._carry_out(LeaveRun("moves" if self._moves else "left"))
        self._end()
        self._net.at(1.0, lambda: self._net.crash(self.process))
        if self._moves:
            self._net.at(2.0, lambda: self._staging.rejoin(self.name))

    # -- events -------------------------------------------------------------------------------

    def _event(self, event: object) -> None:
        if self._ended:
            return
        match event:
            case StageAssigned():
                self._assigned(event.stage)
            case NameWanted():
                self._name(event)
            case _:
                self._keep(event)
                self._look()

    def _keep(self, event: object) -> None:
        if isinstance(event, _STAGE_EVENTS):
            self._heard.append(event)
        else:
            self._inbox.append(event)
            self._is_over = self._is_over or isinstance(event, _ENDINGS)

    def _next_event(self) -> object | None:
        """Of the outer loop's: what a command brings may be about microbatches too."""
        while (event := self._net.next_event(self.process)) is not None:
            if isinstance(event, NameWanted):
                return event
            self._keep(event)
        return self._inbox.popleft() if self._inbox else None

    def _look(self) -> None:
        if self._at_hand is None:
            self._advance()

    def _look_again_at(self, ends: float) -> None:
        at = max(round(ends * NS), self._net.now_ns + 1000)
        if self._net.now_ns < self._looks_again_ns <= at:
            return
        self._looks_again_ns = at

        def look() -> None:
            if self._looks_again_ns == at and self.runs:
                self._looks_again_ns = 0
                self._look()

        self._net.at((at - self._net.now_ns) / NS, look)

    # -- what it does -------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begin what is to be computed now, or wait."""
        if not self.runs or self._at_hand is not None:
            return
        if self.shape is None:
            self._rest()  # it may be refused
            self._end_if_dismissed()
            return
        while True:
            while self._heard and self.runs:
                self._hear(self._heard.popleft())
            if not self.runs:
                return
            if self.loop.at_rest or self._is_over:
                self._rest()
                if self._heard:
                    continue
            if self._drained and self.loop.at_rest and not self.session.finished and self._leaves_now():
                return
            if self._ends_or_waits() or self._begins():
                return

    def _rest(self) -> None:
        """No inner step is begun: take what the swarm says, and do what is due."""
        self._take_inbox()
        if self.shape is not None:
            self._do_what_is_due()

    def _end_if_dismissed(self) -> bool:
        if self.session.dismissal is None:
            return False
        self._end()
        return True

    def _ends_or_waits(self) -> bool:
        session, now = self.session, self._net.now
        if self._end_if_dismissed():
            return True
        if session.finished:
            if self.activity is not None:
                self._report()
            self._set_activity(None)
            return True
        if not session.was_active:
            self._set_activity("join")
            return True
        if session.waits(now) and self.loop.at_rest:
            self._set_activity("wait")
            ends = session.patience_ends(now)
            if ends is not None:
                self._look_again_at(ends)
            return True
        return False

    def _begins(self) -> bool:
        """False if something was done in no time, so that it is to be looked again."""
        now = self._net.now
        self._feed()
        work = self.loop.next_work(now)
        if work is None:
            self._set_activity("bubble")
            if self.session.report_is_due(now):
                self._report()
            if (ends := self.loop.ends_early_at_s) is not None:
                self._look_again_at(ends)
            return True
        self._at_hand, self._began_s = work, now
        if isinstance(work, Step):
            self._do(work)
            return False
        if isinstance(work, Forward):
            self.num_begun[work.microbatch] = self.num_begun.get(work.microbatch, 0) + 1
            if self.stage:
                self._tell(said.ForwardBegan(work.microbatch))
        self._set_activity(self._activity_of(work))
        seconds = self._clockwork.durations(1)[0] * self._share_of(work)
        self._computed_s += seconds
        self._ends_s = now + seconds
        self._net.at(seconds, partial(self._over_with, work))
        return True

    def _activity_of(self, work: Work) -> Activity:
        assert self.shape is not None, "it computes"
        if isinstance(work, Forward):
            return "compute" if self.shape.is_last else "forward"
        return "backward"

    def _share_of(self, work: Work) -> float:
        """Of the time of a microbatch at a stage of mean size."""
        shape = self.shape
        assert shape is not None, "it computes"
        weights = shape.forward_share if shape.split_backward else 0.0
        match work:
            case Forward() if shape.is_last:
                share = 1.0 - weights
            case Forward():
                share = shape.forward_share
            case Weights():
                share = weights
            case _:
                share = 1.0 - shape.forward_share - weights
        return shape.weight * share

    def _over_with(self, work: Work) -> None:
        if self.runs and self._at_hand is work and self._net.now >= self._ends_s - 1e-9:
            self._do(work)
            self._advance()

    def _do(self, work: Work) -> None:
        """It is computed."""
        shape = self.shape
        assert shape is not None, "it computes"
        self._at_hand = None
        self.loop.done(work, shape.tokens)
        did = Did(work, self._began_s, self._seeds_of(work))
        self._show(lambda each, now: each.did(now, self, did))
        match work:
            case Forward() if not shape.is_last:
                up = phantom_of("up", work.microbatch, self.stage, shape.activation_bytes)
                self._tell(said.ForwardDone(work.microbatch, up))
            case Forward() | Backward():
                down = phantom_of("down", work.microbatch, self.stage, shape.gradient_bytes)
                self._tell(said.Counted(work.microbatch, shape.tokens, down if self.stage else None))
            case Step():
                self._step(work)

    def _seeds_of(self, work: Work) -> tuple[int, ...]:
        shape = self.shape
        assert shape is not None, "it computes"
        if isinstance(work, Forward) or (isinstance(work, Backward) and shape.recompute):
            attempt = self.num_begun.get(work.microbatch, 1)
            return (self._staging.seed_of(shape.seed, work.microbatch, self.stage, attempt),)
        return ()

    def _step(self, work: Step) -> None:
        """The optimizer's step, which takes no time, and what follows it."""
        for microbatch in work.microbatches:
            self.num_begun.pop(microbatch, None)
        self._tell(said.Stepped(work.microbatches, work.tokens))
        self.loop.others_wait(False)
        self._step_tokens = work.tokens
        self.session.stepped(work.tokens, self._computed_s, 1)
        self._computed_s = 0.0
        self._tell_stepped(1)
        self._rest()
        if self.session.report_is_due(self._net.now):
            self._report()

    # -- microbatches -------------------------------------------------------------------------

    def _feed(self) -> None:
        shape = self.shape
        assert shape is not None, "it has a stage"
        if self.stage or self._leaves:
            return
        while self._fed < self._may_feed and self.loop.num_wanted > 0:
            microbatch = MicrobatchId(self.process.key, self.membership, self._fed)
            targets = phantom_of("targets", microbatch, 0, shape.targets_bytes)
            if not self._tell(said.Feed(self._fed, targets)):
                return
            self._fed += 1
            self.loop.input_arrived(microbatch)

    def _hear(self, event: object) -> None:
        self._show(lambda each, now: each.heard(now, self, event))
        match event:
            case said.StreamOpened():
                self._begin_anew(event)
            case said.MayFeed():
                self._may_feed = event.until
            case said.InputArrived():
                self.loop.input_arrived(event.microbatch)
            case said.GradientArrived():
                self.loop.gradient_arrived(event.microbatch)
            case said.GivenUp():
                self.loop.given_up(event.microbatch)
            case said.MayStepEarly():
                self.loop.others_wait(at_once=event.at_once)
            case said.QuotaIs():
                self.loop.take_quota(event.quota)
            case said.MoreCome():
                self.loop.more_come(event.more)
            case said.MoveWanted():
                if not self._leaves:
                    self._moves = True
                    self._drain()
            case said.Drained():
                self._drained = True

    def _begin_anew(self, event: said.StreamOpened) -> None:
        self.loop.reset()
        self.num_begun.clear()
        self.membership, self._fed, self._may_feed = event.membership, 0, 0
        self._has_opened = True
        if event.void:
            outer = self.session.loop
            for fragment, each in enumerate(outer.progress):
                if each.offered is None:
                    outer.forget(fragment)
                else:
                    outer.forget_since_offer(fragment)
        self._tell(said.ConfirmOpened(event.membership))

    def _tell(self, command: StageCommand) -> bool:
        taken = bool(self._net.command(self.process, partial(_carry_out, self, command)))
        self._show(lambda each, now: each.said(now, self, command, taken))
        return taken

    def _show(self, tell: Callable[[StageWatcher, float], None]) -> None:
        for watcher in self._staging.watchers:
            tell(watcher, self._net.now)


def _carry_out(worker: StageWorker, command: StageCommand, _: Core, now: float) -> bool:
    return worker.node.command(now, command)
