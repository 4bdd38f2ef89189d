"""The order of one worker's data: seeded anew, since the same script on all machines draws the same batches.

Owns what is known to be drawn from: the global generators, and those of the samplers of a loader. What reads
its data in a fixed order is left as it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

_INSIDE = ("batch_sampler", "sampler", "base_dataloader", "data_source")
"""Where loaders and samplers hold what they draw by."""


def seed_data(loader: Any, seed: int) -> None:
    """Have ``loader`` draw by ``seed`` (below 2**32, as `Swarm.data_seed`), before it is gone through, and
    the global generators of Python, numpy and torch, by which it may draw too. None is no loader."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for each in _drawing(loader):
        if isinstance(getattr(each, "initial_seed", None), int):
            each.initial_seed = seed  # accelerate's sampler, which adds the epoch to it
        if isinstance(getattr(each, "seed", None), int):
            each.seed = seed  # a DistributedSampler, and others that draw an epoch by it
        if isinstance(generator := getattr(each, "generator", None), torch.Generator):
            generator.manual_seed(seed)


def _drawing(loader: Any) -> Iterator[Any]:
    seen: set[int] = set()
    left = [loader]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [held for name in _INSIDE if (held := getattr(each, name, None)) is not None]
