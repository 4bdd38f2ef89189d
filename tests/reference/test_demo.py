"""DeMo (arXiv 2411.19870) against the whole stack."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference import formats, kit
from tests.reference.problem import MakeModel, Net, wide
from tests.reference.rounds import Told, in_rounds, num_parameters, weighted_mean

STEPS = 12
TOKENS = (8, 24, 16)
PRESET: dict[str, Any] = {"preset": "demo"}


def dct(n: int) -> Tensor:
    """The orthonormal DCT-II as a matrix [frequency, position]."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * (k[None, :] + 0.5) * k[:, None]) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


def by_blocks(x: Tensor, *, back: bool = False) -> Tensor:
    """DCT of each 64 consecutive elements, the last block shorter; ``back`` is the inverse."""
    blocks = x.double().split(64)
    turned = [dct(len(block)).T @ block if back else dct(len(block)) @ block for block in blocks]
    return torch.cat(turned).float()


def reference(
    num_workers: int,
    *,
    keep: int = 32,
    value_bits: int = 16,
    decay: float = 0.999,
    alpha: float = 0.2,
    lr: float = 1e-3,
    make_model: MakeModel = Net,
) -> Told:
    """With inner SGD, whose step is eta g:

        m <- beta m + eta g;  q = TopK(DCT(m));  m <- m - alpha IDCT(q);
        u = IDCT(mean q);  theta <- theta - lr sign(u)

    The blocks are 64 consecutive elements, where the paper's are 64 x 64 of a matrix; of each 4096
    coefficients ``keep`` are sent, and the mean travels as bfloat16: docs/methods.md.
    """
    m = [torch.tensor(0.0) for _ in range(num_workers)]

    def outer_step(theta: Tensor, steps: list[Tensor]) -> Tensor:
        sent = []
        for i, step in enumerate(steps):
            m[i] = decay * m[i] + step
            sent.append(formats.top_k(by_blocks(m[i]), keep, value_bits))
            m[i] = m[i] - alpha * by_blocks(sent[i], back=True)
        u = by_blocks(formats.bf16(weighted_mean([1] * num_workers, sent)), back=True)
        return theta - lr * u.sign()

    return in_rounds(num_workers, STEPS, 1, outer_step, make_model=make_model)


def check(
    num_workers: int, variant: dict[str, Any], loop: dict[str, Any], make_model: MakeModel = Net
) -> None:
    seen = kit.simulated({**PRESET, **variant}, STEPS, TOKENS[:num_workers], make_model=make_model)
    told = reference(num_workers, make_model=make_model, **loop)
    kit.assert_told(seen, told.starts, told.outer, STEPS)
    n = num_parameters(make_model)
    keep, bits = variant.get("keep", 32), variant.get("value_bits", 16)
    sent = formats.top_k_bytes(n, keep, bits) + formats.top_k_mean_bytes(n, keep, num_workers)
    payload = STEPS * (num_workers - 1) * sent
    kit.assert_bulk(seen, payload, messages=STEPS * 4 * num_workers * (num_workers - 1))


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("make_model", [Net, wide])
def test_demo_sends_the_largest_coefficients_and_steps_by_the_sign(
    make_model: MakeModel, num_workers: int
) -> None:
    check(num_workers, {}, {}, make_model)


@pytest.mark.parametrize(
    ("variant", "loop"),
    [
        ({"feedback_share": 1.0}, {"alpha": 1.0}),
        ({"feedback_decay": 0.9}, {"decay": 0.9}),
        ({"keep": 128}, {"keep": 128}),
        ({"value_bits": 8}, {"value_bits": 8}),
        ({"outer_lr": 0.003}, {"lr": 0.003}),
    ],
    ids=str,
)
def test_each_part_of_the_row_does_what_it_says(variant: dict[str, Any], loop: dict[str, Any]) -> None:
    check(3, variant, loop)


def test_the_mean_has_every_coefficient_that_any_part_kept() -> None:
    check(2, {"keep": 4}, {"keep": 4})


def test_the_transform_alone_changes_nothing() -> None:
    """It is orthonormal: IDCT(mean DCT(Delta)) = mean Delta, here with weights and in fp32."""
    method = {"preset": "local_sgd", "projection": "dct", "sync_every": 2}
    seen = kit.simulated(method, STEPS, TOKENS)
    told = in_rounds(3, STEPS // 2, 2, lambda theta, deltas: theta - weighted_mean(TOKENS, deltas))
    kit.assert_told(seen, told.starts, told.outer, STEPS // 2)


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8", "int4", "fp4"])
def test_coefficients_travel_in_every_codec(codec: str) -> None:
    """With error feedback, so that the owner's part is rounded too: p = e + Delta;  q = C(DCT(p));
    e <- p - IDCT(q);  theta <- theta - IDCT(mean q)."""
    method = {"preset": "local_sgd", "projection": "dct", "error_feedback": "ef14", "sync_every": 2}
    seen = kit.simulated({**method, "codec": codec, "mean_codec": "fp32"}, STEPS, TOKENS)
    e = [torch.tensor(0.0)] * 3

    def outer_step(theta: Tensor, deltas: list[Tensor]) -> Tensor:
        sent = []
        for i, delta in enumerate(deltas):
            p = e[i] + delta
            sent.append(formats.ROUNDED[codec](by_blocks(p)))
            e[i] = p - by_blocks(sent[i], back=True)
        return theta - by_blocks(weighted_mean(TOKENS, sent), back=True)

    told = in_rounds(3, STEPS // 2, 2, outer_step, along=seen[0].starts)
    for each, starts in zip(seen, told.starts, strict=True):
        # One coefficient on the other side of an edge moves the 64 values of its block.
        kit.assert_nearly_told(each, starts, 3 * formats.STEPS[codec] * told.largest, few=0.2)
