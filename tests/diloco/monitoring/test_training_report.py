"""The report says what the files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diloco.monitoring.training_report import plot_loss, read_log, summarize


def write_log(path: Path, entries: list[dict[str, object]], tail: str = "") -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "w0.jsonl"
    write_log(
        path,
        [
            {"event": "active", "round": 0, "validation_loss": 5.0, "parameters": 1000},
            {"event": "step", "tokens": 10, "loss": 4.0},
            {"event": "step", "tokens": 20, "loss": 3.0},
            {
                "event": "end",
                "loss": 2.5,
                "steps": 50,
                "rounds": 5,
                "bytes_sent": 4000,
                "sample": "def  it\n works",
            },
        ],
    )
    return path


def test_bytes_are_compared_with_data_parallel_for_the_same_steps(whole: Path) -> None:
    summary = summarize([read_log(whole)], num_workers=4)
    # 2 (M - 1) / M x N x 4 bytes x steps
    assert summary.data_parallel_bytes == pytest.approx(2 * 3 / 4 * 1000 * 4 * 50)
    assert (summary.before, summary.after, summary.sample) == (5.0, 2.5, "def it works")
    assert "75 times" in "\n".join(summary.lines())


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w1.jsonl"
    write_log(path, [{"event": "step", "tokens": 10, "loss": 4.0}], tail='{"event": "st')
    assert read_log(path).steps == [(10, 4.0)]


def test_a_run_that_nobody_saw_end_is_no_result(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "w1.jsonl"
    write_log(path, [{"event": "active", "round": 0, "validation_loss": 5.0, "parameters": 10}])
    with pytest.raises(ValueError, match="saw the end"):
        summarize([read_log(path)], num_workers=2)


def test_the_loss_curve_is_a_png(whole: Path, tmp_path: Path) -> None:
    logs = [read_log(whole)]
    plot_loss(logs, summarize(logs, 2), tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
