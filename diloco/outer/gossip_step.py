"""The outer step of gossip: a replica moved by its group's means, NoLoCo (arXiv 2506.10911), section 3.

Pure, by slices that fit the cache; every operation rounds multiply and add separately.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diloco.compression.vectors import spans


@dataclass(frozen=True, slots=True)
class GossipStep:
    """With alpha = ``momentum``, beta = ``lr`` and pseudo-gradients of descent sign:

        m' = alpha * m + beta * mean_delta + gamma * (theta - mean_theta);   theta' = theta - m'

    Without momentum and with beta = gamma = 1 that is plain averaging of the local parameters."""

    lr: float
    momentum: float
    gamma: float

    def step(
        self,
        old: list[Tensor],
        mean_delta: Tensor,
        mean_theta: Tensor,
        new: list[Tensor],
        seen: Callable[[slice], None],
    ) -> None:
        """Move ``old``, theta [n] and m [n] if there is momentum, into ``new``, which may be the same. Each
        slice is told to ``seen`` once it is written."""
        theta, *buffers = old
        new_theta, *new_buffers = new
        for span in spans(theta):
            moved = mean_delta[span] * self.lr
            moved.add_((theta[span] - mean_theta[span]).mul_(self.gamma))
            if buffers:
                moved.add_(buffers[0][span] * self.momentum)
            torch.sub(theta[span], moved, out=new_theta[span])
            for buffer in new_buffers:
                buffer[span].copy_(moved)
            seen(span)
