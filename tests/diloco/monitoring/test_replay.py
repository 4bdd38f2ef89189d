"""Records of several processes whose clocks differ become one story, in the order in which it happened."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from diloco.errors import UserError
from diloco.monitoring.replay import read_events, spread_s, story

TRUE = [(1.0, "round", 1), (2.0, "round", 2), (8.0, "round", 3), (9.0, "round", 4)]


def event(what: str, seconds: float, wall: float, index: int, **fields: Any) -> dict[str, Any]:
    line = {"event": what, "seconds": seconds, "wall": wall, "index": index, "text": what}
    return {**line, "serial": index} | fields


def file(folder: Path, name: str, events: Iterable[dict[str, Any]]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in events))
    return path


def tell(folder: Path, name: str, *more: dict[str, Any], ahead_s: float = 0.0, commit: str = "round") -> Path:
    """A process that began at 0 and heard of all commits, with a clock that is ahead."""
    began = event("began", 0.0, 1000.0 + ahead_s, 0, who=name)
    commits = [event(commit, at, 1000.0 + ahead_s + at, index) for at, _, index in TRUE]
    return file(folder, name, sorted([began, *commits, *more], key=lambda each: each["seconds"]))


def told(*paths: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.event, row.who) for row in story([read_events(path) for path in paths])]


def test_events_are_in_order_though_the_clocks_are_an_hour_apart(tmp_path: Path) -> None:
    host = tell(tmp_path, "host", event("removed", 5.0, 1005.0, 2), commit="committed")
    ann = tell(tmp_path, "ann", event("late", 4.0, 4604.0, 2), event("back", 8.5, 4608.5, 3), ahead_s=3600.0)
    rows = told(ann, host)
    assert rows == [
        ("began", ("ann",)),
        ("began", ("host",)),
        ("commit", ("ann", "host")),
        ("commit", ("ann", "host")),
        ("late", ("ann",)),
        ("removed", ("host",)),
        ("commit", ("ann", "host")),
        ("back", ("ann",)),
        ("commit", ("ann", "host")),
    ]
    lives = [read_events(path) for path in (host, ann)]
    assert spread_s(lives) == 3600.0
    assert [row.at_s for row in story(lives) if row.event in ("late", "removed")] == [4.0, 5.0]


def test_a_process_that_slept_is_in_step_again_from_the_next_commit_on(tmp_path: Path) -> None:
    """Its clock stood still from second 3 to second 7."""
    host = tell(tmp_path, "host", event("removed", 5.0, 1005.0, 2), commit="committed")
    began = event("began", 0.0, 1000.0, 0, who="ann")
    commits = [event("round", at - 4.0 * (at > 3), 1000.0 + at, index) for at, _, index in TRUE]
    slept = event("woke", 3.5, 1007.5, 2)
    ann = file(tmp_path, "ann", [began, *commits[:2], slept, *commits[2:], event("after", 4.5, 1008.5, 3)])
    at_s = {row.event: row.at_s for row in story([read_events(host), read_events(ann)])}
    assert at_s["after"] >= 8.0
    assert at_s["woke"] < 8.0, "before the commit that it heard of next"


def test_the_lives_of_one_worker_are_in_one_file_and_in_order(tmp_path: Path) -> None:
    host = tell(tmp_path, "host", commit="committed")
    first = [event("began", 0.0, 50.0, 0, who="ann"), event("round", 1.0, 51.0, 1)]
    second = [event("began", 0.0, 40.0, 0, who="ann"), event("round", 0.5, 40.5, 4)]  # the wall jumped back
    rows = told(host, file(tmp_path, "ann", first + second))
    assert rows.index(("commit", ("host", "ann"))) == 2
    assert rows[-2:] == [("began", ("ann",)), ("commit", ("host", "ann"))]


def test_what_has_nothing_to_say_and_a_line_that_was_cut_short_are_left_out(tmp_path: Path) -> None:
    path = tell(tmp_path, "ann", event("step", 1.5, 1001.5, 1, text=None))
    path.write_text(path.read_text() + '{"event": "rou')
    assert [row for row, _ in told(path)] == ["began", *["commit"] * 4]


def test_two_records_of_one_index_are_two_rows(tmp_path: Path) -> None:
    ann = file(tmp_path, "ann", [event("round", 1.0, 1.0, 1, serial=1)])
    bob = file(tmp_path, "bob", [event("round", 1.0, 1.0, 1, serial=2)])
    assert told(ann, bob) == [("commit", ("ann",)), ("commit", ("bob",))]


def test_no_events_are_no_story(tmp_path: Path) -> None:
    assert told(file(tmp_path, "ann", [])) == []
    assert story([]) == []


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        "[]",
        "7",
        '{"event": "round"}',
        '{"event": "round", "seconds": 1, "wall": 1, "index": 1}',
        '{"event": "x", "seconds": "1", "wall": 1, "index": 1}',
        '{"event": "x", "seconds": NaN, "wall": 1, "index": 1}',
        '{"event": "x", "seconds": 1, "wall": 1, "index": 1' + 400 * "0" + "}",
        '{"event": "began", "seconds": 1, "wall": 1, "index": 1, "who": ["ann"]}',
        '{"event": "x", "seconds": 1, "wall": 1, "index": 1, "text": {"a": 1}}',
        100_000 * "[",
    ],
)
def test_a_file_of_something_else_is_one_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=r"x\.jsonl, line 1: not an event that `--events` wrote"):
        read_events(path)
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read: No such file"):
        read_events(tmp_path / "none.jsonl")


def test_a_file_of_something_else_without_any_line_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\x9a\x0bPNG\x85")
    with pytest.raises(UserError, match=r"x\.jsonl, line 1: not an event that `--events` wrote"):
        read_events(path)


@pytest.mark.parametrize("damage", ["\x0b", "\x85", "\u2028", "?"])
def test_behind_a_damaged_line_the_story_goes_on_and_that_is_said(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tell(tmp_path, "ann")
    whole = told(path)
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], lines[2] + damage + lines[3], *lines[4:]]))
    assert told(path) == whole[:2] + whole[4:]
    (said,) = caplog.messages
    assert said.endswith("ann.jsonl, line 3: no event, and left out")
