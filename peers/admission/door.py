"""The door: which invites are live, and what is said to whoever comes through it.

A ticket's secret is never sent: it derives the CURVE key that opens a connection, so whoever speaks
here holds a live ticket (X1). All that can be asked is to be admitted, and the status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from peers.admission.card import checked_card
from peers.protocol.messages import PROTOCOL, AskStatus, Knock, Refused, StatusFollows, Welcome
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

    def is_invite(self, key: bytes) -> bool:
        """A live or expired invite of ours: the expired are told so, and get nothing."""
        return key in self.invites

    def revoke(self, key: bytes) -> None:
        """That invite opens nothing any more."""
        self.invites.pop(key, None)

    def answer(self, now: float, coordinator: Admitting, invite: bytes, header: bytes) -> tuple[bytes, bytes]:
        """The reply's header and payload to one request. Never raises: rubbish is refused."""
        try:
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
                detail = f"the host speaks protocol {PROTOCOL}, this program {message.protocol}"
                return pack(Refused("protocol", f"{detail}: install the same version")), b""
            card = checked_card(message.card, message.signature, self.run)
            refusal = coordinator.certify(card.transport, card.name)
            if refusal is not None:
                return pack(refusal), b""
            return pack(Welcome(self.run, self.settings_digest)), self.settings
        if isinstance(message, AskStatus):
            status = coordinator.status(now)
            return pack(StatusFollows(status.num_members)), pack_items(status.plain())
        raise BadFrame(f"{type(message).__name__} is not asked at the door")
