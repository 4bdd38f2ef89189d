"""`diloco join`: train in the run of a ticket, with a folder that makes its second start go on. Thin."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import diloco
from diloco.cli import options
from diloco.cli.bulk import bulk_line, upload_bps
from diloco.cli.interrupts import leaving_in_order
from diloco.cli.operate import TicketArgument
from diloco.cli.work import Work, with_work
from diloco.errors import StateInUse, UserError
from diloco.extras import require
from diloco.interrupts import Interrupts
from diloco.monitoring.event_log import EventLog
from diloco.swarm.handshake import ask_status
from diloco.swarm.worker_home import free_name, worker_home
from peers.admission.ticket import read_ticket
from peers.protocol.fields import NAME_BYTES, cut

if TYPE_CHECKING:
    from diloco.cli.train import TrainingOutcome
    from diloco.cli.train_stage import StageOutcome

_ASK_S = 10.0
_LEFT = "interrupted, left the run"
_COMES_BACK = f"{_LEFT}; the same command comes back as this worker"


@with_work
def join_command(
    ticket: TicketArgument,
    name: Annotated[
        str | None, typer.Option(help="How others see this worker; by default this machine's name.")
    ] = None,
    listen: Annotated[str, typer.Option(help="Address to listen on.")] = "tcp://0.0.0.0:0",
    no_listen: Annotated[bool, typer.Option("--no-listen", help="Accept no connections; dial only.")] = False,
    advertise: options.Advertise = None,
    bulk_port: options.BulkPort = None,
    max_upload: options.MaxUpload = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for what this worker keeps; by default one by run and name.")
    ] = None,
    no_state: Annotated[bool, typer.Option("--no-state", help="Keep nothing for a later start.")] = False,
    resume: options.Resume = None,
    *,
    work: Work,
) -> None:
    """Join the run of a ticket and train until it is done. Its settings come from the host.

    The same command again goes on as the same worker, whether the host is there already or comes later."""
    require("train", "diloco join")
    if ticket.startswith("dlc"):
        warning = "a ticket on the command line can be seen by others on this machine: prefer - or @FILE"
        print(f"diloco: {warning}", file=sys.stderr)
    if no_state and state is not None:
        raise UserError("--no-state keeps nothing, --state names where to keep it: give one of them")
    if no_state and resume is not None:
        raise UserError("--resume begins with what an earlier start has kept: leave --no-state out")
    if no_listen and bulk_port is not None:
        raise UserError("--no-listen accepts no connections, --bulk-port says where: give one of them")
    work.load()
    found = read_ticket(ticket, None).encode()  # standard input can be read once
    name = name or cut(socket.gethostname(), NAME_BYTES)
    home = None if no_state else state or _default_home(found, name)
    join = partial(
        diloco.join,
        found,
        listen=None if no_listen else listen,
        advertise=advertise,
        state=home,
        name=name,
        bulk_port=bulk_port,
        max_upload_bps=upload_bps(max_upload),
    )
    try:
        swarm = join(resume=resume)
    except StateInUse as error:
        if home is None or state is not None:
            raise
        other = free_name(home, name)
        raise UserError(
            f"{error.who}: another worker on this machine needs a name of its own: --name {other}"
        ) from None
    with (
        closing(EventLog(work.events, name)) as log,
        leaving_in_order(work.notice, lambda: _LEFT if home is None else _COMES_BACK) as interrupts,
    ):
        while _moves(swarm, home, partial(_train, work, found), interrupts, log):
            swarm = join()


def _moves(
    swarm: diloco.Swarm,
    home: Path | None,
    train: Callable[[diloco.Swarm, Interrupts, EventLog], TrainingOutcome | StageOutcome],
    interrupts: Interrupts,
    log: EventLog,
) -> bool:
    """Train until the run is done, or until this worker is to join anew with another stage."""
    with swarm:
        run, me = swarm.settings.run.name, swarm.peer_name
        away = f"goes on as {me} with run {run}, whose host is not there yet"
        print(f"joined run {run} as {me}" if swarm.host_answered else away, flush=True)
        print(bulk_line(swarm), flush=True)
        if home is not None:
            print(f"it keeps its state in {home}", flush=True)
        outcome = train(swarm, interrupts, log)
        print(outcome.line(), flush=True)
    return getattr(outcome, "moves_to", None) is not None


def _train(
    work: Work, ticket: str, swarm: diloco.Swarm, interrupts: Interrupts, log: EventLog
) -> TrainingOutcome | StageOutcome:
    # One that keeps nothing would come as another worker.
    moves = swarm.home is not None
    return work.train(swarm, interrupts, log, ask=lambda: ask_status(ticket, _ASK_S), moves=moves)


def _default_home(ticket: str, name: str) -> Path:
    return worker_home(read_ticket(ticket, None).run, name, lambda: ask_status(ticket).run_name)
