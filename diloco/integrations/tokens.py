"""How many tokens a batch has: the weight of a worker's step among others'.

Owns the rule for batches as loaders give them. Refuses nothing: what looks like no tokens counts examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_IDS = ("attention_mask", "input_ids", "inputs")


def tokens_in(batch: Any) -> int:
    """Of a mapping with an ``attention_mask`` those that are not masked; else of the first tensor its values,
    if they are whole numbers in rows (ids), or its examples."""
    if isinstance(batch, Mapping):
        mask = batch.get("attention_mask")
        if isinstance(mask, Tensor):
            return max(1, int(mask.sum()))
        named = next((batch[name] for name in _IDS if isinstance(batch.get(name), Tensor)), None)
        return tokens_in(named if named is not None else list(batch.values()))
    if isinstance(batch, Tensor):
        is_ids = batch.dim() > 1 and batch.dtype in (torch.int64, torch.int32)
        return max(1, batch.numel() if is_ids or batch.dim() == 0 else len(batch))
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return next((tokens_in(each) for each in batch if isinstance(each, Tensor | Mapping)), 1)
    return 1
