"""Codecs: how a slice of an fp32 vector becomes bytes on the wire and back.

Each family has a file, and `base` is what all promise; which there are, the rows of `methods.wire_formats`
say. Refuses to own chunks of an exchange, members and rounds: see `diloco.outer.tensor_reducer`.
"""

from __future__ import annotations

from diloco.compression.codecs.base import Codec, add_weighted
from diloco.methods.registry import make
from diloco.methods.wire_formats import WIRE_FORMATS

__all__ = ["Codec", "add_weighted", "codec"]


def codec(name: str, *, keep: int = 64, value_bits: int = 8) -> Codec:
    """A new codec by its name; ``keep`` and ``value_bits`` are topk's. Raises ValueError that lists the names
    there are."""
    if name not in WIRE_FORMATS:
        raise ValueError(f"codec {name!r} is unknown: choose one of {', '.join(WIRE_FORMATS)}")
    made: Codec = make(WIRE_FORMATS[name], keep=keep, value_bits=value_bits)
    return made
