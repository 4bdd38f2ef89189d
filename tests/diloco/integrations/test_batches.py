"""What integrations ask of loaders and batches: an order of a worker's own, and how many tokens there are."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from diloco.integrations.data_order import seed_data
from diloco.integrations.tokens import tokens_in


def drawn(seed: int, **given: Any) -> list[list[int]]:
    torch.manual_seed(42)
    loader = DataLoader(torch.arange(64), batch_size=8, **given)
    seed_data(loader, seed)
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("of_its_own", [False, True])
def test_the_same_script_draws_another_order_on_each_worker_and_the_same_again_on_one(
    of_its_own: bool,
) -> None:
    def order(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(42) if of_its_own else None
        return drawn(seed, sampler=RandomSampler(range(64), generator=generator))

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_what_augments_by_other_generators_differs_too() -> None:
    def numbers(seed: int) -> tuple[float, float]:
        seed_data(None, seed)
        return random.random(), float(np.random.rand())

    assert numbers(2**32 - 1) == numbers(2**32 - 1)
    assert not set(numbers(1)) & set(numbers(2))


def test_an_order_that_is_given_stays() -> None:
    assert drawn(1) == [list(range(at, at + 8)) for at in range(0, 64, 8)]


IDS = torch.zeros(4, 6, dtype=torch.int64)
MASK = torch.tensor([[1, 1, 0, 0, 0, 0]] * 4)


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        ({"input_ids": IDS, "attention_mask": MASK, "labels": IDS}, 8),
        ({"input_ids": IDS, "labels": IDS}, 24),
        ({"pixel_values": torch.zeros(4, 3, 2, 2), "labels": torch.zeros(4, dtype=torch.int64)}, 4),
        ((IDS, torch.zeros(4)), 24),
        ([torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)], 5),
        (torch.zeros(7, dtype=torch.int64), 7),
        (torch.tensor(3.0), 1),
        ({"input_ids": IDS, "attention_mask": torch.zeros_like(MASK)}, 1),
        (["a text", "another"], 1),
        (None, 1),
    ],
)
def test_a_batch_has_tokens_or_else_examples(batch: Any, tokens: int) -> None:
    assert tokens_in(batch) == tokens
