"""Members whose outer step goes wrong, alone or together, against a host that does not train: it computes."""

from __future__ import annotations

import pytest

from peers.protocol.traces import DisputedTrace, ParityTrace, RecomputedTrace
from tests.sim.checkers import Checkers
from tests.sim.trainer import VectorReplica
from tests.sim.violation import Violation
from tests.sim.world import World
from transport.effects import Effect

WRONG_AT_S = 8.0
END_S = 40.0


class Dispute:
    """A swarm in which some hold another state than the others from some commit on, all of them the same."""

    def __init__(
        self,
        seed: int,
        num_workers: int,
        wrong: set[int],
        *,
        recomputes: bool = True,
        keep: bool = True,
        worn: bool = False,
    ) -> None:
        """Their step goes wrong as it writes the state, or the state is ``worn`` later, between two steps."""
        self.traces: list[Effect] = []
        self.world = World(seed, num_workers, sizes=(300, 64), recomputes=recomputes)
        self.world.observers.append(lambda now, key, effect: self.traces.append(effect))
        self.world.hostile = wrong
        self.checkers = Checkers(self.world)
        self.keep, self.worn = keep, worn
        self.world.net.at(WRONG_AT_S, self._go_wrong)

    def _go_wrong(self) -> None:
        for index in self.world.hostile:
            replica = self.world.workers[index].replica
            if self.worn:
                replica.wear(0)
            else:
                replica.corrupt = True
        if not self.keep:
            for worker in self.world.workers.values():
                worker.replica.former = Forgets()

    def run(self) -> int:
        """Records in the time after they went wrong, if nobody who is right ever holds another state."""
        self.world.net.run(WRONG_AT_S)
        before = len(self.checkers.records)
        now = WRONG_AT_S
        while now < END_S:
            now += 1.0
            self.world.net.run(now)
            self.checkers.sweep()
        return len(self.checkers.records) - before

    def repaired(self) -> set[int]:
        found = [each.peer for each in self.traces if isinstance(each, ParityTrace)]
        return {self.world.peer_names[peer] for peer in found}

    def count(self, kind: type) -> int:
        return sum(isinstance(each, kind) for each in self.traces)


class Forgets(dict[int, object]):
    """A worker that keeps nothing of what was before."""

    def __setitem__(self, fragment: int, state: object) -> None:
        """It is gone at once."""


@pytest.mark.parametrize(("num_workers", "wrong"), [(2, {1}), (2, {0}), (3, {0, 2}), (5, {0, 1, 2, 3})])
def test_commits_go_on_at_the_right_state_however_many_hold_another_one(
    num_workers: int, wrong: set[int]
) -> None:
    for seed in range(3):
        dispute = Dispute(seed, num_workers, wrong)
        assert dispute.run() > 10
        assert dispute.repaired() == wrong
        assert dispute.count(RecomputedTrace) >= 1
        assert dispute.count(DisputedTrace) == 0
        dispute.world.hostile = set()
        dispute.checkers.check_all_states()


@pytest.mark.parametrize(("num_workers", "wrong"), [(2, {0}), (3, {1}), (5, {2}), (6, {1, 4})])
def test_a_bit_that_is_flipped_in_a_state_after_it_was_told_is_found_at_the_next_commit_and_repaired(
    num_workers: int, wrong: set[int]
) -> None:
    dispute = Dispute(0, num_workers, wrong, worn=True)
    assert dispute.run() > 10
    assert dispute.repaired() == wrong
    assert dispute.count(DisputedTrace) == 0
    dispute.world.hostile = set()
    dispute.checkers.check_all_states()


def test_a_host_that_goes_by_most_instead_is_caught() -> None:
    dispute = Dispute(0, 3, {0, 2}, recomputes=False)
    with pytest.raises(Violation, match="S1"):
        dispute.run()


def test_where_nobody_keeps_the_state_before_the_run_waits_and_says_so_once() -> None:
    dispute = Dispute(0, 3, {0, 2}, keep=False)
    assert dispute.run() <= 6, "rounds of one fragment wait, and soon those of the other"
    assert (dispute.repaired(), dispute.count(DisputedTrace)) == (set(), 1)


def test_one_donor_that_is_honest_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    state_blob = VectorReplica.state_blob

    def selfish(replica: VectorReplica, fragment: int, blob: bytes) -> object:
        return None if replica.index in (0, 2) else state_blob(replica, fragment, blob)

    monkeypatch.setattr(VectorReplica, "state_blob", selfish)
    dispute = Dispute(1, 3, {0, 2})
    assert dispute.run() > 10
    assert dispute.repaired() == {0, 2}
