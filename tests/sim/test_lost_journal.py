"""All processes end and the host's journal is lost: the run goes on from where the workers' disks lead."""

from __future__ import annotations

import pytest

from diloco.checkpoints.shelf import Shelf
from diloco.settings import Checkpoint
from peers.coordinator.journal import CommitWritten
from peers.protocol.record import Record
from tests.sim.doors import HOST, key_of
from tests.sim.world import TIMEOUT_S, World
from transport.frames import unpack


class Bereft:
    """Three workers whose run has some commits; then all of that happens."""

    def __init__(self, seed: int, sizes: tuple[int, ...] = (300,)) -> None:
        self.world = World(seed, 3, sizes=sizes, with_disks=True, checkpoint=Checkpoint(every=5))
        self.world.net.run(12.0)
        for index in (HOST, 0, 1, 2):
            self.world.net.crash(key_of(index))
        self.before = self.commits()
        self.world.net.journal(key_of(HOST)).clear()
        for index in (HOST, 0, 1, 2):
            self.world.restart(index)
        assert self.world.host.coordinator is not None
        self.coordinator = self.world.host.coordinator
        self.coordinator.state.adopting = True
        self.run(5 * TIMEOUT_S)

    def run(self, seconds: float) -> None:
        self.world.net.run(self.world.net.now + seconds)

    def commits(self) -> list[Record]:
        entries = map(unpack, self.world.net.journal(key_of(HOST)))
        return [entry.commit() for entry in entries if isinstance(entry, CommitWritten)]

    def adopt(self) -> Record:
        """What the owner goes on from."""
        found = self.coordinator.proposal()
        assert found is not None, self.coordinator.members_ahead()
        host = self.world.net.peers[key_of(HOST)]
        assert self.world.net.command(host, lambda core, now: core.coordinator.adopt(now, found.head))
        return next(record for record in self.before if record.hash() == found.head)


@pytest.mark.parametrize("sizes", [(300,), (64, 64, 64)])
def test_a_run_without_its_journal_goes_on_from_where_most_had_followed(sizes: tuple[int, ...]) -> None:
    for seed in range(2):
        bereft = Bereft(seed, sizes)
        lost = bereft.before[-1].index - bereft.adopt().index
        assert lost <= len(sizes), seed
        bereft.run(4 * TIMEOUT_S)
        newest = bereft.commits()[-1]
        assert newest.index > bereft.before[-1].index
        assert set(newest.members) == {key_of(index) for index in range(3)}
        states = [bereft.world.workers[index].replica.states for index in range(3)]
        bereft.world.crash(HOST)  # so that all come to the same commit
        bereft.run(1.0)
        assert all(
            each.tobytes() == states[0][f].tobytes() for state in states for f, each in enumerate(state)
        )


def test_without_the_records_they_come_no_further_than_their_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which may be of different commits: then none can be gone on from."""
    monkeypatch.setattr(Shelf, "note", lambda self, record: None)
    bereft = Bereft(0)
    found = bereft.coordinator.proposal()
    assert found is None or found.index < bereft.before[-1].index - 1
