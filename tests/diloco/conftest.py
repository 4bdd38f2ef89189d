"""Shared by the tests of `diloco`: one thread for tensors, since these are too small to gain from more, and
the two ways that codecs go, by torch and by compiled kernels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diloco.compression import kernels
from diloco.compression.kernels.library import LIBRARY, load

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="session")
def _one_tensor_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library: that of the installation, or one that is built now, if that is missing or older
    than its source. Without a C compiler there is none to test."""
    source = LIBRARY.with_name("kernels.c")
    if load(LIBRARY)[0] is not None and LIBRARY.stat().st_mtime >= source.stat().st_mtime:
        return LIBRARY
    if shutil.which("cc") is None and shutil.which("gcc") is None and shutil.which("clang") is None:
        pytest.skip("no C compiler")
    out = tmp_path_factory.mktemp("kernels")
    command = [sys.executable, "setup.py", "-q", "build_ext", "-b", str(out), "-t", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return out / LIBRARY.relative_to(ROOT)


@pytest.fixture(scope="module", params=["torch", "compiled"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests of a module twice: codecs by torch, and by compiled kernels."""
    if request.param == "torch":
        kernels.use("torch")
    else:
        kernels.use("compiled", request.getfixturevalue("compiled_kernels"))
    yield
    kernels.use("auto")
