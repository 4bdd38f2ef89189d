"""How many descriptors this process may have: as many as the system lets it, up to a bound.

Each connection holds one, those of strangers that never prove a key included, and a system's first limit is
often 1,024. Only the soft limit of this process is raised, never lowered, which needs no rights. Keeps R4.
"""

from __future__ import annotations

import os

from transport.errors import TransportError

WANTED = 1 << 16
"""Beyond this there is no use for more."""
NEEDED = 32
"""libzmq ends the process if it cannot have them when it starts or begins to listen."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit as far as the hard one, `WANTED` at most; returns what it is now, `WANTED` if
    there is none, or the system knows none (Windows). A system that refuses leaves it as it was: then sockets
    fail earlier, and a failed dial is tried again."""
    try:
        import resource
    except ModuleNotFoundError:
        return WANTED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return WANTED
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has a ceiling below an infinite hard limit
            return soft
        return wanted
    return soft


def check_descriptors(soft: int) -> None:
    """Raises `TransportError` unless so many as a start needs are free; ``soft`` is the limit, for people."""
    taken: list[int] = []
    try:
        for _ in range(NEEDED):
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise TransportError(
            f"this process may open {soft} files, which is too few ({error.strerror}): raise it by ulimit -n"
        ) from None
    finally:
        for descriptor in taken:
            os.close(descriptor)
