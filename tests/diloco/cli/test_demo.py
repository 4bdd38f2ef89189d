"""The demo's worker processes end when it does, and no folder is emptied but its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from diloco.cli.demo import DEMO, Workers, run_demo
from diloco.errors import UserError


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    return Workers(tmp_path, tmp_path / "ticket")


def test_a_worker_that_cannot_join_has_failed_with_last_words(workers: Workers) -> None:
    with workers:
        workers.start("w0")
        workers.running["w0"].wait(30)
        assert workers.all_ended()
        assert not workers.ended_well()
        assert workers.failed() == ["w0"]
        assert "ticket" in workers.last_words("w0")
        assert "Traceback" not in workers.last_words("w0")


def test_a_worker_that_was_killed_on_purpose_has_not_failed(workers: Workers) -> None:
    with workers:
        workers.start("w0")
        workers.kill("w0")
        workers.running["w0"].wait(30)
        assert workers.failed() == []


def test_whatever_happens_no_worker_outlives_the_demo(workers: Workers) -> None:
    os.mkfifo(workers.ticket)  # from which nothing ever comes
    with workers:
        workers.start("w0")
        assert not workers.all_ended()
    assert workers.running["w0"].poll() not in (None, -signal.SIGKILL), "it was asked to end, and did"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something that is no demo"):
        run_demo(2, 2, False, tmp_path, None, None)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_demos_settings_are_those_of_the_readme() -> None:
    assert (DEMO.run.rounds, DEMO.method.preset, DEMO.method.resolved().sync_every) == (14, "diloco", 25)
