"""Whether an encoded chunk can be used and how long it is, as every member of a run finds it.

For a coordinator that judges.

Decodes with the codecs of the method and keeps nothing. It takes the way that `TensorReducer` takes, so that
it refuses what members refuse (S12).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from diloco.compression.vectors import Buffer, squared_norm
from diloco.errors import CodecError
from diloco.methods.spec import Method
from diloco.outer.components import codecs_of
from diloco.outer.tensor_reducer import TensorReducer
from transport.collectives.reducer import Part
from transport.effects import Payload, Phantom


class CodecJudge:
    """The `Judge` of a run with that method (`peers.coordinator.judgement`)."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def fault(self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None) -> str | None:
        """What is wrong with a chunk: a mean of ``num_parts``, or a contribution for None."""
        if isinstance(payload, Phantom):
            return None
        try:
            self._measure(fragment, payload, num_elements, num_parts)
        except CodecError as error:
            return str(error)
        return ""

    def square(
        self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None
    ) -> float | None:
        """The squared norm of the same, as members measure it; infinity for one that cannot be used."""
        if isinstance(payload, Phantom):
            return None
        try:
            return self._measure(fragment, payload, num_elements, num_parts)
        except CodecError:
            return math.inf

    def deviation(
        self, fragment: int, parts: Sequence[Part], mean: Payload, num_elements: int
    ) -> tuple[float, float, float] | None:
        """How far a mean is from the one that these parts make, as members find it. Raises `Poisoned`."""
        if isinstance(mean, Phantom):
            return None
        contributions, means = codecs_of(self._method, fragment)
        reducer = TensorReducer(contributions, num_elements, mean_codec=means)
        reducer.begin(max(1, num_elements), len(parts))
        return reducer.deviation(0, parts, mean)

    def _measure(self, fragment: int, payload: Buffer, num_elements: int, num_parts: int | None) -> float:
        """Raises `CodecError`."""
        contributions, fixed = codecs_of(self._method, fragment)
        if num_parts is None:
            return contributions.add(torch.empty(num_elements), payload, 1.0, True)
        means = fixed or contributions.for_mean(num_parts)
        return squared_norm(means.decode(payload, num_elements))
