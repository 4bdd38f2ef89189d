"""Error feedback: what compression dropped is not lost, but sent later.

Owns the equations as pure functions: what is compressed, what stays with the worker once that is in the
model, and what the members keep together. Refuses to compress. Residuals are a worker's own vectors [n] fp32;
they move only on commit (S5, S7), which is up to the caller. `update` moves what all members share and has
the same bits everywhere (S1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from diloco.compression.vectors import spans

Empty = Callable[[int], Tensor]
"""Gives an uninitialised vector of that length."""


class Feedback(Protocol):
    """One kind of error feedback. ``delta`` [n] is the pseudo-gradient, ``local`` this worker's residuals."""

    num_vectors: int
    """Residuals [n] of a worker; zeros at first."""
    shared: bool
    """Members also keep a common mean [n], zeros at first."""

    def input(self, delta: Tensor, local: list[Tensor], empty: Empty = torch.empty) -> Tensor:
        """What is to be compressed [n]; may be ``delta`` itself."""

    def committed(
        self, delta: Tensor, local: list[Tensor], sent: Tensor, empty: Empty = torch.empty
    ) -> list[Tensor]:
        """The residuals after ``sent`` [n], the decoded compressed input, has entered the model; new
        tensors."""

    def update(self, mean_sent: Tensor, shared: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The pseudo-gradient [n] for the outer optimizer, and the new common mean [n] if there is one."""


class NoFeedback:
    """What was dropped is lost."""

    num_vectors = 0
    shared = False

    def input(self, delta: Tensor, local: list[Tensor], empty: Empty = torch.empty) -> Tensor:
        return delta

    def committed(
        self, delta: Tensor, local: list[Tensor], sent: Tensor, empty: Empty = torch.empty
    ) -> list[Tensor]:
        return local

    def update(self, mean_sent: Tensor, shared: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return mean_sent, None


class EF14(NoFeedback):
    """EF-SGD (arXiv 1901.09847) with decay, as SparseLoCo (arXiv 2508.15706) has it:

        p = beta * e + delta;   c = C(p);   e' = p - share * c

    With beta = 1 and share = 1, all that was sent plus the residual is all that was produced. DeMo (arXiv
    2411.19870) is the same with a decaying buffer of which only a ``share`` of what was sent is taken out."""

    num_vectors = 1

    def __init__(self, decay: float = 1.0, share: float = 1.0) -> None:
        self._decay, self._share = decay, share

    def input(self, delta: Tensor, local: list[Tensor], empty: Empty = torch.empty) -> Tensor:
        out = empty(len(delta))
        for at in spans(out):
            torch.mul(local[0][at], self._decay, out=out[at]).add_(delta[at])
        return out

    def committed(
        self, delta: Tensor, local: list[Tensor], sent: Tensor, empty: Empty = torch.empty
    ) -> list[Tensor]:
        out = self.input(delta, local, empty)
        for at in spans(out):
            out[at].sub_(sent[at] if self._share == 1.0 else sent[at] * self._share)
        return [out]


class EF21:
    """EF21 (arXiv 2106.05203): workers and members learn estimates of what is to be averaged.

        c = C(delta - h);   h' = h + c;   G' = G + mean c, which is the mean of h

    G moves the model. It is the mean of h only while the members stay the same, weigh the same and the mean
    travels unrounded: who leaves, or comes back without its h, leaves an error in G that never goes. For
    fixed rosters."""

    num_vectors = 1
    shared = True

    def input(self, delta: Tensor, local: list[Tensor], empty: Empty = torch.empty) -> Tensor:
        return torch.sub(delta, local[0], out=empty(len(delta)))

    def committed(
        self, delta: Tensor, local: list[Tensor], sent: Tensor, empty: Empty = torch.empty
    ) -> list[Tensor]:
        return [torch.add(local[0], sent, out=empty(len(delta)))]

    def update(self, mean_sent: Tensor, shared: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert shared is not None, "its members share a mean"
        total = torch.add(shared, mean_sent)
        return total, total


class EControl(EF21):
    """EControl (arXiv 2311.05645), EF21 with the error itself fed back by ``eta``:

        c = C(eta * e + delta - h);   e' = e + delta - h - c;   h' = h + c;   G' = G + mean c

    G', the mean of (h + c), moves the model. eta = 0 is EF21. Residuals are e and h."""

    num_vectors = 2

    def __init__(self, eta: float) -> None:
        self._eta = eta

    def input(self, delta: Tensor, local: list[Tensor], empty: Empty = torch.empty) -> Tensor:
        (error, estimate), out = local, empty(len(delta))
        for at in spans(out):
            torch.mul(error[at], self._eta, out=out[at]).add_(delta[at]).sub_(estimate[at])
        return out

    def committed(
        self, delta: Tensor, local: list[Tensor], sent: Tensor, empty: Empty = torch.empty
    ) -> list[Tensor]:
        (error, estimate), n = local, len(delta)
        left, learned = empty(n), empty(n)
        for at in spans(left):
            torch.add(error[at], delta[at], out=left[at]).sub_(estimate[at]).sub_(sent[at])
            torch.add(estimate[at], sent[at], out=learned[at])
        return [left, learned]


def feedback(name: str, *, decay: float = 1.0, share: float = 1.0, eta: float = 0.0) -> Feedback:
    """The feedback called ``name``; what it has no use for is ignored. Raises ValueError for an unknown
    one."""
    match name:
        case "none":
            return NoFeedback()
        case "ef14":
            return EF14(decay, share)
        case "ef21":
            return EF21()
        case "econtrol":
            return EControl(eta)
    raise ValueError(f"error feedback {name!r} is unknown")
