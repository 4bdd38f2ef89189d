"""Real processes, real signals: a swarm survives kills, stops and a host that dies."""

from __future__ import annotations

import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import diloco
from tests.net.over_curve import BOTH_WAYS, carried
from tests.net.swarm_processes import Processes, names_in, same_everywhere, settings

LARGE = 4 * 1024 * 1024
TIMEOUT_S = 1.5
pytestmark = pytest.mark.timeout(150)


@pytest.mark.parametrize(**BOTH_WAYS)
def test_a_worker_killed_in_an_exchange_costs_the_round_only_its_own_part(
    tmp_path: Path, ways: tuple[str, ...]
) -> None:
    run = settings(rounds=200, failure_timeout_s=TIMEOUT_S)
    with (
        carried(ways),
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host,
        Processes(tmp_path, LARGE) as workers,
    ):
        workers.ticket.write_text(host.ticket)
        workers.start(0, *ways)
        workers.until(lambda: workers.lines(0, "active"))
        workers.start(1, *ways)
        workers.start(2, "--in-exchange", "SIGKILL", *ways)
        fault = workers.until(lambda: workers.lines(2, "fault"))[0]["at"]
        after = workers.until(lambda: committed_after(workers, fault, rounds=3))
    assert [line["members"] for line in after] == [2, 2, 2]
    commits = same_everywhere(workers, [0, 1, 2])
    repaired = after[0]
    before = commits[repaired["index"] - 1]["value"]
    assert names_in(commits, repaired["index"], before) == "11"
    # Twice the failure timeout, as promised, plus what a loaded machine takes to run the processes.
    assert repaired["at"] - fault < 2 * TIMEOUT_S + 1.5


def committed_after(workers: Processes, moment: float, rounds: int) -> list[dict[str, Any]]:
    """The first commits that w0 saw after it, when there are as many."""
    after = [line for line in workers.lines(0, "committed") if line["at"] > moment]
    return after[:rounds] if len(after) >= rounds else []


@pytest.mark.parametrize(**BOTH_WAYS)
def test_a_stopped_worker_is_left_out_and_comes_back_when_it_goes_on(
    tmp_path: Path, ways: tuple[str, ...]
) -> None:
    run = settings(rounds=200, failure_timeout_s=TIMEOUT_S)
    with (
        carried(ways),
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host,
        Processes(tmp_path, LARGE // 4) as workers,
    ):
        workers.ticket.write_text(host.ticket)
        workers.start(0, *ways)
        workers.until(lambda: workers.lines(0, "active"))
        workers.start(1, *ways)
        workers.start(2, "--in-exchange", "SIGSTOP", *ways)
        fault = workers.until(lambda: workers.lines(2, "fault"))[0]["at"]
        without = workers.until(lambda: committed_after(workers, fault, rounds=1))[0]
        assert without["members"] == 2
        assert without["at"] - fault < 2 * TIMEOUT_S + 1.5
        workers.signal("w2", signal.SIGCONT)
        workers.until(lambda: workers.lines(2, "thawed"))
        workers.until(
            lambda: [
                c for c in workers.lines(2, "committed") if c["counted"] and c["index"] > without["index"]
            ]
        )
    commits = same_everywhere(workers, [0, 1, 2])
    assert names_in(commits, without["index"], commits[without["index"] - 1]["value"]) == "11"
    # Rounds that are over before it has caught up may go by too: each offer has one fate all the same.
    fates = [line["fate"] for line in workers.lines(2, "fate")]
    assert "late" in fates
    assert set(fates) <= {"applied", "late"}


def test_eight_workers_that_start_at_once_are_all_admitted(tmp_path: Path) -> None:
    run = settings(rounds=200, failure_timeout_s=6.0)
    with (
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host,
        Processes(tmp_path, 1000) as workers,
    ):
        workers.ticket.write_text(host.ticket)
        for index in range(8):
            workers.start(index, "--step-s", "0.1")

        def whole_after_whole() -> list[int]:
            # Whoever was not in the round before has trained longer, and moves more.
            commits = [c for c in workers.lines(0, "committed") if c["members"] == 8 and c["counted"]]
            return [b["index"] for a, b in pairwise(commits) if b["index"] == a["index"] + 1]

        workers.until(whole_after_whole, seconds=100)
        whole = whole_after_whole()[0]
        assert len(host.status()["members"]) == 8
    commits = same_everywhere(workers, list(range(8)))
    assert names_in(commits, whole, commits[whole - 1]["value"]) == "11111111"


def test_a_killed_host_that_restarts_finds_its_swarm_again(tmp_path: Path) -> None:
    toml = tmp_path / "RUN.toml"
    toml.write_text(
        "[run]\nrounds = 500\nfailure_timeout_s = 1.5\n[method]\npreset = 'local_sgd'\nsync_every = 4\n"
    )
    with Processes(tmp_path, 1000) as workers:
        command = [sys.executable, "-m", "diloco.cli", "host", str(toml), "--listen", "tcp://127.0.0.1:0"]
        command += ["--state", str(tmp_path / "host"), "--ticket-file", str(workers.ticket)]
        workers.run("host", command)
        workers.until(lambda: workers.ticket.exists() and workers.ticket.read_text().endswith("\n"))
        for index in range(3):
            workers.start(index)
        workers.until(lambda: any(c["members"] == 3 for c in workers.lines(0, "committed")))
        workers.signal("host", signal.SIGKILL)
        workers.until(lambda: all(workers.lines(i, "CoordinatorLost") for i in range(3)))
        last = workers.lines(0, "committed")[-1]["index"]
        workers.processes["host"].wait()
        workers.run("host", command)
        workers.until(
            lambda: any(c["members"] == 3 and c["index"] > last for c in workers.lines(0, "committed"))
        )
        workers.until(lambda: all(workers.lines(i, "CoordinatorBack") for i in range(3)))
        for index in range(3):
            lost, back = (
                workers.lines(index, each)[0]["step"] for each in ("CoordinatorLost", "CoordinatorBack")
            )
            assert back > lost + 4, "it trained on while the host was away"
    commits = same_everywhere(workers, [0, 1, 2])
    assert sorted(commits) == list(range(1, max(commits) + 1)), "the chain went on without a gap"


def test_a_worker_whose_numbers_are_not_finite_contributes_nothing_and_recovers(tmp_path: Path) -> None:
    run = settings(rounds=8, failure_timeout_s=TIMEOUT_S, min_peers=1)
    with (
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host,
        Processes(tmp_path, 1000) as workers,
    ):
        workers.ticket.write_text(host.ticket)
        workers.start(0)
        workers.start(1, "--nan-after", "2")
        workers.wait("w0", "w1")
    commits = same_everywhere(workers, [0, 1])
    assert workers.lines(1, "nan")
    assert all(line["value"] == line["value"] for line in commits.values())
    assert workers.lines(1, "committed")[-1]["counted"]
    assert [line["in_a_row"] for line in workers.lines(1, "lost")] == [1]


def test_a_worker_whose_numbers_stay_not_finite_leaves_and_the_others_go_on(tmp_path: Path) -> None:
    run = settings(rounds=8, failure_timeout_s=TIMEOUT_S, min_peers=1)
    with (
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host,
        Processes(tmp_path, 1000) as workers,
    ):
        workers.ticket.write_text(host.ticket)
        workers.start(0)
        workers.start(1, "--nan-after", "2", "--nan-stays")
        workers.wait("w0", "w1")
    commits = same_everywhere(workers, [0, 1])
    assert max(commits) == 8
    assert all(line["value"] == line["value"] for line in commits.values())
    assert [line["in_a_row"] for line in workers.lines(1, "lost")] == [1, 2, 3, 4, 5]
    assert "5th time in a row: this worker has left the run" in workers.lines(1, "diverged")[0]["reason"]
    assert workers.lines(0, "committed")[-1]["members"] == 1


def test_ctrl_c_of_a_worker_lets_the_others_go_on_at_once(tmp_path: Path) -> None:
    run = settings(rounds=12, failure_timeout_s=30.0)
    with (
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host,
        Processes(tmp_path, 1000) as workers,
    ):
        workers.ticket.write_text(host.ticket)
        for index in range(3):
            workers.start(index)
        workers.until(lambda: any(c["members"] == 3 for c in workers.lines(0, "committed")))
        workers.signal("w2", signal.SIGINT)
        # With a failure timeout of 30 s they could not be done in time if they had to notice.
        workers.processes.pop("w2").wait(25)
        workers.wait("w0", "w1")
    assert workers.lines(0, "committed")[-1]["members"] == 2
