"""Codecs: how a slice of an fp32 vector becomes bytes on the wire and back.

Owns the table of wire formats; each family has a file, `base` what all promise. Refuses to own chunks of an
exchange, members and rounds: see `diloco.outer.state.tensor_reducer`.
"""

from __future__ import annotations

from collections.abc import Callable

from diloco.compression.codecs.base import Codec, add_weighted
from diloco.compression.codecs.blocks import Fp4, Int4, Int8
from diloco.compression.codecs.plain import Bf16, Fp16, Fp32
from diloco.compression.codecs.topk import TopK
from diloco.compression.codecs.two_bits import Int2, Int2Linear

__all__ = [
    "CODECS",
    "Bf16",
    "Codec",
    "Fp4",
    "Fp16",
    "Fp32",
    "Int2",
    "Int2Linear",
    "Int4",
    "Int8",
    "TopK",
    "add_weighted",
    "codec",
]

CODECS: dict[str, Callable[[], Codec]] = {
    each.name: each for each in (Fp32, Fp16, Bf16, Int8, Int4, Fp4, Int2, Int2Linear, TopK)
}
"""Every codec there is, by its name; `spec.CODEC_NAMES` is the same list without torch."""


def codec(name: str, *, keep: int = 64, value_bits: int = 8) -> Codec:
    """A new codec by its name; ``keep`` and ``value_bits`` are topk's. Raises ValueError that lists the names
    there are."""
    if name not in CODECS:
        raise ValueError(f"codec {name!r} is unknown: choose one of {', '.join(CODECS)}")
    return TopK(keep, value_bits) if name == TopK.name else CODECS[name]()
