"""Which exceptions mean that a worker's device failed, and not its program: out of memory, a lost card.

After most of them nothing on the device can be read any more. What is shared lies on the CPU, and is right.
"""

from __future__ import annotations

import torch

_TYPES = tuple(
    getattr(torch, name) for name in ("AcceleratorError", "OutOfMemoryError") if hasattr(torch, name)
)
"""The first is of newer torch; before, a failed kernel was a `RuntimeError` that says so."""
_BEGINNINGS = ("CUDA", "HIP", "XPU", "MPS", "cuDNN", "CUBLAS", "hipBLAS")


def device_fault(error: BaseException) -> str | None:
    """What a device said in one line, if it is one that says it."""
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, _TYPES):
        return text or type(error).__name__
    if isinstance(error, RuntimeError) and text.startswith(_BEGINNINGS) and "rror" in text:
        return text
    return None
