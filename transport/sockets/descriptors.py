"""How many descriptors this process may have: as many as the system lets it, up to a bound.

Each connection holds one, those of strangers that never prove a key included, and a system's first limit is
often 1,024. Only the soft limit of this process is raised, never lowered, which needs no rights. Keeps R4.
"""

from __future__ import annotations

import resource

WANTED = 1 << 16
"""Beyond this there is no use for more."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit as far as the hard one, `WANTED` at most; returns what it is now, `WANTED` if
    there is none. A system that refuses leaves it as it was: then sockets fail earlier, and a failed dial is
    tried again."""
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
