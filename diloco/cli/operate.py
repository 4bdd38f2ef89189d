"""What the owner of a run may do to it from a second terminal: workers, tickets, the end of the run.

Flags in, one line out; the host does the work (`diloco.swarm.control`), and the file with its identity is
what lets a person order it. No torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diloco.cli import options
from diloco.swarm import control
from diloco.swarm.entry import TICKET_HOURS
from diloco.terminal import printable
from peers.coordinator.tickets import TicketStatus

TicketArgument = Annotated[
    str, typer.Argument(metavar="TICKET", help="The word itself, - to read it, or @FILE.", show_default=False)
]
_State = Annotated[
    Path | None, typer.Option(help="The host's state folder, if it was given one; its holder may order.")
]


def kick_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As status shows it.", show_default=False)],
    ticket: TicketArgument,
    state: _State = None,
) -> None:
    """Put a worker out of a run for good. With its ticket it may come back under another identity."""
    print(printable(control.kick(ticket, name, state)))


def stop_command(ticket: TicketArgument, state: _State = None) -> None:
    """End a run for all its workers, in order: open rounds are finished, and all keep the same model."""
    print(printable(control.stop(ticket, state)))


def save_command(ticket: TicketArgument, state: _State = None) -> None:
    """Have all workers write a checkpoint of the newest commit now, before a machine goes away, say."""
    print(printable(control.save_now(ticket, state)))


def ticket_command(
    context: typer.Context,
    uses: options.TicketUses = 0,
    hours: options.TicketHours = TICKET_HOURS,
    state: _State = None,
) -> None:
    """Print another ticket to the run that is hosted here; or show or revoke one."""
    if context.invoked_subcommand is None:
        print(control.new_ticket(uses, hours, state))


def ticket_line(ticket: TicketStatus, now: float) -> str:
    """What a status says of a ticket; ``now`` is in unix seconds."""
    left = f"{max(0, ticket.uses - ticket.num_used)} of {ticket.uses} uses left" if ticket.uses else ""
    used = left or f"{ticket.num_used} worker{'s' * (ticket.num_used != 1)} came with it"
    hours = (ticket.expires_at - now) / 3600
    good = "revoked" if ticket.revoked else f"good for {hours:.3g} h" if hours > 0 else "expired"
    return f"ticket {ticket.name}: {used}, {good}"


def revoke_command(ticket: TicketArgument, state: _State = None) -> None:
    """Have a ticket open nothing any more. Who came with it stays: see kick."""
    print(printable(control.revoke(ticket, state)))
