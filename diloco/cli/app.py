"""The command line: thin. Flags become settings, errors become one line, and work is done elsewhere.

What a person did wrong ends with one clear line and exit code 2, and where nobody answers with 75, since the
same command may be tried again later; Ctrl-C leaves the swarm and ends with 130 (`diloco.interrupts`). Torch
is imported only by commands that train.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import diloco
from diloco.cli import checkpoint_plan
from diloco.cli.checkpoints import (
    assemble_command,
    export_command,
    gather_command,
    list_command,
    verify_command,
)
from diloco.cli.cut import cut_command
from diloco.cli.doctor import doctor_command
from diloco.cli.host import host_command
from diloco.cli.interrupts import end_at_once, leaving_in_order
from diloco.cli.join import join_command
from diloco.cli.methods import compare_command, methods_command
from diloco.cli.operate import (
    TicketArgument,
    kick_command,
    revoke_command,
    save_command,
    stop_command,
    ticket_command,
    ticket_line,
)
from diloco.cli.plan import plan_command
from diloco.cli.replay import replay_command
from diloco.cli.simulate import simulate_command
from diloco.cli.stage_lines import loss_of, stage_lines
from diloco.cli.usage import InOrder, run_app
from diloco.errors import DilocoError, UserError
from diloco.monitoring.run_view import round_and_commit
from diloco.settings import commented_toml
from diloco.swarm.handshake import ask_status
from diloco.terminal import printable
from peers.admission.ticket import read_ticket
from peers.errors import PeersError
from transport.errors import DialFailed, KnockTimeout, TransportError
from transport.keys import short

FAULTS_OF_PEOPLE = (DilocoError, PeersError, TransportError)
NOBODY_ANSWERS = 75
"""As of sendmail's EX_TEMPFAIL: service managers may try it again, and are to leave 2 alone."""

app = typer.Typer(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train one PyTorch model from many machines that are joined only by ordinary internet links.",
    epilog="Begin with: diloco init RUN.toml, then diloco host RUN.toml; elsewhere: diloco join TICKET.",
)
ticket_app = typer.Typer(rich_markup_mode=None)
app.add_typer(ticket_app, name="ticket")
checkpoint_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Checkpoints on this machine, and of a run."
)
app.add_typer(checkpoint_app, name="checkpoint")
app.command("methods")(methods_command)
app.command("compare")(compare_command)
app.command("simulate")(simulate_command)
app.command("plan")(plan_command)


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def main() -> None:
    """Entry point of the `diloco` command."""
    logging.basicConfig(format="%(name)s: %(message)s")
    try:
        sys.exit(run_app(app))
    except FAULTS_OF_PEOPLE as error:
        for line in "\n".join([str(error), *getattr(error, "__notes__", ())]).splitlines():
            print(f"diloco: {printable(line)}", file=sys.stderr)
        sys.exit(NOBODY_ANSWERS if isinstance(error, KnockTimeout | DialFailed) else 2)
    except OSError as error:
        if error.filename is None:
            raise
        reason = error.strerror or error
        print(f"diloco: {printable(f'{error.filename} cannot be used: {reason}')}", file=sys.stderr)
        sys.exit(2)
    finally:
        end_at_once()


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"diloco {diloco.__version__}")
        raise typer.Exit


@app.command(epilog=_examples("diloco init", "diloco init runs/big.toml"))
def init(path: Annotated[Path, typer.Argument()] = Path("RUN.toml")) -> None:
    """Write a commented RUN.toml to begin with."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(commented_toml())
    except FileExistsError:
        raise UserError(f"{path} exists already: choose another name or remove it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    print(f"wrote {path}; next: diloco host {path}")


app.command(
    "host",
    epilog=_examples(
        "diloco host RUN.toml --ticket-file ticket    # then: diloco join @ticket",
        "diloco host RUN.toml --train --state ~/runs/one",
        "diloco host RUN.toml --set run.rounds=200    # the run goes on, and is longer",
        "diloco host RUN.toml --train --from model.safetensors    # begins with that",
        "diloco host RUN.toml --adopt    # its journal is lost, its identity is not, and workers still train",
        "diloco host RUN.toml --listen tcp://0.0.0.0:7000 --advertise tcp://203.0.113.5:7000",
    ),
)(host_command)


app.command(
    "join",
    epilog=_examples(
        "diloco join @ticket",
        "diloco join - < ticket",
        "diloco join @ticket --stage 2 --save model    # of a run whose model is cut",
        "diloco join @ticket --name second    # another worker on this machine",
        "diloco join @ticket --device cuda --recipe mine.py:recipe --save model.safetensors",
        "diloco join @ticket --no-listen    # behind a router that forwards nothing",
    ),
)(join_command)


app.command(
    "cut", epilog=_examples("diloco cut RUN.toml", "diloco cut RUN.toml --recipe mine.py:job --stages 4")
)(cut_command)


@app.command(epilog=_examples("diloco status @ticket", "diloco status @ticket --json | jq .rounds"))
def status(
    ticket: TicketArgument,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; keys are hexadecimal.")] = False,
) -> None:
    """Show who is in a run and how far it is."""
    found = ask_status(ticket)
    if as_json:
        print(json.dumps(found.plain(), default=bytes.hex))
        return
    how_far = f"round {round_and_commit(found.num_rounds, found.num_commits)} of {found.max_rounds}"
    title = f"run {found.run_name}, {how_far}, {found.model or 'no model yet'}"
    table = Table(title=Text(printable(title)))
    in_stages = len(found.stages) > 1
    for heading in (
        "worker",
        "key",
        *(["stage"] if in_stages else []),
        "state",
        "step",
        "loss",
        "tokens/s",
        "MB sent",
        "non-finite",
        "silent s",
    ):
        table.add_column(heading)
    for each in found.members:
        table.add_row(
            Text(printable(each.name)),
            short(each.key),
            *([str(each.stage)] if in_stages else []),
            "active" if each.active else "joining",
            f"{each.step:,}",
            loss_of(each, found),
            f"{each.tokens_per_second:,.0f}",
            f"{each.bytes_sent / 1e6:.1f}",
            f"{each.non_finite:,}",
            f"{each.silent_s:.1f}",
        )
    console = Console()
    console.print(table)
    for line in stage_lines(found):
        console.print(Text(printable(line)))
    for open_round in found.open_rounds:
        console.print(
            f"open: fragment {open_round.fragment} with {open_round.num_members} members, "
            f"attempt {open_round.attempt + 1}"
        )
    if alike := [each.name for each in found.members if each.alike]:
        verb = "sends" if len(alike) == 1 else "send"
        line = f"{', '.join(alike)} {verb} what others send: they seem to train on the same data"
        console.print(Text(printable(line)))
    if found.waits:
        console.print(Text(printable(f"waits: {found.waits}")))
    if found.saved_by:
        disks = "1 disk" if len(found.saved_by) == 1 else f"{len(found.saved_by)} disks"
        what = f"commit {found.saved_index}"
        if found.gossips:
            what = f"each worker's own replica, the newest of outer step {found.saved_index}"
        line = f"saved: {what}, on {disks} ({', '.join(found.saved_by)})"
        console.print(Text(printable(line)))
    if found.stopped:
        console.print("stopped by its owner")
    for each_ticket in found.tickets:
        console.print(Text(printable(ticket_line(each_ticket, time.time()))))
    for mark in found.marks:
        line = f"{mark.accuser} says that {mark.accused} sends what cannot be added up; neither owns chunks "
        console.print(Text(printable(f"{line}for {mark.num_commits} more commits")))


app.command("doctor", epilog=_examples("diloco doctor", "diloco doctor --kernels compiled"))(doctor_command)
app.command("replay", epilog=_examples("diloco replay host.jsonl ann.jsonl bob.jsonl | less"))(replay_command)
app.command("kick", epilog=_examples("diloco kick ann @ticket", "diloco kick ann-0123456789abcdef @ticket"))(
    kick_command
)
app.command("stop", epilog=_examples("diloco stop @ticket", "diloco stop @ticket --state ~/runs/one"))(
    stop_command
)


ticket_app.callback(
    invoke_without_command=True,
    epilog=_examples("diloco ticket --uses 1 --hours 2 > ticket", "diloco ticket revoke @ticket"),
)(ticket_command)
ticket_app.command("revoke", epilog=_examples("diloco ticket revoke @ticket"))(revoke_command)


checkpoint_app.command("list", epilog=_examples("diloco checkpoint list ~/.local/state/diloco/mine"))(
    list_command
)
checkpoint_app.command("verify", epilog=_examples("diloco checkpoint verify ~/.local/state/diloco/mine"))(
    verify_command
)
app.command(
    "export",
    epilog=_examples(
        "diloco export ~/.local/state/diloco/mine -o model.safetensors",
        "diloco export CHECKPOINT -o out/model.safetensors --like ~/models/smollm    # loads as that one",
    ),
)(export_command)
checkpoint_app.command(
    "gather", epilog=_examples("diloco checkpoint gather ann/ bob/ -o whole    # state directories")
)(gather_command)
app.command("assemble", epilog=_examples("diloco assemble ann/model bob/model cid/model -o whole"))(
    assemble_command
)
checkpoint_app.command("now", epilog=_examples("diloco checkpoint now @ticket"))(save_command)
checkpoint_app.command("plan", epilog=_examples("diloco checkpoint plan model.safetensors RUN.toml"))(
    checkpoint_plan.plan_command
)


@ticket_app.command("show", epilog=_examples("diloco ticket show @ticket"))
def ticket_show(ticket: TicketArgument) -> None:
    """What a ticket says, without its secret."""
    print(read_ticket(ticket, time.time()))


@app.command(epilog=_examples("diloco demo", "diloco demo --kill --workers 3", "diloco demo --pipeline"))
def demo(
    workers: Annotated[int, typer.Option(min=2, max=16, help="Worker processes.")] = 4,
    rounds: Annotated[int | None, typer.Option(min=2, help="Rounds; by default about three minutes.")] = None,
    kill: Annotated[bool, typer.Option("--kill", help="Kill one worker midway; a fresh one joins.")] = False,
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("runs/demo"),
    run: Annotated[Path | None, typer.Option(help="Settings other than the demo's.")] = None,
    capture: Annotated[Path | None, typer.Option(help="Write the view midway as an SVG picture.")] = None,
    pipeline: Annotated[
        bool,
        typer.Option(
            "--pipeline", help="Four stages with two replicas each instead; one is killed, a fresh one joins."
        ),
    ] = False,
) -> None:
    """A host and several workers on this machine train a byte-level GPT on Python's own source."""
    from diloco.cli.demo import run_demo

    if pipeline:
        from diloco.cli.demo_stages import run_stage_demo

        if kill or run is not None or capture is not None:
            raise UserError(
                "--pipeline is a demo of its own: of the other options it takes --rounds and --out"
            )
        with leaving_in_order():
            code = run_stage_demo(rounds, out)
        raise typer.Exit(code)

    with leaving_in_order():
        code = run_demo(workers, rounds, kill, out, run, capture)
    raise typer.Exit(code)
