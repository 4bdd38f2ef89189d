"""Runs tests against one mutant: in a child of this process, which has imported what takes long.

A child imports our packages anew, with the changed module in memory; no file is changed. It ends with the
first test that fails, or is ended when its time is over.
"""

from __future__ import annotations

import ast
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

_HEAVY = ("hypothesis", "msgpack", "numpy", "zmq", "cryptography.hazmat.primitives.asymmetric.x25519", "rich")
_PASSED, _FAILED, _BROKEN = 0, 1, 3
_WALL = 5
"""So many times the limit of processor time may pass, beside the time in which no processor was free."""


def import_heavy_modules() -> None:
    """What every child would import otherwise. Nothing of ours is among them."""
    for name in _HEAVY:
        import_module(name)


class _Changed(SourceFileLoader):
    """Loads a module from its changed tree."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self._tree = tree

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._tree, self.path, "exec")
        return code


class _Finder(MetaPathFinder):
    def __init__(self, root: Path, file: str, tree: ast.Module) -> None:
        self._name = file.removesuffix(".py").replace("/", ".")
        self._path = str(root / file)
        self._tree = tree

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        return spec_from_file_location(name, self._path, loader=_Changed(name, self._path, self._tree))


class _Teller:
    """Writes which test failed first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._path.write_text(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._path.write_text(f"at the import of {report.nodeid}")


def run_tests(root: Path, tests: list[str], told: Path) -> int:
    """The exit status of pytest over these tests."""
    from hypothesis import settings

    settings.register_profile("mutants", deadline=None, database=None, derandomize=True)
    settings.load_profile("mutants")
    options = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", f"--rootdir={root}"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is imported already
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return int(pytest.main([*options, *tests], plugins=[_Teller(told)]))


def run_seeds(seeds: tuple[int, ...], told: Path) -> int:
    """Whether one of these simulated swarms breaks."""
    run_seed: Callable[[int], Any] = import_module("tests.sim.run").run_seed
    for seed in seeds:
        try:
            run_seed(seed)
        except Exception as error:
            told.write_text(f"seed {seed}: {type(error).__name__} {error}"[:200])
            return _FAILED
    return _PASSED


def waited_s(pid: int) -> float:
    """How long a process was ready to run and got no processor; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


@dataclass
class Child:
    """One mutant being tried."""

    pid: int
    began_at: float
    limit_s: float
    told: Path
    waited_s: Callable[[int], float] = waited_s

    def outcome(self) -> tuple[str, str] | None:
        """What came of it and what told so; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            left_s = _WALL * self.limit_s - (time.monotonic() - self.began_at)
            if left_s > 0.0 or left_s + self.waited_s(self.pid) > 0.0:
                return None
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return "timeout", f"more than {_WALL * self.limit_s:.0f} s"
        by = self.told.read_text() if self.told.exists() else ""
        self.told.unlink(missing_ok=True)
        code = os.waitstatus_to_exitcode(status)
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return "timeout", f"more than {self.limit_s:.0f} s of a processor"
        return ("survived", "") if code == _PASSED else ("killed", by or f"exit status {code}")


def start(
    root: Path, file: str, tree: ast.Module, told: Path, limit_s: float, work: Callable[[], int]
) -> Child:
    """Fork a child that imports the changed module and does ``work``."""
    pid = os.fork()
    if pid:
        return Child(pid, time.monotonic(), limit_s, told)
    code = _BROKEN
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s) + 1))
        sys.stdout = sys.stderr = io.StringIO()
        sys.meta_path.insert(0, _Finder(root, file, tree))
        code = work()
    except BaseException as error:
        told.write_text(f"{type(error).__name__}: {error}"[:200])
    finally:
        os._exit(code)
