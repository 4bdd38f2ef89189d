"""A recipe whose batches end begins its next epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from diloco.errors import RecipeError
from diloco.training.epochs import Epochs


def test_a_data_loader_begins_its_next_epoch_where_it_ends() -> None:
    loader = DataLoader(TensorDataset(torch.arange(6)), batch_size=2, shuffle=True)
    epochs = Epochs(loader)
    seen = [sorted(int(x) for (batch,) in islice(epochs, 3) for x in batch) for _ in range(3)]
    assert seen == [list(range(6))] * 3
    assert epochs.epoch == 2


def test_a_distributed_sampler_shuffles_each_epoch_anew() -> None:
    data = TensorDataset(torch.arange(64))
    sampler: DistributedSampler[object] = DistributedSampler(data, num_replicas=1, rank=0, shuffle=True)
    epochs = Epochs(DataLoader(data, batch_size=64, sampler=sampler))
    first, second = (tuple(batch[0].tolist()) for batch in islice(epochs, 2))
    assert first != second


def test_batches_without_end_are_passed_on() -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    assert list(islice(Epochs(endless()), 5)) == [0, 1, 2, 3, 4]


def test_an_iterator_that_ends_and_cannot_begin_anew_is_said_to() -> None:
    epochs = Epochs(x for x in range(2))
    assert list(islice(epochs, 2)) == [0, 1]
    with pytest.raises(RecipeError, match="ended with epoch 1, and a generator cannot begin anew"):
        next(epochs)


@pytest.mark.parametrize("empty", [[], iter([])], ids=["list", "iterator"])
def test_no_batches_at_all_are_no_epoch(empty: object) -> None:
    with pytest.raises(RecipeError, match="empty"):
        next(Epochs(empty))  # type: ignore[arg-type]
