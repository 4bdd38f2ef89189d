"""Real processes that share their checkpoints out, and all die: together they have the state, and go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from diloco.checkpoints.finding import stores_in
from peers.coordinator.journal import StateCovered
from peers.coordinator.journal_scan import scan
from tests.net.kept_swarm import KeptSwarm
from tests.net.swarm_processes import Processes, same_everywhere

pytestmark = pytest.mark.timeout(240)
SETTINGS = """
[run]
rounds = 5000
failure_timeout_s = 1.5
outlier_factor = 0.0
max_influence = 0.0
[method]
preset = "local_sgd"
sync_every = 8
num_fragments = 4
[checkpoint]
copies = 2
keep = 1
"""
NUM_WORKERS = 4
FOUR = ("--tensors", "4")
"""Of each worker's model: a fragment each."""


class Swarm(KeptSwarm):
    """One whose workers share their checkpoints out."""

    def covered(self) -> list[int]:
        found: list[int] = []
        for journal in (self.folder / "host").rglob("journal-*"):
            found += [e.index for e in scan(journal.read_bytes()).entries if isinstance(e, StateCovered)]
        return found

    def shares_are_out(self) -> bool:
        """A state is covered of which nobody has all."""
        covered = self.covered()
        has = [dict(self.shares(index)).get(covered[-1], ()) for index in range(NUM_WORKERS) if covered]
        return bool(has) and all(len(each) < 4 for each in has)

    def shares(self, index: int) -> list[tuple[int, frozenset[int]]]:
        """The commit and the fragments of each checkpoint on a worker's disk."""
        return [
            (saved.manifest.index, saved.manifest.here)
            for _, store in stores_in(self.state_of(index))
            for saved in store.newest()
        ]


def test_shares_on_several_disks_are_one_state_again_also_with_one_of_them_missing(tmp_path: Path) -> None:
    with Processes(tmp_path, 1000) as processes:
        swarm = Swarm(processes, tmp_path, SETTINGS)
        swarm.start_host()
        for index in range(NUM_WORKERS):
            swarm.start_worker(index, *FOUR)
        processes.until(swarm.shares_are_out, seconds=90)
        last = swarm.kill_all(NUM_WORKERS)
        newest = swarm.covered()[-1]
        has = [dict(swarm.shares(index)).get(newest, frozenset()) for index in range(NUM_WORKERS)]
        assert [sum(fragment in each for each in has) for fragment in range(4)] == [2, 2, 2, 2]
        assert all(len(each) < 4 for each in has), has

        for index in (2, 0, 3):
            swarm.start_worker(index, *FOUR)
        swarm.start_host()
        for index in (0, 2, 3):
            processes.until(lambda index=index: swarm.commits(index, members=3, above=last), seconds=90)
        swarm.start_worker(1, *FOUR)
        processes.until(lambda: swarm.commits(1, members=4, above=last), seconds=90)
    commits = same_everywhere(processes, list(range(NUM_WORKERS)))
    assert sorted(commits) == list(range(1, max(commits) + 1)), "no record was given up, and none is missing"
