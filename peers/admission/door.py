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
from peers.protocol.messages import (
    PROTOCOL,
    AskStatus,
    Kick,
    Knock,
    Obeyed,
    Refused,
    StatusFollows,
    Stop,
    Welcome,
)
from transport.errors import BadFrame
from transport.frames import pack, pack_items, unpack


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

    def certify(self, key: bytes, name: str) -> Refused | None:
        """Admit an identity for good, or say why not."""
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


@dataclass(frozen=True, slots=True)
class Invite:
    """A live invite: the public half of the key that its secret derives."""

    key: bytes
    expires_at: float
    """In the core's seconds."""


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

    def is_invite(self, key: bytes) -> bool:
        """A live or expired invite of ours: the expired are told so, and get nothing."""
        return key in self.invites

    def revoke(self, key: bytes) -> None:
        """That invite opens nothing any more."""
        self.invites.pop(key, None)

    def answer(self, now: float, coordinator: Admitting, invite: bytes, header: bytes) -> tuple[bytes, bytes]:
        """The reply's header and payload to one request. Never raises: rubbish is refused."""
        try:
            if invite == self.owner:
                return pack(_obey(now, coordinator, unpack(header))), b""
            return self._answer(now, coordinator, invite, unpack(header))
        except BadFrame as error:
            return pack(Refused("rubbish", str(error)[:200])), b""

    def _answer(
        self, now: float, coordinator: Admitting, invite: bytes, message: object
    ) -> tuple[bytes, bytes]:
        held = self.invites.get(invite)
        if held is None or now > held.expires_at:
            return pack(Refused("expired", "the ticket has expired: ask the host for a new one")), b""
        if isinstance(message, Knock):
            if message.protocol != PROTOCOL:
                return pack(_other_protocol(message.protocol)), b""
            card = checked_card(message.card, message.signature, self.run)
            refusal = coordinator.certify(card.transport, card.name)
            if refusal is not None:
                return pack(refusal), b""
            return pack(Welcome(self.run, self.settings_digest)), self.settings
        if isinstance(message, AskStatus):
            status = coordinator.status(now)
            return pack(StatusFollows(status.num_members)), pack_items(status.plain())
        raise BadFrame(f"{type(message).__name__} is not asked at the door")


def _obey(now: float, coordinator: Admitting, message: object) -> Refused | Obeyed:
    """Carry out one of the owner's orders."""
    if not isinstance(message, Kick | Stop):
        raise BadFrame(f"{type(message).__name__} is no order")
    if message.protocol != PROTOCOL:
        return _other_protocol(message.protocol)
    if isinstance(message, Kick):
        return coordinator.kick(now, message.who)
    return coordinator.stop(now)


def _other_protocol(spoken: int) -> Refused:
    detail = f"the host speaks protocol {PROTOCOL}, this program {spoken}: install the same version"
    return Refused("protocol", detail)
