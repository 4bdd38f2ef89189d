"""One outer step of one fragment: what a round's mean makes of a state, wherever that state lies.

Owns how the vectors of a fragment lie in one, and the arithmetic of a step. Holds no values: a worker's are
in `state`, and a host that computes a disputed step once more has bytes (`recomputation`). Every operation
rounds multiply and add separately, so that all machines compute the same bits (S1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diloco.compression.vectors import bytes_of, spans
from diloco.methods.spec import Method
from diloco.outer.checks import Written, check_of
from diloco.outer.components import Components, components_of
from diloco.outer.snapshot import StateView

COUNT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step has made."""

    delta: Tensor
    """The pseudo-gradient [n] that the mean stands for."""
    count: int
    """Outer steps behind the new state."""
    check: bytes
    """Of the new state (`checks`), as it was written."""


@dataclass(frozen=True, slots=True)
class FragmentStep:
    """How one fragment moves. A state is one vector of fp32: outer parameters [n], the outer optimizer's
    buffers [n] each, the shared mean of error feedback [n] if it has one, the projection's state."""

    components: Components
    num_elements: int
    """Length n of each vector."""
    num_vectors: int

    @classmethod
    def of(cls, method: Method, fragment: int, shapes: Sequence[tuple[int, ...]]) -> FragmentStep:
        """That of a fragment of tensors of these shapes."""
        components = components_of(method, fragment, list(shapes), averages_values(method, fragment))
        return cls(components, components.projection.num_elements, components.num_vectors)

    def first_state(self, zeros: Callable[[int], Tensor]) -> Tensor:
        """A state of zeros, with what the projection begins with."""
        projection = self.components.projection.first_state()
        state = zeros(self.num_vectors * self.num_elements + len(projection))
        self.projection_state(state).copy_(projection)
        return state

    def vectors(self, state: Tensor) -> list[Tensor]:
        """The vectors [n] in ``state``: outer parameters, buffers, shared mean."""
        n = self.num_elements
        return [state[i * n : (i + 1) * n] for i in range(self.num_vectors)]

    def projection_state(self, state: Tensor) -> Tensor:
        """What the projection keeps, in ``state``."""
        return state[self.num_vectors * self.num_elements :]

    def mean_length(self, state: Tensor) -> int:
        """Values of a mean that is about to move ``state``."""
        return self.components.projection.length(self.projection_state(state))

    def sketches(self, state: Tensor) -> bool:
        """Whether the next mean moves the projection's state alone, as the first of two exchanges."""
        return self.components.projection.sketches(self.projection_state(state))

    def step(self, old: Tensor, count: int, mean: Tensor, new: Tensor) -> Stepped:
        """Write into ``new`` what a mean makes of ``old``, which may be the same."""
        components = self.components
        theta, *buffers = self.vectors(old)
        shared = buffers.pop() if components.feedback.shared else None
        projection = self.projection_state(old)
        lifted = components.projection.lift(mean, projection, count)
        delta, new_shared = components.feedback.update(lifted, shared)
        next_projection = components.projection.next_state(mean, projection, count)
        new_theta, *new_buffers = vectors = self.vectors(new)
        written = Written(vectors)
        if new_shared is not None:
            new_buffers.pop().copy_(new_shared)
        optimizer = components.optimizers.at(count, components.projection.momentum_scale(mean, projection))
        optimizer.step(theta, buffers, delta, count, new_theta, new_buffers, written.take)
        self.projection_state(new).copy_(next_projection)
        return Stepped(delta, count + 1, written.check(count + 1, self.projection_state(new)))

    def take_sketch(self, old: Tensor, count: int, mean: Tensor, new: Tensor) -> bytes:
        """Write into ``new`` what the first of two exchanges makes of ``old``, which may be the same; its
        check."""
        after = self.components.projection.next_state(mean, self.projection_state(old), count)
        before, vectors = self.vectors(old), self.vectors(new)
        written = Written(vectors)
        for span in spans(vectors[0]):
            if new is not old:
                for source, vector in zip(before, vectors, strict=True):
                    vector[span].copy_(source[span])
            written.take(span)
        self.projection_state(new).copy_(after)
        return written.check(count, self.projection_state(new))

    def commit(self, state: Tensor, count: int, mean: Tensor) -> tuple[int, bytes]:
        """Move ``state`` by a committed mean [k], whichever of the two that is; the count behind it, and the
        check of what it is then."""
        if self.sketches(state):
            return count, self.take_sketch(state, count, mean, state)
        stepped = self.step(state, count, mean, state)
        return stepped.count, stepped.check

    def check(self, state: Tensor, count: int) -> bytes:
        """The check of a state as it lies."""
        return check_of(self.vectors(state), count, self.projection_state(state))


def averages_values(method: Method, fragment: int) -> bool:
    """Whether members send the values themselves (AdamW's moments, buffers), and their mean is what comes
    next."""
    return fragment >= method.num_fragments


def require_mean(mean: Tensor, length: int) -> None:
    """Refuse what cannot be a mean of so many values. Raises ValueError."""
    if mean.shape != (length,) or mean.dtype != torch.float32 or mean.is_cuda:
        raise ValueError(
            f"the mean is {mean.dtype} {tuple(mean.shape)} on {mean.device}, not fp32 ({length},) on cpu"
        )


def state_view(state: Tensor, count: int, version: int = 0) -> StateView:
    """The bytes of a state behind so many outer steps."""
    return StateView(version, [memoryview(count.to_bytes(COUNT_BYTES, "little")), bytes_of(state)])
