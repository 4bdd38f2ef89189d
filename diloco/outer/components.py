"""From a method's fields to the parts that run: projection, error feedback, outer optimizer, codecs.

Owns only which field chooses which part. The parts are pure and live in their own modules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diloco.compression.codecs import Codec, codec
from diloco.compression.error_feedback import Feedback, feedback
from diloco.compression.low_rank import LowRank
from diloco.compression.projections import (
    Dct,
    IdentityProjection,
    Projection,
    RandomMask,
    WithInnerLr,
)
from diloco.methods.outer_optimizers import OUTER_OPTIMIZERS
from diloco.methods.ramps import value_at
from diloco.methods.spec import Method
from diloco.outer.optimizers import Average, AverageOfChanged, OuterOptimizer, outer_optimizer

_SEED = 0x0D110C0
"""Seed of shared draws: masks and first bases are the same in every run."""


class OuterOptimizers:
    """The outer optimizer of each outer step: its learning rate and momentum may change."""

    def __init__(self, method: Method) -> None:
        self.num_buffers = OUTER_OPTIMIZERS[method.outer].num_buffers
        """Vectors [n] that it keeps, at every step."""
        self._method = method
        self._made: tuple[float, float, OuterOptimizer] | None = None

    def at(self, count: int, momentum_scale: float = 1.0) -> OuterOptimizer:
        """That of outer step number ``count``, with its momentum multiplied by ``momentum_scale``, but not
        above 1: it would grow without bound."""
        lr = value_at(self._method.outer_lr, count)
        momentum = min(1.0, value_at(self._method.outer_momentum, count) * momentum_scale)
        if self._made is None or self._made[:2] != (lr, momentum):
            self._made = lr, momentum, self._make(lr, momentum)
        return self._made[2]

    def _make(self, lr: float, momentum: float) -> OuterOptimizer:
        method = self._method
        return outer_optimizer(
            method.outer,
            lr=lr,
            momentum=momentum,
            beta2=method.outer_beta2,
            eps=method.outer_epsilon,
            every=method.outer_every,
            clip=method.outer_clip,
            penalty=method.outer_penalty,
        )


class OneOptimizer:
    """The same ``optimizer`` at each outer step: AdamW's moments know no settings."""

    def __init__(self, optimizer: OuterOptimizer) -> None:
        self.num_buffers = optimizer.num_buffers
        self._optimizer = optimizer

    def at(self, count: int, momentum_scale: float = 1.0) -> OuterOptimizer:
        """See `OuterOptimizers.at`."""
        return self._optimizer


@dataclass(frozen=True, slots=True)
class Components:
    """The parts of a method that move one fragment."""

    optimizers: OuterOptimizers | OneOptimizer
    feedback: Feedback
    projection: Projection

    @property
    def num_vectors(self) -> int:
        """Vectors [n] of shared state: outer parameters, the optimizer's buffers, the feedback's mean."""
        return 1 + self.optimizers.num_buffers + int(self.feedback.shared)


def components_of(
    method: Method, fragment: int, shapes: list[tuple[int, ...]], is_moment: bool
) -> Components:
    """The parts that move tensors of ``shapes``; AdamW's moments and buffers are only averaged."""
    n = sum(torch.Size(shape).numel() for shape in shapes)
    if is_moment:
        mean = AverageOfChanged() if fragment == method.buffers_fragment else Average()
        return Components(OneOptimizer(mean), feedback("none"), IdentityProjection(n))
    return Components(
        optimizers=OuterOptimizers(method),
        feedback=_feedback(method),
        projection=_projection(method, fragment, shapes, n),
    )


def codecs_of(method: Method, fragment: int = 0) -> tuple[Codec, Codec | None]:
    """New codecs for contributions to that fragment and for means; None leaves the second to the first. One
    thread at a time may use a codec. Buffers are sent once, and whole."""
    if fragment == method.buffers_fragment:
        return codec("fp32"), None
    mine = codec(method.codec, keep=method.keep, value_bits=method.value_bits)
    return mine, None if method.mean_codec == "same" else codec(method.mean_codec)


def _feedback(method: Method) -> Feedback:
    match method.error_feedback:
        case "ef14":
            return feedback("ef14", decay=method.feedback_decay, share=method.feedback_share)
        case "econtrol":
            return feedback("econtrol", eta=method.feedback_share)
        case name:
            return feedback(name)


def _projection(method: Method, fragment: int, shapes: list[tuple[int, ...]], n: int) -> Projection:
    seed = _SEED + fragment
    match method.projection:
        case "random_mask":
            return RandomMask(n, method.mask_one_in, seed)
        case "low_rank":
            return LowRank(
                shapes,
                method.rank,
                seed,
                adapt=method.adapt,
                sync_every=method.sync_every,
                rank_share=method.rank_share,
            )
        case "dct":
            return Dct(n)
        case _:
            return WithInnerLr(n) if method.tells_inner_lr else IdentityProjection(n)
