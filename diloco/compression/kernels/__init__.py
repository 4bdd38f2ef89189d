"""The arithmetic of codecs and outer steps by compiled code, where it was built: `kernels.c`, by ctypes.

Torch stays the reference and the fallback: a kernel that is not there, is given what it does not take or
refuses values gives None, and the caller goes on by torch. Both have the same bytes, which a test holds.
"""

from __future__ import annotations

from diloco.compression.kernels.kernel import Kernel, kernel_of, nesterov, reduce, subtract
from diloco.compression.kernels.library import running, use

__all__ = ["Kernel", "kernel_of", "nesterov", "reduce", "running", "subtract", "use"]
