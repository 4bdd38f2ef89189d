"""When each fragment starts and lands, counted in inner steps.

Pure numbers of one method: offsets staggered over H, the delay, and what follows from them. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diloco.methods.spec import Method


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of one method. Streaming DiLoCo (arXiv 2501.18512), algorithm 2: fragment p is offered at
    inner steps t with (t - t_p) mod H = 0, and its result lands tau steps later."""

    periods: tuple[int, ...]
    """Inner steps between two offers of each fragment (H)."""
    offsets: tuple[int, ...]
    """Inner steps before each fragment's first offer: staggered evenly over H, which P need not divide."""
    delay: int
    """Inner steps that a result may take (tau)."""
    offers_before_landing: bool
    """At the step of the next offer a result lands, and wipes out what that offers: the offer comes first."""
    gossips: bool = False
    rebases: bool = False
    """Rounds go on without waiting for everyone, so what was not in one is offered on top of it."""
    weights: Literal["tokens", "equal", "tokens_rate"] = "tokens"
    exchanges_per_step: int = 1
    """Commits of a fragment that make one outer step of it; the last one moves the parameters."""
    has_buffers: bool = False
    """One fragment more, the last, is of the model's buffers: it is offered when it is asked for, once."""

    @classmethod
    def of(cls, method: Method) -> Schedule:
        """The schedule of ``method``; with moments, those are two fragments more, which move less often."""
        every, count = method.sync_every, method.num_fragments
        periods, offsets = [every] * count, [(p + 1) * every // count for p in range(count)]
        for share in (1, 2) if method.moments_every else ():
            periods.append(share * method.moments_every * every)
            offsets.append(periods[-1])
        return cls(
            periods=tuple(periods),
            offsets=tuple(offsets),
            delay=method.delay,
            offers_before_landing=method.offers_before_landing,
            gossips=method.gossips,
            rebases=method.quorum > 0,
            weights=method.weights,
            exchanges_per_step=method.exchanges_per_step,
        )

    @property
    def num_fragments(self) -> int:
        return len(self.periods)

    @property
    def buffers_fragment(self) -> int | None:
        """That one."""
        return self.num_fragments if self.has_buffers else None

    def num_commits(self, rounds: int) -> int:
        """Commits of a run in which the parameters of every fragment move ``rounds`` times."""
        steps = sum(rounds * self.periods[0] // period for period in self.periods)
        return steps * self.exchanges_per_step
