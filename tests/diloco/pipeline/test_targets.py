"""Targets on their way to the last stage: whole numbers of 32 bits, and a shape that is known before."""

from __future__ import annotations

import pytest
import torch

from diloco.errors import BoundaryError, PipelineError
from diloco.pipeline.targets import decode_targets, encode_targets, targets_bytes


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_they_come_as_they_were(dtype: torch.dtype) -> None:
    targets = torch.tensor([[0, 1, 255], [7, 8, 9]], dtype=dtype)
    payload = encode_targets(targets, (2, 3))
    assert len(payload) == targets_bytes((2, 3)) == 24
    found = decode_targets(memoryview(payload), (2, 3))
    assert found.dtype == torch.int64
    assert torch.equal(found, targets.long())


def test_those_that_are_left_out_stay_negative() -> None:
    assert decode_targets(encode_targets(torch.tensor([-100, 3]), (2,)), (2,)).tolist() == [-100, 3]


def test_what_does_not_fit_is_refused_by_its_numbers() -> None:
    with pytest.raises(PipelineError, match=r"targets are \[2\] int64, and .* integers of shape \[3\]"):
        encode_targets(torch.tensor([1, 2]), (3,))
    with pytest.raises(PipelineError, match=r"targets are \[2\] float32"):
        encode_targets(torch.ones(2), (2,))
    with pytest.raises(PipelineError, match="targets from 0 to 4294967296 do not fit into 32 bits"):
        encode_targets(torch.tensor([0, 1 << 32]), (2,))
    with pytest.raises(BoundaryError, match="targets take 7 bytes instead of 8"):
        decode_targets(bytes(7), (2,))
