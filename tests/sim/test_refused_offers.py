"""A member refuses an offer only where its fragment is about to change, and what it refused is offered again.

Swarms of several fragments, in which records of one are applied while another one is offered (S4, S8).
"""

from __future__ import annotations

import pytest

from peers.protocol.commands import Offer
from peers.protocol.events import Restored, RoundCommitted, StateFetched, VersionExpected
from tests.sim.checkers import Checkers
from tests.sim.faults import Injector, draw_faults
from tests.sim.trainer import SYNC_EVERY
from tests.sim.world import Answered, Worker, World


class Refusals:
    """What comes of a fragment between an offer that an active member refuses and the next one."""

    def __init__(self, world: World) -> None:
        self.needless: list[str] = []
        self.put_off: list[str] = []
        self.num_refused = self.num_taken = self.num_told = 0
        self._refused: dict[tuple[Worker, int], int] = {}
        """By worker and fragment: its steps at the last refusal, as long as nothing has come of it."""
        world.notes.append(self.note)

    def note(self, now: float, worker: Worker, seen: object) -> None:
        match seen:
            case Answered(Offer(fragment), taken):
                self._answered(worker, fragment, taken)
            case RoundCommitted():
                self._refused.pop((worker, seen.record.fragment), None)
            case VersionExpected() | StateFetched():
                self.num_told += isinstance(seen, VersionExpected)
                self._refused.pop((worker, seen.fragment), None)
            case Restored():
                for fragment in range(len(worker.replica.sizes)):
                    self._refused.pop((worker, fragment), None)

    def _answered(self, worker: Worker, fragment: int, taken: bool) -> None:
        steps = self._refused.pop((worker, fragment), None)
        where = f"worker {worker.index}, fragment {fragment}, step {worker.session.steps}"
        if taken:
            self.num_taken += 1
            self.needless += [where] if steps is not None else []
        else:
            self.num_refused += 1
            assert worker.node.member is not None
            if worker.node.member.active:
                self._refused[worker, fragment] = worker.session.steps
        if steps is not None and worker.session.steps != steps + 1:
            self.put_off.append(where)


@pytest.mark.parametrize("delay", [0, SYNC_EVERY // 2, SYNC_EVERY])
@pytest.mark.parametrize("faults", [False, True])
def test_an_offer_waits_for_nothing_but_its_own_fragment_and_no_longer_than_a_step(
    faults: bool, delay: int
) -> None:
    num_refused = num_told = 0
    for seed in range(4):
        world = World(seed, 4, sizes=(64, 64, 64), delay=delay)
        checkers, refusals = Checkers(world), Refusals(world)
        if faults:
            Injector(world, draw_faults(world.net.stream("faults"), 4, 25.0))
        world.net.run(30.0)
        checkers.sweep()
        assert not refusals.needless
        assert not refusals.put_off
        assert refusals.num_taken > 50
        num_refused += refusals.num_refused
        num_told += refusals.num_told
    assert num_refused >= 1
    assert num_told >= faults
