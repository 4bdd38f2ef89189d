"""What a process of this machine takes just now, as the kernel tells; zero for one that has ended."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MIB = 1 << 20


def resident_mib(pid: int) -> float:
    """Resident memory."""
    return _number(pid, "VmRSS:") * 1024 / MIB


def peak_mib(pid: int) -> float:
    """The most resident memory since it began to run its program: the kernel's other count of that, of
    `getrusage`, is handed on by the process which started it."""
    return _number(pid, "VmHWM:") * 1024 / MIB


def cpu_seconds(pid: int) -> float:
    """Seconds of a processor since it began, its threads' together."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def num_threads(pid: int) -> int:
    """Threads, the main one too."""
    return _number(pid, "Threads:")


def num_descriptors(pid: int) -> int:
    """Open files and sockets."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def num_eventfds(pid: int) -> int:
    """Of its descriptors those by which threads wake each other."""
    found = 0
    for each in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # closed meanwhile
            found += "eventfd" in os.readlink(each)
    return found


def _number(pid: int, field: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith(field)]
    return int(found[0]) if found else 0
