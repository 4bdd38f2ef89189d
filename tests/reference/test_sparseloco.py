"""SparseLoCo (arXiv 2508.15706) against the whole stack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference import formats, kit
from tests.reference.problem import MakeModel, Net, wide
from tests.reference.rounds import Told, in_rounds, num_parameters, weighted_mean

ROUNDS, EVERY = 6, 3
PRESET: dict[str, Any] = {"preset": "sparseloco", "sync_every": EVERY}


DENSE = [name for name in formats.ROUNDED if name != "int2_linear"]
"""Formats of the mean: of int2_linear it is not said to which of its levels a zero goes."""


def reference(
    num_workers: int,
    *,
    keep: int = 64,
    value_bits: int = 2,
    decay: float = 0.95,
    share: float = 1.0,
    lr: float = 1.0,
    mean_format: str = "bf16",
    make_model: MakeModel = Net,
) -> Told:
    """Algorithm 1 of the paper:

        a_r = beta e_r + Delta_r;  c_r = Q(TopK(a_r));  e_r <- a_r - c_r;  theta <- theta - alpha/R sum c_r

    1/R over all replicas, not over those that selected an entry. The mean travels as bfloat16, with every
    entry that any replica kept, and the two bits are ours: docs/methods.md. (``share`` is DeMo's.)
    """
    e = [torch.tensor(0.0)] * num_workers

    def outer_step(theta: Tensor, deltas: list[Tensor]) -> Tensor:
        sent = []
        for r, delta in enumerate(deltas):
            a = decay * e[r] + delta
            sent.append(formats.top_k(a, keep, value_bits))
            e[r] = a - share * sent[r]
        return theta - lr * formats.ROUNDED[mean_format](weighted_mean([1] * num_workers, sent))

    return in_rounds(num_workers, ROUNDS, EVERY, outer_step, make_model=make_model)


def payload_bytes(num_workers: int, n: int, keep: int = 64, value_bits: int = 2) -> int:
    """Each part goes to its owner, and the mean of it to all others."""
    sent = formats.top_k_bytes(n, keep, value_bits) + formats.top_k_mean_bytes(n, keep, num_workers)
    return ROUNDS * (num_workers - 1) * sent


@pytest.mark.parametrize("num_workers", [2, 3])
def test_sparseloco_over_sockets_is_algorithm_1(num_workers: int) -> None:
    seen = kit.over_sockets(PRESET, ROUNDS, (8, 24, 16)[:num_workers], make_model=wide)
    told = reference(num_workers, make_model=wide)
    kit.assert_told(seen, told.starts, told.outer, ROUNDS)
    payload = payload_bytes(num_workers, num_parameters(wide))
    assert payload <= sum(each.bytes_sent for each in seen)


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("make_model", [Net, wide])
@pytest.mark.parametrize(
    "variant", [{}, {"value_bits": 4}, {"value_bits": 8}, {"value_bits": 16}, {"keep": 512}], ids=str
)
def test_sparseloco_in_simulated_time_is_algorithm_1(
    variant: dict[str, int], make_model: MakeModel, num_workers: int
) -> None:
    tokens = (8, 24, 16)[:num_workers]
    seen = kit.simulated({**PRESET, **variant}, ROUNDS * EVERY, tokens, make_model=make_model)
    told = reference(num_workers, make_model=make_model, **variant)
    kit.assert_told(seen, told.starts, told.outer, ROUNDS)
    payload = payload_bytes(num_workers, num_parameters(make_model), **variant)
    kit.assert_bulk(seen, payload, messages=ROUNDS * 4 * num_workers * (num_workers - 1))


@pytest.mark.parametrize(("keep", "num_workers"), [(4, 2), (4, 3), (17, 2), (2, 3)])
def test_the_mean_has_every_entry_that_any_part_kept(keep: int, num_workers: int) -> None:
    """Of the last 3140 values a part keeps ceil(3140 keep / 4096), and two parts up to twice as many."""
    tokens = (8, 24, 16)[:num_workers]
    seen = kit.simulated({**PRESET, "keep": keep}, ROUNDS * EVERY, tokens)
    told = reference(num_workers, keep=keep)
    kit.assert_told(seen, told.starts, told.outer, ROUNDS)
    payload = payload_bytes(num_workers, num_parameters(Net), keep)
    kit.assert_bulk(seen, payload, messages=ROUNDS * 4 * num_workers * (num_workers - 1))


@pytest.mark.parametrize(
    ("variant", "loop"),
    [
        ({"feedback_decay": 1.0}, {"decay": 1.0}),
        ({"feedback_decay": 0.0}, {"decay": 0.0}),
        ({"feedback_share": 0.5}, {"share": 0.5}),
        ({"outer_lr": 0.65}, {"lr": 0.65}),
        *(({"mean_codec": name}, {"mean_format": name}) for name in DENSE),
    ],
    ids=str,
)
def test_each_part_of_the_row_does_what_it_says(variant: dict[str, Any], loop: dict[str, Any]) -> None:
    seen = kit.simulated({**PRESET, **variant}, ROUNDS * EVERY, (8, 24, 16))
    told = reference(3, **loop)
    kit.assert_told(seen, told.starts, told.outer, ROUNDS)


def test_without_error_feedback_what_is_averaged_is_what_was_kept_too() -> None:
    variant = {"error_feedback": "none", "feedback_decay": 1.0}
    seen = kit.simulated({**PRESET, **variant}, ROUNDS * EVERY, (8, 24, 16))
    told = reference(3, decay=0.0)
    kit.assert_told(seen, told.starts, told.outer, ROUNDS)


def test_two_bits_of_what_is_largest_are_no_worse_than_the_papers_bins() -> None:
    """The paper's: "subtract mean, 4 uniform bins over 6 sigma, decode with per-bin means"."""
    x = torch.randn(64 * 4096, generator=torch.Generator().manual_seed(1))
    for chunk in x.split(4096):
        kept = chunk[chunk.abs().topk(64).indices]
        ours, theirs = (kept - rounded(kept) for rounded in (formats.two_bits, formats.papers_two_bits))
        assert float(ours.norm()) < float(theirs.norm())
