"""A machine that sleeps longer than the failure timeout is out of the run, and comes back when it wakes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import diloco
from tests.net.swarm_processes import Processes, same_everywhere, settings

pytestmark = pytest.mark.timeout(150)


@pytest.mark.parametrize("how", [(), ("--suspends",)], ids=["stopped", "suspended"])
def test_who_slept_comes_back_as_who_it_was_and_counts_again(tmp_path: Path, how: tuple[str, ...]) -> None:
    run = settings(rounds=10_000, failure_timeout_s=1.5)
    with (
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host,
        Processes(tmp_path, 1000) as workers,
    ):
        workers.ticket.write_text(host.ticket)
        for index in range(3):
            workers.start(index, *(how if index == 2 else ()))
        workers.until(lambda: any(c["members"] == 3 for c in workers.lines(0, "committed")))
        keys = {each["name"]: each["key"] for each in host.status()["members"]}
        workers.signal("w2", signal.SIGSTOP)
        workers.until(lambda: "w2" not in {each["name"] for each in host.status()["members"]})
        last = workers.lines(0, "committed")[-1]["index"]
        workers.until(lambda: workers.lines(0, "committed")[-1]["index"] > last + 2)
        assert workers.lines(0, "committed")[-1]["members"] == 2
        workers.signal("w2", signal.SIGCONT)
        workers.until(
            lambda: any(c["counted"] and c["index"] > last + 2 for c in workers.lines(2, "committed"))
        )
        assert {each["name"]: each["key"] for each in host.status()["members"]} == keys
        assert workers.processes["w2"].poll() is None, "it is the process that it was"
        assert len(workers.lines(2, "active")) == 1
    same_everywhere(workers, [0, 1, 2])
