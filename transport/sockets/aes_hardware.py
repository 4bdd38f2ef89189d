"""Whether this machine encrypts with AES-GCM at the speed of its memory; if not, no sealed lane is used."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


@cache
def has_fast_aes() -> bool:
    """Whether the processor has instructions for it, and the library writes where it is told to."""
    if not hasattr(AESGCM, "encrypt_into"):
        return False
    if not sys.platform.startswith("linux"):
        return True  # every machine of the others that runs this has them
    try:
        return says_aes(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return False


def says_aes(cpuinfo: str) -> bool:
    """Whether the first processor in Linux's list has them."""
    for line in cpuinfo.splitlines():
        name, _, words = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return "aes" in words.split()
    return False
