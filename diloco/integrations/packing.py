"""Packed sequences: documents one behind the other, cut into rows of one length, drawn in epochs.

Owns no text and no tokenizer. Each row is seen once in an epoch; a worker's order is its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diloco.errors import TextError


def pack(documents: Sequence[str], tokenizer: Any, context: int, name: str) -> Tensor:
    """Rows [n, context] int32 of the documents' tokens, each document as the tokenizer begins it and with its
    end token behind. What is left at the end is dropped. Raises `TextError` for fewer than two rows."""
    end = tokenizer.eos_token_id
    parts = []
    for document in documents:
        ids = tokenizer(document, verbose=False)["input_ids"]
        ids += [] if end is None or ids[-1:] == [end] else [end]
        parts.append(torch.tensor(ids, dtype=torch.int32))
    tokens = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int32)
    rows = len(tokens) // context
    if rows < 2:
        raise TextError(
            f"{name} has {len(tokens)} tokens: two sequences of model.context = {context} are needed, one to"
            " train on and one to validate"
        )
    return tokens[: rows * context].view(rows, context)


class Sequences:
    """Batches [batch_size, context] int64 of ``rows``, without end: by epochs, in an order of ``salt``.
    Its state is how many rows it gave."""

    def __init__(
        self, rows: Tensor, salt: bytes, batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self._rows, self._salt, self._device = rows, salt, torch.device(device)
        self._batch_size = batch_size
        self._drawn = 0
        self._order: tuple[int, Tensor] = (-1, torch.zeros(0))

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        places = torch.stack([self._place(self._drawn + at) for at in range(self._batch_size)])
        self._drawn += self._batch_size
        return self._rows[places].long().to(self._device)

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"drawn": self._drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Draw on from there."""
        self._drawn = state["drawn"]

    def _place(self, number: int) -> Tensor:
        epoch, at = divmod(number, len(self._rows))
        if self._order[0] != epoch:
            drawn = hashlib.sha256(self._salt + epoch.to_bytes(8, "big")).digest()
            seed = int.from_bytes(drawn[:8], "big") >> 1
            generator = torch.Generator().manual_seed(seed)
            self._order = epoch, torch.randperm(len(self._rows), generator=generator)
        return self._order[1][at]
