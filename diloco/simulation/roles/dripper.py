"""The dripper: it lives and answers, and sends the chunks of a round one at a time, as slowly as it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from random import Random

from diloco.simulation.roles.role import Adversary, Role
from transport.effects import Send


class Dripper(Role):
    """Each chunk that others wait for leaves so much later than the one before."""

    name = "dripper"
    about = "one chunk at a time, seconds apart, while its link lives"
    acts_every_s = 2.0

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._held: deque[tuple[Adversary, Send]] = deque()

    def frame(self, node: Adversary, effect: Send) -> Iterable[Send]:
        """Keep chunks back."""
        if effect.purpose not in ("exchange", "early"):
            return (effect,)
        self._held.append((node, effect))
        return ()

    def act(self, now: float, node: Adversary) -> None:
        """Let one go; what an earlier process held is gone with it."""
        while self._held:
            by, effect = self._held.popleft()
            if by is node:
                self.did("let a chunk go, late")
                node.say_frame(effect)
                return
