"""The door: which invites are live, and what is said to whoever comes through it.

A ticket's secret is never sent: it derives the CURVE key that opens a connection, so whoever speaks
here holds a live ticket (X1), or the host's own identity. All that a ticket lets ask is to be admitted, and
the status; orders are the owner's. Its key signs nothing and needs no nonce: the connection proves who holds
it, and a recorded one opens nothing (X3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from peers.admission.card import checked_card
from peers.protocol.fields import cut
from peers.protocol.messages import PROTOCOL, AskStatus, Knock, Refused, StatusFollows, Welcome
from peers.protocol.orders import Kick, MakeInvite, Obeyed, RevokeInvite, SaveState, Stop
from transport.errors import BadFrame
from transport.frames import pack, pack_items, unpack
from transport.limits import LIMITS


class Status(Protocol):
    """What is told of a run, as far as the door has to know."""

    @property
    def num_members(self) -> int:
        """Members that have entered."""
        ...

    def plain(self) -> dict[str, Any]:
        """All of it, as msgpack carries it."""
        ...


class Admitting(Protocol):
    """What the door asks of the coordinator behind it."""

    def admit(
        self, now: float, key: bytes, name: str, invite: bytes, uses: int, identity: bytes
    ) -> Refused | None:
        """Admit an identity that came with a ticket, or say why not."""
        ...

    def make_invite(self, key: bytes, expires_at: int, uses: int) -> None:
        """Another ticket lets identities in: keep that."""
        ...

    def revoke_invite(self, key: bytes) -> None:
        """That ticket opens nothing any more: keep that."""
        ...

    def status(self, now: float) -> Status:
        """The run at this moment."""
        ...

    def kick(self, now: float, who: str) -> Refused | Obeyed:
        """Put a worker out for good, or say why not."""
        ...

    def stop(self, now: float) -> Obeyed:
        """End the run for all."""
        ...

    def save_now(self, now: float) -> Refused | Obeyed:
        """Have members write a checkpoint, or say why not."""
        ...


@dataclass(frozen=True, slots=True)
class Invite:
    """A live invite: the public half of the key that its secret derives."""

    key: bytes
    expires_at: float
    """In unix seconds."""
    uses: int = 0
    """Identities that it may let in, ever; 0 if nothing was said."""


@dataclass(slots=True)
class Door:
    """Knocks and their answers."""

    run: bytes
    settings: bytes
    """The run's settings as they are sent to joiners."""
    settings_digest: bytes
    invites: dict[bytes, Invite]
    owner: bytes = b""
    """The key of whoever holds the host's identity."""
    began_at: float = 0.0
    """The core's second 0 in unix seconds: what expires does so over restarts too."""
    max_invites: int = LIMITS.invites

    def is_invite(self, key: bytes) -> bool:
        """A live or expired invite of ours: the expired are told so, and get nothing."""
        return key in self.invites

    def revoke(self, key: bytes) -> None:
        """That invite opens nothing any more."""
        self.invites.pop(key, None)

    def restore(self, key: bytes, invite: Invite | None) -> None:
        """What became of an invite in an earlier life: with None it was revoked."""
        if invite is None:
            self.revoke(key)
        else:
            self.invites[key] = invite

    def answer(self, now: float, coordinator: Admitting, invite: bytes, header: bytes) -> tuple[bytes, bytes]:
        """The reply's header and payload to one request. Never raises: rubbish is refused."""
        try:
            if invite == self.owner:
                return pack(self._obey(now, coordinator, unpack(header))), b""
            return self._answer(now, coordinator, invite, unpack(header))
        except BadFrame as error:
            return pack(Refused("rubbish", cut(str(error)))), b""

    def _answer(
        self, now: float, coordinator: Admitting, invite: bytes, message: object
    ) -> tuple[bytes, bytes]:
        held = self.invites.get(invite)
        if held is None or self.began_at + now > held.expires_at:
            return pack(Refused("expired", "the ticket has expired: ask the host for a new one")), b""
        if isinstance(message, Knock):
            if message.protocol != PROTOCOL:
                return pack(_other_protocol(message.protocol)), b""
            card = checked_card(message.card, message.signature, self.run)
            refusal = coordinator.admit(now, card.transport, card.name, held.key, held.uses, card.identity)
            if refusal is not None:
                return pack(refusal), b""
            return pack(Welcome(self.run, self.settings_digest)), self.settings
        if isinstance(message, AskStatus):
            status = coordinator.status(now)
            return pack(StatusFollows(status.num_members)), pack_items(status.plain())
        raise BadFrame(f"{type(message).__name__} is not asked at the door")

    def _obey(self, now: float, coordinator: Admitting, message: object) -> Refused | Obeyed | Welcome:
        """Carry out one of the owner's orders."""
        if not isinstance(message, Kick | Stop | SaveState | MakeInvite | RevokeInvite):
            raise BadFrame(f"{type(message).__name__} is no order")
        if message.protocol != PROTOCOL:
            return _other_protocol(message.protocol)
        match message:
            case Kick():
                return coordinator.kick(now, message.who)
            case Stop():
                return coordinator.stop(now)
            case SaveState():
                return coordinator.save_now(now)
            case MakeInvite():
                return self._make_invite(now, coordinator, message)
            case RevokeInvite():
                if message.key not in self.invites:
                    return Refused("unknown", "that ticket opens nothing here already")
                coordinator.revoke_invite(message.key)
                self.revoke(message.key)
                return Obeyed("the ticket opens nothing any more; workers that came with it stay")

    def _make_invite(self, now: float, coordinator: Admitting, order: MakeInvite) -> Refused | Welcome:
        live = {key: each for key, each in self.invites.items() if self.began_at + now <= each.expires_at}
        if order.key in self.invites or len(live) >= self.max_invites:
            return Refused("full", f"the run has {len(live)} live tickets, as many as it may: revoke one")
        coordinator.make_invite(order.key, order.expires_at, order.uses)
        self.invites = live | {order.key: Invite(order.key, order.expires_at, order.uses)}
        return Welcome(self.run, self.settings_digest)


def _other_protocol(spoken: int) -> Refused:
    detail = f"the host speaks protocol {PROTOCOL}, this program {spoken}: install the same version"
    return Refused("protocol", detail)
