"""The live model below an outer loop and a member: contributions, outer steps, states for joiners.

It joins `state` (what is shared), `local_state` (what is not), codecs and the two protocols that ask for
numbers: `loop.replica.Replica` (on the training thread) and `protocol.application.Application` (on the
driver's thread). What both touch is guarded by `OuterState`'s own lock, or replaced as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from diloco.compression.vectors import count_non_finite, squared_norm
from diloco.errors import LayoutError, NonFinite, NonFiniteContribution, StateError
from diloco.methods.schedule import Schedule
from diloco.methods.spec import Method
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.outer.checks import check_of_bytes
from diloco.outer.components import codecs_of
from diloco.outer.incoming import IncomingState
from diloco.outer.inner_state import InnerState, Optimizers, listed_optimizers
from diloco.outer.layout import Layout
from diloco.outer.likeness import ROUNDS, Likeness
from diloco.outer.local_state import LocalState, PendingContribution
from diloco.outer.model_tensors import ModelTensors
from diloco.outer.names import Names
from diloco.outer.snapshot import FrozenTail, StateView, require_size
from diloco.outer.state import OuterState
from diloco.outer.tensor_reducer import TensorReducer
from transport.collectives.fetch import AtHand, BlobBuffer
from transport.collectives.reducer import Reducer
from transport.effects import EncodedResult, Payload
from transport.limits import LIMITS

_LARGEST_NORM = 1.8e19
"""From here on a squared norm is not finite in fp32."""
_ENCODED_AT_ONCE = 1 << 20
"""Elements: the payload of all would be fresh memory, and shorter pieces cost top-k more."""
_SURE_NORM = 6e4
"""A vector of this norm has no value that float16 cannot hold, and every other codec takes more."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version's bytes, for donors (`peers.protocol.application.StateBlob`)."""

    view: StateView
    digests: list[bytes]

    def piece(self, index: int) -> Payload:
        size = LIMITS.payload_bytes
        return self.view.read(index * size, size)


class TensorReplica:
    """The replica of one model, whose present values are the first outer parameters. See the two protocols
    for what the methods promise."""

    def __init__(self, model: ModelTensors, method: Method, inner: InnerState | None = None) -> None:
        self.model = model
        self.outer = outer = OuterState(model.layout, method, model.device)
        for fragment in range(outer.num_fragments):
            outer.start_from(fragment, partial(model.gather, fragment))
        self.local = LocalState(outer, model)
        self.names = Names(outer, self.frozen_tail, self._frozen_check)
        """Digests of what is held."""
        self._inner = inner
        self.last_norm = 0.0
        """Euclidean norm of the last contribution that was offered."""
        self.find_result: Callable[[bytes], EncodedResult | None] = lambda result: None
        """Where results lie that were kept on this machine's disk; for the network's thread."""
        self._method = method
        self._schedule = Schedule.of(method)
        self._gossips = method.gossips
        self._likeness = [Likeness() for _ in range(outer.num_fragments)]
        last = method.buffers_fragment
        self.buffers = last if last < outer.num_fragments else None
        """The fragment of the model's buffers, which are averaged once, after the last round."""
        self._codecs, self._buffer_codecs = codecs_of(method), codecs_of(method, last)
        self._own_codec, _ = codecs_of(method)  # a codec belongs to one thread
        self._frozen: list[FrozenTail | None] = [None] * outer.num_fragments
        self._frozen_checks: list[bytes | None] = [None] * outer.num_fragments
        self._frozen_lock = Lock()
        self._pending: list[tuple[Reducer, PendingContribution] | None] = [None] * outer.num_fragments
        self._committed: list[PendingContribution | None] = [None] * outer.num_fragments

    @classmethod
    def of(cls, model: nn.Module, method: Method, optimizers: Optimizers = None) -> TensorReplica:
        """The replica of a torch model. Its inner optimizers are mended if they are known, and are needed if
        the method averages AdamW's moments or follows the inner learning rate. Raises `LayoutError`."""
        every = listed_optimizers(optimizers)
        require_inner(method, every)
        layout = Layout.of(
            model, method.num_fragments, pattern=method.fragment_pattern, modules=method.fragment_modules
        )
        moments = every if method.moments_every else None
        tensors = ModelTensors.of(layout, model, moments, buffers=method.buffers == "mean")
        if (count := len(tensors.layout.fragments)) > LIMITS.fragments:
            raise LayoutError(
                f"{count} fragments, the last of the model's buffers, are more than {LIMITS.fragments}: set"
                ' num_fragments to one less, or buffers = "local"'
            )
        return cls(tensors, method, InnerState(model, every))

    def step_by(self, model: nn.Module, optimizers: Optimizers) -> None:
        """Other optimizers step the same parameters from now on."""
        self._inner = InnerState(model, optimizers)

    @property
    def layout(self) -> Layout:
        return self.outer.layout

    @property
    def num_fragments(self) -> int:
        return self.outer.num_fragments

    @property
    def shown_fragments(self) -> list[int]:
        """Those of a model that is evaluated or saved: parameters, and buffers once they have a mean. Moments
        stay where they are."""
        buffers = [self.buffers] if self.buffers is not None and self.has_mean_buffers else []
        return [*range(self._method.num_fragments), *buffers]

    @property
    def has_mean_buffers(self) -> bool:
        """The model's buffers were averaged, and what all hold of them is that mean."""
        return self.buffers is not None and self.outer.count(self.buffers) > 0

    def num_elements(self, fragment: int) -> int:
        """Length of the fragment's vectors."""
        return self.outer.num_elements(fragment)

    def max_sent(self, fragment: int) -> int:
        """Most elements that a contribution has: fewer than the fragment's if a projection shortens it, twice
        as many with gossip."""
        return self._with_parameters(self.outer.components(fragment).projection.max_sent)

    # -- the training thread (loop.replica.Replica) ---------------------------------------------------

    def sync_every(self, fragment: int) -> int:
        projection = self.outer.components(fragment).projection
        adapted = projection.sync_every(self.outer.projection_state(fragment))
        if fragment == self.buffers:
            return 1
        return self._schedule.periods[fragment] if adapted is None else adapted

    def count(self, fragment: int) -> int:
        return self.outer.count(fragment)

    def sketches(self, fragment: int) -> bool:
        return self.outer.sketches(fragment)

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        delta, square = self.local.measured_gradient(fragment)
        if not math.isfinite(square):
            bad = count_non_finite(delta)
            what = "buffers'" if fragment == self.buffers else "pseudo-gradient's"
            raise NonFiniteContribution(bad, f"of the {what} {len(delta)} values are not finite")
        return self._contribution_of(fragment, delta, square)

    def contribution_again(self, fragment: int) -> tuple[Reducer, float]:
        pending = self._pending[fragment]
        assert pending is not None, "a contribution was made and is not committed yet"
        return self._contribution_of(fragment, pending[1].delta)

    def _contribution_of(
        self, fragment: int, delta: Tensor, square: float | None = None
    ) -> tuple[Reducer, float]:
        """Of a pseudo-gradient, and its squared norm where that is known."""
        if self._gossips:
            # A pair needs each other's parameters too.
            y = self.model.device.empty(2 * len(delta))
            torch.cat([delta, self.outer.outer_parameters(fragment)], out=y)
        elif self.outer.averages_values(fragment):
            # A difference of fp32 values is off by the last bit of the larger one: second moments, which
            # differ by magnitudes, would come out below zero.
            y = self.model.gather(fragment, self.model.device.empty(len(delta)))
        else:
            y = self._project(fragment, self.local.feedback_input(fragment, delta))
        if self._method.tells_inner_lr and fragment != self.buffers:
            y[-1] = self._checked_inner_lr()
        norm = self._checked_norm(fragment, y, square if y is delta else None)
        made = self._reducer(fragment, len(y), y)
        pending = self.local.offer(fragment, delta, self._as_sent(fragment, y))
        self._pending[fragment] = made, pending
        self.last_norm = norm
        return made, norm

    def apply(
        self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float, keep_old: bool
    ) -> None:
        values = _averaged(mean, ours)
        self._compare(fragment, mean, ours, share)
        if self.outer.sketches(fragment):
            self.outer.take_sketch(fragment, values)
            return  # what is pending is still to be sent
        if keep_old:
            self.local.keep_anchor(fragment)
        if self._gossips:
            delta = self.outer.gossip_step(fragment, *values.chunk(2))
        else:
            delta = self.outer.step(fragment, values)
        self._committed[fragment] = pending = self._pending_of(fragment, ours)
        if pending is not None:
            self.local.committed(fragment, pending)
            pending.share = share
            pending.mean = delta if self._method.merge == "eager" else None

    @property
    def learns_what_others_do(self) -> bool:
        """For some rounds by now all others sent what this worker did."""
        return max(each.num_rounds for each in self._likeness) >= ROUNDS

    @property
    def twins(self) -> list[int]:
        """Places, among the members of the last commit, of others that sent what this worker did for some
        rounds by now."""
        return sorted({place for each in self._likeness for place in each.twins})

    def _compare(self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float) -> None:
        if self._gossips or self.outer.averages_values(fragment) or self.outer.sketches(fragment):
            return
        if isinstance(ours, TensorReducer) and isinstance(mean, TensorReducer):
            self._likeness[fragment].take(*ours.own_beside(mean, self._own_codec), share)
            self._likeness[fragment].take_each(ours.others(self._own_codec))

    def land(self, fragment: int, ours: Reducer | None, on_time: bool) -> None:
        landed = self._committed[fragment] if ours is not None else None
        self._committed[fragment] = None
        fresh = self._pending[fragment]
        if fragment == self.buffers:
            self.local.discard(fragment)
        elif not on_time:
            self.local.carry(fragment, landed)
        elif self._method.merge == "eager":
            assert fresh is not None, "an eager merge needs a fresh contribution"
            self.local.land_eagerly(fragment, fresh[1], landed)
        elif landed is None and self._method.offers_before_landing:
            self.local.go_on(fragment)
        else:
            self.local.land(fragment, landed)

    def is_finite(self, fragment: int) -> bool:
        live = self.model.gather(fragment, self.model.device.empty(self.num_elements(fragment)))
        return not count_non_finite(live)

    def reset(self, fragment: int, offered: Reducer | None) -> None:
        held = self._pending[fragment]
        if held is None or held[0] is not offered or fragment == self.buffers:
            self.discard(fragment)
        else:
            self.local.go_back(fragment, held[1])

    def mend(self) -> list[str]:
        return self._inner.mend() if self._inner is not None else []

    def discard(self, fragment: int) -> None:
        self._pending[fragment] = self._committed[fragment] = None
        self.local.discard(fragment)

    def load(self, fragment: int, data: bytearray | BlobBuffer) -> None:
        if isinstance(data, bytearray):
            incoming = self.state_buffer(fragment)
            require_size(len(data), len(incoming), fragment)
            incoming.write(0, data)
        else:
            assert isinstance(data, IncomingState), "`state_buffer` made it"
            incoming = data
        self.load_trained(fragment, incoming)  # or nothing has changed
        with self._frozen_lock:
            self.model.load_frozen(fragment, incoming.frozen)
            self._frozen[fragment], self._frozen_checks[fragment] = None, None
            if digests := incoming.digests:
                before = self.outer.state_size(fragment)
                self._frozen[fragment] = FrozenTail.known(before, incoming.frozen, digests)

    def load_trained(self, fragment: int, incoming: IncomingState) -> None:
        """Load a state whose frozen parameters are those of this model, whatever ``incoming`` has of them.
        Raises `StateError`, before anything changes, if it does not fit."""
        version = self.outer.take_over(fragment, incoming)
        if digests := incoming.digests:  # checked when it was read, or came
            self.names.learn(fragment, version, digests)
        self._pending[fragment] = self._committed[fragment] = None
        self.local.loaded(fragment)
        is_moment = self.outer.averages_values(fragment) and fragment != self.buffers
        if is_moment and self._inner is not None:
            # The moments that came are as old as the run: their bias is corrected accordingly.
            self._inner.have_taken(self.outer.count(fragment) * self.sync_every(fragment))

    def digest(self, fragment: int) -> bytes:
        return self.names.digest(fragment)

    def check(self, fragment: int) -> bytes:
        return self.names.check(fragment)

    def own_state(self) -> list[dict[str, Any]]:
        """By fragment, what is this worker's own beside the live model, with what is still to land. The
        tensors are the ones that are used."""
        return [
            {**self.local.fragment_state(fragment), "landing": landing and landing.fields()}
            for fragment, landing in enumerate(self._committed)
        ]

    def load_own_state(self, state: list[dict[str, Any]]) -> None:
        """Take that up, at the same outer parameters. Raises `StateError` for that of another model or
        method."""
        if len(state) != self.num_fragments:
            raise StateError(f"it has {len(state)} fragments instead of {self.num_fragments}")
        for fragment, each in enumerate(state):
            self.local.load_fragment_state(fragment, each)
            landing = each["landing"]
            self._committed[fragment] = None if landing is None else PendingContribution(**landing)

    def frozen_tail(self, fragment: int) -> FrozenTail:
        """The frozen parameters behind a fragment's outer state. They never change, but with a state that is
        loaded: they are hashed once."""
        with self._frozen_lock:  # whoever names a state does so on a thread of its own
            tail = self._frozen[fragment]
            if tail is None:
                before = self.outer.state_size(fragment)
                tail = self._frozen[fragment] = FrozenTail.of(before, self.model.frozen_bytes(fragment))
            return tail

    def frozen_view(self, fragment: int) -> StateView:
        """The bytes of the frozen parameters behind a fragment's outer state."""
        return StateView(0, self.model.frozen_bytes(fragment))

    def _frozen_check(self, fragment: int) -> bytes:
        check = self._frozen_checks[fragment]
        if check is None:
            check = self._frozen_checks[fragment] = check_of_bytes(self.model.frozen_bytes(fragment))
        return check

    def _pending_of(self, fragment: int, ours: Reducer | None) -> PendingContribution | None:
        held, self._pending[fragment] = self._pending[fragment], None
        return held[1] if held is not None and held[0] is ours else None

    def _checked_inner_lr(self) -> float:
        assert self._inner is not None, "`of` makes it"
        if not math.isfinite(self._inner.lr):
            raise NonFiniteContribution(1, f"inner learning rate is {self._inner.lr}")
        return self._inner.lr

    def _checked_norm(self, fragment: int, y: Tensor, square: float | None) -> float:
        """The norm, whose ``square`` may be known, of a contribution that is sure to be encoded: the
        network's thread encodes it later, where nothing could be given up any more."""
        norm = math.sqrt(squared_norm(y) if square is None else square)
        if not norm < _LARGEST_NORM:
            raise NonFiniteContribution(len(y), "values have a norm that is not finite")
        if norm > _SURE_NORM and fragment != self.buffers:
            try:
                self._own_codec.encode(y)
            except NonFinite as error:
                raise NonFiniteContribution(error.count, f"of {len(y)} {error.what}") from None
        return norm

    def _as_sent(self, fragment: int, y: Tensor) -> Tensor | None:
        """What ``y`` [k] stands for once it was encoded, [n]; None where nobody asks."""
        if self._method.error_feedback == "none" or self._gossips or self.outer.sketches(fragment):
            return None
        if fragment == self.buffers:
            return None
        coder, sent = self._own_codec, self.model.device.unpinned(len(y))
        for start in range(0, len(y), _ENCODED_AT_ONCE):
            piece = y[start : start + _ENCODED_AT_ONCE]
            coder.decode(coder.encode(piece), len(piece), sent[start : start + len(piece)])
        projection = self.outer.components(fragment).projection
        return projection.lift(sent, self.outer.projection_state(fragment), self.outer.count(fragment))

    def _project(self, fragment: int, x: Tensor) -> Tensor:
        """What is sent of ``x`` [n]: a vector [k]."""
        projection = self.outer.components(fragment).projection
        return projection.project(x, self.outer.projection_state(fragment), self.outer.count(fragment))

    def _with_parameters(self, num_elements: int) -> int:
        """The length of a contribution of so many elements: gossip sends parameters too."""
        return 2 * num_elements if self._gossips else num_elements

    def _reducer(self, fragment: int, num_elements: int, y: Tensor | None) -> TensorReducer:
        contributions, means = self._buffer_codecs if fragment == self.buffers else self._codecs
        # What a codec drops must not come back as the owner's own entries, which would push others' out.
        drops = WIRE_FORMATS[self._method.codec].drops_elements
        as_sent = (drops or self._method.error_feedback != "none") and fragment != self.buffers
        output = self.model.device.unpinned(num_elements)
        return TensorReducer(contributions, num_elements, y, output, mean_codec=means, as_sent=as_sent)

    # -- the driver's thread (peers.application.Application) ----------------------------------

    def receiver(self, fragment: int) -> Reducer:
        projection = self.outer.components(fragment).projection
        length = projection.length(self.outer.projection_state(fragment))
        return self._reducer(fragment, self._with_parameters(length), None)

    def state_buffer(self, fragment: int) -> IncomingState:
        return self.outer.room(fragment, self.model.frozen_size(fragment))

    def state_at_hand(self, fragment: int) -> AtHand:
        view = self.pin(fragment)
        known = self.names.known(fragment, view.version)
        # The count of outer steps is in the first piece: where that differs, all that is trained has moved.
        num_trained = -(-self.outer.state_size(fragment) // LIMITS.payload_bytes)
        return AtHand(Snapshot(view, []).piece, known.digests if known is not None else [], num_trained)

    def state_size(self, fragment: int) -> int:
        """Bytes of the fragment's state, frozen parameters included."""
        return self.outer.state_size(fragment) + self.model.frozen_size(fragment)

    def pin(self, fragment: int) -> StateView:
        """The fragment's state as it is now, frozen parameters included; see `OuterState.pin`."""
        return self.outer.pin(fragment).followed_by(self.model.frozen_bytes(fragment))

    def state_blob(self, fragment: int, blob: bytes) -> Snapshot | None:
        for named in self.names.found(fragment, blob):
            view = self.outer.pin_version(fragment, named.version)
            if view is not None:
                return Snapshot(view.followed_by(self.model.frozen_bytes(fragment)), named.digests)
        return None

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        return self.names.to_name(fragment, check)

    def kept_result(self, result: bytes) -> EncodedResult | None:
        return self.find_result(result)


def require_inner(method: Method, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """The method has the inner optimizers that it asks for. Raises `LayoutError`."""
    if method.moments_every and not optimizers:
        raise LayoutError("the method averages AdamW's moments: attach the inner optimizer too")
    if method.tells_inner_lr and not optimizers:
        raise LayoutError(
            f'outer = "{method.outer}" follows the inner learning rate: attach the inner optimizer too'
        )


def _averaged(mean: Reducer | None, ours: Reducer | None) -> Tensor:
    """What was averaged [k]: the decoded mean, or the contribution of one who is alone. (Of a swap the very
    reducer that was offered comes back, with the mean in it.)"""
    if mean is not None:
        assert isinstance(mean, TensorReducer)
        return mean.output
    assert isinstance(ours, TensorReducer)
    assert ours.contribution is not None, "this worker has offered a contribution"
    return ours.contribution
