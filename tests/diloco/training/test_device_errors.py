"""Which exceptions are of the device, and which of the program."""

from __future__ import annotations

import pytest
import torch

from diloco.training.device_errors import device_fault


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "CUDA out of memory. Tried"),
        (
            RuntimeError("CUDA error: device-side assert triggered\nCompile with"),
            "CUDA error: device-side assert triggered",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        ),
        (RuntimeError("MPS backend: Internal Error"), "MPS backend: Internal Error"),
        (torch.OutOfMemoryError(""), "OutOfMemoryError"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (RuntimeError("Expected all tensors on CUDA"), None),
        (ValueError("CUDA error"), None),
    ],
)
def test_a_device_says_why_it_failed(error: Exception, said: str | None) -> None:
    assert device_fault(error) == said


def test_a_failed_kernel_is_one() -> None:
    failed = getattr(torch, "AcceleratorError", None)
    if failed is not None:
        assert issubclass(failed, RuntimeError)
    assert device_fault((failed or RuntimeError)("CUDA error: an illegal memory access")) is not None
