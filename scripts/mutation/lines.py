"""Which test runs which line: a plugin for pytest that writes a table, and that table read back.

python -m pytest -p mutation.lines --lines-of FOLDER,FOLDER --lines-to FILE tests/...
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

BUDGET_S = 100.0
"""Seconds of tests for one mutant, as they took while lines were noted, which is some five times as long. A
mutant that runs out of its time hangs, then, and has not just many tests."""


class Tracer:
    """Notes the lines of some folders that are run while a test is."""

    def __init__(self, root: Path, folders: list[str]) -> None:
        self._prefix = f"{root}/"
        self._wanted = tuple(f"{root}/{folder}/" for folder in folders)
        self._is_wanted: dict[CodeType, bool] = {}
        self._seen: set[tuple[str, int]] = set()
        self.by_test: dict[str, set[tuple[str, int]]] = {}

    def calls(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if code not in self._is_wanted:
            self._is_wanted[code] = code.co_filename.startswith(self._wanted)
        if not self._is_wanted[code]:
            return None
        self._seen.add((code.co_filename, frame.f_lineno))
        return self.lines

    def lines(self, frame: FrameType, event: str, arg: object) -> Any:
        self._seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self.lines

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._seen = self.by_test.setdefault(item.nodeid, set())
        threading.settrace(self.calls)
        sys.settrace(self.calls)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]


@dataclass(eq=False)
class Writer:
    """Writes the table at the end of the session."""

    tracer: Tracer
    root: Path
    path: Path
    seconds: dict[str, float]
    failed: set[str]
    """They say nothing about a mutant, and are not in the table."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        tests = sorted(self.tracer.by_test.keys() - self.failed)
        files: dict[str, dict[int, list[int]]] = {}
        for number, test in enumerate(tests):
            for file, line in sorted(self.tracer.by_test[test]):
                name = str(Path(file).relative_to(self.root))
                files.setdefault(name, {}).setdefault(line, []).append(number)
        seconds = [round(self.seconds.get(test, 0.0), 4) for test in tests]
        self.path.write_text(json.dumps({"tests": tests, "seconds": seconds, "files": files}))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines-of", help="folders, with commas between them")
    parser.addoption("--lines-to", help="the file that the table is written to")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--lines-to"):
        tracer = Tracer(config.rootpath, str(config.getoption("--lines-of")).split(","))
        config.pluginmanager.register(tracer)
        path = Path(str(config.getoption("--lines-to")))
        config.pluginmanager.register(Writer(tracer, config.rootpath, path, {}, set()))


class Table:
    """The table, read back."""

    def __init__(self, path: Path) -> None:
        plain = json.loads(path.read_text())
        self.tests: list[str] = plain["tests"]
        self._seconds: list[float] = plain["seconds"]
        self._files: dict[str, dict[str, list[int]]] = plain["files"]

    def covering(self, file: str, line: int, whole_file: bool) -> list[str]:
        """The tests that run a line, quickest first, up to the budget; with ``whole_file`` those that
        run any line of it."""
        lines = self._files.get(file, {})
        numbers = {n for each in lines.values() for n in each} if whole_file else lines.get(str(line), ())
        chosen: list[str] = []
        left_s = BUDGET_S
        for n in sorted(numbers, key=lambda n: self._seconds[n]):
            left_s -= self._seconds[n]
            if chosen and left_s < 0.0:
                break
            chosen.append(self.tests[n])
        return chosen
