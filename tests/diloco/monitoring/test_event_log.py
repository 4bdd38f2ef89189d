"""The record of a worker's run: names and fields that programs read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from diloco.errors import UserError
from diloco.monitoring.event_log import EventLog
from peers.protocol.events import (
    BecomeSeed,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    Fate,
    FellBehind,
    ProgressLost,
    RoundCommitted,
)
from peers.protocol.record import GENESIS, Record
from peers.protocol.traces import CommittedTrace, RemovedTrace
from transport.collectives.reducer import PhantomReducer


def written(path: Path, *events: object) -> list[dict[str, Any]]:
    log = EventLog(path)
    for event in events:
        log.swarm_event(event)
    log.close()
    began, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert began["event"] == "began"
    return lines


def test_rounds_and_fates_are_written_with_their_fields(tmp_path: Path) -> None:
    record = Record(GENESIS, 7, 0, 1, (3 << 32) + 5, 4, (b"a" * 32, b"b" * 32), (1.0, 1.0), b"r" * 32)
    committed = RoundCommitted(record, PhantomReducer(4, 4.0, b""), None, 0, 0.0, 0.123456, 0)
    ended = ContributionEnded(0, 3, 640, Fate.LATE, "too slow")
    first, second = written(tmp_path / "w.jsonl", committed, ended)
    assert first.pop("seconds") <= second.pop("seconds")
    assert first.pop("wall") <= second.pop("wall")
    assert first == {
        "event": "round",
        "text": "commit 7 of 2, 0.12 s",
        "index": 7,
        "term": 3,
        "serial": (3 << 32) + 5,
        "commit": record.hash().hex(),
        "result": (b"r" * 32).hex(),
        "participants": 2,
        "contributed": False,
        "sync_seconds": 0.1235,
    }
    assert second == {
        "event": "fate",
        "text": "640 tokens are late: too slow",
        "term": 3,
        "index": 7,
        "fate": "late",
        "tokens": 640,
        "reason": "too slow",
    }


def test_progress_that_is_not_finite_is_written_with_what_was_done_about_it(tmp_path: Path) -> None:
    lost = ProgressLost(1, (0, 1), 80, "3 values are not finite", 2, ("8 tensors began anew",))
    (line,) = written(tmp_path / "w.jsonl", lost)
    assert line.pop("seconds") >= 0.0
    assert line.pop("wall") > 1e9
    assert line == {
        "event": "non_finite",
        "text": "gives up 80 tokens: 3 values are not finite",
        "term": 0,
        "index": 0,
        "fragment": 1,
        "fragments": [0, 1],
        "tokens": 80,
        "reason": "3 values are not finite",
        "in_a_row": 2,
        "mended": ["8 tensors began anew"],
    }


def test_losing_and_finding_the_host_and_falling_behind_are_written_and_nothing_else(tmp_path: Path) -> None:
    events = (CoordinatorLost(3.0), BecomeSeed(), CoordinatorBack(), FellBehind("too far"))
    names = [each["event"] for each in written(tmp_path / "w.jsonl", *events)]
    assert names == ["coordinator_lost", "coordinator_back", "fell_behind"]


def test_each_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "w.jsonl")
    log.write("step", loss=1.5)
    assert json.loads((tmp_path / "w.jsonl").read_text().splitlines()[-1])["loss"] == 1.5
    log.close()


def test_a_line_that_an_earlier_process_left_unfinished_is_ended_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    EventLog(path, "first").close()
    path.write_text(path.read_text() + '{"event": "ste')
    for who in ("second", "third"):
        EventLog(path, who).close()
    first, torn, second, third = path.read_text().splitlines()
    assert torn == '{"event": "ste'
    assert [json.loads(line)["who"] for line in (first, second, third)] == ["first", "second", "third"]


def test_without_a_path_nothing_is_written() -> None:
    log = EventLog(None)
    log.write("step", loss=1.5)
    log.close()


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none/w\.jsonl cannot be written: No such file"):
        EventLog(tmp_path / "none" / "w.jsonl")


def test_a_full_disk_is_told_once_and_training_goes_on_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room, write = [1000], os.write

    def full(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, data[: room[0]])
        room[0] -= written
        return written

    log = EventLog(tmp_path / "w.jsonl")
    monkeypatch.setattr(os, "write", full)
    log.write("step", number=0)
    room[0] = 5  # of this line a part is written
    for number in range(1, 5):
        log.write("step", number=number)
    assert [each.getMessage() for each in caplog.records] == [
        f"{tmp_path}/w.jsonl cannot be written: No space left on device; training goes on without it"
    ]
    room[0] = 1000
    log.write("step", number=5)
    log.close()
    assert (
        caplog.records[1:][0].getMessage() == f"{tmp_path}/w.jsonl is written again; 3 of its lines are lost"
    )
    lines = [json.loads(line)["number"] for line in (tmp_path / "w.jsonl").read_text().splitlines()[1:]]
    assert lines == [0, 1, 5]
    assert len(caplog.records) == 2


def test_lines_that_are_lost_at_the_end_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = EventLog(tmp_path / "w.jsonl")
    monkeypatch.setattr(os, "write", full)
    log.write("step")
    log.write("end")
    log.close()
    assert caplog.records[-1].getMessage() == f"{tmp_path}/w.jsonl lacks its last 2 lines"


def test_a_host_writes_its_traces_with_their_lines_and_a_second_process_writes_behind_the_first(
    tmp_path: Path,
) -> None:
    for process in ("first", "second"):
        log = EventLog(tmp_path / "host.jsonl", process)
        log.trace(CommittedTrace(4, (2 << 32) + 9, 0, (b"a" * 32,), (1.0,), 0, 30.5, 4), "round 4: 1 worker")
        log.trace(RemovedTrace(b"a" * 32, "ann", "silent"), "ann is out: silent")
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "host.jsonl").read_text().splitlines()]
    assert [each["event"] for each in lines] == ["began", "committed", "removed"] * 2
    assert [each["who"] for each in lines if each["event"] == "began"] == ["first", "second"]
    committed, removed = lines[1:3]
    assert (committed["took_s"], committed["serial"]) == (30.5, (2 << 32) + 9)
    assert lines[0]["seconds"] <= committed["seconds"] <= removed["seconds"] < 30.0
    assert (removed["term"], removed["index"], removed["peer"]) == (2, 4, (b"a" * 32).hex())
    assert removed["text"] == "ann is out: silent"
    assert lines[3]["index"] == 0, "a new process knows nothing yet"
