"""The side of a replica that has nothing to do where a worker has shared state and no live model."""

from __future__ import annotations

from transport.collectives.reducer import Reducer
from transport.effects import EncodedResult


class NoLiveModel:
    """The methods of `loop.replica.Replica` that are about local parameters, and what a disk would have."""

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        raise NotImplementedError

    def contribution_again(self, fragment: int) -> tuple[Reducer, float]:
        """The same, for no local training went on."""
        return self.contribution(fragment)

    def land(self, fragment: int, ours: Reducer | None, on_time: bool) -> None:
        """There are no local parameters."""

    def discard(self, fragment: int) -> None:
        """There are no local parameters to give up."""

    def is_finite(self, fragment: int) -> bool:
        return True

    def reset(self, fragment: int, offered: Reducer | None) -> None:
        """There are no local parameters to give up."""

    def mend(self) -> list[str]:
        return []

    def kept_result(self, result: bytes) -> EncodedResult | None:
        """It has no disk either."""
        return None
