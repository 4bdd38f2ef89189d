"""All stages of one line in this process: tensors go from one to the next by hand.

Owns the shell around `stage_loop` and `part` that has no network: `LocalStage` carries out what one loop
says, `Line` carries tensors between the stages and feeds them. Decides nothing about the order of work or the
end of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from diloco.errors import PipelineError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.boundary_codecs import BoundaryCodec
from diloco.pipeline.cutting import refuse_tied
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart
from diloco.pipeline.stage_loop import Backward, Evaluate, Forward, StageLoop, Step, Weights

_GRACE_S = 1.0
"""Of the line's own seconds, which pass only when there is no more to be fed."""


@dataclass(frozen=True, slots=True)
class Up:
    """For the stage above."""

    microbatch: MicrobatchId
    activation: Tensor


@dataclass(frozen=True, slots=True)
class Down:
    """A microbatch went back; for the stage below, if there is one, the gradient."""

    microbatch: MicrobatchId
    gradient: Tensor | None
    tokens: int
    loss_sum: float | None = None
    """At the last stage."""


class LocalStage:
    """One replica of a stage. Each inner step is of ``quota`` microbatches; the optimizer steps with the
    token-weighted mean of their gradients, after that was clipped to ``clip_norm``, of this stage alone (see
    `cutting.clip_share`); ``apply`` is called in the place of both, if it is given. ``after_step`` is told
    then how many tokens were counted: the `step_done` of an `Outer` that no longer hooks the optimizer
    (`Outer.detach`), say, since one that does counts its ``tokens_per_step``, which are others where targets
    are left out."""

    def __init__(
        self,
        part: RunningPart,
        optimizer: torch.optim.Optimizer,
        *,
        quota: int,
        clip_norm: float | None = None,
        apply: Callable[[], None] | None = None,
        after_step: Callable[[int], object] | None = None,
    ) -> None:
        if quota < 1:
            raise PipelineError(f"an inner step of {quota} microbatches is not possible: choose 1 or more")
        self.part = part
        self.loop = StageLoop(
            quota, is_last=part.part.is_last, grace_s=_GRACE_S, split_backward=part.split_backward
        )
        self.optimizer = optimizer
        self._clip_norm = clip_norm
        self._apply = apply or self._clip_and_step
        self._after_step = after_step
        self._inputs: dict[MicrobatchId, tuple[Tensor, Tensor | None]] = {}
        self._gradients: dict[MicrobatchId, tuple[Tensor, int]] = {}

    def take(self, microbatch: MicrobatchId, x: Tensor, targets: Tensor | None = None) -> None:
        """The input of a microbatch, and at the last stage its targets."""
        self._inputs[microbatch] = x, targets
        self.loop.input_arrived(microbatch)

    def take_gradient(self, microbatch: MicrobatchId, gradient: Tensor, tokens: int) -> None:
        """The gradient of what went up, and the tokens that its loss had."""
        self._gradients[microbatch] = gradient, tokens
        self.loop.gradient_arrived(microbatch)

    def act(self, now: float) -> Up | Down | Weights | Step | None:
        """Do the next piece of work; what came of it, or None if there was nothing to do. Raises what
        `RunningPart` raises; the line cannot go on after that."""
        work = self.loop.next_work(now)
        match work:
            case Forward():
                return self._forward(work)
            case Backward():
                gradient, tokens = self._gradients.pop(work.microbatch)
                below = self.part.backward(work.microbatch, gradient)
                self.loop.done(work, tokens)
                return Down(work.microbatch, below, tokens)
            case Weights():
                self.part.weight_backward(work.microbatch)
                self.loop.done(work)
            case Step():
                self._step(work)
                self.loop.done(work)
            case Evaluate():
                raise AssertionError("nothing is evaluated here")
        return work

    def _forward(self, work: Forward) -> Up | Down:
        x, targets = self._inputs.pop(work.microbatch)
        if not self.part.part.is_last:
            activation = self.part.forward(work.microbatch, x)
            self.loop.done(work)
            return Up(work.microbatch, activation)
        assert targets is not None, "the line gives them to the last stage"
        found = self.part.forward_backward(work.microbatch, x, targets)
        self.loop.done(work, found.tokens)
        return Down(work.microbatch, found.gradient, found.tokens, found.loss_sum)

    def _step(self, work: Step) -> None:
        self.part.weigh(work.tokens)
        self._apply()
        if self._after_step is not None:
            self._after_step(work.tokens)
        self.part.model.zero_grad(set_to_none=True)

    def _clip_and_step(self) -> None:
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self.part.model.parameters(), self._clip_norm)
        self.optimizer.step()


@dataclass(frozen=True, slots=True)
class LineStep:
    """One inner step that all stages took."""

    microbatches: int
    tokens: int
    loss: float
    """Mean over the tokens, before the step."""


class Line:
    """One replica of each stage, in order: together one worker. At most ``window`` microbatches are under way
    at once (by default an inner step's); fewer take less memory and give the same bits. ``feeder`` names the
    line where there are several: their dropout differs by it. With ``make_codec``, which is given each
    boundary, tensors go from stage to stage as on a wire, encoded and decoded; without it as they are.

    Raises `PipelineError` if the stages are not those of one model: numbers, quotas, nominal tokens or
    boundaries that differ, or weights that two stages share."""

    def __init__(
        self,
        stages: Sequence[LocalStage],
        *,
        window: int | None = None,
        feeder: bytes = b"",
        make_codec: Callable[[Boundary], BoundaryCodec] | None = None,
    ) -> None:
        _require_one_model(stages)
        self._stages = stages
        self._window = stages[0].loop.quota if window is None else window
        if self._window < 1:
            raise PipelineError(f"a window of {self._window} lets no microbatch through: choose 1 or more")
        self._feeder = feeder
        boundaries = [each.part.takes for each in stages]
        self._codecs = [make_codec(each) if make_codec and each else None for each in boundaries]
        """By stage, of the boundary below it."""
        self._num_fed = 0
        self._targets: dict[MicrobatchId, Tensor] = {}
        """Of the microbatches that are under way and not at the last stage."""
        self._num_unsettled = 0
        self._now = 0.0
        self._ended: list[Down] = []
        """What the last stage has of the present step."""
        self._num_stepped = 0
        """Stages that took the present step; none is fed for the next one meanwhile."""

    def run(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[LineStep]:
        """Train on microbatches, (input, targets) each, until there are no more; yields after each inner
        step, when nothing is in flight at any stage. No more are drawn than a step takes. The last step may
        have fewer. Raises what `RunningPart` raises."""
        drawn = iter(batches)
        while True:
            has_more = self._num_stepped > 0 or self._feed(drawn)
            acted = self._act()
            if self._num_stepped == len(self._stages):
                self._num_stepped = 0
                yield self._take_ended()
            elif not acted:
                assert not has_more, "a stage has something to do until the step ends"
                ends = [end for stage in self._stages if (end := stage.loop.ends_early_at_s) is not None]
                if not ends:
                    return
                self._now = max(ends)

    def _feed(self, drawn: Iterator[tuple[Tensor, Tensor]]) -> bool:
        """Feed what stage 0 has use for; False if there is no more."""
        while self._num_unsettled < self._window and self._stages[0].loop.num_wanted > 0:
            batch = next(drawn, None)
            if batch is None:
                return False
            microbatch = MicrobatchId(self._feeder, 0, self._num_fed)
            self._num_fed += 1
            self._num_unsettled += 1
            x, self._targets[microbatch] = batch
            self._stages[0].take(microbatch, x, self._targets_at(0, microbatch))
        return True

    def _act(self) -> bool:
        """Let every stage do one thing; False if none had anything to do."""
        acted = False
        for index, stage in reversed(list(enumerate(self._stages))):
            came = stage.act(self._now)
            acted |= came is not None
            match came:
                case Up():
                    self._hand_up(index + 1, came.microbatch, came.activation)
                case Down():
                    self._hand_down(index, came)
                case Step():
                    self._num_stepped += 1
        return acted

    def _hand_up(self, index: int, microbatch: MicrobatchId, x: Tensor) -> None:
        stage = self._stages[index]
        if (codec := self._codecs[index]) is not None:
            payload = codec.encode_activation(x, microbatch)
            x = codec.decode_activation(payload, microbatch, stage.part.device)
        stage.take(microbatch, x, self._targets_at(index, microbatch))

    def _targets_at(self, index: int, microbatch: MicrobatchId) -> Tensor | None:
        return self._targets.pop(microbatch) if index == len(self._stages) - 1 else None

    def _hand_down(self, index: int, came: Down) -> None:
        if came.loss_sum is not None:
            self._ended.append(came)
        if index == 0:
            self._num_unsettled -= 1
        else:
            gradient, below = came.gradient, self._stages[index - 1]
            assert gradient is not None, "all stages but the first take an activation"
            if (codec := self._codecs[index]) is not None:
                payload = codec.encode_gradient(gradient, came.microbatch, index)
                gradient = codec.decode_gradient(payload, came.microbatch, below.part.device)
            below.take_gradient(came.microbatch, gradient, came.tokens)

    def _take_ended(self) -> LineStep:
        ended, self._ended = self._ended, []
        tokens = sum(each.tokens for each in ended)
        return LineStep(len(ended), tokens, sum(each.loss_sum or 0.0 for each in ended) / tokens)


def _require_one_model(stages: Sequence[LocalStage]) -> None:
    parts = [stage.part for stage in stages]
    if not parts:
        raise PipelineError("a line has a stage at least")
    numbers = [(each.part.stage, each.part.stages) for each in parts]
    if numbers != [(stage, len(parts)) for stage in range(len(parts))]:
        found = ", ".join(f"{stage} of {count}" for stage, count in numbers)
        raise PipelineError(f"a line has every stage of one model, once and in order, and not {found}")
    for below, above in pairwise(stages):
        where = f"stage {below.part.part.stage}", f"stage {above.part.part.stage}"
        if below.part.gives != above.part.takes:
            raise PipelineError(
                f"{where[0]} gives {below.part.gives} and {where[1]} takes {above.part.takes}: say the same"
            )
        terms = [(each.loop.quota, each.part.nominal_tokens) for each in (below, above)]
        if terms[0] != terms[1]:
            raise PipelineError(
                f"{where[0]} has a quota of {terms[0][0]} microbatches of {terms[0][1]} tokens together,"
                f" {where[1]} one of {terms[1][0]} of {terms[1][1]}: say the same"
            )
    refuse_tied((each.part.stage, [("", each.model)]) for each in parts)
