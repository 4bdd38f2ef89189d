"""A contribution whose author sends other numbers than it trained, and calls other numbers the mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from transport.collectives.reducer import NumpyReducer, Part
from transport.effects import Payload


class LyingReducer(NumpyReducer):
    """``factor`` times the true numbers; of what this member owns, it calls ``mean_factor`` times the mean
    the mean."""

    def __init__(self, values: npt.NDArray[np.float32], factor: float, mean_factor: float) -> None:
        with np.errstate(over="ignore"):
            sent = (values * np.float32(factor)).astype(np.float32)
        super().__init__(len(values), sent)
        self.sent = sent
        self.mean_factor = mean_factor

    def reduce(self, chunk: int, parts: Sequence[Part]) -> Payload:
        """The mean, and not quite."""
        mean = super().reduce(chunk, parts)
        if self.mean_factor == 1.0:
            return mean
        values = np.frombuffer(mean, dtype=np.float32) * np.float32(self.mean_factor)  # type: ignore[arg-type]
        return values.astype(np.float32).data.cast("B")


def true_values(reducer: object) -> npt.NDArray[np.float32] | None:
    """The numbers of a contribution that has numbers."""
    if not isinstance(reducer, NumpyReducer):
        return None
    reducer.begin(max(1, reducer.num_elements), 1)
    return np.frombuffer(reducer.encode(0), dtype=np.float32).copy()  # type: ignore[arg-type]
