"""Projections: linear maps that make a fragment's vector shorter before a codec encodes it.

Owns the identity, the random mask, low-rank factors and the blockwise cosine transform. Refuses to own
codecs, error feedback and rounds. A projection holds no state: what members must share is one fp32 tensor
that the caller keeps with the outer state. `first_state`, `lift` and `next_state` give the same bits on every
machine (S1); `project` is one worker's own affair and uses whatever is fast. All vectors are fp32 on the CPU;
for a given state everything is linear, so that the mean of what was sent lifts to what the mean would have
been."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from diloco.compression.deterministic import (
    dct_matrix,
    orthonormal,
    seeded_bits,
    seeded_uniform,
    squared_lengths,
    sum_of_outer_products,
)
from diloco.compression.rank_control import RankController, Spectrum, effective_rank, share_ranks

SURVEY = 4
"""Rounds at the largest ranks before ranks are chosen (`lgreco`): so many power iterations tell strong
columns from weak ones."""
CYCLE = 32
"""Rounds from one choice of ranks to the next (`lgreco`), survey included; even, since factors alternate."""


class Projection(Protocol):
    """A map from vectors x [num_elements] to y [length], as a rule shorter, and back. ``round_index`` counts
    the fragment's rounds and is not negative; ``state`` is what `first_state` or `next_state` gave, and
    always of the same size."""

    num_elements: int
    max_sent: int
    """The largest `length` under any state."""

    def first_state(self) -> Tensor:
        """The state [s] to begin with, the same bits on every machine."""

    def length(self, state: Tensor) -> int:
        """Elements of y under this state."""

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        """y [length] of x [num_elements]; may be ``x`` itself."""

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        """x [num_elements] of y [length], new or ``y`` itself; the same bits on every machine."""

    def next_state(self, y_mean: Tensor, state: Tensor, round_index: int) -> Tensor:
        """The state [s] after a round with this averaged y, a new tensor; the same bits on every machine."""

    def support(self, round_index: int) -> Tensor | None:
        """The indices [length] int64, rising, of the only elements that this round touches; None for all."""

    def sync_every(self, state: Tensor) -> int | None:
        """H that goes with this state, None if H does not adapt."""


class _Stateless:
    """What projections have in common that share nothing but their settings."""

    def __init__(self, num_elements: int, max_sent: int) -> None:
        self.num_elements, self.max_sent = num_elements, max_sent

    def first_state(self) -> Tensor:
        return torch.empty(0)

    def next_state(self, y_mean: Tensor, state: Tensor, round_index: int) -> Tensor:
        return torch.empty(0)

    def length(self, state: Tensor) -> int:
        return self.max_sent

    def sync_every(self, state: Tensor) -> int | None:
        return None


class Identity(_Stateless):
    """The vector itself, without a copy: what methods without a projection send."""

    def __init__(self, num_elements: int) -> None:
        super().__init__(num_elements, max_sent=num_elements)

    def support(self, round_index: int) -> None:
        return None

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        return x

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        return y


class RandomMask(_Stateless):
    """One element of each run of ``one_in``, drawn anew each round from ``seed`` and the round's index, so
    that no index is ever sent: the common mask of SPARTA (exo labs) and the random replicator of FlexDeMo,
    stratified, so that the number is exact, ceil(n / one_in). Lifting leaves zeros elsewhere."""

    def __init__(self, num_elements: int, one_in: int, seed: int) -> None:
        if one_in < 1:
            raise ValueError(f"one_in is {one_in}: a mask takes one of at least 1 element")
        super().__init__(num_elements, max_sent=-(-num_elements // one_in))
        self._one_in, self._seed = one_in, seed

    def support(self, round_index: int) -> Tensor:
        starts = np.arange(0, self.num_elements, self._one_in)
        widths = np.minimum(self.num_elements - starts, self._one_in)
        # The remainder's bias is below one_in / 2^64.
        draws = seeded_bits((self._seed, round_index), len(starts)) % widths.astype(np.uint64)
        return torch.from_numpy(starts + draws.astype(np.int64))

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        return x[self.support(round_index)]

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        x = torch.zeros(self.num_elements)
        x[self.support(round_index)] = y
        return x


class Dct(_Stateless):
    """The orthonormal DCT-II of each ``block`` consecutive elements, the last block shorter: DeMo (arXiv
    2411.19870) keeps the largest coefficients of it, which is left to a codec. As long as the vector."""

    def __init__(self, num_elements: int, block: int = 64) -> None:
        if block < 1:
            raise ValueError(f"block is {block}: a block has at least 1 element")
        super().__init__(num_elements, max_sent=num_elements)
        self._block = block

    def support(self, round_index: int) -> None:
        return None

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        y = torch.empty_like(x)
        for source, target in self._blocked(x, y):
            torch.mm(source, dct_matrix(source.shape[1]).t(), out=target)
        return y

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        x = torch.empty_like(y)
        for source, target in self._blocked(y, x):
            sum_of_outer_products(source.t(), dct_matrix(source.shape[1]), out=target)
        return x

    def _blocked(self, *vectors: Tensor) -> Iterator[list[Tensor]]:
        """Views [blocks, size] of the vectors: those of full size, then the short one; each if it is
        there."""
        whole = self.num_elements // self._block * self._block
        if whole:
            yield [vector[:whole].view(-1, self._block) for vector in vectors]
        if whole < self.num_elements:
            yield [vector[whole:].view(1, -1) for vector in vectors]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor of the fragment: a matrix of which factors are sent, or, with rank 0, one that travels
    whole."""

    start: int
    rows: int
    columns: int
    rank: int
    """The largest, if it adapts."""
    room: slice
    """Where in the state its basis lies: enough for either side."""

    def side(self, odd: int) -> int:
        """Elements of a column of the factor that is sent."""
        return self.columns if odd else self.rows

    def matrix(self, x: Tensor) -> Tensor:
        return x[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)

    def basis(self, state: Tensor, rank: int, odd: int) -> Tensor:
        """The shared basis, one vector per row: of the columns' side when rows are sent, and the other way
        round."""
        other = self.side(1 - odd)
        return state[self.room][: rank * other].view(rank, other)


class LowRank:
    """Low-rank factors of each tensor of two or more dimensions, as a matrix [shape[0], rest], at the given
    rank.

    PowerSGD (arXiv 1905.13727) with warm start, in the alternating form of ACP-SGD ("Evaluation and
    Optimization of Gradient Compression for Distributed Deep Learning", arXiv 2306.08881), so that a round
    needs one linear message instead of two:

        even:  P = M Q     sent and averaged;  M ~ P Q^T;  the next shared basis is orth(P)
        odd:   Q = M^T P                       M ~ P Q^T;                           orth(Q)

    with P or Q that is not sent orthonormal and shared. A matrix is compressed if r (m + n) < m n and r <=
    min(m, n); other tensors travel whole. ``ranks``, one per tensor with 0 for whole, decides that instead.
    Factors are sent column by column, so that a codec's scales follow their very different magnitudes.

    ``adapt``: "lgreco" chooses ranks every `CYCLE` rounds from what `SURVEY` rounds at the largest showed
    (`rank_control.share_ranks`); "dilocox" lets one rank follow the effective rank
    (`rank_control.RankController`), and H with it, from ``sync_every``, the first one. Both measure the
    averaged factors only, so that members agree without a word.

    The state, which says itself which factor is next (a round that never committed changes nothing): [rounds
    in the present cycle, rank per compressed matrix, with dilocox the window of effective ranks (0 before
    they are known), then a basis per matrix with room for the longer side at the largest rank]. The size is
    fixed though ranks and sides change. Small integers are exact in fp32."""

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        rank: int,
        seed: int,
        ranks: Sequence[int] | None = None,
        adapt: Literal["none", "lgreco", "dilocox"] = "none",
        sync_every: int = 1,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank is {rank}: factors have at least 1 column")
        sides = [
            (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape)) for shape in shapes
        ]
        if ranks is None:
            ranks = [_worthwhile(rows, columns, rank) for rows, columns in sides]
        self.num_elements = sum(rows * columns for rows, columns in sides)
        self._seed, self._adapt, self._sync_every = seed, adapt, sync_every
        self._controller = RankController(first_rank=rank)
        window = self._controller.window if adapt == "dilocox" else 0
        self._header = 1 + sum(each > 0 for each in ranks) + window
        self._pieces, self._state_size = _laid_out(sides, ranks, self._header)
        self._matrices = [piece for piece in self._pieces if piece.rank]
        self.max_sent = max(sum(_num_sent(each, each.rank, odd) for each in self._pieces) for odd in (0, 1))

    def first_state(self) -> Tensor:
        state = torch.zeros(self._state_size)
        self._write_header(state, 0, [piece.rank for piece in self._matrices], [])
        for index, piece in enumerate(self._matrices):
            basis = piece.basis(state, piece.rank, odd=0)
            basis.copy_(orthonormal(seeded_uniform((self._seed, index), basis.numel()).view(basis.shape)))
        return state

    def length(self, state: Tensor) -> int:
        odd = self._round_in_cycle(state) % 2
        return sum(_num_sent(piece, rank, odd) for piece, rank in self._ranked(state))

    def ranks(self, state: Tensor) -> list[int]:
        """The present rank of each compressed matrix, in order."""
        return [int(rank) for rank in state[1 : 1 + len(self._matrices)].tolist()]

    def sync_every(self, state: Tensor) -> int | None:
        if self._adapt != "dilocox":
            return None
        return self._controller.sync_every(self._controller.next(self._history(state)), self._sync_every)

    def support(self, round_index: int) -> None:
        return None

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        odd = self._round_in_cycle(state) % 2
        y = torch.empty(self.length(state))
        for piece, rank, part in self._parts(y, state, odd):
            matrix = piece.matrix(x)
            if rank:
                torch.mm(piece.basis(state, rank, odd), matrix if odd else matrix.t(), out=part)
            else:
                part.copy_(matrix)
        return y

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        odd = self._round_in_cycle(state) % 2
        x = torch.empty(self.num_elements)
        for piece, rank, part in self._parts(y, state, odd):
            if rank:
                basis = piece.basis(state, rank, odd)
                left, right = (basis, part) if odd else (part, basis)
                sum_of_outer_products(left, right, out=piece.matrix(x))
            else:
                piece.matrix(x).copy_(part)
        return x

    def next_state(self, y_mean: Tensor, state: Tensor, round_index: int) -> Tensor:
        at = self._round_in_cycle(state)
        factors, spectra = [], []
        for piece, rank, part in self._parts(y_mean, state, at % 2):
            if rank:
                # Strong columns first: iteration sharpens those most, and a lower rank drops the rest.
                energies = squared_lengths(part)
                order = sorted(range(rank), key=energies.__getitem__, reverse=True)  # equals keep their order
                factors.append(part[order])
                spectra.append(Spectrum(piece.rows, piece.columns, [energies[k] for k in order]))
        ranks, history = self._adapted(at, self.ranks(state), self._history(state), spectra)
        after = torch.zeros(self._state_size)
        self._write_header(after, (at + 1) % (CYCLE if self._adapt == "lgreco" else 2), ranks, history)
        for piece, rank, factor in zip(self._matrices, ranks, factors, strict=True):
            # A rank that grows begins with rows of zeros, which `orthonormal` replaces.
            basis = piece.basis(after, rank, odd=1 - at % 2)
            kept = min(rank, len(factor))
            basis[:kept] = factor[:kept]
            basis.copy_(orthonormal(basis))
        return after

    def _adapted(
        self, at: int, ranks: list[int], history: list[int], spectra: list[Spectrum]
    ) -> tuple[list[int], list[int]]:
        """Ranks and history after a round ``at`` in the cycle that showed these spectra."""
        largest = [piece.rank for piece in self._matrices]
        if self._adapt == "lgreco":
            if at == SURVEY - 1:
                return share_ranks(spectra), history
            return (largest if at == CYCLE - 1 else ranks), history
        if self._adapt == "dilocox":
            latest = _joint_effective_rank(spectra, self._controller.next(history))
            history = [*history, latest][-self._controller.window :]
            rank = self._controller.next(history)
            return [min(rank, each) for each in largest], history
        return ranks, history

    def _round_in_cycle(self, state: Tensor) -> int:
        return int(state[0])

    def _history(self, state: Tensor) -> list[int]:
        """The effective ranks that are known, the latest last."""
        window = state[1 + len(self._matrices) : self._header].tolist()
        return [int(each) for each in window if each]

    def _write_header(self, state: Tensor, at: int, ranks: list[int], history: list[int]) -> None:
        unknown = [0] * (self._header - 1 - len(ranks) - len(history))
        state[: self._header] = torch.tensor([at, *ranks, *unknown, *history], dtype=torch.float32)

    def _ranked(self, state: Tensor) -> Iterator[tuple[_Piece, int]]:
        """Every tensor with its present rank, 0 if it travels whole."""
        ranks = iter(self.ranks(state))
        for piece in self._pieces:
            yield piece, next(ranks) if piece.rank else 0

    def _parts(self, y: Tensor, state: Tensor, odd: int) -> Iterator[tuple[_Piece, int, Tensor]]:
        """Every tensor with its present rank and its part of ``y``: [rank, side], or [rows, columns] if
        whole."""
        start = 0
        for piece, rank in self._ranked(state):
            part = y[start : start + _num_sent(piece, rank, odd)]
            start += len(part)
            yield piece, rank, part.view(rank or piece.rows, piece.side(odd) if rank else piece.columns)


def _num_sent(piece: _Piece, rank: int, odd: int) -> int:
    return rank * piece.side(odd) if rank else piece.rows * piece.columns


def _worthwhile(rows: int, columns: int, rank: int) -> int:
    """The rank for a matrix of this shape, 0 if factors would not be smaller than it."""
    rank = min(rank, rows, columns)
    return rank if rank * (rows + columns) < rows * columns else 0


def _laid_out(
    sides: Sequence[tuple[int, int]], ranks: Sequence[int], header: int
) -> tuple[list[_Piece], int]:
    """Every tensor's place in the vector and in the state, and the size of the state."""
    if len(ranks) != len(sides):
        raise ValueError(f"there are {len(ranks)} ranks for {len(sides)} tensors")
    pieces, start, end = [], 0, header
    for (rows, columns), rank in zip(sides, ranks, strict=True):
        if not 0 <= rank <= min(rows, columns):
            raise ValueError(f"rank {rank} does not fit a matrix of {rows} x {columns}")
        room = rank * max(rows, columns)
        pieces.append(_Piece(start, rows, columns, rank, slice(end, end + room)))
        start, end = start + rows * columns, end + room
    return pieces, end


def _joint_effective_rank(spectra: Sequence[Spectrum], rank: int) -> int:
    """The effective rank of an update of several matrices under one ``rank``: as much of it as their
    effective ranks are of their present ones, counted by the elements they cost. A matrix that shows nothing
    needs all."""
    used = present = 0
    for spectrum in spectra:
        cost = spectrum.rows + spectrum.columns
        used += cost * (effective_rank(spectrum.energies) or len(spectrum.energies))
        present += cost * len(spectrum.energies)
    return -(-rank * used // present) if present else rank
