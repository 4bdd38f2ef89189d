"""Where there is no fcntl, and nothing else that only POSIX has, every module can be imported, and what asks
for more goes without. That help, plans and simulations run there `tests/diloco/test_extras.py` shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import diloco
from diloco.checkpoints.local_disk import LocalDisk
from diloco.swarm.recomputing import memory_bytes, recompute_bytes
from tests.diloco.test_extras import ROOT

PROGRAM = """
import importlib, sys
from without_posix import take_away
take_away()
names = sys.stdin.read().split()
for name in names:
    importlib.import_module(name)
for lacking in ("fcntl", "resource", "termios"):
    assert lacking not in sys.modules, lacking
"""


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    files = [path for package in ("transport", "peers", "diloco") for path in (ROOT / package).rglob("*.py")]
    found = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    # What other packages do there, those of integrations import, is theirs.
    ours = [each for each in found if not each.startswith("diloco.integrations.")]
    found = [name.removesuffix(".__init__") for name in ours if not name.endswith("__main__")]
    assert len(found) > 200
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        input="\n".join(found),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_system_that_does_not_say_how_much_memory_there_is_computes_no_steps_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = diloco.RunSettings().method.resolved()
    assert recompute_bytes(method) > 0
    monkeypatch.delattr(os, "sysconf")
    assert memory_bytes() == recompute_bytes(method) == 0


def test_a_disk_writes_bytes_as_they_are_where_files_are_text_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = LocalDisk(tmp_path)
    for name in ("O_CLOEXEC", "fdatasync"):
        monkeypatch.delattr(os, name)
    disk.write("whole", [b"a\nb\r\n"])
    disk.sync_dir(".")
    assert disk.read("whole") == b"a\nb\r\n"
