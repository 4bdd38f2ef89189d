"""The owner's orders in simulation: who is put out counts no more, and a run that is stopped ends well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from peers.protocol.messages import PROTOCOL
from peers.protocol.orders import Kick, Obeyed, RevokeInvite, Stop
from tests.sim.checkers import Checkers
from tests.sim.doors import HOST, identity_of, invite_of, key_of
from tests.sim.world import World
from transport.frames import pack, unpack

KICKED = 1


def order(world: World, message: object) -> list[Any]:
    """What the host says to an order of its owner, once it said it."""
    answers: list[Any] = []

    def answered(now: float, reply: tuple[bytes, bytes] | None) -> None:
        answers.append(None if reply is None else unpack(reply[0]))

    owner = identity_of(HOST).control.public
    world.net.knock(key_of(HOST), owner, key_of(HOST), pack(message), answered)
    return answers


def run(world: World, checkers: Checkers, seconds: float) -> None:
    until = world.net.now + seconds
    while world.net.now < until:
        world.net.run(min(until, world.net.now + 1.0))
        checkers.sweep()


def nothing(world: World) -> None:
    """The host goes on."""


def restart(world: World) -> None:
    world.crash(HOST)
    world.restart(HOST)


@pytest.mark.parametrize("meanwhile", [nothing, restart])
def test_who_is_put_out_is_in_no_later_record_and_the_others_go_on(
    meanwhile: Callable[[World], None],
) -> None:
    world = World(31, 3)
    checkers = Checkers(world)
    run(world, checkers, 8.0)
    answers = order(world, Kick(PROTOCOL, f"w{KICKED}"))
    run(world, checkers, 0.5)
    assert [type(each) for each in answers] == [Obeyed]
    meanwhile(world)
    run(world, checkers, 2.0)
    since = len(checkers.records)
    run(world, checkers, 15.0)
    later = checkers.records[since:]
    assert len(later) > 3
    assert all(key_of(KICKED) not in record.members for record in later)
    refused = world.workers[KICKED].loop.refused
    assert refused is not None
    assert refused.code == "kicked"
    checkers.check_ledger()


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_stopped_is_over_for_all_with_one_state(seed: int) -> None:
    world = World(seed, 3)
    checkers = Checkers(world)
    run(world, checkers, 8.0)
    answers = order(world, Stop(PROTOCOL))
    run(world, checkers, 15.0)
    assert [type(each) for each in answers] == [Obeyed]
    assert [world.workers[i].loop.finished for i in range(3)] == [True] * 3
    heads = {world.workers[i].node.member.versions.head for i in range(3)}
    assert heads == {checkers.records[-1].hash()}
    assert world.host.coordinator.over(world.net.now)
    checkers.check_ledger()


def test_a_ticket_that_the_owner_revokes_lets_nobody_in_and_who_came_with_it_trains_on() -> None:
    world = World(7, 2)
    checkers = Checkers(world)
    run(world, checkers, 6.0)
    answers = order(world, RevokeInvite(PROTOCOL, invite_of("live")))
    run(world, checkers, 1.0)
    assert [type(each) for each in answers] == [Obeyed]
    world.start_worker(2)
    world.crash(HOST)
    world.restart(HOST)
    since = len(checkers.records)
    run(world, checkers, 10.0)
    assert len(checkers.records) > since
    assert {member for record in checkers.records for member in record.members} == {key_of(0), key_of(1)}
