"""Real processes that all die: the second start goes on by itself, with the rounds that were committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.net.kept_swarm import KeptSwarm
from tests.net.swarm_processes import Processes, same_everywhere

pytestmark = pytest.mark.timeout(150)
SETTINGS = """
[run]
rounds = 500
failure_timeout_s = 1.5
outlier_factor = 0.0
max_influence = 0.0
[method]
preset = "local_sgd"
sync_every = 4
"""


def test_when_every_process_was_killed_the_second_start_goes_on_and_no_round_is_lost(tmp_path: Path) -> None:
    """In another order, and with one of them missing."""
    with Processes(tmp_path, 1000) as processes:
        swarm = KeptSwarm(processes, tmp_path, SETTINGS)
        swarm.start_host()
        for index in range(3):
            swarm.start_worker(index)
        processes.until(lambda: len(swarm.commits(0, members=3)) >= 3)
        last = swarm.kill_all(3)
        swarm.start_worker(2)
        swarm.start_host()
        swarm.start_worker(0)
        processes.until(lambda: swarm.commits(0, members=2, above=last))
        processes.until(lambda: swarm.commits(2, members=2, above=last))
        assert processes.lines(0, "restored")
        assert processes.lines(2, "restored")
    commits = same_everywhere(processes, [0, 1, 2])
    assert sorted(commits) == list(range(1, max(commits) + 1)), "no record was given up, and none is missing"
