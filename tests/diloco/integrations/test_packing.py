"""Documents become rows of one length, rows become batches: each once in an epoch, in an order of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diloco.errors import TextError
from diloco.integrations.packing import Sequences, pack


class Letters:
    """A tokenizer: a letter is its code, 1 ends a document."""

    eos_token_id: int | None = 1

    def __init__(self, ends: bool = False) -> None:
        self._ends = ends

    def __call__(self, text: str, **more: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(each) for each in text] + [1] * self._ends}


@pytest.mark.parametrize("ends", [False, True])
def test_documents_lie_one_behind_the_other_each_ended_once_and_the_rest_is_dropped(ends: bool) -> None:
    rows = pack(["abc", "defg", "h"], Letters(ends), 4, "text")
    assert rows.tolist() == [[97, 98, 99, 1], [100, 101, 102, 103]]


def test_less_than_two_rows_are_no_data() -> None:
    with pytest.raises(TextError, match=r"text has 8 tokens: two sequences of model.context = 5"):
        pack(["abc", "def"], Letters(), 5, "text")
    with pytest.raises(TextError, match="has 0 tokens"):
        pack([], Letters(), 5, "text")


def drawn(sequences: Sequences, count: int) -> list[int]:
    return [int(row) for _ in range(count) for row in next(iter(sequences))[:, 0]]


ROWS = torch.arange(10, dtype=torch.int32)[:, None].repeat(1, 3)


def test_each_row_comes_once_in_an_epoch_and_the_next_has_another_order() -> None:
    epochs = drawn(Sequences(ROWS, b"ann", 5), 4)
    assert sorted(epochs[:10]) == sorted(epochs[10:]) == list(range(10))
    assert epochs[:10] != epochs[10:]


def test_an_order_is_a_workers_own_and_the_same_again() -> None:
    assert drawn(Sequences(ROWS, b"ann", 3), 5) == drawn(Sequences(ROWS, b"ann", 3), 5)
    assert drawn(Sequences(ROWS, b"ann", 3), 5) != drawn(Sequences(ROWS, b"bob", 3), 5)


def test_who_comes_later_draws_on() -> None:
    before, after = Sequences(ROWS, b"ann", 3), Sequences(ROWS, b"ann", 3)
    drawn(before, 7)  # into another epoch
    after.load_state_dict(before.state_dict())
    assert drawn(after, 6) == drawn(before, 6)
