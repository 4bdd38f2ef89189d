"""Deaths and broken links in a simulated swarm: who leaves a round, when, and who does not."""

from __future__ import annotations

from typing import Any

import pytest

from peers import absence
from peers.protocol.messages import Missing
from peers.protocol.traces import CommittedTrace, OpenedTrace, RemovedTrace, RepairedTrace
from tests.sim import gossip_world, lossy_hour
from tests.sim.doors import HOST, key_of
from tests.sim.gossip_world import GossipWorld
from tests.sim.gossip_world import key_of as gossiper_key
from tests.sim.world import TIMEOUT_S, World
from transport.effects import Effect, Probe, Trace
from transport.redial import SILENCE_S, Redial

VICTIM = 2


class Watched(World):
    """A world of three, what its host says happens, and when."""

    def __init__(self, seed: int, **fields: object) -> None:
        self.told: list[tuple[float, Trace]] = []
        self.probes: list[float] = []
        super().__init__(seed, 3, observers=[self._note], **fields)  # type: ignore[arg-type]

    def _note(self, now: float, key: bytes, effect: Effect) -> None:
        if isinstance(effect, Probe):
            self.probes.append(now)
        elif isinstance(effect, Trace):
            self.told.append((now, effect))

    def of(self, kind: type[Trace], since: float = 0.0) -> list[float]:
        return [at for at, trace in self.told if isinstance(trace, kind) and at > since]

    def until(self, kind: type[Trace], seconds: float = 60.0) -> float:
        """Run until there is one more of a kind; when that was."""
        before = len(self.of(kind))
        assert self.net.run(self.net.now + seconds, lambda: len(self.of(kind)) > before)
        return self.net.now

    def in_exchange(self) -> float:
        """Run until a round with all three has opened and its parts are under way."""
        while len(next(t.members for _, t in reversed(self.told) if isinstance(t, OpenedTrace))) < 3:
            self.until(OpenedTrace)
        self.until(OpenedTrace)
        self.net.run(self.net.now + 0.01)
        return self.net.now


def begun(seed: int, **fields: object) -> Watched:
    world = Watched(seed, **fields)
    world.until(CommittedTrace)
    world.until(CommittedTrace)
    return world


def cut_off(world: Watched, seconds: float) -> None:
    """The victim's links to the host and to all others break, and come back later."""
    others = [key_of(index) for index in (HOST, 0, 1)]
    for other in others:
        world.net.cut(key_of(VICTIM), other)
    world.net.at(seconds, world.net.heal)


@pytest.mark.parametrize("seed", range(5))
def test_a_death_leaves_the_open_round_at_once_and_the_run_after_the_failure_timeout(seed: int) -> None:
    world = begun(seed)
    killed = world.in_exchange()
    world.net.crash(key_of(VICTIM))
    committed = world.until(CommittedTrace)
    assert committed - killed < 1.0
    removed = world.until(RemovedTrace)
    assert removed - killed > TIMEOUT_S / 2


@pytest.mark.parametrize("seed", range(5))
def test_whoever_accepts_no_connections_is_missed_a_second_after_the_end_of_its_link(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody can be asked whether it lives, as with one that only dials.
    monkeypatch.setattr(Redial, "refused", lambda redial: False)
    monkeypatch.setattr("transport.simnet.connections.Connections.probe", lambda *told: None)
    world = begun(seed)
    killed = world.in_exchange()
    world.net.crash(key_of(VICTIM))
    repaired = world.until(RepairedTrace)
    assert 0.9 < repaired - killed < 1.2


@pytest.mark.parametrize("seed", range(5))
def test_a_link_that_ends_and_is_back_within_a_second_leaves_no_round(seed: int) -> None:
    world = begun(seed)
    broken = world.in_exchange()
    for other in (HOST, 0, 1):
        world.net.reset(key_of(VICTIM), key_of(other))
    world.until(CommittedTrace)
    assert not world.of(RepairedTrace, broken)


def test_without_the_second_to_come_back_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "BACK_WITHIN_S", 0.0)
    world = begun(0)
    broken = world.in_exchange()
    world.net.reset(key_of(VICTIM), key_of(HOST))
    world.until(CommittedTrace)
    assert world.of(RepairedTrace, broken)


@pytest.mark.parametrize("seed", range(5))
def test_a_link_that_is_away_for_longer_leaves_the_round_and_stays_a_member(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout_s = 2 * SILENCE_S  # an attempt while the link is cut off may hang for half of that
    monkeypatch.setattr("tests.sim.world.TIMEOUT_S", timeout_s)
    world = begun(seed)
    broken = world.in_exchange()
    cut_off(world, 1.5)
    world.until(RepairedTrace)
    world.net.run(world.net.now + 3 * timeout_s)
    assert not world.of(RemovedTrace, broken)
    newest = [t.members for _, t in world.told if isinstance(t, CommittedTrace)][-1]
    assert key_of(VICTIM) in newest


def test_a_process_that_stalls_for_two_seconds_is_left_to_heartbeats() -> None:
    world = begun(1)
    stalled = world.in_exchange()
    world.net.freeze(key_of(VICTIM))
    world.net.at(0.8 * TIMEOUT_S, lambda: world.net.thaw(key_of(VICTIM)))
    world.until(CommittedTrace)
    assert not world.of(RepairedTrace, stalled)
    assert not world.of(RemovedTrace, stalled)


def test_a_word_that_a_living_member_is_missing_makes_the_host_ask_and_nothing_else() -> None:
    world = begun(2)
    told = world.in_exchange()
    node = world.workers[0].node
    for _ in range(50):
        world.net.command(
            key_of(0), lambda core, now: node.links.send(now, key_of(HOST), Missing(key_of(VICTIM)))
        )
        world.net.run(world.net.now + 0.1)
    assert 1 <= len([at for at in world.probes if at > told]) <= 2, "once per member and five seconds"
    assert not world.of(RepairedTrace, told)
    assert not world.of(RemovedTrace, told)


def test_a_host_that_returns_is_dialled_within_half_a_second() -> None:
    world = begun(4)
    world.crash(HOST)
    world.net.run(world.net.now + 20.0)
    world.restart(HOST)
    listens = world.net.now
    world.net.run(listens + 0.8)
    assert all(world.workers[index].node.links.is_up(key_of(HOST)) for index in range(3))
    assert world.until(CommittedTrace) - listens < SILENCE_S


def test_a_joiner_that_dies_while_it_joins_delays_nobody() -> None:
    world = begun(5)
    world.start_worker(3)
    world.net.run(world.net.now + 60.0, lambda: 3 in world.workers and world.workers[3].node.member.active)
    assert world.workers[3].node.member is not None
    killed = world.net.now
    world.net.crash(key_of(3))
    assert world.until(CommittedTrace) - killed < 2.0
    assert not world.of(RemovedTrace, killed), "it was not its removal that let the round open"


@pytest.mark.parametrize("seed", range(3))
def test_gossip_gives_up_a_swap_with_a_dead_partner_at_once(seed: int) -> None:
    world = GossipWorld(seed, 2)
    world.net.run(5.0)
    one = world.workers[0]
    assert world.net.run(world.net.now + 10.0, lambda: one.waiting_since is not None)
    killed = world.net.now
    world.net.crash(gossiper_key(1))
    assert world.net.run(world.net.now + 10.0, lambda: one.waiting_since is None)
    assert world.net.now - killed < 1.2 < gossip_world.TIMEOUT_S


class Mute:
    """Has a member send no bulk, or only so much of it, from now on."""

    def __init__(self, world: Watched, index: int, every_s: float | None = None) -> None:
        node = world.workers[index].node
        self._send, self._every_s, self._next = node.send_bulk, every_s, world.net.now
        self._world = world
        node.send_bulk = self.send_bulk  # type: ignore[method-assign]

    def send_bulk(self, *args: Any, **named: Any) -> None:
        if self._every_s is not None and self._world.net.now >= self._next:
            self._next = self._world.net.now + self._every_s
            self._send(*args, **named)


@pytest.mark.parametrize("every_s", [None, 60.0, 0.9 * TIMEOUT_S])
def test_a_member_that_lives_and_sends_nothing_or_a_chunk_now_and_then_costs_one_failure_timeout(
    every_s: float | None,
) -> None:
    world = begun(6, sizes=(3000,))
    while len(next(t.members for _, t in reversed(world.told) if isinstance(t, OpenedTrace))) < 3:
        world.until(OpenedTrace)
    world.until(CommittedTrace)
    Mute(world, VICTIM, every_s)
    opened = world.until(OpenedTrace)
    committed = world.until(CommittedTrace)
    assert committed - opened < 1.7 * TIMEOUT_S, "patience is four times the failure timeout here"


def test_on_lossy_lines_and_with_stalls_nobody_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    said, rounds = lossy_hour.false_deaths(0, hours=0.1)
    assert said == []
    assert rounds > 20
    monkeypatch.setattr(lossy_hour, "FAILURE_TIMEOUT_S", 1.5)
    said, _ = lossy_hour.false_deaths(0, hours=0.1)
    assert said, "with a failure timeout shorter than a stall somebody is"
