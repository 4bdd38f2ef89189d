"""The live model below an outer loop and a member: contributions, outer steps, states for joiners.

Glue between `outer` (what is shared), `local` (what is not), `codecs` and the two protocols that ask for
numbers: `outer_loop.Replica` (on the training thread) and `protocol.application.Application` (on the driver's
thread). What both touch is guarded by `OuterState`'s own lock, or replaced as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diloco.compression.codecs import NonFinite
from diloco.compression.vectors import count_non_finite
from diloco.outer.components import codecs_of
from diloco.outer.local_state import LocalState, PendingContribution
from diloco.outer.snapshot import StateView
from diloco.outer.state import OuterState
from diloco.outer.tensor_reducer import TensorReducer
from transport.collectives.reducer import Reducer
from transport.digests import tree_digest
from transport.effects import Payload, PhantomBlob
from transport.limits import LIMITS


@dataclass(frozen=True, slots=True)
class _Named:
    """Digests of one version of a fragment."""

    name: bytes
    version: int
    digests: list[bytes]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version's bytes, for donors (`peers.protocol.application.StateBlob`)."""

    view: StateView
    digests: list[bytes]

    def piece(self, index: int) -> Payload:
        size = LIMITS.payload_bytes
        return self.view.read(index * size, size)


class TensorReplica:
    """The replica of one model. See the two protocols for what the methods promise."""

    def __init__(self, outer: OuterState) -> None:
        self.outer = outer
        self.local = LocalState(outer)
        self.last_norm = 0.0
        """Euclidean norm of the last contribution that was offered."""
        self._method = outer.method
        self._codecs = codecs_of(outer.method)
        self._own_codec, _ = codecs_of(outer.method)  # a codec belongs to one thread
        self._named: list[_Named | None] = [None] * outer.num_fragments
        self._offers: list[tuple[Reducer, PendingContribution] | None] = [None] * outer.num_fragments
        self._committed: list[PendingContribution | None] = [None] * outer.num_fragments

    # -- the training thread (outer_loop.Replica) ---------------------------------------------------

    def sync_every(self, fragment: int) -> int:
        adapted = self.outer.sync_every(fragment)
        return self._method.sync_every if adapted is None else adapted

    def count(self, fragment: int) -> int:
        return self.outer.count(fragment)

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        delta = self.local.pseudo_gradient(fragment)
        bad = count_non_finite(delta)
        if bad:
            raise NonFinite(bad, "of the pseudo-gradient")
        if self._method.gossips:
            # A pair needs each other's parameters too.
            y = torch.cat([delta, self.outer.outer_parameters(fragment)])
        else:
            y = self.outer.project(fragment, self.local.feedback_input(fragment, delta))
        made = self._payloads(len(y), y)
        offer = self.local.offer(fragment, delta, self._as_sent(fragment, y))
        self._offers[fragment] = made, offer
        self.last_norm = float(y.norm())
        return made, self.last_norm

    def apply(self, fragment: int, mean: Reducer, ours: Reducer | None, share: float, keep_old: bool) -> None:
        assert isinstance(mean, TensorReducer)
        if keep_old:
            self.local.keep_anchor(fragment)
        if self._method.gossips:
            values = mean.contribution if mean is ours else mean.output
            assert values is not None, "what was offered is at hand"
            delta = self.outer.gossip_step(fragment, *values.chunk(2))
        else:
            delta = self.outer.step(fragment, mean.output)
        self._committed[fragment] = offer = self._offer_of(fragment, ours)
        if offer is not None:
            self.local.committed(fragment, offer)
            offer.share = share
            offer.mean = delta if self._method.merge == "eager" else None

    def land(self, fragment: int, ours: Reducer | None, on_time: bool) -> None:
        landed = self._committed[fragment] if ours is not None else None
        self._committed[fragment] = None
        fresh = self._offers[fragment]
        if not on_time:
            self.local.carry(fragment, landed)
        elif self._method.merge == "eager":
            assert fresh is not None, "it lands with an offer"
            self.local.land_eagerly(fragment, fresh[1], landed)
        else:
            self.local.land(fragment, landed)

    def discard(self, fragment: int) -> None:
        self._offers[fragment] = self._committed[fragment] = None
        self.local.discard(fragment)

    def load(self, fragment: int, data: bytearray | PhantomBlob) -> None:
        assert isinstance(data, bytearray), "a phantom has no values"
        self._offers[fragment] = self._committed[fragment] = None
        self.outer.load_state(fragment, data)
        self.local.loaded(fragment)

    def digest(self, fragment: int) -> bytes:
        version, digests = self.outer.version(fragment), self.outer.digests(fragment)
        self._named[fragment] = _Named(tree_digest(digests), version, digests)
        return tree_digest(digests)

    def _offer_of(self, fragment: int, ours: Reducer | None) -> PendingContribution | None:
        held, self._offers[fragment] = self._offers[fragment], None
        return held[1] if held is not None and held[0] is ours else None

    def _as_sent(self, fragment: int, y: Tensor) -> Tensor | None:
        """What ``y`` [k] stands for once it was encoded, [n]; None where nobody asks."""
        if self._method.error_feedback == "none" or self._method.gossips:
            return None
        coder = self._own_codec
        return self.outer.lift(fragment, coder.decode(coder.encode(y), len(y)))

    def _payloads(self, num_elements: int, y: Tensor | None) -> TensorReducer:
        contributions, means = self._codecs
        as_sent = self._method.error_feedback != "none"
        return TensorReducer(contributions, num_elements, y, mean_codec=means, as_sent=as_sent)

    # -- the driver's thread (peers.application.Application) ----------------------------------

    def receiver(self, fragment: int) -> Reducer:
        return self._payloads(self.outer.num_sent(fragment), None)

    def state_buffer(self, fragment: int) -> bytearray:
        return bytearray(self.outer.state_size(fragment))

    def state_blob(self, fragment: int, blob: bytes) -> Snapshot | None:
        named = self._named[fragment]
        if named is None or named.name != blob:
            return None
        view = self.outer.pin(fragment)
        return Snapshot(view, named.digests) if view.version == named.version else None
