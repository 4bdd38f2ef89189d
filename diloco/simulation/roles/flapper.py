"""The flapper: its process dies and comes back again and again, most often in the midst of a round."""

from __future__ import annotations

from functools import partial

from diloco.simulation.roles.role import Adversary, Lives, Role
from peers.protocol.messages import Leave


class Flapper(Role):
    """It leaves, dies and comes back; nobody else should be the slower for it."""

    name = "flapper"
    about = "it dies, leaves and comes back every few seconds"

    def live(self, lives: Lives) -> None:
        """Die and come back."""
        lives.at(self.rng.uniform(3.0, 9.0), partial(self._die, lives))

    def _die(self, lives: Lives) -> None:
        self.did("died")
        lives.crash(lives.name)
        lives.at(self.rng.uniform(0.2, 3.0), partial(self._return, lives))

    def _return(self, lives: Lives) -> None:
        self.did("came back")
        lives.start(lives.name)
        lives.at(self.rng.uniform(3.0, 9.0), partial(self._die, lives))

    def act(self, now: float, node: Adversary) -> None:
        """Leave in the midst of a round, now and then."""
        member = node.member
        if member is not None and member.exchanges.running and self.rng.random() < 0.1:
            self.did("left in the midst of a round")
            node.send(now, node.host, Leave("flap"))
