"""A committed step computed once more from bytes: for a host that finds out which of several states is right.

The bytes are a fragment's state before the commit and the commit's result, as members hand them out, both
checked by their digests before. Of the model nothing but the text of its layout is known. Works in place, in
the memory that the state came in, and takes the way that `replica` takes (S1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diloco.compression.vectors import items_of
from diloco.errors import StateError
from diloco.methods.spec import Method
from diloco.outer.checks import check_of_bytes, followed_by
from diloco.outer.components import codecs_of
from diloco.outer.fragment_step import COUNT_BYTES, FragmentStep, state_view
from diloco.outer.tensor_reducer import TensorReducer
from transport.effects import Payload
from transport.errors import Poisoned


class TensorRecomputer:
    """Computes steps of runs with that method."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def computed(
        self,
        layout: str,
        fragment: int,
        former: bytearray,
        result: Sequence[Payload],
        chunk_elements: int,
        num_parts: int,
    ) -> tuple[bytes, bytes, bytes]:
        """What a result, a mean of ``num_parts`` cut into chunks of so many elements, makes of the state
        ``former``, whose memory is used: the check of that, and check and digest of the new one. Raises
        `StateError` for what is no such state or result."""
        step = FragmentStep.of(self._method, fragment, shapes_of(layout, fragment))
        length = len(step.first_state(lambda n: torch.empty(n, device="meta")))
        view, end = memoryview(former), COUNT_BYTES + 4 * length
        if len(view) < end:
            raise StateError(f"it has {len(view)} bytes, and {end} at least are due")
        state = items_of(view[COUNT_BYTES:end], torch.float32)
        mean = self._decoded(fragment, step.mean_length(state), result, chunk_elements, num_parts)
        count = int.from_bytes(view[:COUNT_BYTES], "little")
        before = step.check(state, count)
        count, check = step.commit(state, count, mean)
        # What follows are frozen parameters, which no step moves.
        behind = check_of_bytes([view[end:]])
        name = state_view(state, count).followed_by([view[end:]]).digest()
        return followed_by(before, behind), followed_by(check, behind), name

    def _decoded(
        self, fragment: int, length: int, result: Sequence[Payload], chunk_elements: int, num_parts: int
    ) -> Tensor:
        contributions, means = codecs_of(self._method, fragment)
        reducer = TensorReducer(contributions, length, mean_codec=means)
        reducer.begin(max(1, chunk_elements), num_parts)
        if len(result) != -(-length // max(1, chunk_elements)):
            raise StateError(f"the result has {len(result)} chunks of a vector of {length} values")
        try:
            for chunk, payload in enumerate(result):
                reducer.accept(chunk, payload)
        except Poisoned as error:
            raise StateError(f"the result does not decode: {error.reason}") from None
        return reducer.output


def shapes_of(layout: str, fragment: int) -> list[tuple[int, ...]]:
    """The shapes of a fragment's tensors, from the text of a layout (`layout.LayoutDigests`). Raises
    `StateError` for a text that is none, or has no such fragment."""
    lines = [line for line in layout.split("\n") if line.startswith(f"{fragment} ")]
    if not lines:
        raise StateError(f"the layout has no fragment {fragment}")
    try:
        return [_shape(line.split(" ")[-2]) for line in lines]
    except ValueError:
        raise StateError("the text of the layout cannot be read") from None


def _shape(text: str) -> tuple[int, ...]:
    return () if text == "scalar" else tuple(map(int, text.split("x")))
