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


_BF16_GROWTH = 1.01


def even_growth(top: int, count: int) -> float:
    """`WireFormat.growth` of ``count`` values that are rounded to the nearest of the integers up to ``top``,
    with the largest value as ``top``: at worst all others lie just above the middle between two of them."""

    def grown(lower: int) -> float:
        return (top**2 + (count - 1) * (lower + 1) ** 2) / (top**2 + (count - 1) * (lower + 0.5) ** 2)

    return max(map(grown, range(top)))


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
    growth: float = 4.0
    """How many times as large encoding may make a squared norm; 4 is what rounding to the nearest of evenly
    spaced values can come to. Nothing that is longer than this allows is taken."""

    def element_bytes(self, keep: int, value_bits: int) -> float:
        """Bytes per element of a long contribution."""
        return self.bytes_per_element

    def mean_bytes(self, keep: int, value_bits: int, num_parts: int) -> float:
        """Bytes per element of the mean of so many contributions, in what this format offers for means."""
        return self.element_bytes(keep, value_bits)

    def part_growth(self, keep: int, value_bits: int) -> float:
        """The growth of contributions."""
        return self.growth

    def mean_growth(self) -> float:
        """The growth of means, in what this format offers for them."""
        return self.growth


@dataclass(frozen=True, slots=True)
class TopKFormat(WireFormat):
    """``keep`` values of ``value_bits`` of each chunk, with 12 bits of index each; means have all entries
    that any part kept, as bfloat16, and are dense where that is smaller."""

    def element_bytes(self, keep: int, value_bits: int) -> float:
        return (keep * (1.5 + value_bits / 8) + _TOP_K_SCALES[value_bits]) / TOP_K_CHUNK

    def mean_bytes(self, keep: int, value_bits: int, num_parts: int) -> float:
        kept_by_any = min(TOP_K_CHUNK, keep * max(1, num_parts))
        return min(_BF16_BYTES, self.element_bytes(kept_by_any, 16))

    def part_growth(self, keep: int, value_bits: int) -> float:
        """With 2 bits values become means of some of them, which makes nothing longer."""
        tops = {4: 7, 8: 127}
        return _BF16_GROWTH * (even_growth(tops[value_bits], keep) if value_bits in tops else 1.0)

    def mean_growth(self) -> float:
        """Of bfloat16, like all means of it."""
        return _BF16_GROWTH


_CODECS = "diloco.compression.codecs"

WIRE_FORMATS: dict[str, WireFormat] = {
    row.name: row
    for row in (
        WireFormat("fp32", f"{_CODECS}.plain:Fp32", 4.0, keeps_parameters=True, growth=1.0),
        WireFormat("fp16", f"{_CODECS}.plain:Fp16", 2.0, keeps_parameters=True, growth=1.002),
        WireFormat("bf16", f"{_CODECS}.plain:Bf16", _BF16_BYTES, keeps_parameters=True, growth=_BF16_GROWTH),
        WireFormat("int8", f"{_CODECS}.blocks:Int8", 1.0 + 4 / 256, growth=even_growth(127, 256)),
        WireFormat("int4", f"{_CODECS}.blocks:Int4", 34 / 64, growth=_BF16_GROWTH * even_growth(7, 64)),
        # Powers of two: above the middle of 1 and 2, a value becomes 4/3 of itself.
        WireFormat("fp4", f"{_CODECS}.blocks:Fp4", 34 / 64, growth=_BF16_GROWTH * 16 / 9),
        # Means of some of the values, which make nothing longer.
        WireFormat(
            "int2",
            f"{_CODECS}.two_bits:Int2",
            0.25 + 8 / 1024,
            keeps_factors=False,
            growth=_BF16_GROWTH,
        ),
        # There is no zero: beside a large value 1023 zeros become a quarter of it each.
        WireFormat(
            "int2_linear",
            f"{_CODECS}.two_bits:Int2Linear",
            0.25 + 2 / 1024,
            keeps_factors=False,
            growth=_BF16_GROWTH * (9 + 1023) / 16,
        ),
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


def row_bytes(name: str, columns: int) -> int:
    """Bytes of one row of what crosses a boundary between stages. Each row has blocks of its own, so a narrow
    one has more scales than a vector, and with 4 bits it is filled up to whole blocks."""
    if name == "int8":
        block = min(256, columns)
        return columns + 4 * -(-columns // block)
    if name in ("int4", "int4_rotated"):
        block = min(64, max(2, 1 << (columns - 1).bit_length()))
        return -(-columns // block) * (2 + block // 2)
    return round(columns * WIRE_FORMATS[name].bytes_per_element)
