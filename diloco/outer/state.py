"""Outer state: the shared model as fp32 on the CPU, and everything that all members hold alike.

Owns, per fragment, the outer parameters, the outer optimizer's buffers, the shared sides of error feedback
and projection, the number of outer steps, the step that moves them, and their bytes for joiners. Refuses to
know the live model, rounds, peers, the wire, and what is a worker's own: see `replica` and `local_state`.
Every operation on outer state rounds multiply and add separately, so that all machines compute the same bits
(S1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from torch import Tensor

from diloco.compression.vectors import VectorDevice, count_non_finite
from diloco.errors import StateError
from diloco.methods.ramps import value_at
from diloco.methods.spec import Method
from diloco.outer.checks import Written
from diloco.outer.components import Components
from diloco.outer.fragment_step import COUNT_BYTES, FragmentStep, averages_values, require_mean, state_view
from diloco.outer.gossip_step import GossipStep
from diloco.outer.incoming import IncomingState
from diloco.outer.layout import Layout
from diloco.outer.snapshot import StateView


@dataclass(frozen=True, slots=True)
class _Former:
    """What the last commit moved."""

    state: Tensor
    count: int
    version: int
    check: bytes


@dataclass(slots=True)
class _Fragment:
    """One fragment's values."""

    step: FragmentStep
    state: Tensor
    count: int = 0
    """Outer steps since the run began."""
    version: int = 0
    """Changes of ``state`` on this machine."""
    check: bytes = b""
    """Of ``state``, as it was written (`checks`); empty while that is not known."""
    pinned: bool = False
    """A view of ``state`` was given away: it must not change any more."""
    readers: int = 0
    """Threads that read ``state`` just now."""
    former: _Former | None = None
    """What the last commit moved, where that is kept."""

    def replace(self, state: Tensor, count: int, check: bytes) -> None:
        """Put another state in place; readers of the old one keep it."""
        self.former, self.check = None, check
        if state is not self.state:
            self.state, self.pinned, self.readers = state, False, 0
        self.count = count
        self.version += 1

    def vectors(self, state: Tensor) -> list[Tensor]:
        """The vectors [n] in ``state``: outer parameters, buffers, shared mean."""
        return self.step.vectors(state)

    def projection_state(self, state: Tensor) -> Tensor:
        return self.step.projection_state(state)


class OuterState:
    """Outer parameters and outer optimizer of a model, fragment by fragment.

    Outer parameters are zeros until `start_from` or `take_over` gives them, and buffers are zeros. One
    thread, the trainer's, calls it; any thread may call `pin`, `reading`, `checks` and `digest`, which wait
    at most for one step. Outer values are fp32 vectors on ``device``.
    """

    def __init__(self, layout: Layout, method: Method, device: VectorDevice | None = None) -> None:
        self.layout = layout
        self.method = method
        self.keeps_former = False
        """Whether the state before the last commit is kept too, of each fragment (`pin_version`). That takes
        as much memory as the state: steps are never written in place, but by turns into two."""
        self._device = device or VectorDevice()
        self._fragments = [self._new_fragment(f) for f in range(len(layout.fragments))]
        self._lock = Lock()

    @property
    def num_fragments(self) -> int:
        return len(self._fragments)

    def num_elements(self, fragment: int) -> int:
        """Length of the fragment's vectors."""
        return self._fragments[fragment].step.num_elements

    def start_from(self, fragment: int, write: Callable[[Tensor], object]) -> None:
        """Have the outer parameters [n] written that a run begins with."""
        held = self._fragments[fragment]
        assert not held.version, "a run has begun"
        write(held.vectors(held.state)[0])
        held.check = b""

    def count(self, fragment: int) -> int:
        """Outer steps that this fragment has taken since the run began."""
        return self._fragments[fragment].count

    def averages_values(self, fragment: int) -> bool:
        """Whether members send the values themselves (AdamW's moments, buffers), and their mean is what comes
        next."""
        return averages_values(self.method, fragment)

    def components(self, fragment: int) -> Components:
        """What moves this fragment."""
        return self._fragments[fragment].step.components

    def outer_parameters(self, fragment: int) -> Tensor:
        """The outer parameters [n]; a live view: read it, and keep it only until the next step."""
        held = self._fragments[fragment]
        return held.vectors(held.state)[0]

    def buffers(self, fragment: int) -> list[Tensor]:
        """The outer optimizer's buffers [n] each; live views, as above."""
        held = self._fragments[fragment]
        return held.vectors(held.state)[1 : 1 + held.step.components.optimizers.num_buffers]

    def projection_state(self, fragment: int) -> Tensor:
        """What the fragment's projection keeps [s]; a live view, as above."""
        held = self._fragments[fragment]
        return held.projection_state(held.state)

    def step(self, fragment: int, mean: Tensor) -> Tensor:
        """Move the outer parameters by the round's ``mean`` [k] fp32 on the CPU, and return the
        pseudo-gradient [n] that it stands for. Raises ValueError for another shape, before anything
        changes."""
        held = self._fragments[fragment]
        require_mean(mean, held.step.mean_length(held.state))
        with self._lock:
            new = self._room_for_next(held)
            stepped = held.step.step(held.state, held.count, mean, new)
            self._replace(held, new, stepped.count, stepped.check)
        return stepped.delta

    def sketches(self, fragment: int) -> bool:
        """Whether the next round moves the projection's state alone: `take_sketch` takes its mean."""
        held = self._fragments[fragment]
        return held.step.sketches(held.state)

    def take_sketch(self, fragment: int, mean: Tensor) -> None:
        """Take the ``mean`` [k] of the first of two exchanges of an outer step: what the projection shares
        changes, the parameters and their count do not. Raises ValueError as `step` does."""
        held = self._fragments[fragment]
        require_mean(mean, held.step.mean_length(held.state))
        with self._lock:
            new = self._room_for_next(held)
            check = held.step.take_sketch(held.state, held.count, mean, new)
            self._replace(held, new, held.count, check)

    def gossip_step(self, fragment: int, mean_delta: Tensor, mean_theta: Tensor) -> Tensor:
        """Move this replica by its group's mean pseudo-gradient and mean outer parameters [n] (`GossipStep`).
        Returns ``mean_delta``."""
        held, method = self._fragments[fragment], self.method
        momentum = value_at(method.outer_momentum, held.count)
        step = GossipStep(value_at(method.outer_lr, held.count), momentum, method.gamma)
        with self._lock:
            new = self._room_for_next(held)
            vectors, count = held.vectors(new), held.count + 1
            written = Written(vectors)
            step.step(held.vectors(held.state), mean_delta, mean_theta, vectors, written.take)
            held.replace(new, count, written.check(count, held.projection_state(new)))
        return mean_delta

    def _room_for_next(self, held: _Fragment) -> Tensor:
        """Where the next state is written: over the present one, if nobody needs that any more."""
        if self.keeps_former:
            held.former = None  # the two take turns, unless somebody has a view of the older one
            return self._empty(held)
        return self._empty(held) if held.pinned or held.readers else held.state

    def _empty(self, held: _Fragment) -> Tensor:
        return self._device.empty(len(held.state))

    def _replace(self, held: _Fragment, new: Tensor, count: int, check: bytes) -> None:
        old = _Former(held.state, held.count, held.version, held.check)
        held.replace(new, count, check)
        held.former = old if self.keeps_former else None

    # -- as bytes -----------------------------------------------------------------------------

    def state_size(self, fragment: int) -> int:
        """Bytes of the fragment's state; every peer with this layout and method has the same."""
        return COUNT_BYTES + 4 * len(self._fragments[fragment].state)

    def pin(self, fragment: int) -> StateView:
        """The fragment's state as it is now, for a donor. Costs a copy of the fragment at the next step
        (copy on write)."""
        held = self._fragments[fragment]
        with self._lock:
            held.pinned = True
            return self._view(fragment)

    def pin_version(self, fragment: int, version: int) -> StateView | None:
        """The same of the state of that version on this machine: the present one, or the one before the last
        commit if that is kept; None for any other."""
        held = self._fragments[fragment]
        with self._lock:
            if held.version == version:
                held.pinned = True
                return self._view(fragment)
            if held.former is None or held.former.version != version:
                return None
            return state_view(held.former.state, held.former.count, version)

    @contextmanager
    def reading(self, fragment: int) -> Iterator[StateView]:
        """The fragment's state as it is now, for the time of a block: only a step within that time copies."""
        held = self._fragments[fragment]
        with self._lock:
            held.readers += 1
            state, view = held.state, self._view(fragment)
        try:
            yield view
        finally:
            with self._lock:
                if held.state is state:
                    held.readers -= 1

    def digest(self, fragment: int) -> bytes:
        """Names the fragment's state: `StateView.digest` of what `pin` would show now."""
        with self.reading(fragment) as view:
            return view.digest()

    def check(self, fragment: int) -> bytes:
        """The check of the fragment's state (`checks`): as it was when it was written by a step, or as it is
        now where that was not by one. For the trainer's thread."""
        held = self._fragments[fragment]
        held.check = held.check or held.step.check(held.state, held.count)
        return held.check

    def checks(self, fragment: int) -> dict[int, bytes]:
        """By version on this machine, the checks of the states that are held: the present one, and the one
        before the last commit if that is kept. Empty where one is not known yet."""
        held = self._fragments[fragment]
        with self._lock:
            former = {} if held.former is None else {held.former.version: held.former.check}
            return {held.version: held.check, **former}

    def room(self, fragment: int, frozen_bytes: int = 0) -> IncomingState:
        """Memory for another state of this fragment, with so many bytes of frozen parameters behind it. From
        any thread."""
        return IncomingState(self._empty(self._fragments[fragment]), frozen_bytes)

    def take_over(self, fragment: int, incoming: IncomingState) -> int:
        """Go on from a state that `room` was made for, whose memory is this one's from now on; the version
        that it is here. Raises `StateError`, before anything changes, for values that are not finite."""
        held, state = self._fragments[fragment], incoming.values
        assert state.shape == held.state.shape, "room was made for it"
        bad = count_non_finite(state)
        if bad:
            raise StateError(f"state of fragment {fragment} has {bad} values that are not finite")
        with self._lock:
            held.replace(state, incoming.count, b"")
            return held.version

    def _view(self, fragment: int) -> StateView:
        held = self._fragments[fragment]
        return state_view(held.state, held.count, held.version)

    def _new_fragment(self, fragment: int) -> _Fragment:
        shapes = [spec.shape for spec in self.layout.fragments[fragment]]
        step = FragmentStep.of(self.method, fragment, shapes)
        return _Fragment(step, step.first_state(self._device.zeros))
