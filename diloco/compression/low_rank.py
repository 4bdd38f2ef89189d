"""Low-rank factors: the projection that sends two thin matrices for each matrix, and may adapt their rank.

Owns PowerSGD's two exchanges, where bases and factors lie in vectors and in the shared state, and which
ranks come next. Refuses to own how ranks are chosen: see `rank_control`. What `projections` promises holds
here: the state is the caller's, and all but `project` has the same bits on every machine (S1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diloco.compression.deterministic import (
    leading_energies,
    orthonormal,
    seeded_uniform,
    sum_of_outer_products,
)
from diloco.compression.rank_control import RankController, Spectrum, effective_rank, share_ranks
from diloco.methods.factors import rank_of, sides_of

SURVEY = 4
"""Outer steps at the largest ranks before ranks are chosen, by the sum of their updates (`lgreco`)."""
CYCLE = 32
"""Outer steps from one choice of ranks to the next (`lgreco`), survey included."""
ITERATIONS = 5
"""Subspace iterations that show the spectrum of the sum, as many as the paper of `lgreco` takes."""


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
    sum: slice
    """Where in the state the sum of its updates in a survey lies; empty if there are none."""

    def side(self, second: int) -> int:
        """Elements of a column of the factor that is sent."""
        return self.columns if second else self.rows

    def num_sent(self, rank: int, second: int) -> int:
        """Elements that are sent of it: a tensor that travels whole does so with the second factors."""
        return rank * self.side(second) if rank else second * self.rows * self.columns

    def matrix(self, x: Tensor) -> Tensor:
        return x[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)

    def summed(self, state: Tensor) -> Tensor:
        return state[self.sum].view(self.rows, self.columns)

    def basis(self, state: Tensor, rank: int, second: int) -> Tensor:
        """The shared basis, one vector per row: of the columns' side when rows are sent, and the other way
        round."""
        other = self.side(1 - second)
        return state[self.room][: rank * other].view(rank, other)


class LowRank:
    """Low-rank factors of each tensor of two or more dimensions, as a matrix [shape[0], rest], at the given
    rank (with ``rank_share``, that share of its shorter side).

    PowerSGD (arXiv 1905.13727), algorithm 1, with warm start. An outer step is two exchanges about the same
    M, both linear:

        sketch:  P = M Q       sent and averaged;  the shared basis becomes P^ = orth(P), nothing else moves
        second:  Q = M^T P^    sent and averaged;  M ~ P^ Q^T;  the next sketch begins with orth(Q)

    Any common orthonormal basis is right for the second factor, so that whoever is not in the sketch may be
    in the second exchange. Q is orthonormalised before it is used, which spans the same and keeps the columns
    of P, which a codec rounds, at their own magnitude; strongest first: a lower rank drops the rest. A matrix
    is compressed if r (m + n) < m n and r <= min(m, n); other tensors travel whole, with the second factors.
    ``ranks``, one per tensor with 0 for whole, decides that instead. Factors are sent column by column, so
    that a codec's scales follow their very different magnitudes. A sketch without a matrix is one zero: an
    outer step of every fragment is two exchanges.

    ``adapt``: "lgreco" chooses ranks every `CYCLE` outer steps by the sum of `SURVEY` updates at the largest
    (`rank_control.share_ranks`); "dilocox" lets all ranks follow the effective rank in proportion
    (`rank_control.RankController`), and H with it, from ``sync_every``, the first one: what a direction holds
    of Q it holds of the update, P^ being orthonormal. Both measure committed updates only, so that members
    agree without a word.

    The state, which says itself which factor is next (a round that never committed changes nothing):
    [exchanges in the present cycle, rank per compressed matrix, with dilocox the window of effective ranks (0
    before they are known), then for each matrix with lgreco the sum of its updates, and its basis, with room
    for the longer side at the largest rank]. The size is fixed though ranks and sides change. Small integers
    are exact in fp32."""

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        rank: int,
        seed: int,
        ranks: Sequence[int] | None = None,
        adapt: Literal["none", "lgreco", "dilocox"] = "none",
        sync_every: int = 1,
        rank_share: float = 0.0,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank is {rank}: factors have at least 1 column")
        sides = [sides_of(shape) for shape in shapes]
        if ranks is None:
            ranks = [rank_of(rows, columns, rank, rank_share) for rows, columns in sides]
        self.num_elements = sum(rows * columns for rows, columns in sides)
        self._seed, self._adapt, self._sync_every = seed, adapt, sync_every
        self._controller = RankController(first_rank=max([1, *ranks]))
        window = self._controller.window if adapt == "dilocox" else 0
        self._header = 1 + sum(each > 0 for each in ranks) + window
        self._pieces, self._state_size = _laid_out(sides, ranks, self._header, adapt == "lgreco")
        self._matrices = [piece for piece in self._pieces if piece.rank]
        self.max_sent = max(
            1, *(sum(each.num_sent(each.rank, second) for each in self._pieces) for second in (0, 1))
        )

    def first_state(self) -> Tensor:
        state = torch.zeros(self._state_size)
        self._write_header(state, 0, [piece.rank for piece in self._matrices], [])
        for index, piece in enumerate(self._matrices):
            basis = piece.basis(state, piece.rank, second=0)
            basis.copy_(orthonormal(seeded_uniform((self._seed, index), basis.numel()).view(basis.shape))[0])
        return state

    def sketches(self, state: Tensor) -> bool:
        return self._exchange_in_cycle(state) % 2 == 0

    def length(self, state: Tensor) -> int:
        second = self._exchange_in_cycle(state) % 2
        return max(1, sum(piece.num_sent(rank, second) for piece, rank in self._ranked(state)))

    def ranks(self, state: Tensor) -> list[int]:
        """The present rank of each compressed matrix, in order."""
        return [int(rank) for rank in state[1 : 1 + len(self._matrices)].tolist()]

    def sync_every(self, state: Tensor) -> int | None:
        if self._adapt != "dilocox":
            return None
        return self._controller.sync_every(self._controller.next(self._history(state)), self._sync_every)

    def support(self, round_index: int) -> None:
        return None

    def momentum_scale(self, y_mean: Tensor, state: Tensor) -> float:
        return 1.0

    def project(self, x: Tensor, state: Tensor, round_index: int) -> Tensor:
        second = self._exchange_in_cycle(state) % 2
        y = torch.zeros(self.length(state))
        for piece, rank, part in self._parts(y, state):
            matrix = piece.matrix(x)
            if rank:
                torch.mm(piece.basis(state, rank, second), matrix if second else matrix.t(), out=part)
            else:
                part.copy_(matrix)
        return y

    def lift(self, y: Tensor, state: Tensor, round_index: int) -> Tensor:
        assert not self.sketches(state), "a sketch stands for no update"
        x = torch.empty(self.num_elements)
        for piece, rank, part in self._parts(y, state):
            if rank:
                sum_of_outer_products(piece.basis(state, rank, second=1), part, out=piece.matrix(x))
            else:
                piece.matrix(x).copy_(part)
        return x

    def next_state(self, y_mean: Tensor, state: Tensor, round_index: int) -> Tensor:
        at = self._exchange_in_cycle(state)
        ranks, history = self.ranks(state), self._history(state)
        factors, spectra = [], []
        for piece, rank, part in self._parts(y_mean, state):
            if rank:
                factor, energies = orthonormal(part)
                factors.append(factor)
                spectra.append(Spectrum(piece.rows, piece.columns, energies))
        after = torch.zeros(self._state_size)
        if self._adapt == "lgreco" and at // 2 < SURVEY:
            self._add_up(y_mean, state, after)
        if at % 2:
            if self._adapt == "lgreco" and at // 2 == SURVEY - 1:
                spectra = self._spectra_of_sums(after, state)
            ranks, history = self._adapted(at // 2, ranks, history, spectra)
        cycle = CYCLE if self._adapt == "lgreco" else 1
        self._write_header(after, (at + 1) % (2 * cycle), ranks, history)
        for piece, rank, factor in zip(self._matrices, ranks, factors, strict=True):
            basis = piece.basis(after, rank, second=1 - at % 2)
            kept = min(rank, len(factor))
            basis[:kept] = factor[:kept]
            if rank > kept:  # what is zero, `orthonormal` replaces
                basis.copy_(orthonormal(basis)[0])
        return after

    def _add_up(self, y_mean: Tensor, state: Tensor, after: Tensor) -> None:
        """The sums of a survey, with this update if it is one, from ``state`` into ``after``."""
        for piece, rank, part in self._parts(y_mean, state):
            if rank:
                total = piece.summed(after).copy_(piece.summed(state))
                if not self.sketches(state):
                    basis = piece.basis(state, rank, second=1)
                    total += sum_of_outer_products(basis, part, torch.empty(total.shape))

    def _spectra_of_sums(self, after: Tensor, state: Tensor) -> list[Spectrum]:
        spectra = []
        for piece in self._matrices:
            basis = piece.basis(state, piece.rank, second=1)
            energies = leading_energies(piece.summed(after), basis, ITERATIONS)
            spectra.append(Spectrum(piece.rows, piece.columns, energies))
        return spectra

    def _adapted(
        self, at: int, ranks: list[int], history: list[int], spectra: list[Spectrum]
    ) -> tuple[list[int], list[int]]:
        """Ranks and history after the outer step ``at`` in the cycle that showed these spectra."""
        largest = [piece.rank for piece in self._matrices]
        if self._adapt == "lgreco":
            if at == SURVEY - 1:
                return share_ranks(spectra), history
            return (largest if at == CYCLE - 1 else ranks), history
        if self._adapt == "dilocox":
            latest = _joint_effective_rank(spectra, self._controller.next(history))
            history = [*history, latest][-self._controller.window :]
            rank, first = self._controller.next(history), self._controller.first_rank
            return [-(-each * rank // first) for each in largest], history
        return ranks, history

    def _exchange_in_cycle(self, state: Tensor) -> int:
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

    def _parts(self, y: Tensor, state: Tensor) -> Iterator[tuple[_Piece, int, Tensor]]:
        """Every tensor of which something is sent, with its present rank and its part of ``y``: [rank, side],
        or [rows, columns] if whole."""
        second, start = self._exchange_in_cycle(state) % 2, 0
        for piece, rank in self._ranked(state):
            if not rank and not second:
                continue
            part = y[start : start + piece.num_sent(rank, second)]
            start += len(part)
            yield piece, rank, part.view(rank or piece.rows, piece.side(second) if rank else piece.columns)


def _laid_out(
    sides: Sequence[tuple[int, int]], ranks: Sequence[int], header: int, with_sums: bool
) -> tuple[list[_Piece], int]:
    """Every tensor's place in the vector and in the state, and the size of the state."""
    if len(ranks) != len(sides):
        raise ValueError(f"there are {len(ranks)} ranks for {len(sides)} tensors")
    pieces, start, end = [], 0, header
    for (rows, columns), rank in zip(sides, ranks, strict=True):
        if not 0 <= rank <= min(rows, columns):
            raise ValueError(f"rank {rank} does not fit a matrix of {rows} x {columns}")
        size, room = rows * columns, rank * max(rows, columns)
        sums = size if rank and with_sums else 0
        places = slice(end + sums, end + sums + room), slice(end, end + sums)
        pieces.append(_Piece(start, rows, columns, rank, *places))
        start, end = start + size, end + room + sums
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
