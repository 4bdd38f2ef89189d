"""A part at work: forward and backward of one stage's module, microbatch by microbatch.

Owns what a microbatch leaves behind between forward and backward, running forward again instead of keeping
it, the random numbers of both (PP6), and the scale of gradients. When what is computed is not decided here
(`stage_loop`), and the optimizer is not known. Gradients add up in ``.grad``, in the order of the calls.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diloco.errors import BoundaryError, PipelineError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.microbatch import MicrobatchId, random_seed
from diloco.pipeline.split_backward import Left, WeightWork

_DRAWING = threading.Lock()
"""Held by whoever has set torch's generators to a microbatch's seed."""

Loss = Callable[[Tensor, Tensor], tuple[Tensor, int]]
"""Of the last stage's output and the targets: the sum of the losses of all tokens, and how many they are. The
targets are a feeder's, whatever they are: it raises `IndexError` for those that are no class."""


@dataclass(frozen=True, slots=True)
class LossAndGradient:
    """What the last stage has of one microbatch."""

    loss_sum: float
    tokens: int
    gradient: Tensor | None
    """For the stage below; None if there is none."""


@dataclass(slots=True)
class _Held:
    """What a microbatch left behind."""

    x: Tensor
    output: Tensor | None
    """With its graph; None if forward is run again."""


class RunningPart:
    """One stage's module. ``takes`` and ``gives`` are the boundaries to the stages below and above, None at
    the outer ends: stage 0 takes whatever the run is fed with, and the last stage has a ``loss``. All
    gradients are divided by ``nominal_tokens``, those of a whole inner step, so that they add up to a mean.
    With ``recompute`` only the input of a microbatch is kept, and forward is run again before backward:
    8 instead of 6 floating-point operations of a parameter and token. With ``split_backward``, which needs
    ``recompute=False``, the gradients of linear layers' weights wait for `weight_backward`, so that the stage
    below has its gradient earlier (`diloco.pipeline.split_backward`). Random numbers follow from ``seed``,
    the microbatch and the stage, for torch's generators of the CPU and of the module's CUDA device.

    Raises `PipelineError` for boundaries or a loss where there are none, or none where they belong, for a
    module without a trainable parameter, and for ``split_backward`` with ``recompute``. The tensors that it
    is handed are never written; the module is the part's from then on."""

    def __init__(
        self,
        part: Part,
        model: nn.Module,
        *,
        takes: Boundary | None = None,
        gives: Boundary | None = None,
        loss: Loss | None = None,
        nominal_tokens: int,
        seed: int = 0,
        recompute: bool = True,
        split_backward: bool = False,
    ) -> None:
        self.part = part
        self.model = model
        self.takes, self.gives = takes, gives
        self.nominal_tokens = nominal_tokens
        self._loss = loss
        self._seed = seed
        self._recompute = recompute
        self._held: dict[MicrobatchId, _Held] = {}
        self._has_run = False
        _require_ends(part, takes, gives, loss)
        if split_backward and recompute:
            raise PipelineError(
                "split_backward = true keeps activations until the gradients of weights are computed, and"
                " recompute = true is there to keep none: turn one of them off"
            )
        trainable = [p for p in model.parameters() if p.requires_grad]
        if not trainable:
            raise PipelineError(f"stage {part.stage} has no trainable parameter: choose other cuts")
        self.device = trainable[0].device
        """Where the module is: that of its first trainable parameter."""
        self._weight_work = WeightWork(model) if split_backward else None
        self._left: dict[MicrobatchId, list[Left]] = {}
        """By microbatch, what `weight_backward` is to do."""

    @property
    def num_held(self) -> int:
        """Microbatches between their forward and the end of their backward."""
        return len(self._held) + len(self._left)

    @property
    def split_backward(self) -> bool:
        """Whether `weight_backward` belongs to each microbatch."""
        return self._weight_work is not None

    @property
    def held(self) -> list[MicrobatchId]:
        """Those microbatches."""
        return [*self._held, *self._left]

    def drop(self, microbatch: MicrobatchId) -> None:
        """No backward of it comes, or no end of it; nothing where there was no forward."""
        self._held.pop(microbatch, None)
        self._left.pop(microbatch, None)

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Within is one microbatch's backward and what its gradient is made into for the stage below: where
        that raises, its gradient is not added. Takes the memory of the gradients once more, meanwhile."""
        if self.takes is None:  # it hands none down
            yield
            return
        parameters = list(self.model.parameters())
        earlier = [each.grad for each in parameters]
        self.model.zero_grad(set_to_none=True)
        try:
            yield
        except BaseException:
            for parameter, before in zip(parameters, earlier, strict=True):
                parameter.grad = before
            raise
        for parameter, before in zip(parameters, earlier, strict=True):
            if before is not None:
                parameter.grad = before if parameter.grad is None else before.add_(parameter.grad)

    def forward(self, microbatch: MicrobatchId, x: Tensor) -> Tensor:
        """What the part makes of ``x``, for the stage above, without a graph. Not at the last stage. Raises
        `BoundaryError` for an ``x`` or an output that does not fit, and `PipelineError` if forward changes a
        buffer that running it again would change twice."""
        x = self._input(microbatch, x)
        if self._recompute:
            with torch.no_grad(), self._watching_buffers():
                output = self._run(microbatch, x)
        else:
            x = self._differentiable(x)
            output = self._run(microbatch, x)
        assert self.gives is not None, "the last stage runs forward and backward as one"
        given = self.gives.require(output, f"what stage {self.part.stage} made of {microbatch}").detach()
        self._held[microbatch] = _Held(x, None if self._recompute else output)
        return given

    def backward(self, microbatch: MicrobatchId, gradient: Tensor) -> Tensor | None:
        """Add the microbatch's gradient to what the parameters have, by the ``gradient`` of what `forward`
        gave. Returns the gradient of the input; None at stage 0. Raises `BoundaryError`, before anything
        changes, for one that does not fit."""
        assert self.gives is not None, "the last stage runs forward and backward as one"
        self.gives.require(gradient, f"the gradient of {microbatch} that stage {self.part.stage} got")
        held = self._held.pop(microbatch)
        x, output = held.x, held.output
        if output is None:
            x = self._differentiable(x)
            output = self._run(microbatch, x)
        torch.autograd.backward(output, gradient.to(output.device))
        self._leave_weights(microbatch)
        return self._input_gradient(microbatch, x)

    def weight_backward(self, microbatch: MicrobatchId) -> None:
        """With ``split_backward``: add what the microbatch's backward left. In the order of the backwards."""
        WeightWork.add(self._left.pop(microbatch))

    def forward_backward(self, microbatch: MicrobatchId, x: Tensor, targets: Tensor) -> LossAndGradient:
        """Both, at the last stage. Raises `BoundaryError`, before any gradient was added, for an ``x`` that
        does not fit, targets that are no class, and a loss that is not one finite number of at least one
        token."""
        x = self._differentiable(self._input(microbatch, x))
        output = self._run(microbatch, x)
        found, loss_sum, tokens = self._loss_of(microbatch, output, targets)
        torch.autograd.backward(found / self.nominal_tokens)
        self._leave_weights(microbatch)
        return LossAndGradient(loss_sum, tokens, self._input_gradient(microbatch, x))

    def weigh(self, tokens: int) -> None:
        """Make of what was added up the mean over the ``tokens`` that were counted. Does nothing if they are
        the nominal ones: there is no rounding then beyond that of a process that accumulates gradients. Of no
        tokens there is no mean, and no gradient is left."""
        if not tokens:
            self.model.zero_grad(set_to_none=True)
        elif tokens != self.nominal_tokens:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.nominal_tokens / tokens)

    def evaluate(self, microbatch: MicrobatchId, x: Tensor) -> Tensor:
        """Forward only, with nothing dropped by chance, for the stage above; nothing is kept. Raises
        `BoundaryError` as `forward` does."""
        assert self.gives is not None, "the last stage has the loss"
        with self._evaluating():
            output = self.model(self._input(microbatch, x))
        return self.gives.require(output, f"what stage {self.part.stage} made of {microbatch}")

    def evaluate_loss(self, microbatch: MicrobatchId, x: Tensor, targets: Tensor) -> tuple[float, int]:
        """At the last stage: the sum of the loss over a microbatch's tokens, and their number."""
        with self._evaluating():
            output = self.model(self._input(microbatch, x))
            _, loss_sum, tokens = self._loss_of(microbatch, output, targets)
        return loss_sum, tokens

    # -- inside -------------------------------------------------------------------------------

    def _loss_of(
        self, microbatch: MicrobatchId, output: Tensor, targets: Tensor
    ) -> tuple[Tensor, float, int]:
        """With its graph, and as numbers."""
        assert self._loss is not None, "the last stage has a loss"
        try:
            found, tokens = self._loss(output, targets.to(self.device))
        except IndexError as error:
            raise BoundaryError(f"there is no loss of {microbatch}: {error}") from error
        loss_sum, tokens = _checked_loss(found), int(tokens)
        if not math.isfinite(loss_sum) or tokens < 1:
            raise BoundaryError(f"the loss of {microbatch} is {loss_sum} over {tokens} tokens")
        return found, loss_sum, tokens

    def _run(self, microbatch: MicrobatchId, x: Tensor) -> Tensor:
        with _drawing_from(random_seed(self._seed, microbatch, self.part.stage), self.device):
            output: Tensor = self.model(x)
            return output

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        trains = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(trains)

    def _leave_weights(self, microbatch: MicrobatchId) -> None:
        if self._weight_work is not None:
            self._left[microbatch] = self._weight_work.take()

    def _input(self, microbatch: MicrobatchId, x: Tensor) -> Tensor:
        if self.takes is not None:
            self.takes.require(x, f"the input of {microbatch} that stage {self.part.stage} got")
        return x.detach().to(self.device)

    def _differentiable(self, x: Tensor) -> Tensor:
        """The input as a leaf of its own graph, where the stage below wants a gradient."""
        return x if self.takes is None else x.detach().requires_grad_()

    def _input_gradient(self, microbatch: MicrobatchId, x: Tensor) -> Tensor | None:
        if self.takes is None:
            return None
        if x.grad is None:
            raise PipelineError(f"stage {self.part.stage} does not use its input: there is no gradient of it")
        return self.takes.require(x.grad, f"the gradient of {microbatch} that stage {self.part.stage} made")

    @contextmanager
    def _watching_buffers(self) -> Iterator[None]:
        """Within is the part's first forward, or a later one: after the first the values of all buffers are
        compared. (Not every write is counted by torch: those of batch norm's kernels are not.)"""
        if self._has_run:
            yield
            return
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        yield
        for name, buffer in self.model.named_buffers():
            if name not in before or not torch.equal(buffer, before[name]):
                raise PipelineError(
                    f"forward changes the buffer {name}, which would change twice with recompute = true: turn"
                    " that off, or keep no running statistics"
                )
        self._has_run = True


def _require_ends(part: Part, takes: Boundary | None, gives: Boundary | None, loss: Loss | None) -> None:
    wanted = {
        "boundary to the stage below": (takes, not part.is_first),
        "boundary to the stage above": (gives, not part.is_last),
        "loss": (loss, part.is_last),
    }
    for what, (given, belongs) in wanted.items():
        if belongs and given is None:
            raise PipelineError(f"stage {part.stage} of {part.stages} needs a {what}")
        if not belongs and given is not None:
            raise PipelineError(f"stage {part.stage} of {part.stages} has no {what}: give None")


def _checked_loss(found: object) -> float:
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise BoundaryError("the loss must be a tensor of one element: the sum over all tokens")
    return float(found.detach())


@contextmanager
def _drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Within, torch's generators begin at ``seed``; after, they go on from where they were. They are the
    process's: parts that run in threads of one process draw one after the other."""
    with _DRAWING, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
