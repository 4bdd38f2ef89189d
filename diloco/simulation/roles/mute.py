"""The mute: to one other member it sends nothing in an exchange, and says that it is that one who is silent.

Either of two who do not reach each other may be wrong, so what it says cannot be told from the truth. It
picks somebody who needs something of it, the same one or another each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from diloco.simulation.roles.role import Adversary, Role
from peers.member.exchanges import RunningExchange
from peers.protocol.messages import Stuck
from transport.effects import Send


class Mute(Role):
    """One victim at a time; what it held back goes out when the next one is picked."""

    name = "mute"
    about = "nothing for one other member at a time, and word that this one is silent"

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._speaks = rng.random() < 0.5
        """Else the victim is the only one who reports anybody."""
        self._faithful = rng.random() < 0.3
        self._victim = b""
        self._at = (0, -1)
        """Serial and attempt for which it was picked."""
        self._held: list[tuple[Adversary, Send]] = []

    def frame(self, node: Adversary, effect: Send) -> Iterable[Send]:
        """Nothing of an exchange for the victim."""
        if effect.purpose not in ("exchange", "early"):
            return (effect,)
        self._pick(node)
        if effect.peer != self._victim:
            return (effect,)
        self.did("kept a chunk back")
        self._held.append((node, effect))
        return ()

    def act(self, now: float, node: Adversary) -> None:
        """Say that the victim is silent."""
        self._pick(node)
        if node.member is None or not self._victim or not self._speaks:
            return
        serial, attempt = self._at
        if serial in node.member.exchanges.running:
            self.did("said that its victim is silent")
            node.send(now, node.host, Stuck(serial, attempt, (self._victim,), ""))

    def _pick(self, node: Adversary) -> None:
        """A victim for each attempt."""
        if node.member is None:
            return
        running = node.member.exchanges.running
        serial = max(running, default=0)
        if not serial or (serial, running[serial].exchange.attempt) <= self._at:
            return
        self._at = (serial, running[serial].exchange.attempt)
        owed = self._who_needs(node, running[serial])
        if self._victim in owed and self._faithful:
            return
        self._victim = self.rng.choice(owed) if owed else b""
        kept, self._held = self._held, []
        for by, effect in kept:
            if by is node and effect.peer != self._victim:
                node.say_frame(effect)
            elif by is node:
                self._held.append((by, effect))

    def _who_needs(self, node: Adversary, running: RunningExchange) -> list[bytes]:
        """Whoever owns no chunks needs nothing of another who owns none."""
        plan, others = running.plan, set(running.exchange.members) - {node.key}
        if plan is not None and node.key in plan.idle:
            others -= plan.idle
        return sorted(others)
