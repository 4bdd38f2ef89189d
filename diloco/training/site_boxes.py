"""Which part of each tensor lies on which rank of a site, and who sends what to whom.

A part is a box: where it begins in the whole tensor, and its shape. Owns the boxes that torch's placements
mean, and the plan by which a fragment's vector is put together from them and taken apart. Pure: it holds no
tensors, and moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from diloco.errors import LayoutError

AT_ONCE = 1 << 24
"""Elements that are sent in one message, if no tensor is longer."""


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor."""

    start: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """All of a tensor."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """By which to index the whole tensor."""
        return tuple(slice(at, at + size) for at, size in zip(self.start, self.shape, strict=True))


def box_of(
    shape: Sequence[int], mesh: Sequence[int], place: Sequence[int], dims: Sequence[int | None]
) -> Box:
    """The part of a tensor of ``shape`` at ``place`` of a ``mesh``, along each of whose sides it is cut in
    its dimension ``dims[side]``, or repeated (None): as `torch.chunk` cuts, one side after the other."""
    start, left = [0] * len(shape), list(shape)
    for size, at, dim in zip(mesh, place, dims, strict=True):
        if dim is None:
            continue
        chunk = -(-left[dim] // size)
        begin = min(at * chunk, left[dim])
        start[dim] += begin
        left[dim] = min(chunk, left[dim] - begin)
    return Box(tuple(start), tuple(left))


@dataclass(frozen=True, slots=True)
class Piece:
    """One box of one tensor of a fragment."""

    tensor: int
    """Its place in the fragment."""
    box: Box


class FragmentPlan:
    """How one fragment lies on the ranks of a site. ``boxes[rank]`` has a box of each of its tensors, which
    are of ``shapes`` and called ``names``. Raises `LayoutError` where the ranks together have less than a
    whole tensor, or parts that overlap."""

    def __init__(
        self, names: Sequence[str], shapes: Sequence[Sequence[int]], boxes: Sequence[Sequence[Box]]
    ) -> None:
        self.held = [[Piece(i, box) for i, box in enumerate(each)] for each in boxes]
        """By rank: what it has, in the order in which it is written."""
        self.gives: list[list[Piece]] = [[] for _ in boxes]
        """By rank: what it hands in when the fragment is put together."""
        self.is_whole = all(
            each == Box.whole(shape) for b in boxes for each, shape in zip(b, shapes, strict=True)
        )
        """All ranks have all of it."""
        for i, shape in enumerate(shapes):
            first: dict[Box, int] = {}
            for rank, each in enumerate(boxes):
                if each[i].num_elements:
                    first.setdefault(each[i], rank)
            found = sum(box.num_elements for box in first)
            if found != math.prod(shape):
                raise LayoutError(
                    f"the ranks of this site have {found} of the {math.prod(shape)} values of {names[i]},"
                    " each counted once: attach with the process group over which the model was sharded"
                )
            for box, rank in first.items():
                self.gives[rank].append(Piece(i, box))


def bundles(pieces: Iterable[Piece], at_once: int = AT_ONCE) -> Iterator[list[Piece]]:
    """The pieces, in messages of so many elements at the most, if no piece is longer; none is empty."""
    bundle: list[Piece] = []
    for piece in pieces:
        if not piece.box.num_elements:
            continue
        if bundle and length(bundle) + piece.box.num_elements > at_once:
            yield bundle
            bundle = []
        bundle.append(piece)
    if bundle:
        yield bundle


def length(pieces: Iterable[Piece]) -> int:
    """Elements of all of them."""
    return sum(piece.box.num_elements for piece in pieces)
