"""The live model below an outer loop and a member: contributions, outer steps, states for joiners.

Glue between `outer` (tensors), `codecs` and the two protocols that ask for numbers: `loop.Numbers`
(on the training thread) and `peers.application.Application` (on the driver's thread). What both
touch is guarded by `OuterState`'s own lock, or replaced as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diloco.codecs import NonFinite, codec
from diloco.outer import OuterState
from diloco.payloads import TensorPayloads
from diloco.state_view import StateView
from diloco.vectors import count_non_finite
from transport.effects import Payload
from transport.limits import LIMITS
from transport.payloads import Payloads, tree_digest


@dataclass(frozen=True, slots=True)
class _Named:
    """Digests of one version of a fragment."""

    name: bytes
    version: int
    digests: list[bytes]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version's bytes, for donors (`peers.application.StateBlob`)."""

    view: StateView
    digests: list[bytes]

    def piece(self, index: int) -> Payload:
        size = LIMITS.payload_bytes
        return self.view.read(index * size, size)


class TensorNumbers:
    """Numbers of one model. See the two protocols for what the methods promise."""

    def __init__(self, outer: OuterState) -> None:
        self.outer = outer
        self._codec = codec(outer.method.codec)
        self._named: list[_Named | None] = [None] * outer.num_fragments
        self._loads = 0
        self.last_norm = 0.0
        """Euclidean norm of the last pseudo-gradient that was offered."""

    # -- the training thread (loop.Numbers) ---------------------------------------------------

    def contribution(self, fragment: int) -> tuple[Payloads, float]:
        delta = self.outer.pseudo_gradient(fragment)
        bad = count_non_finite(delta)
        if bad:
            raise NonFinite(bad, "of the pseudo-gradient")
        self.last_norm = float(delta.norm())
        return TensorPayloads(self._codec, len(delta), delta), self.last_norm

    def apply(self, fragment: int, mean: Payloads, ours: Payloads | None, fresh: bool) -> None:
        assert isinstance(mean, TensorPayloads)
        if fresh:
            self.outer.step(fragment, mean.output)
            self.outer.write(fragment)
            return
        contribution: Tensor | None = None
        if ours is not None:
            assert isinstance(ours, TensorPayloads)
            contribution = ours.contribution
        self.outer.write_keeping_progress(fragment, mean.output, contribution)

    def discard(self, fragment: int) -> None:
        self.outer.write(fragment)

    def load(self, fragment: int, data: bytearray) -> None:
        self._loads += 1
        version = self.outer.version(fragment) + self._loads
        self.outer.load_state(fragment, data, version)
        self.outer.write(fragment)

    def digest(self, fragment: int) -> bytes:
        version, digests = self.outer.version(fragment), self.outer.digests(fragment)
        self._named[fragment] = _Named(tree_digest(digests), version, digests)
        return tree_digest(digests)

    # -- the driver's thread (peers.application.Application) ----------------------------------

    def receiver(self, fragment: int) -> Payloads:
        return TensorPayloads(self._codec, self.outer.num_elements(fragment))

    def state_size(self, fragment: int) -> int:
        return self.outer.state_size(fragment)

    def state_blob(self, fragment: int, blob: bytes) -> Snapshot | None:
        named = self._named[fragment]
        if named is None or named.name != blob:
            return None
        view = self.outer.pin(fragment)
        return Snapshot(view, named.digests) if view.version == named.version else None
