"""`diloco replay`: rows for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diloco.cli.replay import replay_command
from diloco.monitoring.event_log import EventLog
from peers.protocol.events import CoordinatorLost, RoundCommitted
from peers.protocol.record import GENESIS, Record
from transport.collectives.reducer import PhantomReducer

COMMIT = Record(GENESIS, 7, 0, 1, (3 << 32) + 5, 4, (b"a" * 32, b"b" * 32), (1.0, 1.0), b"r" * 32)
NAMES = ("ann", "bob", "cem", "dan")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.jsonl" for name in NAMES]
    for name, path in zip(NAMES, paths, strict=True):
        log = EventLog(path, name)
        log.swarm_event(RoundCommitted(COMMIT, PhantomReducer(4, 4.0, b""), None, 0, 0.0, 0.25, 0))
        if name == "bob":
            log.swarm_event(CoordinatorLost(3.0))
        log.close()
    return paths


def test_a_story_is_told_with_who_and_when(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    replay_command(files)
    lines = capsys.readouterr().out.splitlines()
    (commit,) = [line for line in lines if "commit 7 of 2, 0.25 s" in line]
    assert "ann, bob, cem and 1 more" in commit
    (lost,) = [line for line in lines if "does not hear the host for 3.0 s" in line]
    assert lost.split()[1:4] == ["s", "7", "bob"]
    assert not any("clocks" in line for line in lines)


def test_programs_get_rows(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    replay_command(files, as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["event"] for row in rows) == [*["began"] * 4, "commit", "coordinator_lost"]
    (commit,) = [row for row in rows if row["event"] == "commit"]
    assert sorted(commit["who"]) == list(NAMES)


def test_clocks_that_differ_are_told_of(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    shifted = [json.loads(line) for line in files[0].read_text().splitlines()]
    files[0].write_text(
        "".join(json.dumps({**each, "wall": each["wall"] + 3600.0}) + "\n" for each in shifted)
    )
    replay_command(files)
    assert "their clocks are 3,600 s apart" in capsys.readouterr().out
