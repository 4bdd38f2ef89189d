"""Whether an encoded chunk can be used, as every member of a run finds it: for a coordinator that judges.

Decodes with the codecs of the method and keeps nothing. It takes the way that `TensorReducer` takes, so that
it refuses what members refuse (S12).
"""

from __future__ import annotations

import torch

from diloco.errors import CodecError
from diloco.methods.spec import Method
from diloco.outer.components import codecs_of
from transport.effects import Payload, Phantom


class CodecJudge:
    """The `Judge` of a run with that method (`peers.coordinator.judgement`)."""

    def __init__(self, method: Method) -> None:
        self._codec, self._mean_codec = codecs_of(method)

    def fault(self, payload: Payload, num_elements: int, num_parts: int | None) -> str | None:
        """What is wrong with a chunk: a mean of ``num_parts``, or a contribution for None."""
        if isinstance(payload, Phantom):
            return None
        try:
            if num_parts is None:
                self._codec.add(torch.empty(num_elements), payload, 1.0, True)
            else:
                means = self._mean_codec or self._codec.for_mean(num_parts)
                means.decode(payload, num_elements)
        except CodecError as error:
            return str(error)
        return ""
