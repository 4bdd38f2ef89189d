"""What an outer loop asks of the tensors below it: the protocol alone.

`diloco.outer.replica.TensorReplica` has tensors, `diloco.simulation.phantom.PhantomReplica` has sizes only.
Numbers are never looked at here, and nothing is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transport.collectives.fetch import BlobBuffer
from transport.collectives.reducer import Reducer


class Replica(Protocol):
    """The tensors below a loop."""

    def sync_every(self, fragment: int) -> int:
        """Inner steps between two offers of a fragment as they are now: some methods adapt them."""

    def count(self, fragment: int) -> int:
        """Outer steps of a fragment since the run began."""

    def sketches(self, fragment: int) -> bool:
        """Whether the next round of the fragment is the first of two exchanges of an outer step, which moves
        no parameters."""

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        """A snapshot of what is to be averaged and its Euclidean norm. Raises `NonFiniteContribution` if that
        cannot be sent; nothing has changed then."""

    def contribution_again(self, fragment: int) -> tuple[Reducer, float]:
        """The same of the last snapshot instead of a new one: what this round is to have of it."""

    def apply(
        self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float, keep_old: bool
    ) -> None:
        """One outer step with the decoded mean, or the first exchange of one (`sketches`), after which the
        snapshot is still to be sent; the live model does not move yet. ``ours`` is the contribution that is
        in it, or None, with its ``share`` of the weights; with gossip ``mean`` is None if ``ours`` found no
        partner and stands alone. With ``keep_old`` the outer parameters as they were are needed once more:
        for a landing to come."""

    def land(self, fragment: int, ours: Reducer | None, on_time: bool) -> None:
        """Merge the outer parameters into the live model: as the method says if the result came in time for
        ``ours``, otherwise with everything that was trained since ``ours`` (or, without one, since the last
        landing) kept on top."""

    def discard(self, fragment: int) -> None:
        """Local parameters become the outer ones."""

    def is_finite(self, fragment: int) -> bool:
        """Whether the local parameters are finite."""

    def reset(self, fragment: int, offered: Reducer | None) -> None:
        """Local parameters become what they were when ``offered`` was made; without one, the outer ones."""

    def mend(self) -> Sequence[str]:
        """Begin anew with what else of this worker's own is not finite, as far as that is known. Sentences
        that say what began anew and what could not."""

    def load(self, fragment: int, data: bytearray | BlobBuffer) -> None:
        """Outer state from a donor; local parameters become the outer ones. Raises `StateError`, before
        anything changes, for a state that cannot be taken."""

    def digest(self, fragment: int) -> bytes:
        """The digest of a fragment's outer state, which is hashed for it."""

    def check(self, fragment: int) -> bytes:
        """The check of a fragment's outer state, as it was when it was written."""
