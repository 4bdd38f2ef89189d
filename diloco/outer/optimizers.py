"""Outer optimizers: how the shared parameters move by a mean pseudo-gradient.

Each is one pure step on vectors [n] fp32 on the CPU with the same bits on every machine (S1): every operation
is one elementwise multiply, add, divide or square root, rounded by itself; never `alpha=`, `lerp`, `addcmul`
or `torch.compile`, which fuse, as `torch.optim` does; the compiler of `kernels` is forbidden to. Refuses to
know fragments, rounds and what a pseudo-gradient is made of; the sign is that of descent: outer - local.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from diloco.compression import kernels
from diloco.compression.vectors import SLICE, spans
from diloco.methods.outer_optimizers import OUTER_OPTIMIZERS
from diloco.methods.registry import make

Seen = Callable[[slice], None]
_ROUNDING = 2.0**-20
"""Of a value: as far as a mean of many that equal it may be off."""


def _unseen(span: slice) -> None:
    """Nobody looks at what is written."""


class OuterOptimizer(Protocol):
    """A step rule. It holds settings only; its state is the caller's vectors."""

    num_buffers: int
    """Vectors [n] of state beside the outer parameters; zeros at first."""

    def step(
        self,
        theta: Tensor,
        buffers: list[Tensor],
        delta: Tensor,
        count: int,
        out_theta: Tensor,
        out_buffers: list[Tensor],
        seen: Seen = ...,
    ) -> None:
        """Move ``theta`` [n] by ``delta`` [n], the mean pseudo-gradient, as outer step number ``count`` (0
        first). Outputs are written whole, and may be the inputs or other memory; of each slice that is
        written ``seen`` may be told, in order, while it lies in the cache, for the check."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """What a step works on at once: see `OuterOptimizer.step`."""

    theta: Tensor
    buffers: list[Tensor]
    delta: Tensor
    count: int
    out_theta: Tensor
    out_buffers: list[Tensor]
    scratch: Tensor
    """Two vectors to work with."""


class _Sliced:
    """Runs a rule over slices that fit the cache."""

    num_buffers = 0

    def __init__(self) -> None:
        self._scratch = torch.empty(2, SLICE)

    def step(
        self,
        theta: Tensor,
        buffers: list[Tensor],
        delta: Tensor,
        count: int,
        out_theta: Tensor,
        out_buffers: list[Tensor],
        seen: Seen = _unseen,
    ) -> None:
        """See `OuterOptimizer.step`."""
        for start in range(0, len(theta), SLICE):
            span = slice(start, min(start + SLICE, len(theta)))
            self._move(
                _Slice(
                    theta[span],
                    [each[span] for each in buffers],
                    delta[span],
                    count,
                    out_theta[span],
                    [each[span] for each in out_buffers],
                    self._scratch[:, : span.stop - start],
                )
            )
            seen(span)

    def _move(self, at: _Slice) -> None:
        raise NotImplementedError


class Sgd(_Sliced):
    """theta' = theta - lr * delta; with lr 1 the average of the workers (FedAvg, Local SGD, arXiv
    1805.09767)."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self._lr = lr

    def _move(self, at: _Slice) -> None:
        torch.sub(at.theta, torch.mul(at.delta, self._lr, out=at.scratch[0]), out=at.out_theta)


class Average(_Sliced):
    """theta' = delta: the mean of values that members send themselves, as AdamW's moments are (DES-LOC, arXiv
    2505.22549)."""

    def _move(self, at: _Slice) -> None:
        at.out_theta.copy_(at.delta)


class AverageOfChanged(_Sliced):
    """theta' = delta, the mean of values that members send themselves, where that is another than theta by
    more than the mean of equal values may be off: constants among a model's buffers stay what they are."""

    def _move(self, at: _Slice) -> None:
        off, bound = at.scratch
        torch.abs(torch.sub(at.delta, at.theta, out=off), out=off)
        torch.mul(torch.abs(at.theta, out=bound), _ROUNDING, out=bound)
        at.out_theta.copy_(torch.where(off <= bound, at.theta, at.delta))


class SignSgd(_Sliced):
    """theta' = theta - lr * sign(delta): what DeMo (arXiv 2411.19870) does with its averaged components."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self._lr = lr

    def _move(self, at: _Slice) -> None:
        torch.sub(at.theta, torch.sign(at.delta, out=at.scratch[0]).mul_(self._lr), out=at.out_theta)


class _Momentum(_Sliced):
    """SGD with momentum in torch's convention, DiLoCo (arXiv 2311.08105) algorithm 1, line 14:

        b'     = mu * b + delta / penalty,  clamped to [-clip, clip]
        theta' = theta - lr * (delta / penalty + mu * b')      Nesterov
        theta' = theta - lr * b'                               heavy ball

    ``penalty`` and ``clip`` (0 for none) are CO2's (arXiv 2401.16265)."""

    num_buffers = 1
    nesterov: ClassVar[bool]

    def __init__(self, lr: float, momentum: float, clip: float = 0.0, penalty: float = 1.0) -> None:
        super().__init__()
        self._lr, self._momentum = lr, momentum
        self._clip, self._penalty = clip, penalty
        self._in_one_pass = self.nesterov and not clip and penalty == 1.0

    def step(
        self,
        theta: Tensor,
        buffers: list[Tensor],
        delta: Tensor,
        count: int,
        out_theta: Tensor,
        out_buffers: list[Tensor],
        seen: Seen = _unseen,
    ) -> None:
        moved = None
        if self._in_one_pass:
            vectors = theta, buffers[0], delta, self._lr, self._momentum, out_theta, out_buffers[0]
            moved = kernels.nesterov(*vectors)
        if moved is None:
            super().step(theta, buffers, delta, count, out_theta, out_buffers, seen)
            return
        for span in spans(theta):
            moved(span)
            seen(span)

    def _move(self, at: _Slice) -> None:
        (buffer,), (new,), step, delta = at.buffers, at.out_buffers, at.scratch[0], at.delta
        if self._penalty != 1.0:
            delta = torch.div(delta, self._penalty, out=at.scratch[1])
        torch.mul(buffer, self._momentum, out=new)
        new.add_(delta)
        if self._clip:
            new.clamp_(-self._clip, self._clip)
        if self.nesterov:
            torch.mul(new, self._momentum, out=step)
            step.add_(delta).mul_(self._lr)
        else:
            torch.mul(new, self._lr, out=step)
        torch.sub(at.theta, step, out=at.out_theta)


class Nesterov(_Momentum):
    """Momentum that looks one step ahead, DiLoCo's outer optimizer."""

    nesterov = True


class HeavyBall(_Momentum):
    """Plain momentum, SlowMo's (arXiv 1910.00643) outer optimizer."""

    nesterov = False


class Adam(_Sliced):
    """Adam (arXiv 1412.6980, algorithm 1) on the mean pseudo-gradient; DiLoCo found it stable with epsilon
    near 0.1. ``momentum`` is beta1.

    The powers in its bias corrections are products of as many factors in double precision, the same
    everywhere."""

    num_buffers = 2

    def __init__(self, lr: float, momentum: float, beta2: float, eps: float) -> None:
        super().__init__()
        self._lr, self._beta1, self._beta2, self._eps = lr, momentum, beta2, eps

    def _move(self, at: _Slice) -> None:
        (first, second), (new_first, new_second), (a, b) = at.buffers, at.out_buffers, at.scratch
        delta, count = at.delta, at.count
        torch.mul(first, self._beta1, out=new_first)
        new_first.add_(torch.mul(delta, 1.0 - self._beta1, out=a))
        torch.mul(second, self._beta2, out=new_second)
        new_second.add_(torch.mul(delta, delta, out=a).mul_(1.0 - self._beta2))
        torch.div(new_second, _one_minus_power(self._beta2, count + 1), out=b).sqrt_().add_(self._eps)
        torch.div(new_first, _one_minus_power(self._beta1, count + 1), out=a).mul_(self._lr).div_(b)
        torch.sub(at.theta, a, out=at.out_theta)


class DelayedNesterov(_Sliced):
    """Delayed Nesterov of asynchronous Local-SGD (arXiv 2401.09135): momentum moves the model only at every
    K-th contribution, so that stale ones do not apply it again and again:

        D      = D + delta
        K-th:  m' = mu * m + D / K;   theta' = theta - lr * ((1 - cK + c) * mu * m' + delta / K);   D = 0
        else:                         theta' = theta - lr * (c * mu * m + delta / K)

    Buffers are m and D. With c = 0, K steps are one Nesterov step on the mean of their K pseudo-gradients."""

    num_buffers = 2

    def __init__(self, lr: float, momentum: float, every: int, c: float = 0.0) -> None:
        super().__init__()
        self._lr, self._momentum, self._every, self._c = lr, momentum, every, c

    def _move(self, at: _Slice) -> None:
        (m, total), (new_m, new_total), (step, share) = at.buffers, at.out_buffers, at.scratch
        torch.div(at.delta, self._every, out=share)
        torch.add(total, at.delta, out=new_total)
        if (at.count + 1) % self._every == 0:
            torch.mul(m, self._momentum, out=new_m)
            new_m.add_(new_total.div_(self._every))
            new_total.zero_()
            weight = (1.0 - self._c * self._every + self._c) * self._momentum
        else:
            new_m.copy_(m)
            weight = self._c * self._momentum
        torch.mul(new_m, weight, out=step)
        torch.sub(at.theta, step.add_(share).mul_(self._lr), out=at.out_theta)


def outer_optimizer(
    name: str,
    *,
    lr: float,
    momentum: float = 0.0,
    beta2: float = 0.95,
    eps: float = 0.1,
    every: int = 1,
    clip: float = 0.0,
    penalty: float = 1.0,
) -> OuterOptimizer:
    """The optimizer called ``name``, from what its row of `methods.outer_optimizers` says that it takes.
    Raises ValueError for an unknown one."""
    if name not in OUTER_OPTIMIZERS:
        raise ValueError(f"outer optimizer {name!r} is unknown: choose one of {', '.join(OUTER_OPTIMIZERS)}")
    made: OuterOptimizer = make(
        OUTER_OPTIMIZERS[name],
        lr=lr,
        momentum=momentum,
        beta2=beta2,
        eps=eps,
        every=every,
        clip=clip,
        penalty=penalty,
    )
    return made


def _one_minus_power(base: float, exponent: int) -> float:
    """1 - base ** exponent. `pow` may differ in its last bit between machines; products do not."""
    power = 1.0
    for _ in range(exponent):
        power *= base
        if power < 2.0**-60:
            return 1.0
    return 1.0 - power
