"""What is said at a host's door before a link stands: a knock, a question for the status.

Blocking calls with a time limit; a refusal is raised.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from diloco.errors import JoinError
from diloco.settings import RunSettings
from diloco.swarm.reach import why_silent
from peers.admission.card import CARD_TAG, Card
from peers.admission.identity import Identity
from peers.admission.ticket import Ticket, invite_pair, read_ticket
from peers.coordinator.status import RunStatus
from peers.errors import ExpiredTicket
from peers.protocol.messages import PROTOCOL, AskStatus, Knock, Refused, StatusFollows, Welcome
from transport.errors import BadFrame, DialFailed, KnockTimeout, TransportError
from transport.frames import pack, unpack, unpack_items
from transport.keys import KeyPair
from transport.limits import LIMITS
from transport.sockets.libzmq import knock

KNOCK_S = 30.0

_STATUS_BYTES = 1 << 20
_STATUS_LIMITS = replace(LIMITS, message_items=4 * LIMITS.gossip_members)
"""A status lists every member, of which gossip admits more than a message has items."""


def status(ticket: str, timeout_s: float = KNOCK_S) -> dict[str, Any]:
    """What the host of a ticket knows of its run: roster, rounds, open exchanges. Errors as `join`.

    Plain values, as `RunStatus.plain` of `peers.coordinator.status` makes them."""
    return ask_status(ticket, timeout_s).plain()


def ask_status(ticket: str, timeout_s: float = KNOCK_S) -> RunStatus:
    """The same as `status`, typed and checked."""
    found = read_ticket(ticket, None)  # whether it expired is the host's to say: clocks differ
    header, payload = _ask(found, pack(AskStatus(PROTOCOL)), timeout_s, waits_for_disk=False)
    if not isinstance(understood(header), StatusFollows):
        raise JoinError("rubbish", "the host sent something else than its status")
    try:
        return RunStatus.from_plain(unpack_items(payload, _STATUS_LIMITS, _STATUS_BYTES))
    except BadFrame as error:
        raise JoinError("rubbish", f"the host's status cannot be read: {error}") from None


def knock_for_settings(ticket: Ticket, identity: Identity, name: str, timeout_s: float) -> RunSettings:
    """Knock with an identity and a name for people; the host's answer is the settings of its run. Raises
    `JoinError` when it refuses or its settings mean something else here, `KnockTimeout` when nobody
    answers."""
    card = pack(Card(ticket.run, identity.public, identity.keys.public, name))
    header, payload = _ask(ticket, pack(Knock(PROTOCOL, card, identity.sign(CARD_TAG, card))), timeout_s)
    welcome = understood(header)
    if not isinstance(welcome, Welcome):
        raise JoinError("rubbish", "the host sent no welcome")
    settings = RunSettings.from_bytes(bytes(payload))
    if settings.digest() != welcome.settings:
        raise JoinError("settings", "the host's settings do not mean the same here: install the same version")
    return settings


def _ask(
    ticket: Ticket, header: bytes, timeout_s: float, *, waits_for_disk: bool = True
) -> tuple[bytes, bytes]:
    keys = invite_pair(ticket.secret)
    try:
        return ask_at(ticket.addresses, ticket.host, keys, header, timeout_s, waits_for_disk=waits_for_disk)
    except TransportError as error:
        try:
            ticket.check_expiry(time.time())
        except ExpiredTicket as expired:
            raise type(error)(f"{error} (by the clock of this machine, {expired})") from None
        if isinstance(error, KnockTimeout | DialFailed) and (why := why_silent(ticket.addresses)):
            error.add_note(why)
        raise


def ask_at(
    addresses: tuple[str, ...],
    host: bytes,
    keys: KeyPair,
    header: bytes,
    timeout_s: float,
    *,
    waits_for_disk: bool = True,
) -> tuple[bytes, bytes]:
    """Ask a host one thing with a key that opens its door, at each address in turn; the last failure is
    raised. See `knock` for ``waits_for_disk``."""
    failure: TransportError | None = None
    for address in addresses:
        try:
            return knock(address, host, keys, header, timeout_s, waits_for_disk=waits_for_disk)
        except (KnockTimeout, DialFailed) as error:
            failure = error
    assert failure is not None, "a ticket has an address"
    raise failure


def understood(header: bytes) -> object:
    """The answer in a host's reply; a refusal is raised."""
    try:
        message: object = unpack(header)
    except BadFrame as error:
        raise JoinError("rubbish", f"the host sent something that is no answer: {error}") from None
    if isinstance(message, Refused):
        raise JoinError(message.code, message.detail)
    return message
