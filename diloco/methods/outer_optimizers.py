"""The table of outer optimizers: what a method may name as ``outer``, what it keeps, and which class steps.

Owns one row per optimizer, and what settings and costs need to know of it. Refuses to step: that is the class
that the row names. A test holds every row equal to its class. Needs no torch. A new outer optimizer is one
row here and one class: see docs/methods.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OuterRule:
    """One outer optimizer. ``options`` are those of `outer.optimizers.outer_optimizer` that the class takes:
    a method with a momentum or a clip that its optimizer does not take is refused."""

    name: str
    made_by: str
    """Where the class is, an `outer.optimizers.OuterOptimizer`: ``package.module:Class``."""
    num_buffers: int
    """Vectors of a fragment's length that it keeps, which all members share."""
    options: tuple[str, ...]
    needs_momentum: bool = False
    """Without one it would be another optimizer."""
    follows_inner_lr: bool = False
    """Contributions tell the inner learning rate, and the momentum is scaled as it changes."""


_OPTIMIZERS = "diloco.outer.optimizers"

OUTER_OPTIMIZERS: dict[str, OuterRule] = {
    row.name: row
    for row in (
        OuterRule("sgd", f"{_OPTIMIZERS}:Sgd", 0, ("lr",)),
        OuterRule(
            "nesterov",
            f"{_OPTIMIZERS}:Nesterov",
            1,
            ("lr", "momentum", "clip", "penalty"),
            needs_momentum=True,
        ),
        OuterRule(
            "heavy_ball",
            f"{_OPTIMIZERS}:HeavyBall",
            1,
            ("lr", "momentum", "clip", "penalty"),
            needs_momentum=True,
        ),
        OuterRule(
            "slow_momentum",
            f"{_OPTIMIZERS}:HeavyBall",
            1,
            ("lr", "momentum", "clip", "penalty"),
            needs_momentum=True,
            follows_inner_lr=True,
        ),
        OuterRule("adam", f"{_OPTIMIZERS}:Adam", 2, ("lr", "momentum", "beta2", "eps")),
        OuterRule(
            "delayed_nesterov",
            f"{_OPTIMIZERS}:DelayedNesterov",
            2,
            ("lr", "momentum", "every"),
            needs_momentum=True,
        ),
        OuterRule("sign", f"{_OPTIMIZERS}:SignSgd", 0, ("lr",)),
    )
}
"""Every outer optimizer, by its name. A program may add rows of its own before it reads settings, on every
peer."""
