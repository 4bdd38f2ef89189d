"""The door in simulation: a live invite lets its holder in some day, a stranger changes nothing (X1)."""

from __future__ import annotations

import pytest

from peers.coordinator.journal import PeerInvited
from peers.protocol.messages import Refused
from tests.sim.checkers import Checkers
from tests.sim.doors import HOST, STRANGER, attempts, key_of
from tests.sim.faults import Fault, Injector
from tests.sim.run import plan
from tests.sim.world import World
from transport.frames import unpack

STRANGERS = [Fault(0.7 + 1.3 * i, "stranger", 0) for i in range(12)]


def all_that_counts(seed: int, extra: list[Fault]) -> tuple[object, ...]:
    """Chain, fates, views and states of a seed after its faults and some more."""
    world, faults = plan(seed)
    checkers = Checkers(world)
    injector = Injector(world, faults + extra)
    world.net.run(16.0)
    checkers.sweep()
    assert injector.fired["stranger"] >= len(extra)
    fates = [(who, each.tokens, each.base, each.fate) for who, each in checkers.fates.contributions.items()]
    digests = [worker.node.digest() for worker in world.processes()]
    states = [state.tobytes() for worker in world.processes() for state in worker.replica.states]
    return checkers.records, fates, world.host.digest(), digests, states, world.net.journal(key_of(HOST))


@pytest.mark.parametrize("seed", [4, 5, 8])
def test_a_swarm_with_strangers_at_its_door_is_bit_for_bit_the_one_without(seed: int) -> None:
    assert all_that_counts(seed, STRANGERS) == all_that_counts(seed, [])


def test_every_attempt_is_refused_or_not_even_answered() -> None:
    world = World(5, 2)
    world.net.run(3.0)
    answers: list[str] = []
    for invite, header in attempts():
        world.net.knock(
            key_of(STRANGER),
            invite,
            key_of(HOST),
            header,
            lambda now, reply: answers.append("silence" if reply is None else code_of(reply[0])),
        )
    world.start_stranger()
    world.net.run(9.0)
    assert answers == ["silence", "expired", "silence", "rubbish", "rubbish", "rubbish"]
    assert world.strangers[0].answered == []
    assert len(world.strangers[0].known) == 3


def code_of(header: bytes) -> str:
    message = unpack(header)
    assert isinstance(message, Refused)
    return message.code


def test_a_joiner_knocks_until_the_host_is_there_and_is_let_in_once_and_for_all() -> None:
    world = World(5, 2)
    world.crash(HOST)
    world.net.run(4.0)
    assert (world.knocking, world.workers) == ({0, 1}, {})
    world.restart(HOST)
    world.net.run(8.0)
    assert (world.knocking, set(world.workers)) == (set(), {0, 1})
    world.crash(0)
    world.restart(0)
    world.net.run(12.0)
    entries = [unpack(entry) for entry in world.net.journal(key_of(HOST))]
    certified = [entry.key for entry in entries if isinstance(entry, PeerInvited)]
    assert sorted(certified) == sorted([key_of(0), key_of(1)])
