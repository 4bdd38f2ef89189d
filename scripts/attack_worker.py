"""One process of attack_swarm.py that means harm: a worker whose node has a role, or a stranger."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from unittest import mock

from attack_strangers import HUGE, connect, send_huge
from death_worker import Role, Tell, work

import diloco
from diloco.errors import EntryError
from diloco.simulation.roles.registry import ROLES
from diloco.simulation.roles.role import Adversary
from transport.sealed.records import HEADER_BYTES, Record

STRANGERS = ("flood", "handshakes", "openings")
"""Roles of those who know an address and hold no key."""
RECORDS = "records"
"""A member that is honest but for what it seals: one header of a record in five is rubbish."""
NAMES = (*ROLES, *STRANGERS, *HUGE, RECORDS)


def _rubbish(honest: Callable[[Record], bytes]) -> Callable[[Record], bytes]:
    random = Random(RECORDS)

    def pack(record: Record) -> bytes:
        return random.randbytes(HEADER_BYTES) if random.random() < 0.2 else honest(record)

    return pack


def attack(role: str, worker: Role) -> None:
    """Do what the role does until the process is killed."""
    tell = Tell(worker.folder, worker.name)
    if role in STRANGERS:
        tell("attacks")
        connect(role, worker.ticket)
    elif role in HUGE:
        home = Path(worker.folder) / worker.name
        with diloco.join(worker.ticket, name=worker.name, state=home):
            tell("attacks")  # it is admitted, and has a key
        send_huge(role, worker.ticket, home)
    elif role == RECORDS:
        tell("attacks")
        with mock.patch.object(Record, "pack", _rubbish(Record.pack)), suppress(EntryError):
            work(worker)
    else:
        node = partial(Adversary, role=ROLES[role](Random(worker.name)))
        with mock.patch("diloco.swarm.entry.Node", node), suppress(EntryError):  # it may be put out
            work(worker)
