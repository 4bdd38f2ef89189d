"""The public entry points: `host`, `join`, `solo`. Each hands back a `Swarm`; `attach` brings a model.

Shell code: files, tickets and addresses are read here, and nothing is decided about training. No torch.
"""

from __future__ import annotations

import hashlib
import os
import queue
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diloco.errors import JoinError, UserError
from diloco.rules import rules_of
from diloco.settings import RunSettings, load_settings
from diloco.swarm import Swarm
from peers.admission import Door, Invite
from peers.card import CARD_TAG, Card
from peers.identity import Identity, next_incarnation
from peers.journal import Journal
from peers.messages import PROTOCOL, AskStatus, Knock, Refused, StatusFollows, Welcome
from peers.node import Contact, Hosting, Node
from peers.ticket import Ticket, invite_pair, read_ticket
from transport.driver import SocketDriver
from transport.effects import Trace
from transport.frames import BadFrame, pack, unpack, unpack_items
from transport.limits import LIMITS
from transport.sockets import KnockTimeout, TransportError, knock

DEFAULT_STATE = Path.home() / ".local" / "state" / "diloco"
TICKET_HOURS = 24.0
_KNOCK_S = 30.0
_STATUS_BYTES = 1 << 20


def host(
    run: RunSettings | Path | str,
    *,
    listen: str = "tcp://0.0.0.0:0",
    advertise: str | None = None,
    state: Path | None = None,
    name: str = "host",
    ticket_hours: float = TICKET_HOURS,
    on_trace: Callable[[Trace], None] | None = None,
) -> Swarm:
    """Coordinate a run: listens at once, needs no torch, and trains only if a model is attached.

    ``run`` is settings or the path of a RUN.toml. ``state`` is the directory with this host's identity
    and journal: with the same one, a restarted host goes on with the run. ``advertise`` is the address
    in the ticket if it differs from ``listen``, as behind a router. Raises `UserError`."""
    settings = run if isinstance(run, RunSettings) else load_settings(Path(run))
    home = (state or DEFAULT_STATE / settings.run.name).expanduser()
    identity, incarnation = _identity(home)
    secret = _invite_secret(home)
    run_id = _run_id(identity, settings)
    journal = Journal(home / f"journal-{run_id.hex()[:16]}")
    expires = time.time() + 3600 * ticket_hours
    invite = Invite(invite_pair(secret).public, time.monotonic() + 3600 * ticket_hours)
    rules = rules_of(settings)
    door = Door(run_id, settings.to_bytes(), settings.digest(), {invite.key: invite})
    node = Node(
        identity.keys.public,
        incarnation,
        Contact(identity.keys.public, ()),
        failure_timeout_s=settings.run.failure_timeout_s,
        hosting=Hosting(rules, journal.entries(), door),
    )
    driver, events, traced = _driver(node, identity, _same_port(home, listen), journal.append)
    driver.start()
    assert driver.address is not None
    _remember_port(home, driver.address)
    address = advertise or _reachable(driver.address)
    ticket = Ticket(run_id, identity.keys.public, secret, int(expires), (address,))
    swarm = Swarm(
        settings,
        node,
        driver,
        name=name,
        addresses=(address,),
        events=events,
        ticket=ticket,
        home=home,
        on_close=journal.close,
    )
    traced.append(swarm.on_trace)
    if on_trace is not None:
        traced.append(on_trace)
    return swarm


def join(
    ticket: str,
    *,
    listen: str | None = "tcp://0.0.0.0:0",
    advertise: str | None = None,
    state: Path | None = None,
    name: str | None = None,
    timeout_s: float = _KNOCK_S,
    on_trace: Callable[[Trace], None] | None = None,
) -> Swarm:
    """Join the run of a ticket (the word itself, ``-`` for standard input, or ``@file``).

    The run's settings come from the host. ``listen=None`` accepts no connections (behind a router
    that forwards none, say): then this member dials everyone. ``state`` is a directory that keeps
    the identity over restarts (`diloco join` keeps residuals there too); without it a fresh one lives as
    long as the process. Raises `TicketError`, `JoinError` when the host refuses, `KnockTimeout` when it
    cannot be reached."""
    found = read_ticket(ticket, time.time())
    home = state.expanduser() if state else None
    identity, incarnation = _identity(home) if home else _fresh_identity()
    name = name or socket.gethostname()[:64]
    settings = _knock(found, identity, name, timeout_s)
    node = Node(
        identity.keys.public,
        incarnation,
        Contact(found.host, found.addresses),
        failure_timeout_s=settings.run.failure_timeout_s,
    )
    driver, events, traced = _driver(node, identity, listen, _no_journal)
    driver.start()
    addresses = () if driver.address is None else (advertise or _reachable(driver.address),)
    swarm = Swarm(settings, node, driver, name=name, addresses=addresses, events=events, home=home)
    traced.append(swarm.on_trace)
    if on_trace is not None:
        traced.append(on_trace)
    return swarm


def solo(run: RunSettings | None = None) -> Swarm:
    """A swarm of one, so that the same script runs alone: rounds of this worker only, no sockets."""
    settings = run or RunSettings()
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"min_peers": 1})})
    identity, incarnation = _fresh_identity()
    key = identity.keys.public
    rules = rules_of(settings)
    door = Door(bytes(16), b"", settings.digest(), {})
    node = Node(
        key,
        incarnation,
        Contact(key, ()),
        failure_timeout_s=settings.run.failure_timeout_s,
        hosting=Hosting(rules, [], door),
    )
    driver, events, traced = _driver(node, identity, None, lambda entry: None)
    driver.start()
    swarm = Swarm(settings, node, driver, name="solo", addresses=("tcp://solo:1",), events=events)
    traced.append(swarm.on_trace)
    return swarm


def status(ticket: str, timeout_s: float = _KNOCK_S) -> dict[str, Any]:
    """What the host of a ticket knows of its run: roster, rounds, open exchanges. Errors as `join`."""
    found = read_ticket(ticket, time.time())
    header, payload = _ask(found, pack(AskStatus(PROTOCOL)), timeout_s)
    if not isinstance(_understood(header), StatusFollows):
        raise JoinError("rubbish", "the host sent something else than its status")
    plain = unpack_items(payload, LIMITS, _STATUS_BYTES)
    if not isinstance(plain, dict):
        raise JoinError("rubbish", "the host's status is no table")
    return plain


# -- shell helpers ----------------------------------------------------------------------------------


def _identity(home: Path) -> tuple[Identity, int]:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"state folder {home} cannot be made: {error.strerror}") from None
    return Identity.load_or_create(home / "identity"), next_incarnation(home / "incarnation")


def _fresh_identity() -> tuple[Identity, int]:
    return Identity.ephemeral(), int(time.time() * 1000)


def _run_id(identity: Identity, settings: RunSettings) -> bytes:
    return hashlib.sha256(b"diloco run\0" + identity.public + settings.digest()).digest()[:16]


def _invite_secret(home: Path) -> bytes:
    """The secret of this host's ticket: kept, so that the ticket outlives a restart."""
    path = home / "invite"
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(16))
    secret = path.read_bytes()
    if len(secret) != 16:
        raise UserError(f"{path} is damaged: delete it, and give out a new ticket")
    return secret


def _same_port(home: Path, listen: str) -> str:
    """With port 0, the port of this host's earlier life, so that members find it again."""
    path = home / "port"
    if listen.endswith(":0") and path.exists() and path.read_text().strip().isdigit():
        return f"{listen[:-1]}{path.read_text().strip()}"
    return listen


def _remember_port(home: Path, address: str) -> None:
    (home / "port").write_text(address.rsplit(":", 1)[1])


def _reachable(address: str) -> str:
    """The address to give out for one that we listen on: 0.0.0.0 becomes this machine's own."""
    where, port = address.rsplit(":", 1)
    if where != "tcp://0.0.0.0":
        return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which interface leads outside
            return f"tcp://{probe.getsockname()[0]}:{port}"
        except OSError:
            return f"tcp://127.0.0.1:{port}"


def _no_journal(entry: bytes) -> None:
    raise AssertionError("a member stores nothing")


def _driver(
    node: Node, identity: Identity, bind: str | None, store: Callable[[bytes], None]
) -> tuple[SocketDriver, queue.SimpleQueue[object], list[Callable[[Trace], None]]]:
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    traced: list[Callable[[Trace], None]] = []

    def on_trace(trace: Trace) -> None:
        for each in traced:
            each(trace)

    return SocketDriver(node, identity.keys, bind, events.put, on_trace, store), events, traced


def _knock(ticket: Ticket, identity: Identity, name: str, timeout_s: float) -> RunSettings:
    card = pack(Card(ticket.run, identity.public, identity.keys.public, name))
    header, payload = _ask(ticket, pack(Knock(PROTOCOL, card, identity.sign(CARD_TAG, card))), timeout_s)
    welcome = _understood(header)
    if not isinstance(welcome, Welcome):
        raise JoinError("rubbish", "the host sent no welcome")
    settings = RunSettings.from_bytes(bytes(payload))
    if settings.digest() != welcome.settings:
        raise JoinError("settings", "the host's settings do not mean the same here: install the same version")
    return settings


def _ask(ticket: Ticket, header: bytes, timeout_s: float) -> tuple[bytes, bytes]:
    """Ask at each address of the ticket in turn; the last failure is raised."""
    failure: TransportError | None = None
    for address in ticket.addresses:
        try:
            return knock(address, ticket.host, invite_pair(ticket.secret), header, timeout_s)
        except KnockTimeout as error:
            failure = error
    assert failure is not None, "a ticket has an address"
    raise failure


def _understood(header: bytes) -> object:
    """The answer in a host's reply; a refusal is raised."""
    try:
        message: object = unpack(header)
    except BadFrame as error:
        raise JoinError("rubbish", f"the host sent something that is no answer: {error}") from None
    if isinstance(message, Refused):
        raise JoinError(message.code, message.detail)
    return message
