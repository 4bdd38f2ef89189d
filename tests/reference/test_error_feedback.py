"""EF14, EF21 and EControl with codecs that compress, against the whole stack.

With top-k whole trajectories are compared. Codecs that round every value make a few of thousands fall on the
other side of an edge, so there each round of the loop begins where the stack's began; residuals are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference import formats, kit
from tests.reference.rounds import Told, in_rounds, weighted_mean

ROUNDS, EVERY = 6, 3
Compress = Callable[[Tensor], Tensor]
Along = Sequence[dict[str, Tensor]]
TOKENS = (8, 24, 16)


def ef14(
    compress: Compress,
    along: Along = (),
    *,
    decay: float = 1.0,
    share: float = 1.0,
    mean: Compress = formats.ROUNDED["fp32"],
) -> Told:
    """EF-SGD (1901.09847): p = e + g;  c = C(p);  e <- p - c;  theta <- theta - mean c.

    With SparseLoCo's decay of e and DeMo's share of c: p = beta e + g;  e <- p - s c.
    """
    e = [torch.tensor(0.0) for _ in TOKENS]

    def outer_step(theta: Tensor, deltas: list[Tensor]) -> Tensor:
        sent = []
        for i, g in enumerate(deltas):
            p = decay * e[i] + g
            sent.append(compress(p))
            e[i] = p - share * sent[i]
        return theta - mean(weighted_mean(TOKENS, sent))

    return in_rounds(len(TOKENS), ROUNDS, EVERY, outer_step, along=along)


def ef21(compress: Compress, along: Along = ()) -> Told:
    """EF21 (2106.05203): c = C(g - h);  h <- h + c;  theta <- theta - mean h."""
    h = [torch.tensor(0.0) for _ in TOKENS]

    def outer_step(theta: Tensor, deltas: list[Tensor]) -> Tensor:
        for i, g in enumerate(deltas):
            h[i] = h[i] + compress(g - h[i])
        return theta - weighted_mean([1] * len(h), h)

    return in_rounds(len(TOKENS), ROUNDS, EVERY, outer_step, along=along)


def econtrol(compress: Compress, along: Along = (), *, eta: float) -> Told:
    """EControl (2311.05645): c = C(eta e + g - h);  e <- e + g - h - c;  h <- h + c;
    theta <- theta - mean(h), of h as it is then."""
    h = [torch.tensor(0.0) for _ in TOKENS]
    e = [torch.tensor(0.0) for _ in TOKENS]

    def outer_step(theta: Tensor, deltas: list[Tensor]) -> Tensor:
        for i, g in enumerate(deltas):
            c = compress(eta * e[i] + g - h[i])
            e[i] = e[i] + g - h[i] - c
            h[i] = h[i] + c
        return theta - weighted_mean([1] * len(h), h)

    return in_rounds(len(TOKENS), ROUNDS, EVERY, outer_step, along=along)


AVERAGE: dict[str, Any] = {"preset": "local_sgd", "sync_every": EVERY}
EF14: dict[str, Any] = {**AVERAGE, "error_feedback": "ef14", "mean_codec": "fp32"}
EF21: dict[str, Any] = {**AVERAGE, "error_feedback": "ef21", "mean_codec": "fp32", "weights": "equal"}
ECONTROL: dict[str, Any] = {**EF21, "error_feedback": "econtrol"}
ETAS = (1.0, 0.1)

METHODS: list[tuple[dict[str, Any], Callable[..., Told]]] = [
    (EF14, ef14),
    (EF21, ef21),
    *(({**ECONTROL, "feedback_share": eta}, partial(econtrol, eta=eta)) for eta in ETAS),
]
method_and_loop = pytest.mark.parametrize(
    ("method", "loop"), METHODS, ids=["ef14", "ef21", "eta-1", "eta-0.1"]
)


@pytest.mark.parametrize(("keep", "value_bits"), [(256, 8), (64, 16), (64, 2)])
@method_and_loop
def test_what_top_k_drops_is_sent_later(
    method: dict[str, Any], loop: Callable[..., Told], keep: int, value_bits: int
) -> None:
    codec = {"codec": "topk", "keep": keep, "value_bits": value_bits}
    seen = kit.simulated({**method, **codec}, ROUNDS * EVERY, TOKENS)
    told = loop(partial(formats.top_k, keep=keep, value_bits=value_bits))
    kit.assert_told(seen, told.starts, told.outer, ROUNDS)


@pytest.mark.parametrize("codec", formats.ROUNDED)
@method_and_loop
def test_what_rounding_drops_is_sent_later(
    method: dict[str, Any], loop: Callable[..., Told], codec: str
) -> None:
    seen = kit.simulated({**method, "codec": codec}, ROUNDS * EVERY, TOKENS)
    told = loop(formats.ROUNDED[codec], seen[0].starts)
    for each, starts in zip(seen, told.starts, strict=True):
        assert each.outer_steps == [ROUNDS]
        kit.assert_nearly_told(each, starts, 3 * formats.STEPS[codec] * told.largest + 1e-6)


@pytest.mark.parametrize("mean_codec", formats.ROUNDED)
def test_the_mean_is_rounded_as_mean_codec_says(mean_codec: str) -> None:
    seen = kit.simulated({**EF14, "codec": "int8", "mean_codec": mean_codec}, ROUNDS * EVERY, TOKENS)
    told = ef14(formats.ROUNDED["int8"], seen[0].starts, mean=formats.ROUNDED[mean_codec])
    for each, starts in zip(seen, told.starts, strict=True):
        step = max(formats.STEPS["int8"], formats.STEPS[mean_codec])
        kit.assert_nearly_told(each, starts, 3 * step * told.largest)


@pytest.mark.parametrize(("decay", "share"), [(0.9, 1.0), (0.0, 1.0), (1.0, 0.3), (0.9, 0.5)])
def test_the_residual_decays_and_loses_a_share_of_what_was_sent(decay: float, share: float) -> None:
    codec = {"codec": "topk", "keep": 256, "feedback_decay": decay, "feedback_share": share}
    seen = kit.simulated({**EF14, **codec}, ROUNDS * EVERY, TOKENS)
    told = ef14(partial(formats.top_k, keep=256, value_bits=8), decay=decay, share=share)
    kit.assert_told(seen, told.starts, told.outer, ROUNDS)
