"""An admitted member that says anything: others keep their rounds, and no core ever raises.

The hostile member runs the production code, so that its frames are well-formed and it is admitted;
besides, it says random messages of every kind, with edge values, to everyone it is linked to.
"""

from __future__ import annotations

import random
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from peers.coordinator.journal import CommitWritten
from tests.sim.checkers import Checkers
from tests.sim.world import HOST, World, key_of
from transport.frames import Between, kinds, pack, unpack

HOSTILE = 0


def any_value(rng: random.Random, hint: Any, known: list[bytes]) -> Any:
    """A valid value of a field, often an edge or something that means something here."""
    bounds = Between(0, 1)
    if get_origin(hint) is Annotated:
        hint, bounds, *fits = get_args(hint)
        if fits and rng.random() < 0.9:
            return fits[0].example
    low, high = bounds.low, bounds.high
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if items[-1] is Ellipsis:
            size = rng.choice([int(low), min(int(high), 3), min(int(high), rng.randint(0, 12))])
            return tuple(any_value(rng, items[0], known) for _ in range(size))
        return tuple(any_value(rng, item, known) for item in items)
    if hint is bool:
        return rng.random() < 0.5
    if hint is int:
        return int(
            rng.choice([low, high, min(high, low + rng.randint(0, 5)), rng.randint(int(low), int(high))])
        )
    if hint is float:
        return float(rng.choice([low, high, 0.0, 1.0, rng.uniform(0, 1e6)]))
    size = rng.choice([int(low), min(int(high), 32), int(min(high, low + 7))])
    if hint is str:
        return "".join(rng.choice("abcÅ☃ {}%s") for _ in range(size))
    if size == 32 and rng.random() < 0.7:
        return rng.choice(known)
    return rng.randbytes(size)


def any_message(rng: random.Random, known: list[bytes]) -> Any:
    cls = rng.choice([c for number, c in kinds().items() if number >= 10])
    hints = get_type_hints(cls, include_extras=True)
    return cls(*(any_value(rng, hint, known) for hint in hints.values()))


def results(world: World) -> list[bytes]:
    """What records named, in order."""
    journal = [unpack(entry) for entry in world.net.journal(key_of(HOST))]
    return [each.commit().result for each in journal if isinstance(each, CommitWritten)]


def say_something(world: World, rng: random.Random) -> None:
    key = key_of(HOSTILE)
    node = world.workers[HOSTILE].node
    if not world.alive(HOSTILE) or not node.links.by_peer:
        return
    assert world.host.coordinator is not None
    heads = [each.chain.head for each in world.host.coordinator.state.courses.values()]
    known = [key_of(HOST), *(w.key for w in world.workers.values()), *heads]
    known += results(world)[-3:]

    def speak(core: Any, now: float) -> None:
        for _ in range(rng.randint(1, 3)):
            link = node.links.by_peer[rng.choice(sorted(node.links.by_peer))]
            message = any_message(rng, known)
            try:
                pack(message)
            except ValueError:
                continue  # it would not fit into a frame
            if rng.random() < 0.3:
                size = rng.choice([0, 1, 24, 100, 1024])
                if link.streams.room() > size:
                    link.streams.send_bulk(now, message, rng.randbytes(size), "exchange")
            else:
                link.send_control(now, message)

    world.net.command(key, speak)


@pytest.mark.parametrize("seed", range(8))
def test_a_member_that_says_anything_stops_nobody(seed: int) -> None:
    world = World(900 + seed, 5, sizes=(300, 64))
    world.hostile = {HOSTILE}
    checkers = Checkers(world)
    rng = random.Random(seed)
    for i in range(400):
        world.net.at(3.0 + 0.05 * i, lambda: say_something(world, rng))
    for second in range(1, 30):
        world.net.run(float(second))
        checkers.check_memory()
    # Honest members went on: their commits count nobody twice and their states are what records say.
    checkers.check_all_states()
    late = checkers.records[-5:]
    honest = {key_of(i) for i in range(1, 5)}
    assert len(checkers.records) > 10
    assert any(honest <= set(record.members) for record in late)


def test_every_kind_was_said() -> None:
    rng = random.Random(1)
    said = {type(any_message(rng, [bytes(32)])) for _ in range(3000)}
    assert said == {c for number, c in kinds().items() if number >= 10}
    assert CommitWritten in said
