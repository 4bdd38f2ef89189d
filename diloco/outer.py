"""Outer state: the shared model as fp32 on the CPU, the outer optimizer, and the way to the live model.

Owns the outer parameters and momentum of each fragment, the outer step, and their bytes for joiners.
Refuses to know rounds, peers and codecs. Every operation on outer state rounds multiply and add
separately, so that all machines compute the same bits (S1); `torch.optim.SGD` does not.
Buffers of the model are not touched: see `layout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from diloco.errors import LayoutError, StateError
from diloco.layout import Layout, TensorSpec
from diloco.methods import Method
from diloco.state_view import StateView
from diloco.vectors import SLICE, bytes_of, count_non_finite
from transport.payloads import tree_digest

__all__ = ["Layout", "OuterState", "StateView", "outer_step"]


def outer_step(
    theta: Tensor,
    momentum: Tensor,
    delta: Tensor,
    *,
    lr: float,
    mu: float,
    nesterov: bool,
    out_theta: Tensor,
    out_momentum: Tensor,
    scratch: Tensor,
) -> None:
    """One outer step on vectors [n] of fp32, DiLoCo (arXiv 2311.08105) algorithm 1, line 14, with SGD in
    torch's convention:

        b'     = mu * b + delta
        theta' = theta - lr * (delta + mu * b')     with Nesterov
        theta' = theta - lr * b'                    without; with mu = 0, b is empty and b' = delta

    ``delta`` is the mean over workers of (outer - local). Outputs may be the inputs. Each operation is one
    elementwise multiply or add, rounded by itself: never `alpha=`, `lerp`, `addcmul` or compiled code.
    """
    if mu == 0.0:
        torch.mul(delta, lr, out=scratch)
    else:
        torch.mul(momentum, mu, out=out_momentum)
        out_momentum.add_(delta)
        if nesterov:
            torch.mul(out_momentum, mu, out=scratch)
            scratch.add_(delta)
            scratch.mul_(lr)
        else:
            torch.mul(out_momentum, lr, out=scratch)
    torch.sub(theta, scratch, out=out_theta)


@dataclass(slots=True)
class _Fragment:
    """One fragment's values. ``state`` is one tensor [n or 2n] fp32: outer parameters, then momentum."""

    specs: tuple[TensorSpec, ...]
    parameters: list[Parameter]
    num_elements: int
    state: Tensor
    version: int = 0
    pinned: bool = False
    """A view of ``state`` was given away: it must not change any more."""
    readers: int = 0
    """Threads that read ``state`` just now."""

    def replace(self, state: Tensor, version: int) -> None:
        """Put another state in place; readers of the old one keep it."""
        if state is not self.state:
            self.state, self.pinned, self.readers = state, False, 0
        self.version = version

    @property
    def theta(self) -> Tensor:
        return self.state[: self.num_elements]

    @property
    def momentum(self) -> Tensor:
        return self.state[self.num_elements :]


class OuterState:
    """Outer parameters and outer optimizer of ``model``, fragment by fragment.

    Captures the model's present values as outer parameters, with zero momentum and version 0. One thread,
    the trainer's, calls it; `pin` and `digest` may be called from any thread and wait at most for one step.
    Outer values are fp32 on the CPU, in pinned memory if the model is on an accelerator.
    """

    def __init__(self, layout: Layout, model: nn.Module, method: Method) -> None:
        self.layout = layout
        self.method = method
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._page_locked = any(parameter.is_cuda for parameter in parameters.values())
        self._frozen = [_matching(spec, parameters) for spec in layout.frozen]
        self._fragments = [self._capture(specs, parameters) for specs in layout.fragments]
        self._scratch = torch.empty(SLICE)
        self._lock = Lock()

    @classmethod
    def from_model(cls, model: nn.Module, method: Method) -> OuterState:
        """Layout and capture in one. Raises `LayoutError`."""
        return cls(Layout.of(model, method.num_fragments), model, method)

    @property
    def num_fragments(self) -> int:
        return len(self._fragments)

    def num_elements(self, fragment: int) -> int:
        """Length of the fragment's vectors."""
        return self._fragments[fragment].num_elements

    def version(self, fragment: int) -> int:
        """Outer steps that this fragment has taken."""
        return self._fragments[fragment].version

    def outer_parameters(self, fragment: int) -> Tensor:
        """The outer parameters [n]; a live view: read it, and keep it only until the next step."""
        return self._fragments[fragment].theta

    def momentum(self, fragment: int) -> Tensor:
        """The momentum [n], or [0] if mu is 0; a live view, as above."""
        return self._fragments[fragment].momentum

    def pseudo_gradient(self, fragment: int) -> Tensor:
        """outer - local, a new fp32 vector [n] on the CPU."""
        held = self._fragments[fragment]
        delta = self._empty(held.num_elements)
        _gather(held, delta)
        return torch.sub(held.theta, delta, out=delta)

    def step(self, fragment: int, mean: Tensor) -> None:
        """Move the outer parameters by the round's ``mean`` [n] fp32 on the CPU. The live model is not
        touched: see `write`. Raises ValueError for another shape, before anything changes."""
        held, method = self._fragments[fragment], self.method
        n = held.num_elements
        if mean.shape != (n,) or mean.dtype != torch.float32 or mean.device.type != "cpu":
            raise ValueError(
                f"the mean is {mean.dtype} {tuple(mean.shape)} on {mean.device}, not fp32 ({n},) on cpu"
            )
        with self._lock:
            old = held.state
            new = self._empty(len(old)) if held.pinned or held.readers else old
            for start in range(0, n, SLICE):
                end = min(start + SLICE, n)
                in_momentum = slice(n + start, n + end) if len(old) > n else slice(n, n)
                outer_step(
                    old[start:end],
                    old[in_momentum],
                    mean[start:end],
                    lr=method.outer_lr,
                    mu=method.outer_momentum,
                    nesterov=method.nesterov,
                    out_theta=new[start:end],
                    out_momentum=new[in_momentum],
                    scratch=self._scratch[: end - start],
                )
            held.replace(new, held.version + 1)

    def progress_since(self, fragment: int, contribution: Tensor | None) -> Tensor:
        """What the model learned after ``contribution`` [n] was taken: local - (outer - contribution), a new
        vector [n]. To be called before `step`. None stands for no contribution: all progress counts."""
        # (outer - contribution) - (outer - local)
        progress = self.pseudo_gradient(fragment).neg_()
        return progress if contribution is None else progress.add_(contribution)

    def write(self, fragment: int, progress: Tensor | None = None) -> None:
        """Copy the outer parameters, plus ``progress`` [n] if given, into the model, cast to its dtype.

        With `progress_since` this is delayed averaging, local' = outer' + (local - snapshot), the merge of
        LOSCAR-SGD (arXiv 2605.20866). Without inner steps since, progress is exactly zero."""
        held = self._fragments[fragment]
        values = held.theta if progress is None else progress.add(held.theta)
        with torch.no_grad():
            for spec, parameter in zip(held.specs, held.parameters, strict=True):
                parameter.copy_(values[spec.span].view(spec.shape))

    def write_keeping_progress(self, fragment: int, mean: Tensor, contribution: Tensor | None) -> None:
        """`step` with ``mean``, then `write` with the progress since ``contribution``, in this order."""
        progress = self.progress_since(fragment, contribution)
        self.step(fragment, mean)
        self.write(fragment, progress)

    def state_size(self, fragment: int) -> int:
        """Bytes of the fragment's state; every peer with this layout and method has the same."""
        return 4 * len(self._fragments[fragment].state) + sum(p.nbytes for p in self._frozen_in(fragment))

    def pin(self, fragment: int) -> StateView:
        """The fragment's state as it is now, for a donor. Costs a copy of the fragment at the next step
        (copy on write), and nothing for frozen parameters on the CPU."""
        held = self._fragments[fragment]
        with self._lock:
            held.pinned = True
            return self._view(fragment)

    def digests(self, fragment: int) -> list[bytes]:
        """SHA-256 of each piece of the fragment's state as it is now."""
        held = self._fragments[fragment]
        with self._lock:
            held.readers += 1
            state, view = held.state, self._view(fragment)
        digests = view.digests()
        with self._lock:
            if held.state is state:
                held.readers -= 1
        return digests

    def digest(self, fragment: int) -> bytes:
        """Names the fragment's state: `StateView.digest` of what `pin` would show now."""
        return tree_digest(self.digests(fragment))

    def _view(self, fragment: int) -> StateView:
        held = self._fragments[fragment]
        segments = [bytes_of(held.state), *(bytes_of(p) for p in self._frozen_in(fragment))]
        return StateView(held.version, [segment for segment in segments if len(segment)])

    def load_state(self, fragment: int, data: bytes | bytearray | memoryview, version: int) -> None:
        """Take over a donor's bytes for this fragment. Frozen parameters go straight into the model; call
        `write` for the others. Raises `StateError`, before anything changes, for another size or for
        outer values that are not finite."""
        held = self._fragments[fragment]
        view, size = memoryview(data).cast("B"), self.state_size(fragment)
        if len(view) != size:
            raise StateError(
                f"state of fragment {fragment} has {len(view)} bytes instead of {size}: another model?"
            )
        state = self._empty(len(held.state))
        bytes_of(state)[:] = view[: state.nbytes]
        bad = count_non_finite(state)
        if bad:
            raise StateError(f"state of fragment {fragment} has {bad} values that are not finite")
        with self._lock:
            held.replace(state, version)
        self._load_frozen(fragment, view[state.nbytes :])

    def _load_frozen(self, fragment: int, view: memoryview) -> None:
        for parameter in self._frozen_in(fragment):
            values = torch.empty(parameter.shape, dtype=parameter.dtype)
            bytes_of(values)[:] = view[: values.nbytes]
            view = view[values.nbytes :]
            with torch.no_grad():
                parameter.copy_(values)

    def _frozen_in(self, fragment: int) -> list[Parameter]:
        return self._frozen if fragment == len(self._fragments) - 1 else []

    def _capture(self, specs: tuple[TensorSpec, ...], parameters: dict[str, Parameter]) -> _Fragment:
        n = specs[-1].start + specs[-1].num_elements
        state = self._empty(n if self.method.outer_momentum == 0.0 else 2 * n).zero_()
        held = _Fragment(specs, [_matching(spec, parameters) for spec in specs], n, state)
        _gather(held, held.theta)
        return held

    def _empty(self, n: int) -> Tensor:
        return torch.empty(n, pin_memory=self._page_locked)


def _gather(held: _Fragment, out: Tensor) -> None:
    """The live model's values of a fragment, as fp32, into ``out`` [n]."""
    for spec, parameter in zip(held.specs, held.parameters, strict=True):
        out[spec.span].view(spec.shape).copy_(parameter.detach())


def _matching(spec: TensorSpec, parameters: dict[str, Parameter]) -> Parameter:
    parameter = parameters.get(spec.name)
    if parameter is None or tuple(parameter.shape) != spec.shape or parameter.dtype != spec.dtype:
        raise LayoutError(
            f"the model has no parameter {spec.name} of {spec.describe()}: the layout is another model's"
        )
    return parameter
