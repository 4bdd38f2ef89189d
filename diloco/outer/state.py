"""Outer state: the shared model as fp32 on the CPU, and everything that all members hold alike.

Owns, per fragment, the outer parameters, the outer optimizer's buffers, the shared sides of error feedback
and projection, the number of outer steps, the step that moves them, and their bytes for joiners. Refuses to
know rounds, peers, the wire, and what is a worker's own: see `local`. Every operation on outer state rounds
multiply and add separately, so that all machines compute the same bits (S1). Buffers of the model are not
touched: see `layout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor, nn

from diloco.compression.vectors import bytes_of, count_non_finite
from diloco.errors import StateError
from diloco.methods.spec import Method
from diloco.outer.components import Components, components_of
from diloco.outer.layout import Layout
from diloco.outer.model_tensors import ModelTensors
from diloco.outer.snapshot import StateView
from transport.digests import tree_digest

_COUNT_BYTES = 8


@dataclass(slots=True)
class _Fragment:
    """One fragment's values. ``state`` is one vector of fp32: outer parameters [n], the outer optimizer's
    buffers [n] each, the shared mean of error feedback [n] if it has one, the projection's state."""

    num_elements: int
    components: Components
    state: Tensor
    count: int = 0
    """Outer steps since the run began."""
    version: int = 0
    """Changes of ``state`` on this machine."""
    pinned: bool = False
    """A view of ``state`` was given away: it must not change any more."""
    readers: int = 0
    """Threads that read ``state`` just now."""

    def replace(self, state: Tensor, count: int) -> None:
        """Put another state in place; readers of the old one keep it."""
        if state is not self.state:
            self.state, self.pinned, self.readers = state, False, 0
        self.count = count
        self.version += 1

    def vectors(self, state: Tensor) -> list[Tensor]:
        """The vectors [n] in ``state``: outer parameters, buffers, shared mean."""
        n = self.num_elements
        return [state[i * n : (i + 1) * n] for i in range(self.components.num_vectors)]

    def projection_state(self, state: Tensor) -> Tensor:
        return state[self.components.num_vectors * self.num_elements :]


class OuterState:
    """Outer parameters and outer optimizer of a model, fragment by fragment.

    Captures the model's present values as outer parameters, with zero momentum. One thread, the
    trainer's, calls it; `pin` and `digest` may be called from any thread and wait at most for one step.
    Outer values are fp32 on the CPU, in pinned memory if the model is on an accelerator.
    """

    def __init__(self, live: ModelTensors, method: Method) -> None:
        self.live = live
        self.method = method
        self._fragments = [self._capture(f) for f in range(len(live.layout.fragments))]
        self._lock = Lock()

    @classmethod
    def from_model(
        cls, model: nn.Module, method: Method, optimizer: torch.optim.Optimizer | None = None
    ) -> OuterState:
        """Layout and capture in one; the inner optimizer is needed if the method averages its moments. Raises
        `LayoutError`."""
        layout = Layout.of(
            model, method.num_fragments, pattern=method.fragment_pattern, modules=method.fragment_modules
        )
        return cls(ModelTensors.of(layout, model, optimizer if method.moments_every else None), method)

    @property
    def layout(self) -> Layout:
        return self.live.layout

    @property
    def num_fragments(self) -> int:
        return len(self._fragments)

    def num_elements(self, fragment: int) -> int:
        """Length of the fragment's vectors."""
        return self._fragments[fragment].num_elements

    def max_sent(self, fragment: int) -> int:
        """Most elements that a contribution has: fewer than the fragment's if a projection shortens it."""
        held = self._fragments[fragment]
        most = held.components.max_sent(held.projection_state(held.state))
        return 2 * most if self.method.gossips else most

    def num_sent(self, fragment: int) -> int:
        """Elements of the next contribution."""
        held = self._fragments[fragment]
        length = held.components.length(held.projection_state(held.state))
        return 2 * length if self.method.gossips else length

    def count(self, fragment: int) -> int:
        """Outer steps that this fragment has taken since the run began."""
        return self._fragments[fragment].count

    def version(self, fragment: int) -> int:
        """Changes of the fragment's state on this machine."""
        return self._fragments[fragment].version

    def sync_every(self, fragment: int) -> int | None:
        """H as the method adapts it now; None if it does not."""
        held = self._fragments[fragment]
        return held.components.sync_every(held.projection_state(held.state))

    def components(self, fragment: int) -> Components:
        """What moves this fragment."""
        return self._fragments[fragment].components

    def outer_parameters(self, fragment: int) -> Tensor:
        """The outer parameters [n]; a live view: read it, and keep it only until the next step."""
        held = self._fragments[fragment]
        return held.vectors(held.state)[0]

    def buffers(self, fragment: int) -> list[Tensor]:
        """The outer optimizer's buffers [n] each; live views, as above."""
        held = self._fragments[fragment]
        return held.vectors(held.state)[1 : 1 + held.components.optimizer.num_buffers]

    def project(self, fragment: int, x: Tensor) -> Tensor:
        """What is sent of a vector ``x`` [n]: a vector [k], ``x`` itself without a projection."""
        held = self._fragments[fragment]
        return held.components.project(x, held.projection_state(held.state), held.count)

    def lift(self, fragment: int, y: Tensor) -> Tensor:
        """The vector [n] that ``y`` [k] stands for, before the next `step`."""
        held = self._fragments[fragment]
        return held.components.lift(y, held.projection_state(held.state), held.count)

    def support(self, fragment: int) -> Tensor | None:
        """Indices of the elements that the last step may have moved; None for all."""
        held = self._fragments[fragment]
        return held.components.support(held.count - 1)

    def step(self, fragment: int, mean: Tensor) -> Tensor:
        """Move the outer parameters by the round's ``mean`` [k] fp32 on the CPU, and return the
        pseudo-gradient [n] that it stands for. The live model is not touched. Raises ValueError for another
        shape, before anything changes."""
        held = self._fragments[fragment]
        if mean.shape != (self.num_sent(fragment),) or mean.dtype != torch.float32 or mean.is_cuda:
            raise ValueError(
                f"the mean is {mean.dtype} {tuple(mean.shape)} on {mean.device}, not fp32"
                f" ({self.num_sent(fragment)},) on cpu"
            )
        with self._lock:
            old, components = held.state, held.components
            theta, *buffers = held.vectors(old)
            shared = buffers.pop() if components.feedback.shared else None
            projection = held.projection_state(old)
            lifted = components.lift(mean, projection, held.count)
            delta, new_shared = components.feedback.update(lifted, shared)
            next_projection = components.next_state(mean, projection, held.count)
            new = self._empty(len(old)) if held.pinned or held.readers else old
            new_theta, *new_buffers = held.vectors(new)
            if new_shared is not None:
                new_buffers.pop().copy_(new_shared)
            components.optimizer.step(theta, buffers, delta, held.count, new_theta, new_buffers)
            held.projection_state(new).copy_(next_projection)
            held.replace(new, held.count + 1)
        return delta

    def gossip_step(self, fragment: int, mean_delta: Tensor, mean_theta: Tensor) -> Tensor:
        """Move this replica by its group's mean pseudo-gradient and mean outer parameters [n], NoLoCo (arXiv
        2506.10911), section 3, with alpha = outer_momentum, beta = outer_lr and pseudo-gradients of descent
        sign:

            m' = alpha * m + beta * mean_delta + gamma * (theta - mean_theta);   theta' = theta - m'

        Without momentum and with beta = gamma = 1 that is plain averaging of the local parameters. Returns
        ``mean_delta``."""
        held, method = self._fragments[fragment], self.method
        with self._lock:
            theta, *buffers = held.vectors(held.state)
            moved = mean_delta * method.outer_lr
            moved.add_((theta - mean_theta).mul_(method.gamma))
            if buffers:
                moved.add_(buffers[0] * method.outer_momentum)
            new = self._empty(len(held.state)) if held.pinned or held.readers else held.state
            new_theta, *new_buffers = held.vectors(new)
            torch.sub(theta, moved, out=new_theta)
            for buffer in new_buffers:
                buffer.copy_(moved)
            held.replace(new, held.count + 1)
        return mean_delta

    # -- as bytes -----------------------------------------------------------------------------

    def state_size(self, fragment: int) -> int:
        """Bytes of the fragment's state; every peer with this layout and method has the same."""
        values = 4 * len(self._fragments[fragment].state)
        return _COUNT_BYTES + values + sum(p.nbytes for p in self._frozen_in(fragment))

    def pin(self, fragment: int) -> StateView:
        """The fragment's state as it is now, for a donor. Costs a copy of the fragment at the next step
        (copy on write), and nothing for frozen parameters on the CPU."""
        held = self._fragments[fragment]
        with self._lock:
            held.pinned = True
            return self._view(fragment)

    def digests(self, fragment: int) -> list[bytes]:
        """SHA-256 of each piece of the fragment's state as it is now."""
        held = self._fragments[fragment]
        with self._lock:
            held.readers += 1
            state, view = held.state, self._view(fragment)
        digests = view.digests()
        with self._lock:
            if held.state is state:
                held.readers -= 1
        return digests

    def digest(self, fragment: int) -> bytes:
        """Names the fragment's state: `StateView.digest` of what `pin` would show now."""
        return tree_digest(self.digests(fragment))

    def _view(self, fragment: int) -> StateView:
        held = self._fragments[fragment]
        count = memoryview(held.count.to_bytes(_COUNT_BYTES, "little"))
        segments = [count, bytes_of(held.state), *(bytes_of(p) for p in self._frozen_in(fragment))]
        return StateView(held.version, [segment for segment in segments if len(segment)])

    def load_state(self, fragment: int, data: bytes | bytearray | memoryview) -> None:
        """Take over a donor's bytes for this fragment. Frozen parameters go straight into the model; the
        others are for the caller to write. Raises `StateError`, before anything changes, for another size or
        for outer values that are not finite."""
        held = self._fragments[fragment]
        view, size = memoryview(data).cast("B"), self.state_size(fragment)
        if len(view) != size:
            raise StateError(
                f"state of fragment {fragment} has {len(view)} bytes instead of {size}: another model?"
            )
        count, values = int.from_bytes(view[:_COUNT_BYTES], "little"), view[_COUNT_BYTES:]
        state = self._empty(len(held.state))
        bytes_of(state)[:] = values[: state.nbytes]
        bad = count_non_finite(state)
        if bad:
            raise StateError(f"state of fragment {fragment} has {bad} values that are not finite")
        with self._lock:
            held.replace(state, count)
        self._load_frozen(fragment, values[state.nbytes :])

    def _load_frozen(self, fragment: int, view: memoryview) -> None:
        for parameter in self._frozen_in(fragment):
            values = torch.empty(parameter.shape, dtype=parameter.dtype)
            bytes_of(values)[:] = view[: values.nbytes]
            view = view[values.nbytes :]
            with torch.no_grad():
                parameter.copy_(values)

    def _frozen_in(self, fragment: int) -> list[nn.Parameter]:
        return self.live.frozen if fragment == len(self._fragments) - 1 else []

    def _capture(self, fragment: int) -> _Fragment:
        n = self.live.num_elements(fragment)
        shapes = [spec.shape for spec in self.layout.fragments[fragment]]
        is_moment = fragment >= self.method.num_fragments
        components = components_of(self.method, fragment, shapes, is_moment)
        projection = components.first_state()
        state = self._empty(components.num_vectors * n + len(projection)).zero_()
        held = _Fragment(n, components, state)
        self.live.gather(fragment, held.vectors(state)[0])
        held.projection_state(state).copy_(projection)
        return held

    def _empty(self, n: int) -> Tensor:
        return torch.empty(n, pin_memory=self.live.page_locked)
