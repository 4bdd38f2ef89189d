"""Who is told to move to another stage, when, and what becomes of that over restarts."""

from __future__ import annotations

import pytest

from peers.coordinator.influence import NormHistory
from peers.coordinator.journal import WouldMove
from peers.coordinator.moving import GIVES_UP_TIMEOUTS, LASTS_TIMEOUTS, REST_TIMEOUTS
from peers.protocol.messages import Leave
from peers.protocol.placing import ANY_STAGE, AskStage, MoveTo, StageIs
from peers.protocol.stream import Draining, ReplicaGone, StandsSince
from peers.protocol.traces import StageGivenTrace
from tests.peers.coordinator.coordinator_kit import Swarm, key, speed
from transport.frames import unpack

TIMEOUT_S = 4.0
STAGES = {1: 0, 2: 0, 3: 0, 4: 1}


def come(
    swarm: Swarm,
    index: int,
    stage: int,
    *,
    moves: bool = True,
    wish: int = ANY_STAGE,
    memory: int = 0,
    elements: int = 1000,
) -> None:
    """One is given a stage, enters with it, holds its state and says how fast it is."""
    swarm.core.certify(key(index), f"w{index}")
    swarm.hear(index, AskStage(memory, wish, moves))
    assert swarm.told(index, StageIs)[-1].stage == stage
    begin(swarm, index, stage, elements)


def begin(swarm: Swarm, index: int, stage: int, elements: int = 1000) -> None:
    swarm.greet(index, stage=stage, elements=(elements,))
    swarm.hold(index)
    swarm.hear(index, speed(1.0))


def starved(*, moves: bool = True, memory: int = 0, elements: tuple[int, int] = (1000, 1000)) -> Swarm:
    """Stage 0 has three replicas, and stage 1 has one."""
    swarm = Swarm(stages=2, failure_timeout_s=TIMEOUT_S, min_peers=1)
    for index, stage in {1: 0, 2: 1, 3: 0, 4: 1, 5: 0, 6: 1}.items():
        come(swarm, index, stage, moves=moves, memory=memory, elements=elements[stage])
    for index in (4, 6):
        swarm.hear(index, Leave("done"))
    return swarm


def run(swarm: Swarm, timeouts: float) -> None:
    """Time passes, in steps."""
    for _ in range(int(timeouts * 4)):
        swarm.later(TIMEOUT_S / 4)


def movers(swarm: Swarm) -> list[int]:
    return [index for index in range(1, 7) if swarm.told(index, MoveTo)]


ENOUGH = REST_TIMEOUTS + LASTS_TIMEOUTS + 2


def test_one_is_told_to_move_once_a_stage_was_starved_for_a_while() -> None:
    swarm = starved()
    run(swarm, LASTS_TIMEOUTS + 1)
    assert not movers(swarm), "the host has just begun"
    run(swarm, ENOUGH)
    assert movers(swarm) == [1]
    assert swarm.told(1, MoveTo) == [MoveTo(1)]


@pytest.mark.parametrize(
    ("memory", "elements", "is_moved"),
    [
        (0, (1000, 1001), False),
        (0, (1000, 999), True),
        (16 * 1001, (1000, 1001), True),
    ],
)
def test_nobody_moves_to_a_larger_stage_who_did_not_say_that_it_has_the_memory(
    memory: int, elements: tuple[int, int], is_moved: bool
) -> None:
    swarm = starved(memory=memory, elements=elements)
    run(swarm, LASTS_TIMEOUTS + 1 + ENOUGH)
    assert bool(movers(swarm)) is is_moved


def test_nobody_moves_who_did_not_say_that_it_would_or_asked_for_its_stage() -> None:
    swarm = starved(moves=False)
    run(swarm, 2 * ENOUGH)
    assert not movers(swarm)


def move(swarm: Swarm) -> None:
    """The mover has finished, leaves, and asks again."""
    swarm.hear(1, Leave("moves"))
    swarm.hear(1, AskStage(0, ANY_STAGE, True))


def test_a_mover_is_given_its_stage_when_it_asks_again_and_the_next_move_takes_its_time() -> None:
    swarm = starved()
    run(swarm, ENOUGH)
    move(swarm)
    assert swarm.told(1, StageIs)[-1] == StageIs(1)
    traces = [each for each in swarm.traces if isinstance(each, StageGivenTrace)]
    assert [each.stage for each in traces if each.peer == key(1)] == [0, 1]
    begin(swarm, 1, 1)
    run(swarm, ENOUGH)
    assert movers(swarm) == [1], "two and two"
    swarm.hear(1, Leave("done"))
    again = Swarm(swarm.journal, stages=2, failure_timeout_s=TIMEOUT_S)
    again.hear(1, AskStage(0, ANY_STAGE, True))
    assert again.told(1, StageIs) == [StageIs(1)]


def test_a_move_outlives_the_host_and_a_mover_that_is_still_there_is_told_again() -> None:
    swarm = starved()
    run(swarm, ENOUGH)
    again = Swarm(swarm.journal, stages=2, failure_timeout_s=TIMEOUT_S, min_peers=1)
    for index, stage in ((1, 0), (2, 1), (3, 0)):
        begin(again, index, stage)
    assert movers(again) == [1]
    move(again)
    assert again.told(1, StageIs)[-1] == StageIs(1)


@pytest.mark.parametrize(("memory", "moved_to"), [(0, []), (16 * 1001, [1])])
def test_who_would_move_and_how_much_it_can_hold_outlives_the_host(memory: int, moved_to: list[int]) -> None:
    """Here the larger stage loses most behind the restart."""
    swarm = starved(memory=memory, elements=(1000, 1001))
    again = Swarm(swarm.journal, stages=2, failure_timeout_s=TIMEOUT_S, min_peers=1)
    for index, stage in ((1, 0), (2, 1), (3, 0), (5, 0)):
        begin(again, index, stage, 1000 + stage)
    run(again, LASTS_TIMEOUTS + 1 + ENOUGH)
    assert movers(again) == moved_to
    equal = Swarm(starved().journal, stages=2, failure_timeout_s=TIMEOUT_S, min_peers=1)
    for index, stage in ((1, 0), (2, 1), (3, 0), (5, 0)):
        begin(equal, index, stage)
    run(equal, LASTS_TIMEOUTS + 1 + ENOUGH)
    assert movers(equal) == [1]


def test_who_comes_back_as_before_costs_the_journal_nothing_more() -> None:
    swarm = starved()
    kept = [each for each in map(unpack, swarm.journal) if isinstance(each, WouldMove)]
    assert kept == [WouldMove(key(index), True, 0) for index in range(1, 7)]
    come(swarm, 4, 1)
    assert len([each for each in map(unpack, swarm.journal) if isinstance(each, WouldMove)]) == 6


def test_a_mover_that_was_killed_while_the_host_restarted_stands_in_its_old_stage_no_more() -> None:
    swarm = starved()
    run(swarm, ENOUGH)
    again = Swarm(swarm.journal, stages=2, failure_timeout_s=TIMEOUT_S, min_peers=1)
    for index, stage in ((2, 1), (3, 0)):
        begin(again, index, stage)
    again.hear(1, AskStage(0, ANY_STAGE, True))
    assert again.told(1, StageIs)[-1] == StageIs(1)
    assert key(1) in [each.key for each in again.told(3, ReplicaGone)]
    assert [ask_new(again, index) for index in (7, 8)] == [0, 0], "it is awaited in the other one"


def ask_new(swarm: Swarm, index: int) -> int:
    swarm.core.certify(key(index), f"w{index}")
    swarm.hear(index, AskStage(0, ANY_STAGE, True))
    found = swarm.told(index, StageIs)[-1].stage
    assert isinstance(found, int)
    return found


def test_a_mover_that_everybody_else_of_its_stage_has_left_stays() -> None:
    swarm = starved()
    run(swarm, ENOUGH)
    for index in (3, 5):
        swarm.hear(index, Leave("done"))
    move(swarm)
    assert swarm.told(1, StageIs)[-1] == StageIs(0)
    begin(swarm, 1, 0)
    assert swarm.told(1, MoveTo) == [MoveTo(1)], "it is told no more"


def drain(swarm: Swarm, index: int) -> None:
    swarm.hear(index, Draining(swarm.told(index, StandsSince)[-1].since))


def test_who_is_about_to_leave_holds_no_stage_for_one_that_moves() -> None:
    swarm = starved()
    for index in (3, 5):
        drain(swarm, index)
    run(swarm, 2 * ENOUGH)
    assert not movers(swarm), "it would be the last"
    swarm = starved()
    run(swarm, ENOUGH)
    assert movers(swarm) == [1]
    for index in (3, 5):
        drain(swarm, index)
    move(swarm)
    assert swarm.told(1, StageIs)[-1] == StageIs(0)


def test_what_is_known_of_a_member_in_one_stage_does_not_count_in_another() -> None:
    swarm = starved()
    run(swarm, ENOUGH)
    entry = swarm.core.roster.entries[key(1)]
    entry.norms[0] = NormHistory()
    entry.num_penalties, entry.sits_out_until, entry.dissented_at, entry.wrong_at = 2, 1000, 1000, 1000
    swarm.hear(1, Leave("moves"))
    swarm.hear(1, AskStage(0, ANY_STAGE, True))
    assert swarm.told(1, StageIs)[-1] == StageIs(1)
    assert entry.norms == {}
    assert entry.num_penalties == entry.sits_out_until == entry.dissented_at == entry.wrong_at == 0


def test_nobody_gets_rid_of_its_norms_by_coming_back_to_its_stage() -> None:
    swarm = starved()
    entry = swarm.core.roster.entries[key(1)]
    entry.norms[0], entry.num_penalties = NormHistory(), 2
    swarm.hear(1, Leave("done"))
    come(swarm, 1, 0)
    assert (len(entry.norms), entry.num_penalties) == (1, 2)


@pytest.mark.parametrize(("wish", "moves"), [(0, True), (0, False), (ANY_STAGE, False)])
def test_a_mover_that_comes_back_as_one_that_does_not_move_stays(wish: int, moves: bool) -> None:
    swarm = starved()
    run(swarm, ENOUGH)
    swarm.hear(1, Leave("killed"))
    swarm.hear(1, AskStage(0, wish, moves))
    assert swarm.told(1, StageIs)[-1] == StageIs(0)
    again = Swarm(swarm.journal, stages=2, failure_timeout_s=TIMEOUT_S)
    again.hear(1, AskStage(0, ANY_STAGE, True))
    assert again.told(1, StageIs) == [StageIs(0)]


def test_a_mover_that_does_not_move_stays_where_it_is() -> None:
    swarm = starved()
    run(swarm, ENOUGH)
    for index in (1, 2, 3, 5):
        swarm.silent[key(index)] = 1e9
    run(swarm, GIVES_UP_TIMEOUTS + 30)
    move(swarm)
    assert swarm.told(1, StageIs)[-1] == StageIs(0)
