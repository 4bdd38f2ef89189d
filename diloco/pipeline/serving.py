"""`diloco.stage`: one replica of a stage in a swarm, trained by what its member brings.

The seam between the training thread and the member: events in, `stage_loop` asked what to compute, `part` and
the boundary's codec called, commands out. Decides nothing about microbatches, steps or rounds: those are the
member's, the loop's and the `Outer`'s. Parameters change behind an inner step only (PP2), so that what the
swarm says meanwhile waits, but for what ends this worker's part in the run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

from torch import Tensor

from diloco.errors import BoundaryError, PipelineError
from diloco.methods.schedule import Schedule
from diloco.pipeline.boundary_codecs import BoundaryCodec
from diloco.pipeline.evaluating import Validation
from diloco.pipeline.part import RunningPart
from diloco.pipeline.probing import makes_nothing
from diloco.pipeline.refusals import Refusals
from diloco.pipeline.stage_loop import Backward, Evaluate, Forward, StageLoop, Step, Weights, Work
from diloco.pipeline.tally import Tally
from diloco.pipeline.targets import decode_targets, encode_targets
from diloco.training.outer import Outer
from peers.protocol.events import EntryRefused, IdentitySuperseded, RunFinished
from peers.protocol.stage_work import (
    ConfirmOpened,
    Counted,
    Drain,
    Drained,
    Evaluated,
    EvaluationEnded,
    Feed,
    FeedMore,
    ForwardBegan,
    ForwardDone,
    GivenUp,
    GradientArrived,
    InputArrived,
    MayFeed,
    MayStepEarly,
    MicrobatchEnded,
    MicrobatchId,
    MoreCome,
    MoveWanted,
    QuotaIs,
    RefuseTensor,
    StageCommand,
    StageEvent,
    Stepped,
    StreamOpened,
)
from transport.effects import Payload, Phantom

_POLL_S = 0.25
_TELL_S = 1.0
_ENDINGS = (RunFinished, EntryRefused, IdentitySuperseded)
"""Behind these nothing that is computed counts."""


class Seam(Protocol):
    """The member, as `swarm.Swarm` has it."""

    @property
    def key(self) -> bytes:
        """Of this peer."""

    def command(self, command: StageCommand) -> bool:
        """Carry out a command; False if it was not taken."""

    def post(self, command: StageCommand) -> None:
        """Have a command carried out, in the order of all of them, without waiting for it."""

    def next_event(self, timeout_s: float) -> object | None:
        """The next event, or None after ``timeout_s``."""


@dataclass(frozen=True, slots=True)
class StageStep:
    """One inner step of this replica."""

    microbatches: int
    tokens: int
    loss: float | None
    """At the last stage: mean over the tokens, before the step."""


class Stage:
    """Made by `diloco.pipeline.staging.stage`. ``takes`` and ``gives`` encode what lies below and above."""

    def __init__(
        self,
        outer: Outer,
        seam: Seam,
        part: RunningPart,
        loop: StageLoop,
        *,
        takes: BoundaryCodec | None,
        gives: BoundaryCodec | None,
        targets_shape: tuple[int, ...],
        apply: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outer = outer
        self.part = part
        self.tally = Tally()
        self.moves_to: int | None = None
        """The stage that this worker is to join next: then `run` has ended behind what was in flight, and
        what it trained was offered."""
        self._driver, self._seam, self._loop = outer.driver, seam, loop
        self._takes, self._gives = takes, gives
        self._targets_shape = targets_shape
        self._schedule = Schedule.of(outer.swarm.settings.method.resolved())
        self._newest_fed: Tensor | None = None
        self._refusals = Refusals(
            part.part.stage, loop.quota, lambda: makes_nothing(part, self._newest_fed, targets_shape)
        )
        self._apply = apply
        self._clock = clock
        self._arrived: deque[object] = deque()
        """What the hook of `Outer` took from the swarm and is for microbatches."""
        self._inputs: dict[MicrobatchId, tuple[Tensor, Tensor | None]] = {}
        self._gradients: dict[MicrobatchId, tuple[Tensor, int]] = {}
        self._membership = 0
        self._has_opened = False
        self._told_ends, self._told_ends_at = 0, -_TELL_S
        self._number = 0
        self._may_feed = 0
        self._batch: tuple[Tensor, Tensor] | None = None
        """Drawn, and not fed yet."""
        self._has_more = True
        self.validation = Validation()
        """At stage 0: what is evaluated; set it before `run`."""
        self._is_over = False
        self._drained = False
        self._computed_s = 0.0
        self._loss_sum = 0.0

    def run(self, batches: Iterable[tuple[Tensor, Tensor]] | None = None) -> Iterator[StageStep]:
        """Train until the run has all its rounds, `Outer.stop` was called, or there are no more ``batches``:
        microbatches, pairs of input and targets, which stage 0 alone is given. Yields behind each inner step
        of this replica; the last one of given batches may have fewer microbatches. The stages above are told
        that a feeder has no more once all that it fed has ended: where nobody else feeds them a step that
        they began ends with what it has, and they wait for other feeders. Raises `PipelineError` for batches
        where none belong or none where they do, and for a part that cannot be trained so; else what `attach`
        raises."""
        is_fed = self.part.part.is_first
        if is_fed != (batches is not None):
            what = "run needs its batches" if is_fed else "run takes no batches: stage 0 is fed"
            raise PipelineError(f"stage {self.part.part.stage}: {what}")
        drawn = iter(batches if batches is not None else ())
        if is_fed:
            self._say_whether_more(True)
        for _ in self.outer.until_finished(repeat(None)):
            step = self._take_step(drawn)
            if step is None:
                break
            yield step
        if (self._driver.stopping or self.moves_to is not None) and not self.outer.finished:
            self._drain()
        if self.moves_to is not None and not self._driver.stopping:
            self._offer_all()

    def hear_in_hook(self, event: object) -> bool:
        """An event that `Outer` took from the swarm; whether it is about microbatches."""
        if isinstance(event, StreamOpened):
            self._arrived.clear()
            self._begin_anew(event)  # nothing is in flight: an inner step is over
        elif isinstance(event, (MicrobatchEnded, EvaluationEnded)):
            self._hear(event)  # now: behind the end of the run nobody takes what waits
        elif isinstance(event, StageEvent):
            self._arrived.append(event)
        return isinstance(event, StageEvent)

    # -- one inner step -----------------------------------------------------------------------

    def _take_step(self, drawn: Iterator[tuple[Tensor, Tensor]]) -> StageStep | None:
        """None if no step is to come."""
        while True:
            self._take_events()
            self._feed(drawn)
            if self._is_over:
                self._driver.rest()
            if self._is_over or self._driver.stopping or self.moves_to is not None:
                return None
            work = self._loop.next_work(self._clock())
            match work:
                case Step():
                    return self._step(work)
                case None if not self._has_more and self._loop.at_rest:
                    return None
                case None:
                    self._wait()
                case _:
                    self._compute(work)

    def _compute(self, work: Forward | Backward | Weights | Evaluate) -> None:
        began = self._clock()
        if isinstance(work, Evaluate):
            self._evaluate(work)
            return
        if isinstance(work, Weights):
            self.part.weight_backward(work.microbatch)
            self._loop.done(work)
        else:
            self._compute_and_say(work)
        self._computed_s += self._clock() - began

    def _compute_and_say(self, work: Forward | Backward) -> None:
        try:
            command = self._forward(work) if isinstance(work, Forward) else self._backward(work)
        except BoundaryError as error:
            self._loop.refused(work)
            self._drop(work.microbatch)
            self._seam.post(RefuseTensor(work.microbatch, str(error)))
            self._refusals.made(str(error))
            if self._loop.at_rest:
                self._driver.give_up_non_finite()
        else:
            tokens = 0
            if isinstance(command, Counted):
                self._refusals.counted()
                self.tally.counted += 1
                tokens = command.tokens
            self._loop.done(work, tokens)
            self._seam.post(command)

    def _evaluate(self, work: Evaluate) -> None:
        """Its seconds are no training's."""
        name = work.microbatch
        x, targets = self._inputs.pop(name)
        if self._takes is not None:
            self._seam.post(ForwardBegan(name))
        try:
            command: StageCommand
            if self._gives is not None:
                payload = self._gives.encode_activation(self.part.evaluate(name, x), name)
                command = ForwardDone(name, payload)
            else:
                assert targets is not None, "the last stage gets them"
                command = Evaluated(name, *self.part.evaluate_loss(name, x, targets))
        except BoundaryError as error:
            self._loop.refused(work)
            self._seam.post(RefuseTensor(name, str(error)))
            self._refusals.got(str(error))
        else:
            self._loop.done(work)
            self._seam.post(command)

    def _forward(self, work: Forward) -> ForwardDone | Counted:
        name = work.microbatch
        x, targets = self._inputs.pop(name)
        if self._takes is not None:
            self._seam.post(ForwardBegan(name))
        if self._gives is not None:
            return ForwardDone(name, self._gives.encode_activation(self.part.forward(name, x), name))
        assert targets is not None, "the last stage gets them"
        with self.part.adding():
            found = self.part.forward_backward(name, x, targets)
            payload = self._encoded(name, found.gradient)
        self._loss_sum += found.loss_sum
        return Counted(name, found.tokens, payload)

    def _backward(self, work: Backward) -> Counted:
        name = work.microbatch
        gradient, tokens = self._gradients.pop(name)
        with self.part.adding():
            payload = self._encoded(name, self.part.backward(name, gradient))
        return Counted(name, tokens, payload)

    def _encoded(self, name: MicrobatchId, gradient: Tensor | None) -> Payload | None:
        if self._takes is None or gradient is None:
            return None
        return self._takes.encode_gradient(gradient, name, self.part.part.stage)

    def _step(self, work: Step) -> StageStep:
        """The optimizer and the hook of `Outer`, with nothing in flight. A step without microbatches, which
        others of the stage wait for, moves nothing, and so does one of no tokens."""
        began = self._clock()
        loss = None
        if work.tokens:
            if self.part.part.is_last:
                loss = self._loss_sum / work.tokens
                self.outer.log(loss=loss)
            self.part.weigh(work.tokens)
            self._apply()
        self.part.model.zero_grad(set_to_none=True)
        seconds = self._computed_s + self._clock() - began
        self._computed_s = self._loss_sum = 0.0
        self._loop.done(work)
        self._loop.others_wait(False)
        self._tell_ends()
        self._driver.stepped(work.tokens, seconds)
        self._seam.post(Stepped(work.microbatches, work.tokens))
        return StageStep(len(work.microbatches), work.tokens, loss)

    # -- microbatches -------------------------------------------------------------------------

    def _feed(self, drawn: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Feed when none waits for its forward, as far as the member takes it: one that goes forward at once
        is above earlier than if others were drawn and told first."""
        if self._takes is not None:
            return
        self._feed_validation()
        while self._loop.wants_now and self._number < self._may_feed:
            if self._batch is None:
                self._batch = next(drawn, None)
            if self._batch is None:
                self._say_whether_more(False)
                return
            x, targets = self._batch
            payload = encode_targets(targets, self._targets_shape)
            if not self._seam.command(Feed(self._number, payload)):
                return
            name = MicrobatchId(self._seam.key, self._membership, self._number)
            self._inputs[name] = x, None
            self._newest_fed = x
            self._loop.input_arrived(name)
            self._number += 1
            self._batch = None

    def _feed_validation(self) -> None:
        last = self._schedule.num_commits(self.outer.swarm.settings.run.rounds - 1)
        while self._number < self._may_feed:
            batch = self.validation.next(self.outer.round, last)
            if batch is None:
                return
            payload = encode_targets(batch[1], self._targets_shape)
            if not self._seam.command(Feed(self._number, payload, evaluates=True)):
                return
            name = MicrobatchId(self._seam.key, self._membership, self._number)
            self.validation.fed(name)
            self._inputs[name] = batch[0], None
            self._loop.evaluation_arrived(name)
            self._number += 1

    def _say_whether_more(self, has_more: bool) -> None:
        if has_more != self._has_more:
            self._seam.command(FeedMore(has_more))
        self._has_more = has_more
        self._loop.more_come(has_more)

    def _take_events(self) -> None:
        while self._arrived:
            self._hear(self._arrived.popleft())
        while (event := self._seam.next_event(0.0)) is not None:
            self._hear(event)

    def _wait(self) -> None:
        """There is nothing to compute: for an event, or until the step may end early."""
        ends, now = self._loop.ends_early_at_s, self._clock()
        timeout_s = _POLL_S if ends is None else min(_POLL_S, max(0.0, ends - now))
        if (event := self._seam.next_event(timeout_s)) is not None:
            self._hear(event)
        elif self._loop.at_rest:
            self._driver.rest()
        else:
            self._driver.report_if_due()

    def _hear(self, event: object) -> None:
        match event:
            case InputArrived():
                self._take_input(event)
            case GradientArrived():
                self._take_gradient(event)
            case GivenUp():
                if self._loop.given_up(event.microbatch):
                    self._drop(event.microbatch)
            case MayFeed():
                self._may_feed = event.until
            case MoreCome():
                self._loop.more_come(event.more)
            case QuotaIs():
                self._loop.take_quota(event.quota)
            case EvaluationEnded():
                ended = self.validation.ended(event.microbatch, event.loss_sum, event.tokens)
                if ended is not None:
                    self._driver.session.validation = ended.loss
            case MicrobatchEnded():
                if not (self._is_over or self.outer.finished):  # else the others have left, and it is no part
                    self.tally.ended(event)
            case MayStepEarly():
                self._loop.others_wait(at_once=event.at_once)
            case StreamOpened():
                self._begin_anew(event)
            case MoveWanted():
                self.moves_to = event.stage
            case Drained():
                self._drained = True
            case _:
                self._driver.later(event)
                self._is_over = self._is_over or isinstance(event, _ENDINGS)

    def _take_input(self, event: InputArrived) -> None:
        assert self._takes is not None, "stage 0 has its inputs"
        name, targets = event.microbatch, None
        try:
            x = self._takes.decode_activation(_bytes(event.payload), name, self.part.device)
            if event.targets is not None:
                targets = decode_targets(event.targets, self._targets_shape)
        except BoundaryError as error:
            self._seam.post(RefuseTensor(name, str(error)))
            self._refusals.got(str(error))
            return
        self._inputs[name] = x, targets
        if event.evaluates:
            self._loop.evaluation_arrived(name)
        else:
            self._loop.input_arrived(name)

    def _take_gradient(self, event: GradientArrived) -> None:
        assert self._gives is not None, "the last stage makes its gradients"
        name = event.microbatch
        try:
            gradient = self._gives.decode_gradient(_bytes(event.payload), name, self.part.device)
        except BoundaryError as error:
            self._seam.post(RefuseTensor(name, str(error)))
            self._refusals.got(str(error))
            if self._loop.given_up(name):
                self._drop(name)
            return
        self._gradients[name] = gradient, event.tokens
        self._loop.gradient_arrived(name)

    def _drop(self, name: MicrobatchId) -> None:
        self._inputs.pop(name, None)
        self._gradients.pop(name, None)
        self.part.drop(name)

    def _begin_anew(self, event: StreamOpened) -> None:
        self._membership, self._number, self._may_feed = event.membership, 0, 0
        self._loop.reset()
        self._loop.more_come(self._has_more)
        self.validation.begin_anew()
        for name in {*self._inputs, *self._gradients, *self.part.held}:
            self._drop(name)
        self.part.model.zero_grad(set_to_none=True)
        self._loss_sum = 0.0
        came_back = not self._has_opened and self.outer.step > 0
        self._has_opened = True
        if event.void or came_back:
            # What an earlier process trained and did not offer was another membership's.
            self._driver.go_back()
        self._seam.command(ConfirmOpened(event.membership))

    def _tell_ends(self) -> None:
        """Now and then, for the run's status."""
        tally, now = self.tally, self._clock()
        if tally.fed > self._told_ends and now > self._told_ends_at + _TELL_S:
            self._told_ends, self._told_ends_at = tally.fed, now
            self._seam.post(tally.told(self.part.part.stages))

    def _drain(self) -> None:
        """Before it leaves, finish what is in flight, for others wait for it, and step with what was counted.
        No longer than two failure timeouts."""
        self._seam.command(Drain())
        self._loop.more_come(False)
        give_up = self._clock() + 2 * self.outer.swarm.settings.run.failure_timeout_s
        while not (self._drained and self._loop.at_rest) and not self._is_over:
            if self._clock() >= give_up:
                return
            self._take_events()
            work: Work | None = self._loop.next_work(self._clock())
            if isinstance(work, Step):
                self._step(work)
            elif work is not None:
                self._compute(work)
            else:
                self._wait()

    def _offer_all(self) -> None:
        """Offer what was trained and wait for its rounds, no longer than one may take."""
        run = self.outer.swarm.settings.run
        give_up = self._clock() + run.grace_s + 2 * run.failure_timeout_s
        while self._driver.offer_last() and not self._is_over and self._clock() < give_up:
            if (event := self._seam.next_event(_POLL_S)) is not None:
                self._hear(event)


def _bytes(payload: Payload) -> bytes | bytearray | memoryview:
    assert not isinstance(payload, Phantom), "phantoms are for simulations"
    return payload
