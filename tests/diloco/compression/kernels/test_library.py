"""Which library runs: the choice of a process, its words for it, and a build with no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diloco.compression.kernels import running, use
from diloco.compression.kernels.library import LIBRARY, library, load
from diloco.errors import UserError

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    use("auto")


def test_torch_can_be_chosen_where_kernels_are_there(compiled_kernels: Path) -> None:
    use("compiled", compiled_kernels)
    assert library() is not None
    assert running().startswith("compiled kernels (")
    use("torch")
    assert library() is None
    assert running() == "torch, as chosen"


def test_without_a_library_torch_runs_and_says_why(tmp_path: Path) -> None:
    use("auto", tmp_path / "kernels.so")
    assert library() is None
    assert (
        running() == "torch, which is slower than compiled kernels: none were built when this was installed"
    )
    with pytest.raises(UserError, match="no compiled kernels: none were built"):
        use("compiled", tmp_path / "kernels.so")


def test_a_file_that_is_no_library_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_bytes(b"rubbish")
    found, why = load(tmp_path / "kernels.so")
    assert found is None
    assert "cannot be loaded" in why


def test_an_unknown_choice_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="'fast' are unknown: choose one of auto, compiled, torch"):
        use("fast")


def test_a_library_of_another_version_is_not_used(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    source = tmp_path / "old.c"
    source.write_text("int diloco_kernels_version(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "kernels.so", "old.c"], cwd=tmp_path, check=True)
    assert load(tmp_path / "kernels.so") == (
        None,
        f"{tmp_path / 'kernels.so'} is of another version: install again",
    )


def test_a_machine_without_a_compiler_installs_the_rest(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", "-b", str(tmp_path), "-t", str(tmp_path)]
    without = {**os.environ, "CC": str(tmp_path / "no-compiler")}
    done = subprocess.run(command, cwd=ROOT, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no-compiler" in done.stderr + done.stdout
    assert not list(tmp_path.rglob(LIBRARY.name))
