"""What a host shows of its run, from the coordinator's traces alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from diloco.monitoring.event_log import EventLog
from diloco.monitoring.run_view import RunView, Screen
from peers.protocol.messages import Report
from peers.protocol.traces import (
    AbortedTrace,
    ActiveTrace,
    BadFrameTrace,
    CertifiedTrace,
    CommittedTrace,
    EnteredTrace,
    OpenedTrace,
    OutlierTrace,
    PartedTrace,
    PoisonedTrace,
    ProvedWrongTrace,
    RefusedTrace,
    RemovedTrace,
    RepairedTrace,
    ReportTrace,
    RestoredTrace,
    SavedOtherTrace,
    SavedTrace,
    SeedTrace,
    SetAsideTrace,
    StageGivenTrace,
    StateLostTrace,
    SwappedTrace,
)
from transport.effects import Trace
from transport.guarded import InputLostTrace

A, B, C = (bytes([i]) * 32 for i in (1, 2, 3))
NASTY = "bob\x1b[2J[red]\r\n\u202e"
PLAIN = "bob?[2J[red]???"


def view_of(*traces: Trace) -> RunView:
    view = RunView("run", 10)
    for trace in traces:
        view.trace(trace)
    return view


def shown(what: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def row(view: RunView, name: str) -> list[str]:
    """A worker's row of the table."""
    line = next(line for line in shown(view.render()).splitlines() if f" {name} " in line)
    return [cell.strip() for cell in line.replace("┃", "│").strip("│ ").split("│")]


def entered(*keys: bytes) -> list[Trace]:
    names = {A: "ann", B: "bea", C: "cid"}
    return [
        trace for key in keys for trace in (EnteredTrace(key, names[key], 1), ActiveTrace(key, names[key], 0))
    ]


def report(step: int, bytes_sent: int = 0, finite: bool = True, non_finite: int = 0) -> Report:
    return Report(step, 0, 10 * step, 2.5, finite, 1234.0, 1300.0, bytes_sent, 0, non_finite)


def committed(
    index: int, members: tuple[bytes, ...], *weights: float, attempt: int = 0, undone: int = 0
) -> CommittedTrace:
    return CommittedTrace(index, index + 100, 0, members, weights, attempt, 0.25, index - undone)


def test_a_worker_goes_from_joining_over_training_and_exchanging_to_gone() -> None:
    view = view_of(EnteredTrace(A, "ann", 1))
    assert row(view, "ann")[1] == "joining"
    view.trace(ActiveTrace(A, "ann", 0))
    assert row(view, "ann")[1] == "training"
    view.trace(OpenedTrace(1, 0, (A,)))
    assert row(view, "ann")[1] == "exchanging"
    view.trace(committed(1, (A,), 1.0))
    assert row(view, "ann")[1] == "training"
    view.trace(RemovedTrace(A, "ann", "it was silent"))
    assert row(view, "ann")[1] == "gone"


def test_where_the_run_went_back_rounds_and_commits_have_other_numbers() -> None:
    view = view_of(*entered(A))
    assert view.trace(committed(71, (A,), 1.0)) == "round 71: 1 worker, 0.25 s"
    assert view.trace(committed(73, (A,), 1.0, undone=1)) == "round 72 (commit 73): 1 worker, 0.25 s"
    assert view.rounds_done == 72


def test_a_round_of_someone_who_is_gone_does_not_bring_it_back() -> None:
    view = view_of(*entered(A, B), RemovedTrace(A, "ann", "silent"), OpenedTrace(1, 0, (A, B)))
    assert (row(view, "ann")[1], row(view, "bea")[1]) == ("gone", "exchanging")


def test_a_worker_whose_steps_stand_still_waits() -> None:
    view = view_of(*entered(A), ReportTrace(A, "ann", report(5)), ReportTrace(A, "ann", report(5)))
    assert row(view, "ann")[1] == "waiting"
    view.trace(ReportTrace(A, "ann", report(6)))
    assert row(view, "ann")[1] == "training"


def test_reports_are_shown_as_step_loss_speed_and_traffic() -> None:
    view = view_of(*entered(A), ReportTrace(A, "ann", report(1500, 2_500_000)))
    assert row(view, "ann")[2:] == ["1,500", "2.500", "1,234", "", "2.5"]


def test_a_worker_whose_values_are_not_finite_is_seen_and_told_of_once() -> None:
    view = view_of(*entered(A))
    spoilt = ReportTrace(A, "ann", report(8, finite=False, non_finite=2))
    line = view.trace(spoilt)
    assert line == "ann gave up what it trained, as it was not finite (2 times so far)"
    assert line in shown(view.render())
    assert row(view, "ann")[3] == "not finite"
    assert view.trace(spoilt) is None


def test_a_commit_shows_shares_members_attempts_and_what_was_sent_since() -> None:
    view = view_of(*entered(A, B), ReportTrace(A, "ann", report(1, 3_000_000)))
    line = view.trace(committed(1, (A, B), 1.0, 3.0, attempt=1))
    assert line == "round 1: 2 workers, 0.25 s"
    assert (row(view, "ann")[5], row(view, "bea")[5]) == ("25%", "75%")
    assert "│     1 │       2 │    0.25 │        2 │           3.0 │" in shown(view.render())
    view.trace(ReportTrace(A, "ann", report(2, 3_500_000)))
    view.trace(committed(2, (A, B), 1.0, 1.0))
    assert "│     2 │       2 │    0.25 │        1 │           0.5 │" in shown(view.render())
    assert "round 2 of 10" in shown(view.render())


def test_old_rounds_notes_and_leavers_make_room() -> None:
    view = view_of(*entered(A))
    for index in range(1, 31):
        view.trace(committed(index, (A,), 1.0))
    for index in range(20):
        key = bytes([100 + index]) * 32
        view.trace(EnteredTrace(key, f"w{index}", 1))
        view.trace(RemovedTrace(key, f"w{index}", "silent"))
    text = shown(view.render())
    assert "│    30 │" in text
    assert "│    20 │" not in text
    assert [f" w{index} " in text for index in (14, 15, 16, 19)] == [False, False, True, True]
    assert text.count("is out") <= 4


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (SeedTrace(A, "ann"), "ann seeds the run"),
        (RepairedTrace(1, 1, (B, C), "silent"), "the round goes on without bea, cid: silent"),
        (AbortedTrace(1, 0, "too few"), "the round was given up: too few"),
        (SetAsideTrace(A, 1, "it differs"), "ann sits out: it differs"),
        (
            PartedTrace(1, (B, C)),
            "bea, cid do not reach each other: both go on, and add nothing up for a while",
        ),
        (OutlierTrace(A, "ann", "its norm is far above"), "ann: its norm is far above"),
        (ProvedWrongTrace(A, "ann", "it lied"), "it was shown who was wrong: ann; it lied"),
        (PoisonedTrace(A, (B,), "not finite"), "ann says that bea sent what cannot be added up: not finite"),
        (
            RestoredTrace(C, 3, A, 1, "nobody here holds commit 3"),
            "the run goes on from commit 1 of ann: nobody here holds commit 3",
        ),
        (
            SavedOtherTrace(A, "ann", 3),
            "what ann saved or loaded of commit 3 is not the run's state, and counts not",
        ),
        (
            InputLostTrace(A, "KeyError: 'gone'", "Traceback", 1),
            "what came from ann failed here and was lost: KeyError: 'gone'",
        ),
        (RefusedTrace(A, "codec", "another codec"), "ann was refused: another codec"),
        (SwappedTrace(4, (A, B)), "outer step 4: taken by 2 workers"),
        (CertifiedTrace(A, "ann"), None),
        (StateLostTrace(C, 1), None),  # the wait tells of it, ever less often
        (OpenedTrace(1, 0, (A,)), None),
    ],
)
def test_what_happens_is_told_in_a_line_that_names_workers(trace: Trace, line: str | None) -> None:
    assert view_of(*entered(A, B, C)).trace(trace) == line


def test_one_who_has_no_name_yet_is_told_of_by_its_key() -> None:
    line = view_of().trace(BadFrameTrace(A, "no kind 7"))
    assert line is not None
    assert line.endswith("sent what is no message: no kind 7")
    assert len(line) > len(" sent what is no message: no kind 7")


@pytest.mark.parametrize(
    "trace",
    [EnteredTrace(A, NASTY, 1), RemovedTrace(A, NASTY, NASTY), RefusedTrace(A, NASTY, NASTY)],
)
def test_terminal_codes_and_markup_of_others_are_shown_as_plain_characters(trace: Any) -> None:
    view = RunView("run", 10)
    line = view.trace(EnteredTrace(A, NASTY, 1)) or ""
    told = view.trace(trace) or ""
    for text in (line, told, shown(view.render())):
        assert not any(code in text for code in ("\x1b", "\r", "\u202e"))
    assert line == f"{PLAIN} entered"
    assert f" {PLAIN} " in shown(view.render()), "markup stays as it was written"


def test_off_a_terminal_each_line_is_printed_once_and_markup_is_left_alone() -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    with Screen(RunView("run", 10), console) as screen:
        screen.on_trace(EnteredTrace(A, "[red]ann[/red]", 1))
        screen.on_trace(CertifiedTrace(A, "ann"))
        screen.note(
            "a note that is longer than the console is wide, which must stay on one line all the same"
        )
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(" s  ")[1][:20] for line in lines] == ["[red]ann[/red] enter", "a note that is longe"]
    assert lines[1].endswith("all the same")
    assert row(screen.view, "[red]ann[/red]") == ["[red]ann[/red]", "joining"]


def test_off_a_terminal_lines_about_rounds_are_few_but_for_those_that_differ() -> None:
    now = 0.0
    console = Console(file=io.StringIO(), force_terminal=False)
    with Screen(RunView("run", 30), console, clock=lambda: now) as screen:
        for number in range(1, 31):
            now += 3.0
            members = (A,) if number == 7 else (A, B)
            screen.on_trace(committed(number, members, *(1.0 for _ in members)))
    lines = [line.partition(" s  ")[2] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert [int(line.split()[1].rstrip(":")) for line in lines] == [1, 5, 7, 8, 12, 16, 20, 24, 28, 30]
    assert lines[2] == "round 7: 1 worker, 0.25 s"
    assert screen.view.rounds_done == 30


def test_what_is_shown_is_recorded_and_so_is_what_only_programs_are_told(tmp_path: Path) -> None:
    console, log = (
        Console(file=io.StringIO(), force_terminal=False),
        EventLog(tmp_path / "host.jsonl", "host"),
    )
    with Screen(RunView("run", 10), console, log) as screen:
        screen.on_trace(EnteredTrace(A, "ann", 1))
        screen.on_trace(CertifiedTrace(A, "ann"))
        screen.on_trace(SavedTrace(A, "ann", 4))
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "host.jsonl").read_text().splitlines()]
    assert [(each["event"], each["text"]) for each in lines[1:]] == [
        ("entered", "ann entered"),
        ("saved", ""),
    ]
    assert len(console.file.getvalue().splitlines()) == 1  # type: ignore[attr-defined]


def test_how_long_it_may_take_is_known_from_the_second_commit_on_and_not_at_the_end() -> None:
    view = view_of(*entered(A), committed(3, (A,), 1.0))
    assert view.seconds_left() is None
    view.trace(committed(4, (A,), 1.0))
    left = view.seconds_left()
    assert left is not None
    assert left >= 0.0
    view.trace(committed(10, (A,), 1.0))
    assert view.seconds_left() is None


def test_of_a_model_in_stages_workers_and_rounds_name_theirs_and_who_is_left_alone_is_told() -> None:
    view = RunView("run", 10, stages=2)
    given = [StageGivenTrace(A, "ann", 0), StageGivenTrace(B, "bea", 1), StageGivenTrace(C, "cid", 1)]
    for trace in (*given, *entered(A, B, C)):
        view.trace(trace)
    committed = CommittedTrace(1, 1, 0, (B, C), (1.0, 1.0), 0, 0.5, 1, course=1)
    assert view.trace(committed) == "stage 1, round 1: 2 workers, 0.50 s"
    assert view.rounds_done == 0, "stage 0 has none yet"
    view.trace(CommittedTrace(1, 2, 0, (A,), (1.0,), 0, 0.5, 1, course=0))
    assert view.rounds_done == 1
    report = Report(8, 1, 64, 2.5, True, 100.0, 100.0, 0, 0, 0)
    view.trace(ReportTrace(A, "ann", report))
    view.trace(ReportTrace(B, "bea", report))
    assert row(view, "ann")[1:5] == ["0", "training", "8", ""], "the loss is known to the last stage"
    assert row(view, "bea")[4] == "2.500"
    told = view.trace(RemovedTrace(C, "cid", "silent"))
    assert told == (
        "cid is out: silent; stage 1 has bea alone, and its state with it: let another worker join"
    )
    assert view.trace(RemovedTrace(B, "bea", "silent")) == (
        "bea is out: silent; stage 1 has nobody: let another worker join"
    )


@pytest.mark.parametrize("height", [23, 15, 9])
@pytest.mark.parametrize("num_workers", [2, 40])
def test_on_a_low_terminal_it_fits_and_the_newest_note_is_seen(height: int, num_workers: int) -> None:
    view = RunView("run", 100)
    for each in range(num_workers):
        view.trace(EnteredTrace(bytes([each]) * 32, f"worker-{each}", 1))
    for index in range(1, 20):
        view.trace(committed(index, (A,), 1.0))
        view.note(f"note {index} " + "that is longer than one line of a terminal " * 3)
    lines = shown(view.render(80, height), 80).splitlines()
    assert len(lines) <= height
    assert any("note 19" in line for line in lines)
    if height == 23:
        assert ("rounds" in [line.strip() for line in lines]) == (num_workers == 2)
        assert any("more" in line for line in lines) == (num_workers == 40)


def test_workers_of_one_machine_are_told_apart() -> None:
    view = view_of(EnteredTrace(A, "box", 1), EnteredTrace(B, "box", 1))
    assert row(view, "box (0101)")[1] == "joining"
    assert view.trace(RemovedTrace(B, "box", "silent")) == "box (0202) is out: silent"
