"""What one worker trained on one fragment, and what is on its way: counts, without decisions.

Owns the bookkeeping of an `outer_loop.OuterLoop` for one fragment. A contribution is a snapshot: steps and
tokens up to it, and the vectors that the replica remembers of it. Where an outer step is two exchanges both
are about the same snapshot, which is kept until the second one is over. Every token is counted once (S4):
with the last exchange; those before it are offered with none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transport.collectives.reducer import Reducer


@dataclass(slots=True)
class Progress:
    """What was trained on one fragment since the last contribution that counts."""

    next_offer: int
    """Steps at which it is offered (again)."""
    steps: int = 0
    tokens: int = 0
    offered: Reducer | None = None
    offered_steps: int = 0
    """Steps at the snapshot of what is offered, or is kept to be."""
    offered_tokens: int = 0
    is_new: bool = False
    """What is offered is of a new snapshot, and the member was not heard to have it."""
    keeps: bool = False
    """Nothing is offered, and the snapshot of the last offer is to be offered before a new one is made."""
    in_round: bool = False
    wait_until: float = 0.0
    landing: Reducer | None = None
    """The contribution whose round was committed and whose result is to land."""
    outdated: bool = False
    """A newer version is on its way here: no offer would be taken."""
    in_step: bool = False
    """It was put in step with the others once since it was in a round."""

    @property
    def has_snapshot(self) -> bool:
        """A snapshot is offered, or is kept to be."""
        return self.offered is not None or self.keeps

    @property
    def steps_since_offer(self) -> int:
        return self.steps - (self.offered_steps if self.has_snapshot else 0)

    def offer(self, contribution: Reducer) -> None:
        """A contribution is made of the snapshot that is kept, or of what was trained until now."""
        self.is_new = not self.keeps
        if self.is_new:
            self.offered_steps, self.offered_tokens = self.steps, self.tokens
        self.offered, self.keeps = contribution, False

    def keep_snapshot(self, again_in: int) -> None:
        """What is offered is over, and its snapshot is offered (again) in so many steps."""
        self.offered, self.in_round, self.keeps = None, False, True
        self.next_offer = self.steps + again_in

    def kept(self, offers_before_landing: bool, period: int) -> dict[str, int | bool]:
        """What a later process goes on from. An offer that is on its way is not in it: what it is about is as
        good as not offered yet, or is lost where the live model has gone on without it."""
        steps, tokens, next_offer = self.steps, self.tokens, self.next_offer
        if self.has_snapshot and offers_before_landing:
            steps, tokens, next_offer = steps - self.offered_steps, tokens - self.offered_tokens, period
        elif self.has_snapshot:
            next_offer = max(1, steps)
        return {
            "steps": steps,
            "tokens": tokens,
            "next_offer": next_offer,
            "lands": self.landing is not None,
            "in_step": self.in_step,
        }

    @classmethod
    def resumed(cls, kept: Mapping[str, Any], landing: Reducer | None) -> Progress:
        """What an earlier process kept; ``landing`` if its result is still to land."""
        steps, tokens, in_step = kept["steps"], kept["tokens"], kept["in_step"]
        return cls(kept["next_offer"], steps, tokens, landing=landing, in_step=in_step)

    def lose_snapshot(self) -> int:
        """The snapshot is over, and the live model has gone on without it. Its tokens."""
        lost = self.offered_tokens
        self.offered, self.in_round, self.keeps = None, False, False
        self.steps, self.tokens = self.steps - self.offered_steps, self.tokens - lost
        self.offered_steps = self.offered_tokens = 0
        return lost
