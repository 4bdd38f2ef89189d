"""`diloco doctor`: what would train on this machine: versions, threads, devices and kernels. Thin."""

from __future__ import annotations

import os
import platform

import diloco
from diloco.cli import options
from diloco.cli.bulk import NO_AES
from diloco.extras import missing
from transport.sockets.aes_hardware import has_fast_aes


def doctor_command(kernels: options.Kernels = "auto") -> None:
    """Show what this machine trains with: torch, threads and devices, how bulk goes, what codecs run by."""
    processors = os.cpu_count() or 1
    machine = f"{platform.system()} {platform.machine()}, {processors} processor{'s' * (processors != 1)}"
    print(f"diloco {diloco.__version__}, Python {platform.python_version()}, {machine}")
    bulk = "sealed (AES-256-GCM)" if has_fast_aes() else f"over CURVE: {NO_AES}"
    if (line := missing("train")) is not None:
        print(f"trains nothing, but hosts, plans and simulates: {line}")
        print(f"bulk: {bulk}")
        return
    import torch

    from diloco.compression.kernels import running, use

    use(kernels)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    devices = ", ".join(names) or "no CUDA device"
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}: {threads} thread{'s' * (threads != 1)}, {devices}")
    print(f"bulk: {bulk}")
    print(f"codecs: {running()}")
