"""Where two layouts differ first, from a few bytes of each: two for a row, or for a group of rows.

The coordinator holds digests of the run's layout and not its text. With these bytes it says at which row a
member's own begins to differ, and the member, which has its text, says which tensor that is. Vouches for
nothing: whether layouts are equal is told by their digests.
"""

from __future__ import annotations

from itertools import zip_longest

from peers.protocol.fields import MAX_ROW_GROUPS
from transport.digests import digest_of

_BYTES = 2


def row_prints(text: bytes) -> bytes:
    """Of a layout's text, a line for each tensor: how many rows make a group (as a power of two), and the
    groups."""
    prints = [int.from_bytes(digest_of(row)[:_BYTES], "big") for row in text.splitlines()]
    power = 0
    while len(prints) > MAX_ROW_GROUPS:
        prints, power = _folded(prints), power + 1
    return bytes([power]) + b"".join(each.to_bytes(_BYTES, "big") for each in prints)


def first_difference(ours: bytes, theirs: bytes) -> tuple[int, int] | None:
    """The first row at which layouts differ of which these are the prints, and how many rows from there on
    may be meant; None if that is not known."""
    if not ours or not theirs:
        return None  # nobody said
    (power, mine), (other_power, other) = _read(ours), _read(theirs)
    while power < other_power:
        mine, power = _folded(mine), power + 1
    while other_power < power:
        other, other_power = _folded(other), other_power + 1
    for index, (a, b) in enumerate(zip_longest(mine, other)):
        if a != b:
            return index << power, 1 << power
    return None


def tell_rows(text: bytes, first: int, count: int) -> str:
    """What these rows of a layout's text are, for people."""
    rows = text.decode().splitlines()
    if first >= len(rows):
        return f"the run's model goes on where this one ends, after its {len(rows)} tensors"
    (fragment, _, tensor), last = rows[first].partition(" "), min(first + count, len(rows)) - 1
    where = "frozen" if fragment == "frozen" else f"fragment {fragment}"
    until = "" if last == first else f", or one of those up to {rows[last].split(' ')[1]}"
    return f"the first tensor that differs is this member's {tensor} ({where}){until}"


def _folded(prints: list[int]) -> list[int]:
    return [a ^ b for a, b in zip_longest(prints[::2], prints[1::2], fillvalue=0)]


def _read(prints: bytes) -> tuple[int, list[int]]:
    places = range(1, len(prints), _BYTES)
    return prints[0], [int.from_bytes(prints[i : i + _BYTES], "big") for i in places]
