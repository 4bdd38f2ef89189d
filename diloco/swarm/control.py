"""Orders to a running host from whoever holds its state directory: put a worker out, end the run.

An order goes through the host's own door, over a connection whose key derives from the host's identity: the
file in the state directory is all that is needed, and a ticket alone orders nothing. Blocking calls with a
time limit; a refusal is raised.
"""

from __future__ import annotations

from pathlib import Path

from diloco.errors import JoinError, UserError
from diloco.swarm.handshake import KNOCK_S, ask_at, understood
from diloco.swarm.state_dir import DEFAULT_STATE, local_address
from peers.admission.identity import Identity
from peers.admission.ticket import read_ticket
from peers.protocol.messages import PROTOCOL, Kick, Obeyed, Stop
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


def _order(ticket: str, header: bytes, state: Path | None, timeout_s: float) -> str:
    found = read_ticket(ticket, None)  # whoever holds the state needs no live ticket
    home, identity = _owner(found.host, state)
    # The host is most likely on this machine, where the address that others see may lead nowhere.
    addresses = dict.fromkeys([*local_address(home), *found.addresses])
    reply, _ = ask_at(tuple(addresses), found.host, identity.control, header, timeout_s)
    answer = understood(reply)
    if not isinstance(answer, Obeyed):
        raise JoinError("rubbish", "the host sent something else than what it did")
    return answer.detail


def _owner(host: bytes, state: Path | None) -> tuple[Path, Identity]:
    """The state directory of the host with that key, and the identity in it."""
    homes = [state.expanduser()] if state else sorted(DEFAULT_STATE.glob("*"))
    for home in homes:
        identity = Identity.load(home / "identity")
        if identity is not None and identity.keys.public == host:
            return home, identity
    where = str(homes[0]) if state else f"any folder in {DEFAULT_STATE}"
    raise UserError(f"the state of that ticket's host is not in {where}: name its folder (--state)")
