"""Ordinary tensors are whole, and are seen in place."""

from __future__ import annotations

import torch

from diloco.outer.shards import is_sharded, local_part


def test_of_an_ordinary_tensor_all_is_here_and_in_place() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    assert not is_sharded(parameter)
    local_part(parameter).add_(1.0)
    assert parameter.sum() == 3.0
    assert not local_part(parameter).requires_grad
