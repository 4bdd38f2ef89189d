"""Links that end while something is under way: what they held comes again, and nobody waits in vain."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from peers.protocol.commands import ReportProgress
from peers.protocol.events import RoundCommitted
from peers.protocol.messages import Report
from tests.sim.checkers import Checkers
from tests.sim.doors import HOST, key_of
from tests.sim.world import GRACE_S, LIMITS, TIMEOUT_S, World


@pytest.mark.parametrize("seed", [8, 11, 14, 22, 28])
def test_what_was_sent_to_a_link_that_began_anew_is_sent_again(seed: int) -> None:
    """A worker thaws that the others have dropped with their links, and the next round opens before they
    greet: its parts went to the links of before. Without them everybody runs out of patience."""
    world = World(seed, 3)
    commits: list[float] = []
    world.notes.append(
        lambda now, _, event: commits.append(now) if isinstance(event, RoundCommitted) else None
    )
    world.net.run(12.0)
    for worker in world.workers.values():
        worker.step_s = 0.005
    frozen = world.workers[2].process
    world.net.freeze(frozen)
    world.net.run(12.0 + TIMEOUT_S + world.net.stream("thaw").uniform(0.0, 0.2))
    world.net.thaw(frozen)
    commits[:] = [world.net.now]
    world.net.run(world.net.now + 20.0)
    assert len(commits) > 60
    assert max(b - a for a, b in pairwise(sorted(commits))) < GRACE_S


def test_a_host_that_is_away_for_longer_than_messages_are_kept_finds_its_workers_again() -> None:
    world = World(1, 3, limits=replace(LIMITS, control_queue=64))
    checkers = Checkers(world)
    world.net.run(10.0)
    away = world.workers[0]
    world.net.cut(away.process, key_of(HOST))
    report = ReportProgress(Report(1, 1, 1, 0.0, True, 1.0, 1.0, 1, 1, 0))
    for _ in range(200):
        world.net.run(world.net.now + 0.05)
        world.net.command(away.process, lambda node, now: node.command(now, report))
    assert world.seen["messages_dropped"]
    world.net.mend(away.process, key_of(HOST))
    world.net.run(world.net.now + 4 * TIMEOUT_S)
    assert world.host.coordinator.roster.entries[key_of(0)].entered
    since = len(checkers.records)
    world.net.run(world.net.now + 5.0)
    counted = [checkers.counted[record.hash()] for record in checkers.records[since:]]
    assert any(0 in lives for lives in counted)
    checkers.sweep()
