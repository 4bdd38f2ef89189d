"""Frames and knocks that a core got once are given to it again: nothing of the run changes (X3).

A swarm is played in virtual time, with a worker and a host that die and come back, and every frame is kept.
In the end each core gets all of them again, one by one, those of earlier lives too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from peers.node import Node
from peers.protocol.messages import Refused
from tests.hostile.copies import frozen
from tests.sim.checkers import Checkers
from tests.sim.doors import HOST, invite_of, key_of, knock_of
from tests.sim.world import World
from transport.effects import Effect, Send
from transport.frames import from_items, unpack, unpack_items
from transport.link.messages import Hello
from transport.link.streams import Kept

Frame = tuple[bytes, int, bytes, Any]
AWAY, RESTARTED = 3, 1
PER_COPY = 200
"""Frames that one copy of a core gets: a link hears so many at one instant."""


class TapedNode(Node):
    """It keeps every frame of each life of its key, and what was said at its door."""

    frames: dict[bytes, list[Frame]] = {}  # noqa: RUF012 - of all lives
    knocks: list[tuple[bytes, bytes]] = []  # noqa: RUF012

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Any) -> None:
        kept = None if payload is None else bytes(payload)
        self.frames.setdefault(self.key, []).append((peer, lane, header, kept))
        super().receive(now, peer, lane, header, payload)

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        self.knocks.append((invite, header))
        return super().knock(now, invite, header)


@cache
def played() -> World:
    """All lives are over but the last ones, and one worker has left for long."""
    TapedNode.frames, TapedNode.knocks = {}, []
    world = World(11, 4, sizes=(300, 64), make_node=TapedNode)
    for at_s, who in ((6.0, RESTARTED), (12.0, HOST)):
        world.net.at(at_s, lambda who=who: world.crash(who))
        world.net.at(at_s + 1.0, lambda who=who: world.restart(who))
    world.net.at(15.0, lambda: world.crash(AWAY))
    world.net.run(24.0)
    return world


def core_of(world: World, index: int) -> Node:
    return world.host if index == HOST else world.workers[index].node


def known_of_members(core: Node) -> list[str]:
    """All that a coordinator holds of members, rounds and records."""
    if core.coordinator is None:
        return []
    course = core.coordinator.state.courses[0]
    return [
        *map(repr, core.coordinator.roster.entries.values()),
        repr((course.chain.head, sorted(course.rounds), course.saves.by_member)),
    ]


def kept_for(core: Node) -> dict[bytes, Kept]:
    """What each link holds, by peer."""
    return {peer: link.streams.kept() for peer, link in core.links.by_peer.items()}


def is_news(effect: Effect) -> bool:
    """Whether an effect is more than a link's own word, or something that it says again."""
    return not isinstance(effect, Send) or (len(unpack_items(effect.header)) > 1 and not effect.again)


def replay(make: Callable[[], Node], now: float, frames: list[Frame]) -> tuple[Node, list[Effect]]:
    """A copy of a core that got the frames, and what it did."""
    core, effects = make(), []
    core.drain()
    for peer, lane, header, payload in frames:
        Node.receive(core, now, peer, lane, header, payload)
        effects += core.drain()
    return core, effects


@pytest.mark.parametrize("index", [HOST, 0, RESTARTED, 2])
def test_no_frame_that_a_core_ever_got_does_anything_the_second_time(index: int) -> None:
    world = played()
    core, now = core_of(world, index), world.net.now
    frames = [each for each in TapedNode.frames[core.key] if each[0] != key_of(AWAY)]
    assert len(frames) > 150
    make = frozen(core)
    digest, known, kept = make().digest(), known_of_members(make()), kept_for(make())
    for start in range(0, len(frames), PER_COPY):
        again, effects = replay(make, now, frames[start : start + PER_COPY])
        assert [each for each in effects if is_news(each)] == []
        assert (again.digest(), known_of_members(again), kept_for(again)) == (digest, known, kept)


def test_the_last_frame_changes_something_the_first_time() -> None:
    """So the test above would see it."""
    world = World(11, 2, sizes=(300,), make_node=TapedNode)
    world.net.run(5.0)
    core, seen = core_of(world, HOST), 0
    make, before = frozen(core), len(TapedNode.frames[core.key])
    world.net.run(6.0)
    for frame in TapedNode.frames[core.key][before:]:
        copy, effects = replay(make, world.net.now, [frame])
        seen += copy.digest() != make().digest() or any(map(is_news, effects))
    assert seen > 0


def test_frames_of_a_member_that_is_away_bring_nobody_back() -> None:
    world = played()
    make = frozen(world.host)
    frames = [each for each in TapedNode.frames[key_of(HOST)] if each[0] == key_of(AWAY)]
    assert any(isinstance(from_items(unpack_items(each[2])[0]), Hello) for each in frames)
    again, effects = replay(make, world.net.now, frames[-PER_COPY:])
    assert [each for each in effects if is_news(each)] == []
    assert known_of_members(again) == known_of_members(make())


def test_who_knocked_and_knocks_again_with_the_same_words_is_who_it_was() -> None:
    world = played()
    host, knocks = frozen(world.host)(), list(TapedNode.knocks)
    assert len(knocks) >= 4

    def known() -> list[str]:
        """But for when they were here last, by which they keep their places."""
        return [re.sub(r"absent_since=[\d.]+", "", each) for each in known_of_members(host)]

    before = known()
    for invite, header in knocks:
        assert host.knock(world.net.now, invite, header) is not None
    assert [each for each in host.drain() if is_news(each)] == []
    assert known() == before


def test_a_recorded_knock_opens_neither_another_run_nor_the_way_back_for_who_was_put_out() -> None:
    host = frozen(played().host)()
    of_another_run = knock_of(0, run=bytes(16))
    assert code_of(host.knock(played().net.now, invite_of("live"), of_another_run)) == "rubbish"
    assert host.coordinator is not None
    host.coordinator.kick(played().net.now, "w2")
    host.drain()
    assert code_of(host.knock(played().net.now, invite_of("live"), knock_of(2))) == "kicked"
    assert [each for each in host.drain() if is_news(each)] == []


def code_of(answer: tuple[bytes, bytes] | None) -> str:
    assert answer is not None
    message = unpack(answer[0])
    assert isinstance(message, Refused)
    return message.code


class RepeatingNode(Node):
    """It keeps what its member said to the host."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.said: list[Any] = []
        super().__init__(*arguments, **options)

    def send(self, now: float, peer: bytes, message: Any) -> None:
        if peer == key_of(HOST):
            self.said.append(message)
        super().send(now, peer, message)


@pytest.mark.parametrize("seed", range(4))
def test_a_member_that_says_again_what_it_ever_said_is_counted_once_and_stops_nobody(seed: int) -> None:
    """In new frames, as nobody but the member itself can: serials and versions tell what is old."""
    world = World(950 + seed, 4, sizes=(300, 64), make_node=RepeatingNode)
    world.hostile = {0}
    checkers, rng = Checkers(world), random.Random(seed)

    def speak(core: Any, now: float) -> None:
        link = core.links.by_peer.get(key_of(HOST))
        for message in rng.sample(core.said, min(len(core.said), 3)) if link else ():
            link.send_control(now, message)

    for number in range(200):
        world.net.at(4.0 + 0.1 * number, lambda: world.net.command(key_of(0), speak))
    for second in range(1, 26):
        world.net.run(float(second))
        checkers.check_memory()
    checkers.check_all_states()
    honest = {key_of(index) for index in (1, 2, 3)}
    assert len(checkers.records) > 10
    assert any(honest <= set(record.members) for record in checkers.records[-5:])
