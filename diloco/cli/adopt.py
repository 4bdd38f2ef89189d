"""`diloco host --adopt`: whose word it is that a run goes on from, shown to its owner, who decides.

The workers that hold the newest record are waited for, a list of them is printed, and a person confirms it,
or with ``--yes`` nobody does. What may be adopted is decided in `peers.coordinator.adoption`.
"""

from __future__ import annotations

import sys
import time

import typer

from diloco.errors import UserError
from diloco.swarm.swarm import Swarm
from diloco.terminal import printable
from peers.coordinator.adoption import Proposal

_ASK_EVERY_S = 0.2


def adopt_record(swarm: Swarm, *, yes: bool, settles_s: float | None = None) -> None:
    """Blocks until the run goes on. Workers and their record are to be the same for ``settles_s`` seconds, a
    little more than the failure timeout by default. Raises `UserError` if the owner does not want it to."""
    print("waiting for the workers that hold the run's newest record", flush=True)
    if settles_s is None:  # redials take up to 2 s, and a worker may have to ask with its ticket first
        settles_s = 5.0 + swarm.settings.run.failure_timeout_s
    found = _settled(swarm, settles_s)
    if found is None and (ahead := swarm.members_ahead()):
        raise UserError(_held_by_few(ahead))
    if found is None:
        print("no worker here holds anything newer than the journal: the run goes on from that", flush=True)
        swarm.adopt(None)
        return
    print("\n".join(_lines(found)), flush=True)
    if not yes and not sys.stdin.isatty():
        raise UserError("nobody can be asked here whether to go on from that: say --yes")
    if not yes and not typer.confirm("Go on from it?"):
        raise UserError("nothing was adopted, and the run did not go on")
    if not swarm.adopt(found.head):
        raise UserError("the workers that hold that record are here no more: try again")
    print(f"the run goes on from commit {found.index}", flush=True)


def _settled(swarm: Swarm, settles_s: float) -> Proposal | None:
    """What is proposed once it stayed the same for so long, with workers here; None if they hold nothing
    newer."""
    seen: tuple[Proposal | None, int, dict[str, int]] = (None, 0, {})
    since = time.monotonic()
    while True:
        now = swarm.proposed_adoption(), len(swarm.status()["members"]), swarm.members_ahead()
        if now != seen or not now[1]:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since >= settles_s:
            return now[0]
        time.sleep(_ASK_EVERY_S)


def _held_by_few(ahead: dict[str, int]) -> str:
    """Workers that come back from their disks may have checkpoints of different commits."""
    held = ", ".join(f"{printable(name)} commit {index}" for name, index in sorted(ahead.items()))
    return (
        f"{held}: no record is held by more than half of its workers that are here, so none can be gone on "
        "from. Start more of them, those that are further once more with diloco join --resume "
        f"{min(ahead.values())}, or a new run with one of their checkpoints (--train --from)"
    )


def _lines(found: Proposal) -> list[str]:
    here = len(found.voters)
    head = f"commit {found.index} {found.head.hex()[:16]}, the journal here ends at {found.journal_index}"
    lines = [f"{head}; of {found.num_members} workers in it {here} are here:"]
    for name, holds in found.voters:
        lines.append(f"  {printable(name)}  {'holds it' if holds else 'holds another state'}")
    return lines
