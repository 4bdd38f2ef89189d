"""Joiners ask for a stage: each is told one, has it held for a while, and enters with no other."""

from __future__ import annotations

from typing import Any

import pytest

from peers.coordinator.assignment import MAX_RESERVED, RESERVED_TIMEOUTS
from peers.coordinator.journal import PlaceGivenBack, StageGiven
from peers.coordinator.placing import BYTES_PER_PARAMETER
from peers.protocol.messages import Done, Entered, Open, Refused
from peers.protocol.placing import ANY_STAGE, AskStage, StageIs
from peers.protocol.record import GENESIS
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, speed
from transport.frames import pack, unpack
from transport.limits import Limits


def ask(swarm: Swarm, index: int, memory: int = 0, wish: int = ANY_STAGE) -> int | str:
    """The stage that somebody who was let in is told, or the code of a refusal."""
    if key(index) not in swarm.core.roster.entries:
        swarm.core.certify(key(index), f"w{index}")
    swarm.said.clear()
    swarm.hear(index, AskStage(memory, wish))
    ((peer, answer),) = swarm.said
    assert peer == key(index)
    return answer.stage if isinstance(answer, StageIs) else answer.code


def given(swarm: Swarm) -> list[Any]:
    entries = [unpack(entry) for entry in swarm.journal]
    return [entry for entry in entries if isinstance(entry, StageGiven)]


def refused(swarm: Swarm, index: int) -> str:
    return str(swarm.told(index, Refused)[-1].detail)


def test_ten_who_ask_at_once_do_not_all_get_the_same_stage() -> None:
    swarm = Swarm(stages=4)
    assert [ask(swarm, index) for index in range(10)] == [0, 1, 2, 3] * 2 + [0, 1]


def test_a_stage_is_journaled_before_it_is_told_and_a_restarted_host_keeps_it() -> None:
    swarm = Swarm(stages=2)
    assert (ask(swarm, 1), ask(swarm, 2)) == (0, 1)
    assert given(swarm) == [StageGiven(key(1), 0), StageGiven(key(2), 1)]
    again = Swarm(swarm.journal, stages=2)
    again.greet(2, stage=1)
    assert again.told(2, Entered), "it need not ask again"
    again.greet(1, stage=1)
    assert refused(again, 1) == "this worker was given stage 0, and came with 1"
    assert [ask(again, 1), ask(again, 2)] == [0, 1]


def test_who_comes_with_another_stage_than_it_was_given_is_refused_in_a_sentence() -> None:
    swarm = Swarm(stages=2)
    swarm.enter(1, stage=1)
    assert refused(swarm, 1) == "the run has 2 stages, 0 to 1: this worker came with one and was given none"
    assert ask(swarm, 1) == 0
    swarm.greet(1, stage=1)
    assert refused(swarm, 1) == "this worker was given stage 0, and came with 1"
    swarm.greet(1, stage=7)
    assert refused(swarm, 1) == "the run has 2 stages, 0 to 1: there is no stage 7"
    swarm.greet(1)
    assert [entry.key for entry in swarm.core.roster.entered_in(0)] == [key(1)]
    one = Swarm()
    one.enter(1, stage=1)
    assert refused(one, 1) == "the run has one stage, 0: there is no stage 1"


def test_one_that_holds_a_stages_state_from_before_the_journal_is_let_in_and_stays_there() -> None:
    swarm = Swarm(stages=2)
    swarm.enter(1, stage=1, head=ROOT, holds_state=True)
    assert given(swarm) == [StageGiven(key(1), 1)]
    swarm.core.session_began(swarm.now, key(1))
    swarm.greet(1, stage=0, head=ROOT, holds_state=True)
    assert refused(swarm, 1) == "this worker was given stage 1, and came with 0"


def test_a_run_of_one_stage_gives_that_and_writes_nothing_down() -> None:
    swarm = Swarm()
    assert ask(swarm, 1, wish=0) == ask(swarm, 1) == 0
    assert not given(swarm)


def test_a_place_is_held_for_some_time_and_then_free_for_another() -> None:
    swarm = Swarm(stages=2)
    assert [ask(swarm, 1), ask(swarm, 2), ask(swarm, 1)] == [0, 1, 0]
    swarm.now += RESERVED_TIMEOUTS * 6.0
    # Nobody came: both are told their places anew, in the order in which they ask.
    assert [ask(swarm, 2), ask(swarm, 1)] == [0, 1]
    swarm.greet(2)
    assert swarm.told(2, Entered)
    late = Swarm(stages=2)
    assert [ask(late, 1), ask(late, 2), ask(late, 3)] == [0, 1, 0]
    late.now += RESERVED_TIMEOUTS * 6.0 - 0.1
    assert ask(late, 4) == 1, "two are awaited in the other one"
    late.now += 0.2
    assert [ask(late, 5), ask(late, 6)] == [0, 0], "of those only the fourth still is"


def test_who_was_here_is_given_its_stage_ever_after_however_poor_the_other_one_is() -> None:
    swarm = Swarm(stages=2)
    for index in (1, 2, 3):
        swarm.join_stage(index, 1)
    for index in (1, 2, 3):
        swarm.core.session_began(swarm.now, key(index))
    swarm.now += 1000.0
    assert [ask(swarm, index) for index in (1, 2, 3)] == [1, 1, 1]
    assert ask(swarm, 1, wish=0) == "stage"
    assert "its disk may have" in refused(swarm, 1)
    assert ask(swarm, 4) == 0


def test_one_that_comes_back_is_awaited_for_a_time_a_few_times_and_not_for_ever() -> None:
    swarm = Swarm(stages=2)
    swarm.join_stage(1, 0)
    swarm.core.session_began(swarm.now, key(1))
    others = iter(range(10, 100))
    for _ in range(MAX_RESERVED):
        assert ask(swarm, 1) == 0
        assert ask(swarm, next(others)) == 1, "the first stage has one who is about to come"
        swarm.now += RESERVED_TIMEOUTS * 6.0
    assert ask(swarm, 1) == 0
    assert ask(swarm, next(others)) == 0, "it never came"
    swarm.greet(1)
    swarm.core.session_began(swarm.now, key(1))
    swarm.now += RESERVED_TIMEOUTS * 6.0
    assert [ask(swarm, 1), ask(swarm, next(others))] == [0, 1], "it was here, and is awaited again"


def test_one_whose_memory_is_too_small_now_is_not_awaited() -> None:
    swarm = Swarm(stages=2)
    swarm.join_stage(1, 0, elements=(1000,))
    swarm.core.session_began(swarm.now, key(1))
    assert ask(swarm, 1, memory=1) == "memory"
    assert ask(swarm, 2) == 0


def test_a_wish_is_granted_where_there_is_room_and_memory() -> None:
    swarm = Swarm(stages=3, limits=Limits(members=2))
    assert ask(swarm, 1, wish=2) == ask(swarm, 2, wish=2) == 2
    assert ask(swarm, 3, wish=2) == "full"
    assert refused(swarm, 3) == "stage 2 has 2 workers or awaits them: try again later"
    assert ask(swarm, 3, wish=9) == "stage"
    assert ask(swarm, 3) == 0


def test_a_worker_whose_memory_holds_no_stage_is_told_what_is_needed() -> None:
    swarm = Swarm(stages=2)
    swarm.join_stage(1, 0, elements=(1000, 200))
    swarm.join_stage(2, 1, elements=(3000,))
    needed = 1200 * BYTES_PER_PARAMETER
    assert ask(swarm, 3, memory=needed - 1) == "memory"
    assert refused(swarm, 3) == "stage 0 needs 1.92e-05 GB at least, and this worker has 1.92e-05 GB for it"
    assert (ask(swarm, 3, memory=needed), ask(swarm, 4, memory=1 << 62)) == (0, 1)
    assert ask(swarm, 5, memory=needed, wish=1) == "memory"


def test_the_poorest_by_speed_is_given_and_a_claim_alone_does_not_change_that_much() -> None:
    swarm = Swarm(stages=2)
    for index in (1, 2, 3):
        swarm.join_stage(index, 0)
        swarm.hear(index, speed(100.0))
    for index in (4, 5):
        swarm.join_stage(index, 1)
        swarm.hear(index, speed(200.0))
    assert ask(swarm, 6) == 0, "300 against 400"
    swarm.hear(1, speed(1e18))
    assert ask(swarm, 7) == 1, "it counts for 800, and the place that is held for the mean"
    swarm.hear(1, speed(0.0))
    assert ask(swarm, 8) == 0


def test_replicas_to_which_little_comes_are_not_taken_for_slow_ones() -> None:
    swarm = Swarm(stages=2)
    for index, stage in ((1, 0), (2, 1), (3, 1)):
        swarm.join_stage(index, stage)
        swarm.hear(index, speed(100.0))
        pace = swarm.core.roster.entries[key(index)].pace
        for number, ready_at in enumerate((1.0, 2.0)):  # stage 1 waits most of its time
            pace.offered(ready_at * (1 + 3 * stage), 0, number, 100)
            pace.accepted(ready_at * (1 + 3 * stage), 0, 1.0)
    assert ask(swarm, 6) == 0, "100 against 200, though each of those was seen to do a fourth of it"


def test_every_place_that_is_held_counts_so_that_a_stage_never_has_more_than_it_may() -> None:
    swarm = Swarm(stages=2, limits=Limits(members=3))
    assert [ask(swarm, index) for index in range(7)] == [0, 1, 0, 1, 0, 1, "full"]
    assert refused(swarm, 6) == "each stage has 3 workers or awaits them: try again later"
    for index in (0, 2, 4):
        swarm.greet(index)
    swarm.core.certify(key(9), "w9")
    swarm.core.roster.entries[key(9)].given_stage = 0
    swarm.greet(9)
    assert refused(swarm, 9) == "stage 0 has 3 members, as many as it may"


@pytest.mark.parametrize(("stages", "places"), [(1, 2), (3, 6)])
def test_a_ticket_lets_in_half_of_the_places_of_all_stages_together(stages: int, places: int) -> None:
    swarm = Swarm(stages=stages, limits=Limits(members=4))
    answers = [swarm.core.admit(0.0, key(index), f"w{index}", b"i" * 32, 0) for index in range(8)]
    assert [answer is None for answer in answers] == [True] * places + [False] * (8 - places)


def test_one_that_asks_and_never_comes_costs_a_few_lines_and_holds_nothing_any_more() -> None:
    swarm = Swarm(stages=2)
    for number in range(50):
        assert isinstance(ask(swarm, 1, wish=number % 2), int | str)
        swarm.now += RESERVED_TIMEOUTS * 6.0
    assert len(given(swarm)) == MAX_RESERVED
    last = given(swarm)[-1].stage
    assert ask(swarm, 1) == last
    assert ask(swarm, 2, wish=last) == last
    fresh = [ask(swarm, index) for index in (3, 4)]
    assert fresh == [1 - last, last], "what the first one was told is held for nobody"
    swarm.greet(1, stage=last)
    assert swarm.told(1, Entered), "it may come all the same"


def test_after_a_restart_those_who_took_part_last_have_a_time_to_come_back() -> None:
    swarm = Swarm(stages=2)
    for index, stage in ((1, 0), (2, 0), (3, 0), (4, 1)):
        swarm.join_stage(index, stage)
    again = Swarm(swarm.journal, stages=2)
    assert ask(again, 5) == 1
    late = Swarm(swarm.journal, stages=2)
    late.now = RESERVED_TIMEOUTS * 6.0
    assert ask(late, 6) == 0


def test_after_a_restart_only_those_in_the_newest_commits_are_awaited() -> None:
    swarm = Swarm(stages=2, min_peers=1)
    for index in (1, 2):
        swarm.join_stage(index, 0)
        swarm.hold(index, swarm.chain.head if swarm.chain.head != GENESIS else ROOT)
        swarm.ready(index)
        swarm.later(30.0)
        swarm.hear(index, Done(swarm.told(index, Open)[-1].serial, 0, RESULT))
        swarm.core.session_began(swarm.now, key(index))
    assert swarm.chain.index == 2
    again = Swarm(swarm.journal, stages=2, min_peers=1)
    assert [ask(again, 3), ask(again, 4)] == [1, 0], "of the first stage one is awaited"


def test_after_a_restart_who_was_put_out_or_away_for_long_is_not_awaited() -> None:
    swarm = Swarm(stages=2)
    for index, stage in ((1, 0), (2, 0), (3, 1)):
        swarm.join_stage(index, stage)
    swarm.core.kick(0.0, "w1")
    again = Swarm([*swarm.journal, pack(PlaceGivenBack(key(2)))], stages=2)
    assert [ask(again, 4), ask(again, 5)] == [0, 0], "nobody is awaited there, and one in the other stage"


def test_one_that_has_no_place_any_more_is_told_to_join_again() -> None:
    swarm = Swarm(stages=2)
    ask(swarm, 1)
    swarm.core.roster.entries[key(1)].has_place = False
    assert ask(swarm, 1) == "absent"


def test_a_member_that_asks_is_told_where_it_is_and_holds_no_second_place() -> None:
    swarm = Swarm(stages=2)
    swarm.join_stage(1, 0)
    swarm.hold(1)
    assert ask(swarm, 1) == 0
    assert [ask(swarm, 2), ask(swarm, 3)] == [1, 0]


def test_who_was_put_out_is_told_nothing_else() -> None:
    swarm = Swarm(stages=2)
    swarm.join_stage(1, 0)
    swarm.core.kick(0.0, "w1")
    swarm.said.clear()
    swarm.hear(1, AskStage())
    assert [answer.code for _, answer in swarm.said] == ["kicked"]


def test_a_first_state_of_one_stage_says_nothing_of_another() -> None:
    swarm = Swarm(stages=2)
    swarm.join_stage(1, 0)
    swarm.hold(1)
    assert [course.chain.head == ROOT for course in swarm.core.state.courses.values()] == [True, False]
