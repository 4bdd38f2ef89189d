"""The arithmetic of one vector in one round: what the exchange is given by this package.

Owns how a codec and tensors become a `transport.collectives.reducer.Reducer`: chunks, the weighted mean in
fp32 in a fixed order, and who is blamed for what cannot be added. Refuses to know rounds and links.
Keeps S6 (weights are shares of their recorded sum) and S12 (nothing that is not finite enters a sum).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diloco.compression import kernels
from diloco.compression.codecs import Codec, add_weighted
from diloco.compression.codecs.plain import Fp32
from diloco.compression.vectors import Buffer, Scratch, bytes_of, spans, squared_norm
from diloco.errors import CodecError, NonFinite
from transport.collectives.reducer import Part
from transport.effects import Payload, Phantom
from transport.errors import Poisoned

_COMPARED = 1 << 16
"""Elements of `own_beside` and `others`."""
_FEWEST_COMPARED = 64
"""Fewer may point the same way by chance."""


class TensorReducer:
    """`Reducer` over tensors. ``contribution`` [num_elements] fp32 is this member's pseudo-gradient,
    None for one who only receives; ``output`` [num_elements] fp32 on the CPU holds the mean once every
    chunk was accepted. The contribution must not change until the round ends, and its values must be
    finite (`vectors.count_non_finite`): `encode` raises `NonFinite` otherwise. The output must not change as
    long as the result may be asked for, since with fp32 it is handed out from there; of another attempt it is
    other memory, for what was made before may still be on its way.

    Means travel in ``mean_codec``, by default what ``codec`` offers for them. With ``as_sent``, chunks that
    this member owns enter its sums as they would have been sent: error feedback counts on that (S7)."""

    def __init__(
        self,
        codec: Codec,
        num_elements: int,
        contribution: Tensor | None = None,
        output: Tensor | None = None,
        *,
        mean_codec: Codec | None = None,
        as_sent: bool = False,
    ) -> None:
        if contribution is not None and contribution.shape != (num_elements,):
            raise ValueError(f"the contribution has shape {tuple(contribution.shape)}, not ({num_elements},)")
        self._codec = codec
        self._fixed_mean_codec = mean_codec
        self._means = mean_codec or codec
        self._as_sent = as_sent
        self._plain = Fp32()
        self._num_elements = num_elements
        self.contribution = contribution
        self.part_squares: list[float] = []
        self._shown: tuple[int, Sequence[Part]] | None = None
        """Of this attempt the first chunk that was reduced here, and all parts of it."""
        self._made: dict[int, tuple[Payload, float]] = {}
        """By chunk, a mean that was made here and is in the output already, and its squared norm."""
        self._total, self._scratch = Scratch(torch.float32), Scratch(torch.float32)
        self.output = torch.zeros(num_elements) if output is None else output
        self._output_bytes = bytes_of(self.output)
        self._is_lent = False
        """A mean that was made lies in the output, and may be on its way to others."""
        self._cut(max(1, num_elements))

    @property
    def num_elements(self) -> int:
        return self._num_elements

    def begin(self, chunk_elements: int, num_parts: int) -> None:
        if chunk_elements < 1:
            raise ValueError(f"chunk_elements is {chunk_elements}: at least 1 is needed")
        if self._is_lent:
            # A mean of an earlier attempt may not have left yet, and is signed as it was: its memory stays.
            self.output, self._is_lent = torch.empty_like(self.output), False
            self._output_bytes = bytes_of(self.output)
        self._cut(chunk_elements)
        self._made, self._shown = {}, None
        self._means = self._fixed_mean_codec or self._codec.for_mean(num_parts)

    def _cut(self, chunk_elements: int) -> None:
        # At once, and not chunk by chunk: torch lets the interpreter's lock go for every view that it makes.
        self._chunk_elements = chunk_elements
        self._outputs: tuple[Tensor, ...] = torch.split(self.output, chunk_elements)
        own = self.contribution
        self._owns: tuple[Tensor, ...] = () if own is None else torch.split(own, chunk_elements)

    def size_bytes(self, chunk: int) -> int:
        return self._codec.size_bytes(self.length(chunk))

    def mean_size_bytes(self, chunk: int) -> int:
        return self._means.size_bytes(self.length(chunk))

    def encode(self, chunk: int) -> Payload:
        return self._codec.encode(self._own(chunk))

    def reduce(self, chunk: int, parts: Sequence[Part]) -> Payload:
        self._is_lent |= self._means.shares_memory
        self._shown = self._shown or (chunk, parts)
        found = self._reduced_at_once(chunk, parts)
        if found is not None:
            return found
        total = self._sum(chunk)
        self.part_squares = [self._add(total, chunk, part, first=part is parts[0]) for part in parts]
        try:
            return self._means.encode(total)
        except NonFinite as error:
            # Each part was finite: one is so large that its share overflows the sum or the codec.
            largest = self._largest(chunk, parts)
            raise Poisoned(largest, f"the mean overflows: {error}", alone=False) from None

    def accept(self, chunk: int, payload: Payload) -> float:
        made, square = self._made.pop(chunk, (None, 0.0))
        if made is payload:
            return square
        try:
            # Decodes and measures in one pass.
            return self._means.add(self._outputs[chunk], _buffer(payload, -1), 1.0, first=True)
        except CodecError as error:
            raise Poisoned(-1, str(error)) from None

    def kept(self, chunk: int, payload: Payload) -> Payload:
        if not self._means.shares_memory:
            return payload
        span = self._span(chunk)
        return self._output_bytes[4 * span.start : 4 * span.stop]

    def length(self, chunk: int) -> int:
        span = self._span(chunk)
        return int(span.stop - span.start)

    def own(self, chunk: int, encoded: bool, section: slice) -> Payload:
        own = self._own(chunk)
        coder = self._codec
        added = coder.decode(coder.encode(own), len(own)) if encoded or self._as_sent else own
        return bytes(self._plain.encode(added[section]))

    def own_beside(self, mean: TensorReducer, codec: Codec) -> tuple[Tensor, Tensor]:
        """Some of what this member sent, as others decoded it, and the ``mean`` there: one chunk from the
        middle, or a part of it. ``codec`` is this thread's own, of the same kind."""
        chunk = len(self._owns) // 2
        span = self._span(chunk)
        span = slice(span.start, min(span.stop, span.start + _COMPARED))
        section = slice(0, span.stop - span.start)
        sent = codec.decode(codec.encode(self._own(chunk)), self.length(chunk))
        return sent[section], mean.output[span]

    def others(self, codec: Codec) -> Iterator[tuple[int, Tensor, Tensor]]:
        """What this member sent of a chunk that it owns, and what each other one did: with the place of that
        one among the members. Nothing where it owned none, or all of them are but one. ``codec`` is this
        thread's own, of the same kind."""
        chunk, parts = self._shown or (0, ())
        if self.contribution is None or len(parts) <= 2 or self.length(chunk) < _FEWEST_COMPARED:
            return
        section = slice(0, min(_COMPARED, self.length(chunk)))
        sent = codec.decode(codec.encode(self._own(chunk)), self.length(chunk))[section]
        for place, part in enumerate(sorted(parts, key=lambda each: each.member)):
            if part.payload is not None and not part.plain and not isinstance(part.payload, Phantom):
                yield place, sent, codec.decode(part.payload, self.length(chunk))[section]

    def deviation(
        self, chunk: int, parts: Sequence[Part], mean: Payload, section: slice | None = None
    ) -> tuple[float, float, float]:
        n = self.length(chunk)
        section = slice(0, n) if section is None else section
        total = torch.zeros(n)
        self.part_squares = [
            self._add(total[section] if part.plain else total, chunk, part, first=False) for part in parts
        ]
        try:
            held = self._means.decode(_buffer(mean, -1), n)
            rounded = self._means.decode(self._means.encode(total), n)
        except CodecError as error:
            raise Poisoned(-1, str(error)) from None
        norms = [squared_norm(each[section]) for each in (held - rounded, rounded - total, held)]
        return math.sqrt(norms[0]), math.sqrt(norms[1]), math.sqrt(norms[2])

    def _reduced_at_once(self, chunk: int, parts: Sequence[Part]) -> Payload | None:
        """What `reduce` gives, in one pass of compiled code that decodes it into the output too; None where
        that cannot be, or where something is refused: whose it is, is found part by part."""
        self._made.pop(chunk, None)
        given: list[tuple[Buffer | Tensor, float]] = []
        for part in parts:
            payload = part.payload
            if payload is None and self._as_sent:
                try:
                    payload = self.encode(chunk)
                except CodecError:
                    return None
            if isinstance(payload, Phantom):
                return None
            given.append((self._own(chunk) if payload is None else payload, part.weight))
        out, shared = self._outputs[chunk], self._means.shares_memory
        found = kernels.reduce(self._codec, self._means, given, out, shared)
        if found is None:
            return None
        squares = zip(found.squares, parts, strict=True)
        self.part_squares = [0.0 if part.payload is None else square for square, part in squares]
        self._made[chunk] = found.payload, found.square
        return found.payload

    def _add(self, total: Tensor, chunk: int, part: Part, first: bool) -> float:
        """Returns the squared norm of what someone else sent."""
        if part.payload is not None or self._as_sent:
            try:
                payload = self.encode(chunk) if part.payload is None else part.payload
                coder = self._plain if part.plain else self._codec
                square = coder.add(total, _buffer(payload, part.member), part.weight, first)
            except CodecError as error:
                raise Poisoned(part.member, str(error)) from None
            return square if part.payload is not None else 0.0
        own = self._own(chunk)  # finite, or else the mean is not
        for span in spans(own):
            add_weighted(total[span], own[span], part.weight, self._scratch, first)
        return 0.0

    def _sum(self, chunk: int) -> Tensor:
        span = self._span(chunk)
        # Encoded bytes that are the sum's own memory live where the result belongs in the end.
        if self._means.shares_memory:
            return self._outputs[chunk]
        return self._total.of(span.stop - span.start, self.output.device)

    def _largest(self, chunk: int, parts: Sequence[Part]) -> int:
        def magnitude(part: Part) -> float:
            span = self._span(chunk)
            if part.payload is None:
                values = self._own(chunk)
            else:
                values = self._codec.decode(_buffer(part.payload, part.member), span.stop - span.start)
            largest = float(values.abs().max())
            return math.inf if math.isnan(largest) else largest

        return max(parts, key=magnitude).member

    def _own(self, chunk: int) -> Tensor:
        assert self.contribution is not None, "one who only receives has no contribution"
        return self._owns[chunk]

    def _span(self, chunk: int) -> slice:
        start = chunk * self._chunk_elements
        return slice(start, min(start + self._chunk_elements, self._num_elements))


def _buffer(payload: Payload, member: int) -> Buffer:
    if isinstance(payload, Phantom):
        raise Poisoned(member, "a phantom where bytes are due")
    return payload
