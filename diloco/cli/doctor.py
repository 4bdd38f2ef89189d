"""`diloco doctor`: what would train on this machine: versions, threads, devices and kernels. Thin."""

from __future__ import annotations

import os
import platform

import diloco
from diloco.cli import options


def doctor_command(kernels: options.Kernels = "auto") -> None:
    """Show what this machine trains with: torch, its threads and devices, and what codecs run by."""
    import torch

    from diloco.compression.kernels import running, use

    use(kernels)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    print(f"diloco {diloco.__version__}, Python {platform.python_version()}, {machine}")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    devices = ", ".join(names) or "no CUDA device"
    print(f"torch {torch.__version__}: {torch.get_num_threads()} threads, {devices}")
    print(f"codecs: {running()}")
