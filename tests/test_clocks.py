"""What time it is, by the clock of the wall, decides only what a ticket's expiry and a new process need."""

from __future__ import annotations

import ast

from tests.test_tidy import PACKAGES, dotted, files, name_of, tree

WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.today", "datetime.utcnow", "date.today"}
USED = {
    "diloco/checkpoints/shared.py": "when a checkpoint was written, for people",
    "diloco/cli/app.py": "for how long a ticket is good, and whether one that is shown has expired",
    "diloco/cli/host.py": "for how long the ticket that it prints is good",
    "diloco/cli/measured_host.py": "whether the ticket that names a host has expired",
    "diloco/monitoring/event_log.py": "when something happened, for people",
    "diloco/swarm/control.py": "when a new ticket expires",
    "diloco/swarm/entry.py": "when a ticket expires, and since when a host runs, read once at its start",
    "diloco/swarm/handshake.py": "whether a ticket that nobody admits has expired",
    "diloco/swarm/hosted_run.py": "when its ticket expires, and the name of a folder for an old run's files",
    "diloco/swarm/joined_run.py": "a number for a process whose identity nothing keeps",
    "peers/admission/identity.py": "a number for a new process that is larger than those before",
}
"""The files that look at it, and why each does."""


def test_only_these_files_look_at_the_clock_of_the_wall() -> None:
    found = {
        name_of(path)
        for path in files(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and dotted(node) in WALL_CLOCK
    }
    assert found == set(USED)


def test_none_takes_it_by_another_name() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in files(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        and node.module == "time"
        and {alias.name for alias in node.names} & {"time", "time_ns"}
    ]
    assert not found, found
