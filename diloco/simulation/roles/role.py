"""What a role may do: twist commands and frames of its peer's node, speak up, and begin and end processes.

The node below is the production code; a role sees what goes into it from training and what leaves it. Nothing
is random but from the stream that it is given, and what it did is counted by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, ClassVar, Protocol

from peers.node import Node
from peers.protocol.commands import Command
from peers.protocol.signing import Signer
from transport.effects import CONTROL_LANE, Effect, Payload, Send
from transport.errors import BadFrame
from transport.frames import from_items, pack_items, to_items, unpack_items


class Lives(Protocol):
    """What a role may do to processes of its peer, and of the other identities that the peer has."""

    name: str
    """The peer's own."""

    def at(self, delay_s: float, run: Callable[[], None]) -> None:
        """Do something later."""

    def start(self, name: str) -> None:
        """A process begins: it knocks and enters."""

    def crash(self, name: str) -> None:
        """It is gone."""


class Role:
    """A role of one peer, over all its lives. It does nothing wrong unless a subclass says so."""

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    acts_every_s: ClassVar[float] = 0.5

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.deeds: Counter[str] = Counter()
        """What it did, in words."""
        self.offered: list[Any] = []
        """Reducers that it offered in place of its own: what it truly sent is in them."""

    def live(self, lives: Lives) -> None:
        """Called once, before anything happens."""

    def signer(self, signer: Signer) -> Signer:
        """What its node signs with in place of its identity."""
        return signer

    def command(self, node: Adversary, command: Command) -> Command:
        """What the node is told in place of what training says."""
        return command

    def message(self, node: Adversary, peer: bytes, message: Any) -> Any:
        """What is said in place of a message; the very same object if it stays."""
        return message

    def frame(self, node: Adversary, effect: Send) -> Iterable[Send]:
        """The frames that leave in place of one."""
        return (effect,)

    def heard(self, now: float, node: Adversary) -> None:
        """Called after each frame that came."""

    def act(self, now: float, node: Adversary) -> None:
        """Called now and then: speak up."""

    def did(self, deed: str) -> None:
        """Count a deed."""
        self.deeds[deed] += 1


class Adversary(Node):
    """A production node whose peer has a role."""

    def __init__(self, *args: Any, role: Role, signer: Signer | None = None, **more: Any) -> None:
        super().__init__(*args, signer=signer and role.signer(signer), **more)
        self._role = role
        self._acts_at = 0.0
        self._raw: list[Send] = []

    def command(self, now: float, command: Command) -> bool:
        """As the role would have it."""
        return super().command(now, self._role.command(self, command))

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        """The role learns that something came."""
        super().receive(now, peer, lane, header, payload)
        self._role.heard(now, self)

    def tick(self, now: float) -> None:
        """The role speaks up now and then."""
        super().tick(now)
        if now >= self._acts_at:
            self._acts_at = now + self._role.acts_every_s
            self._role.act(now, self)

    def deadline(self) -> float | None:
        """The node's, or when the role acts next."""
        due = super().deadline()
        return self._acts_at if due is None else min(due, self._acts_at)

    @property
    def host(self) -> bytes:
        """The coordinator's key."""
        return self._contact.key

    def say_frame(self, effect: Send) -> None:
        """Send a frame as it is."""
        self._raw.append(effect)

    def say_part(self, now: float, peer: bytes, part: Any) -> None:
        """Send a part of a link by itself, such as `Stale`."""
        link = self.links.by_peer.get(peer)
        if link is not None:
            link.streams.transmit(now, CONTROL_LANE, [to_items(part)], None)

    def drain(self) -> list[Effect]:
        """What leaves the node, as the role would have it."""
        out: list[Effect] = []
        for effect in super().drain():
            if isinstance(effect, Send):
                out += self._role.frame(self, self._twisted(effect))
            else:
                out.append(effect)
        out += self._raw
        self._raw = []
        return out

    def _twisted(self, effect: Send) -> Send:
        try:
            items = unpack_items(effect.header, self.limits)
            if not isinstance(items, list) or len(items) != 2:
                return effect
            message = from_items(items[1])
        except BadFrame:
            return effect
        instead = self._role.message(self, effect.peer, message)
        if instead is message:
            return effect
        header = pack_items([items[0], to_items(instead)])
        return Send(effect.peer, effect.lane, header, effect.payload, effect.purpose, effect.again)
