"""`diloco host`: coordinate a run in the foreground, show it, and train too if asked. Flags in, lines out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import diloco
from diloco.cli import options
from diloco.cli.adopt import adopt_record
from diloco.cli.bulk import bulk_line, upload_bps
from diloco.cli.checkpoint_plan import planned
from diloco.cli.interrupts import leaving_in_order
from diloco.cli.work import Work, with_work
from diloco.errors import CheckpointError, DeviceFailed, SwarmClosed, TrainingDiverged, UserError
from diloco.extras import require
from diloco.monitoring.event_log import EventLog
from diloco.monitoring.run_view import RunView, Screen, round_and_commit
from diloco.rules import num_commits
from diloco.settings import load_settings
from diloco.swarm.entry import TICKET_HOURS
from diloco.swarm.hosted_run import began_from
from diloco.swarm.reach import limited_reach
from diloco.swarm.repair import truncate_journal
from diloco.swarm.setting_changes import given_values
from diloco.swarm.state_dir import home_of
from diloco.swarm.waits import WaitWatch
from peers.admission.ticket import Ticket

if TYPE_CHECKING:
    from diloco.cli.train import TrainingOutcome
    from diloco.cli.train_stage import StageOutcome

    Outcome = TrainingOutcome | StageOutcome

_LINGER_S = 2.0
_AFTER = (
    "interrupted: this host is away; workers train on by themselves and look for it, and the same command "
    "goes on with the run"
)


@with_work
def host_command(
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", show_default=False)],
    train: Annotated[bool, typer.Option("--train", help="Train here too.")] = False,
    listen: Annotated[str, typer.Option(help="Address to listen on.")] = "tcp://0.0.0.0:0",
    advertise: options.Advertise = None,
    bulk_port: options.BulkPort = None,
    max_upload: options.MaxUpload = None,
    state: Annotated[
        Path | None, typer.Option(help="Keeps identity, journal and checkpoints ([checkpoint] in RUN.toml).")
    ] = None,
    name: Annotated[str, typer.Option(help="How others see this host.")] = "host",
    ticket_file: Annotated[Path | None, typer.Option(help="Write the ticket here (mode 0600).")] = None,
    ticket_hours: options.TicketHours = TICKET_HOURS,
    ticket_uses: options.TicketUses = 0,
    truncate_at: options.TruncateAt = None,
    adopt: options.Adopt = False,
    yes: options.Yes = False,
    fresh: options.Fresh = False,
    given: options.Set = None,
    resume: options.Resume = None,
    origin: options.From = None,
    *,
    work: Work,
) -> None:
    """Coordinate a run: print a ticket, admit who holds it, commit rounds until the run is done.

    Without --train torch is needed only where workers' states differ. Restarted with the same --state, it
    goes on with the run. If that is lost but for the identity, or old, --adopt goes on from the workers'."""
    if train:
        require("train", "diloco host --train")
    settings = work.asked(load_settings(run))
    _require_one_way(fresh or origin is not None, adopt, resume is not None)
    _require_one_state(origin, train, settings.pipeline.stages)
    if origin is not None and origin.exists():  # else the run in the folder may know what it began from
        _require_whole(origin)
        if fresh or not began_from(home_of(settings, state), origin):
            planned(origin, settings, work.recipe, work.data)  # refused before what is there is put aside
    if train:
        work.load(settings)
    if truncate_at is not None:
        print(truncate_journal(settings, state, truncate_at), flush=True)
    view = RunView(f"run {settings.run.name}", 0)
    log = EventLog(work.events, name)
    screen = Screen(view, Console(), log)
    swarm = diloco.host(
        settings,
        listen=listen,
        advertise=advertise,
        state=state,
        name=name,
        ticket_hours=ticket_hours,
        ticket_uses=ticket_uses,
        adopt=adopt,
        fresh=fresh,
        changes=given_values(given or ()),
        resume=resume,
        begin_from=origin,
        bulk_port=bulk_port,
        max_upload_bps=upload_bps(max_upload),
        on_trace=screen.on_trace,
    )
    with closing(log), leaving_in_order(work.notice, lambda: _left(view)) as interrupts, swarm:
        view.rounds_wanted = num_commits(swarm.settings)
        view.stages = swarm.settings.pipeline.stages
        _begin(swarm, ticket_file)
        if adopt:
            adopt_record(swarm, yes=yes)
        trains = partial(work.train, swarm, interrupts, log, beside=screen)
        _coordinate(swarm, screen, trains if train else None)


def _begin(swarm: diloco.Swarm, ticket_file: Path | None) -> None:
    """Say what began, where, and the ticket."""
    print(f"run {swarm.settings.run.name} at {swarm.addresses[0]}, host {swarm.peer_name}")
    print(bulk_line(swarm))
    if line := _where_it_goes_on(swarm.status()):
        print(line)
    _show_ticket(swarm.ticket, ticket_file)
    if near := limited_reach(swarm.addresses[0], swarm.bulk_port):
        print(near, flush=True)


def _left(view: RunView) -> str:
    return "interrupted, after the end of the run" if view.rounds_done >= view.rounds_wanted else _AFTER


def _where_it_goes_on(status: dict[str, Any]) -> str:
    done, wanted = status["rounds"], status["rounds_wanted"]
    is_over = status["stopped"] or done >= wanted  # which is logged
    if not done or is_over:
        return ""
    return f"the run goes on after round {round_and_commit(done, status['commits'])} of {wanted}"


def _require_whole(origin: Path) -> None:
    """Refuse what no run can begin from before the run that is in the folder is put aside."""
    from diloco.checkpoints.finding import find_checkpoint
    from diloco.checkpoints.origin import open_origin
    from diloco.checkpoints.verifying import faults_of

    open_origin(origin)
    for fault in faults_of(*find_checkpoint(origin)) if origin.is_dir() else ():
        raise CheckpointError(fault)


def _require_one_state(origin: Path | None, train: bool, stages: int) -> None:
    if origin is not None and stages > 1:
        raise UserError(
            f"--from brings one state, and this run has {stages} stages with one each: begin without it"
        )
    if origin is not None and not train:
        raise UserError("--from needs --train: the host's own worker brings the state")


def _require_one_way(*asked: bool) -> None:
    if sum(asked) > 1:
        raise UserError(
            "--fresh and --from begin a new run, --adopt and --resume go on with one: give one of them"
        )


def _coordinate(swarm: diloco.Swarm, screen: Screen, train: Callable[[], Outcome] | None) -> None:
    """Until the run is over, and train meanwhile if asked to."""
    outcome: Outcome | TrainingDiverged | DeviceFailed | None = None
    wanted = screen.view.rounds_wanted
    with screen, closing(WaitWatch(lambda now: _wait_of(swarm), screen.note, every_s=1.0)):
        if train is not None:
            outcome = _train_beside_others(screen, train)
        while not swarm.status()["over"]:
            time.sleep(0.2)
        time.sleep(_LINGER_S)  # so that what was told arrives
        done = swarm.status()["rounds"]
    print(_ended(done, wanted))
    if isinstance(outcome, TrainingDiverged | DeviceFailed):
        raise outcome
    if outcome is not None:
        print(outcome.line())


def _ended(done: int, wanted: int) -> str:
    """A run that was made shorter may have more rounds than it is to have."""
    if done > wanted:
        return f"done: {done} rounds, {done - wanted} more than the {wanted} that are wanted now"
    return f"done: {done} rounds" if done == wanted else f"stopped after {done} of {wanted} rounds"


def _wait_of(swarm: diloco.Swarm) -> str:
    try:
        return str(swarm.status()["waits"])
    except SwarmClosed:
        return ""


def _train_beside_others(
    screen: Screen, train: Callable[[], Outcome]
) -> Outcome | TrainingDiverged | DeviceFailed:
    """A host whose own training diverges, or whose device fails, goes on for the others."""
    try:
        return train()
    except (TrainingDiverged, DeviceFailed) as error:
        screen.note(f"this host trains no longer, and goes on for the others: {error}")
        return error


def _show_ticket(ticket: str, file: Path | None) -> None:
    if file is None:
        hours = (Ticket.parse(ticket).expiry - time.time()) / 3600  # it may be an earlier life's
        print(f"ticket (it lets its holder join; good for {hours:.3g} h):\n{ticket}", flush=True)
    else:
        _write_secret(file, ticket)
        print(f"ticket in {file}: diloco join @{file}", flush=True)


def _write_secret(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
