"""Orders to a running host from whoever holds its state directory: workers, tickets, the end of the run.

An order goes through the host's own door, over a connection whose key derives from the host's identity: the
file in the state directory is all that is needed, and a ticket alone orders nothing. Blocking calls with a
time limit; a refusal is raised.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from diloco.errors import JoinError, UserError
from diloco.swarm.handshake import KNOCK_S, ask_at, understood
from diloco.swarm.state_dir import advertised_address, default_state, local_address
from peers.admission.identity import Identity
from peers.admission.ticket import Ticket, invite_pair, read_ticket
from peers.protocol.messages import PROTOCOL, Welcome
from peers.protocol.orders import Kick, MakeInvite, Obeyed, RevokeInvite, SaveState, Stop
from transport.frames import pack


def kick(ticket: str, who: str, state: Path | None = None, timeout_s: float = KNOCK_S) -> str:
    """Put a worker out of the run of a ticket for good, by its name. Returns what the host says it did.
    Raises `UserError` without the host's state, `JoinError` when it refuses, `KnockTimeout` when nobody
    answers."""
    if not 1 <= len(who) <= 96:
        raise UserError("a worker's name has 1 to 96 characters")
    return _order(ticket, pack(Kick(PROTOCOL, who)), state, timeout_s)


def stop(ticket: str, state: Path | None = None, timeout_s: float = KNOCK_S) -> str:
    """End the run of a ticket for all its members, in order. Returns and raises as `kick`."""
    return _order(ticket, pack(Stop(PROTOCOL)), state, timeout_s)


def save_now(ticket: str, state: Path | None = None, timeout_s: float = KNOCK_S) -> str:
    """Have the workers of a run write a checkpoint of its newest commit. Returns and raises as `kick`."""
    return _order(ticket, pack(SaveState(PROTOCOL)), state, timeout_s)


def new_ticket(uses: int, hours: float, state: Path | None = None, timeout_s: float = KNOCK_S) -> str:
    """Another ticket to the run of the host in ``state``, for so many hours; it lets ``uses`` identities
    in, ever, or with 0 as many as a ticket may. Raises as `kick`."""
    home, identity = _only_owner(state)
    secret, expiry = secrets.token_bytes(16), int(time.time() + 3600 * hours)
    order = MakeInvite(PROTOCOL, invite_pair(secret).public, expiry, uses)
    answer = _answer(local_address(home), identity, pack(order), timeout_s)
    if not isinstance(answer, Welcome):
        raise JoinError("rubbish", "the host sent no welcome")
    run, host = answer.run, identity.keys.public
    return Ticket(run, host, secret, expiry, tuple(advertised_address(home))).encode()


def revoke(ticket: str, state: Path | None = None, timeout_s: float = KNOCK_S) -> str:
    """Have a ticket open nothing any more. Returns and raises as `kick`."""
    invite = invite_pair(read_ticket(ticket, None).secret).public
    return _order(ticket, pack(RevokeInvite(PROTOCOL, invite)), state, timeout_s)


def _order(ticket: str, header: bytes, state: Path | None, timeout_s: float) -> str:
    found = read_ticket(ticket, None)  # whoever holds the state needs no live ticket
    home, identity = _owner(found.host, state)
    # The host is most likely on this machine, where the address that others see may lead nowhere.
    addresses = list(dict.fromkeys([*local_address(home), *found.addresses]))
    answer = _answer(addresses, identity, header, timeout_s)
    if not isinstance(answer, Obeyed):
        raise JoinError("rubbish", "the host sent something else than what it did")
    return answer.detail


def _answer(addresses: list[str], identity: Identity, header: bytes, timeout_s: float) -> object:
    reply, _ = ask_at(tuple(addresses), identity.keys.public, identity.control, header, timeout_s)
    return understood(reply)


def _owners(state: Path | None) -> list[tuple[Path, Identity]]:
    """The state directories of hosts that a person may mean, and the identities in them."""
    homes = [state.expanduser()] if state else sorted(default_state().glob("*"))
    found = [(home, Identity.load(home / "identity")) for home in homes if local_address(home)]
    return [(home, identity) for home, identity in found if identity is not None]


def _owner(host: bytes, state: Path | None) -> tuple[Path, Identity]:
    """The state directory of the host with that key."""
    for home, identity in _owners(state):
        if identity.keys.public == host:
            return home, identity
    where = state or f"any folder in {default_state()}"
    raise UserError(f"the state of that ticket's host is not in {where}: name its folder (--state)")


def _only_owner(state: Path | None) -> tuple[Path, Identity]:
    """The state directory of the only host that a person may mean."""
    found = _owners(state)
    if len(found) != 1:
        where = state or default_state()
        raise UserError(f"the state of {len(found) or 'no'} hosts is in {where}: name one's folder (--state)")
    return found[0]
