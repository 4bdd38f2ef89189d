"""The public entry points: `host`, `join`, `solo`. Each hands back a `Swarm`; `attach` brings a model.

Shell code: files, tickets and addresses are read here, and nothing is decided about training. No torch.
"""

from __future__ import annotations

import logging
import queue
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diloco.errors import UserError
from diloco.rules import judge_of, rules_of
from diloco.settings import RunSettings, load_settings
from diloco.swarm.handshake import KNOCK_S, ask_status, knock_for_settings
from diloco.swarm.host_watch import HostWatch
from diloco.swarm.hosted_run import HostedRun
from diloco.swarm.joined_run import JoinedRun
from diloco.swarm.recomputing import recompute_bytes
from diloco.swarm.setting_changes import with_values
from diloco.swarm.start_driver import bulk_of, limits_of, start_driver
from diloco.swarm.state_dir import (
    home_of,
    remember_address,
    same_port,
)
from diloco.swarm.swarm import Swarm
from diloco.swarm.waits import WaitWatch
from diloco.swarm.worker_waits import WorkerWaits, reason_for
from peers.admission.door import Door, Invite
from peers.admission.identity import Identity
from peers.admission.ticket import Ticket, read_ticket
from peers.coordinator.journal import InviteMade
from peers.errors import BadEntry
from peers.node import Node
from peers.protocol.fields import NAME_BYTES, cut
from peers.seats import Contact, Hosting
from transport.addresses import valid_address, with_scheme
from transport.effects import Trace
from transport.sockets.driver import SocketDriver

_LOG = logging.getLogger("diloco")
TICKET_HOURS = 24.0


def host(
    run: RunSettings | Path | str,
    *,
    listen: str = "tcp://0.0.0.0:0",
    advertise: str | None = None,
    state: Path | str | None = None,
    name: str = "host",
    ticket_hours: float = TICKET_HOURS,
    ticket_uses: int = 0,
    adopt: bool = False,
    fresh: bool = False,
    changes: Mapping[str, Any] | None = None,
    resume: int | None = None,
    begin_from: Path | str | None = None,
    bulk_port: int | None = None,
    max_upload_bps: float | None = None,
    on_trace: Callable[[Trace], None] | None = None,
) -> Swarm:
    """Coordinate a run: listens at once, needs no torch, and trains only if a model is attached.

    ``run`` is settings or the path of a RUN.toml. ``state`` is the directory with this host's identity
    and journal: with the same one, a restarted host goes on with the run; while it lives, a second one there
    is refused. The run in that directory goes on; ``run`` may differ from how it began in what
    `diloco.settings.CHANGEABLE` lists, and ``changes`` gives new values of such settings by key
    (``run.rounds``). With ``fresh`` the run's files are put aside and a new one begins. ``advertise`` is the
    address in the ticket if it differs from ``listen``, as behind a router. Neither needs its ``tcp://``.
    With ``resume`` it goes on from the commit of that index, as soon as a worker that has it is here; later
    ones are given up. With ``begin_from`` a new run begins with the state of a checkpoint or of a model as
    safetensors, which the worker that is attached here brings; the same again goes on with that run.
    With ``adopt`` nothing goes on until `Swarm.adopt` chose the record from which it does: for a host that
    lost its journal and still has its identity.
    The ticket keeps its terms over restarts; one that expired or was revoked is followed by another one.
    ``bulk_port`` is where others open bulk lanes: by default the port after the one of ``listen``, or any if
    that is taken (0: any). ``max_upload_bps`` bounds what leaves, in bits per second to all together.
    ``on_trace`` is called on the network thread for everything that is traced, from the first moment on.
    Raises `UserError`."""
    listen, advertise = _checked_listen(listen), _checked_advertise(advertise)
    settings, name = _settings_of(run), _checked_name(name)
    home = home_of(settings, Path(state) if state else None)
    if adopt and not (home / "identity").exists():
        raise UserError(
            f"{home} holds no identity, without which no worker knows this host: name the right folder "
            "(--state), or start a new run without --adopt and give out its ticket"
        )
    with_values(settings, changes or {})  # refused before anything is made
    origin = Path(begin_from) if begin_from else None
    hosted = HostedRun(home, settings, changes or {}, fresh=fresh, origin=origin)
    with ExitStack() as undone:
        undone.callback(hosted.close)
        node, secret, invite = _node_of(hosted, ticket_hours, ticket_uses, adopt, resume)
        store = hosted.journal.append
        bind, method = same_port(home, listen), settings.method.resolved()
        bulk = bulk_of(hosted.run_id, bulk_port, max_upload_bps)
        driver, events = start_driver(node, hosted.identity, bind, store, on_trace, bulk, method=method)
        address = _remembered(driver, home, advertise)
        on_close = undone.pop_all().close
    return Swarm(
        hosted.settings,
        node,
        driver,
        name=name,
        addresses=(address,),
        events=events,
        ticket=Ticket(hosted.run_id, hosted.identity.keys.public, secret, int(invite.expires_at), (address,)),
        home=home,
        run=hosted.run_id,
        resume=resume,
        origin=hosted.first_state,
        on_close=on_close,
    )


def join(
    ticket: str,
    *,
    listen: str | None = "tcp://0.0.0.0:0",
    advertise: str | None = None,
    state: Path | str | None = None,
    name: str | None = None,
    timeout_s: float = KNOCK_S,
    resume: int | None = None,
    bulk_port: int | None = None,
    max_upload_bps: float | None = None,
    on_trace: Callable[[Trace], None] | None = None,
) -> Swarm:
    """Join the run of a ticket (the word itself, ``-`` for standard input, or ``@file``).

    The run's settings come from the host. ``listen=None`` accepts no connections (behind a router
    that forwards none, say): then this member dials everyone. ``state`` is a directory that keeps
    the identity and what else is this worker's over restarts; without it a fresh one lives as long as the
    process. With it, a worker that was in the run before waits for a host that is not there, and does not
    need a ticket that is still good. ``bulk_port`` and ``max_upload_bps`` are those of `host`. Raises
    `TicketError`, `StateInUse`, `JoinError` when the host refuses,
    `KnockTimeout` when it cannot be reached."""
    listen = None if listen is None else _checked_listen(listen)
    advertise = _checked_advertise(advertise)
    found = read_ticket(ticket, None)  # whether it expired is the host's to say: clocks differ
    home = Path(state).expanduser() if state else None
    name = _checked_name(name) if name else cut(socket.gethostname(), NAME_BYTES)
    joined = JoinedRun(found, name, home, timeout_s)
    identity, settings = joined.identity, joined.settings
    with ExitStack() as undone:
        undone.callback(joined.close)
        node = Node(
            identity.keys.public,
            joined.incarnation,
            Contact(found.host, found.addresses),
            failure_timeout_s=settings.run.failure_timeout_s,
            limits=limits_of(settings),
            signer=identity,
            streams=settings.pipeline.stages > 1,
        )
        events: queue.SimpleQueue[object] = queue.SimpleQueue()
        watch = HostWatch(found.host, lambda: knock_for_settings(found, identity, name, KNOCK_S), events.put)

        def note(trace: Trace) -> None:
            watch.trace(trace)
            if on_trace is not None:
                on_trace(trace)

        bulk = bulk_of(found.run, bulk_port, max_upload_bps)
        driver, _ = start_driver(node, identity, listen, _no_journal, note, bulk, events)
        addresses = () if driver.address is None else (advertise or _reachable(driver.address),)
        waits = _waits_of(found, identity.keys.public, settings)
        telling = WaitWatch(waits.reason, lambda line: _LOG.warning("%s", line), every_s=1.0)
        undone.callback(telling.close)
        on_close = undone.pop_all().close
    return Swarm(
        settings,
        node,
        driver,
        name=name,
        addresses=addresses,
        events=events,
        home=home,
        run=found.run,
        resume=resume,
        host_answered=joined.answered,
        on_close=on_close,
        on_event=lambda event: waits.hear(time.monotonic(), event),
    )


def solo(run: RunSettings | None = None) -> Swarm:
    """A swarm of one, so that the same script runs alone: rounds of this worker only, no sockets."""
    settings = run or RunSettings()
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"min_peers": 1})})
    identity, incarnation = _fresh_identity()
    door = Door(bytes(16), b"", settings.digest(), {})
    node = _hosting_node(settings, identity, incarnation, [], door)
    driver, events = start_driver(node, identity, None, lambda entry: None, None, None)
    return Swarm(settings, node, driver, name="solo", addresses=("tcp://solo:1",), events=events)


# -- shell helpers ----------------------------------------------------------------------------------


def _remembered(driver: SocketDriver, home: Path, advertise: str | None) -> str:
    """The address of a host that others are told of; its folder keeps it, or the driver stops."""
    with ExitStack() as unkept:
        unkept.callback(driver.stop)
        assert driver.address is not None
        address = advertise or _reachable(driver.address)
        remember_address(home, driver.address, address)
        unkept.pop_all()
    return address


def _settings_of(run: RunSettings | Path | str) -> RunSettings:
    settings = run if isinstance(run, RunSettings) else load_settings(Path(run))
    return settings


def _checked_name(name: str) -> str:
    if cut(name, NAME_BYTES) != name:
        raise UserError(f"the name {name!r} is longer than {NAME_BYTES} bytes, or is no text: choose another")
    return name


def _checked_listen(listen: str) -> str:
    """With its scheme, which may be left out."""
    listen = with_scheme(listen)
    port = listen.rpartition(":")[2]
    if port.isdecimal() and int(port) > 65535:  # libzmq would listen at another one
        raise UserError(f"there is no port {port} to listen on: give --listen one up to 65535, or 0 for any")
    return listen


def _checked_advertise(advertise: str | None) -> str | None:
    """Likewise."""
    advertise = None if advertise is None else with_scheme(advertise)
    if advertise is not None and not valid_address(advertise):
        how = "give --advertise tcp://HOST:PORT, of a name or an IPv4 address"
        raise UserError(f"others cannot dial {advertise!r}: {how}")
    return advertise


def _fresh_identity() -> tuple[Identity, int]:
    return Identity.ephemeral(), int(time.time() * 1000)


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


def _waits_of(ticket: Ticket, me: bytes, settings: RunSettings) -> WorkerWaits:
    def ask() -> str:
        return reason_for(me, ask_status(ticket.encode(), KNOCK_S))

    return WorkerWaits(settings.run.min_peers, time.monotonic(), ask)


def _no_journal(entry: bytes) -> None:
    raise AssertionError("a member stores nothing")


def _node_of(
    hosted: HostedRun, hours: float, uses: int, adopting: bool, resume: int | None
) -> tuple[Node, bytes, Invite]:
    """The node that goes on with a run, and the secret and the invite of its ticket."""
    settings, identity = hosted.settings, hosted.identity
    door = Door(hosted.run_id, settings.to_bytes(), settings.digest(), {})
    door.owner, door.began_at = identity.control.public, time.time() - time.monotonic()
    try:
        node = _hosting_node(settings, identity, hosted.incarnation, hosted.entries, door, adopting, resume)
    except BadEntry as error:
        raise hosted.journal.unusable(error.number, error.reason) from None
    hosted.keep_changes()
    secret, invite = hosted.ticket(hours, uses)
    door.invites[invite.key] = invite
    assert node.coordinator is not None
    if node.coordinator.finished:
        _LOG.warning(
            "the run is over, with %d of %d rounds: --set run.rounds=N (changes=) makes it longer, --fresh "
            "(fresh=True) begins a new one",
            node.coordinator.state.num_rounds,
            node.coordinator.state.rules.rounds,
        )
    node.coordinator.state.tickets.replay(InviteMade(invite.key, int(invite.expires_at), invite.uses))
    return node, secret, invite


def _hosting_node(
    settings: RunSettings,
    identity: Identity,
    incarnation: int,
    journal: list[Any],
    door: Door,
    adopting: bool = False,
    resume: int | None = None,
) -> Node:
    """The node of a process that coordinates, and so needs to find nobody."""
    return Node(
        identity.keys.public,
        incarnation,
        Contact(identity.keys.public, ()),
        failure_timeout_s=settings.run.failure_timeout_s,
        limits=limits_of(settings),
        hosting=Hosting(
            rules_of(settings),
            journal,
            door,
            judge=judge_of(settings),
            adopting=adopting,
            resume=resume,
            secret=secrets.token_bytes(32),
            recompute_bytes=recompute_bytes(settings.method.resolved()),
        ),
        signer=identity,
        streams=settings.pipeline.stages > 1,
    )
