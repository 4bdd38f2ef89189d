"""The table of wire formats: what a method may name as codec, what it costs, and which class encodes it.

Owns one row per format, and what settings need to know of it. Refuses to encode: that is the class that the
row names. A test holds the bytes of every row equal to what its class sends. Needs no torch. A new codec is
one row here and one class: see docs/methods.md.
"""

from __future__ import annotations

from dataclasses import dataclass

TOP_K_CHUNK = 4096
"""Consecutive elements of which ``topk`` keeps some."""
_TOP_K_SCALES = {2: 4.0, 4: 2.0, 8: 2.0, 16: 0.0}
"""Bytes beside the values of each chunk, by the bits of a value."""
_BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class WireFormat:
    """One format. ``options`` are those of `compression.codecs.codec` that the class takes."""

    name: str
    made_by: str
    """Where the class is, a `compression.codecs.base.Codec`: ``package.module:Class``."""
    bytes_per_element: float
    """Of a long vector, with the scales of blocks; with the options' defaults, where there are options."""
    options: tuple[str, ...] = ()
    keeps_parameters: bool = False
    """Rounds so little that parameters themselves survive it, which gossip sends."""
    keeps_factors: bool = True
    """Rounds so little that the factors of a low-rank projection survive it."""
    drops_elements: bool = False
    """Sends a few elements and no others, so that it suits no dense mean."""

    def element_bytes(self, keep: int, value_bits: int) -> float:
        """Bytes per element of a long contribution."""
        return self.bytes_per_element

    def mean_bytes(self, keep: int, value_bits: int, num_parts: int) -> float:
        """Bytes per element of the mean of so many contributions, in what this format offers for means."""
        return self.element_bytes(keep, value_bits)


@dataclass(frozen=True, slots=True)
class TopKFormat(WireFormat):
    """``keep`` values of ``value_bits`` of each chunk, with 12 bits of index each; means have all entries
    that any part kept, as bfloat16, and are dense where that is smaller."""

    def element_bytes(self, keep: int, value_bits: int) -> float:
        return (keep * (1.5 + value_bits / 8) + _TOP_K_SCALES[value_bits]) / TOP_K_CHUNK

    def mean_bytes(self, keep: int, value_bits: int, num_parts: int) -> float:
        kept_by_any = min(TOP_K_CHUNK, keep * max(1, num_parts))
        return min(_BF16_BYTES, self.element_bytes(kept_by_any, 16))


_CODECS = "diloco.compression.codecs"

WIRE_FORMATS: dict[str, WireFormat] = {
    row.name: row
    for row in (
        WireFormat("fp32", f"{_CODECS}.plain:Fp32", 4.0, keeps_parameters=True),
        WireFormat("fp16", f"{_CODECS}.plain:Fp16", 2.0, keeps_parameters=True),
        WireFormat("bf16", f"{_CODECS}.plain:Bf16", _BF16_BYTES, keeps_parameters=True),
        WireFormat("int8", f"{_CODECS}.blocks:Int8", 1.0 + 4 / 256),
        WireFormat("int4", f"{_CODECS}.blocks:Int4", 34 / 64),
        WireFormat("fp4", f"{_CODECS}.blocks:Fp4", 34 / 64),
        WireFormat("int2", f"{_CODECS}.two_bits:Int2", 0.25 + 8 / 1024, keeps_factors=False),
        WireFormat("int2_linear", f"{_CODECS}.two_bits:Int2Linear", 0.25 + 2 / 1024, keeps_factors=False),
        TopKFormat(
            "topk",
            f"{_CODECS}.topk:TopK",
            bytes_per_element=(64 * 2.5 + 2.0) / TOP_K_CHUNK,
            options=("keep", "value_bits"),
            keeps_factors=False,
            drops_elements=True,
        ),
    )
}
"""Every format, by its name. A program may add rows of its own before it reads settings, on every peer."""
