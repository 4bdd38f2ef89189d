"""A neighbour that lies: what it says of microbatches that are here by way of others ends none of them, and
what it makes up itself does not stay for ever.

Not shown, for it does not hold: whoever first brings a number of a feeder is believed to have it from that
feeder, so a liar may take the place of a microbatch that has not come yet.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from peers.protocol.stage_work import Cause, EvaluationEnded, How
from peers.protocol.stream import (
    AskTargets,
    Backward,
    Ended,
    Evaluation,
    Forward,
    GradientHeard,
    Has,
    Meet,
    ReplicaGone,
    Slots,
    Targets,
)
from peers.routing.asking import MAX_WAITS
from peers.routing.state import Phase
from tests.peers.routing.model import SIZE, ModelSwarm, Process
from tests.peers.routing.test_stories import (
    evaluate_one,
    everything_ends,
    feed_one,
    replace_of,
    sent,
    slow_down,
    swarm,
)
from transport.errors import BadFrame
from transport.frames import pack, unpack

NEVER_S = 1e6


def liar(world: ModelSwarm, stage: int, path: list[Process]) -> Process:
    """A replica of a stage that is on nobody's path."""
    return next(each for each in world.living(stage) if each not in path)


def since(process: Process) -> int:
    return process.stream.state.since


def held_up(stages: int = 3) -> tuple[ModelSwarm, Any, list[Process]]:
    """A microbatch that is at the last stage, whose gradient takes its time."""
    world = swarm(stages)
    microbatch, path = feed_one(world)
    slow_down(world, lambda frm, to, m: frm == path[-1].key and isinstance(m, Backward), 3.0)
    world.run_until(lambda: sent(path[-2], microbatch))
    return world, microbatch, path


@pytest.mark.parametrize("has", [0, 1, 2, 3])
def test_whatever_somebody_off_the_path_says_it_has_changes_nothing(has: int) -> None:
    world, microbatch, path = held_up()
    other = liar(world, 2, path)
    told = Has(since(other), since(path[1]), *microbatch[1:], has, 0)
    path[1].stream.take_control(world.now, other.key, told)
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED


def test_nobody_off_the_path_ends_a_microbatch_or_acknowledges_its_gradient() -> None:
    world, microbatch, path = held_up()
    other = liar(world, 2, path)
    me, you = since(other), since(path[1])
    path[1].stream.take_control(world.now, other.key, Ended(me, you, *microbatch[1:], 2, 0, 1))
    world.run_until(lambda: bool(path[2].stream.unheard()))
    below = liar(world, 1, path)
    told = GradientHeard(since(below), since(path[2]), *microbatch[1:])
    path[2].stream.take_control(world.now, below.key, told)
    assert path[2].stream.unheard()
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED


def test_a_gradient_of_somebody_off_the_path_is_not_used() -> None:
    world, microbatch, path = held_up()
    other = liar(world, 2, path)
    for piece in range(3):
        told = Backward(since(other), since(path[1]), *microbatch[1:], 1, piece)
        path[1].stream.take_payload(world.now, other.key, told, b"xxx"[: 3 if piece < 2 else 2])
    assert path[1].stream.state.items[microbatch[1:]].path[2] == since(path[2])
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED


def test_slots_that_are_made_up_send_no_more_than_there_is() -> None:
    world, microbatch, path = held_up()
    path[1].stream.take_control(world.now, path[2].key, Slots(since(path[2]), since(path[1]), 1 << 60))
    path[1].stream.take_control(world.now, path[2].key, Slots(since(path[2]), since(path[1]), 0))
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED


def forward(frm: Process, to: Process, **changes: Any) -> Forward:
    fields = {
        "me": since(frm),
        "you": since(to),
        "number": 0,
        "attempt": 1,
        "route": (since(frm), since(to), 99),
        "mark": 0,
        "piece": 0,
    }
    return Forward(**{**fields, **changes})


def test_what_cannot_be_meant_is_no_message() -> None:
    world = swarm(3)
    feeder, middle, last = (world.living(stage)[0] for stage in range(3))
    wrong: list[tuple[Process, Process, Any, bytes]] = [
        (feeder, middle, forward(feeder, middle, route=(since(feeder), since(middle))), b"xxx"),
        (feeder, middle, forward(feeder, middle, route=(1, 2, 3)), b"xxx"),
        (feeder, middle, forward(feeder, middle, mark=5), b"xxx"),
        (feeder, middle, forward(feeder, middle, number=1000), b"xxx"),
        (feeder, middle, forward(feeder, middle), b"x"),
        (feeder, middle, forward(feeder, middle, piece=3), b"xxx"),
        (last, middle, forward(last, middle, route=(since(last), since(middle), 99)), b"xxx"),
        (middle, last, Targets(since(middle), since(last), 0, 0, 0), b"xxx"),
        (feeder, last, Targets(since(feeder), since(last), 1000, 0, 0), b"xxx"),
        (middle, last, Backward(since(middle), since(last), since(feeder), 0, 1, 0), b"xxx"),
        (last, middle, Backward(since(last), since(middle), since(feeder), 0, 0, 0), b"xxx"),
        (last, middle, Backward(since(last), since(middle), since(feeder), 0, 3, 0), b"xxx"),
    ]
    for frm, to, message, payload in wrong:
        with pytest.raises(BadFrame):
            to.stream.take_payload(world.now, frm.key, message, payload)
    with pytest.raises(BadFrame):
        feeder.stream.take_control(world.now, middle.key, AskTargets(since(middle), since(feeder), 0))


def test_what_is_of_another_membership_is_dropped() -> None:
    world = swarm(3)
    feeder, middle = world.living(0)[0], world.living(1)[0]
    for message in (forward(feeder, middle, me=99), forward(feeder, middle, you=99)):
        middle.stream.take_payload(world.now, feeder.key, message, b"xxx")
    middle.stream.take_control(world.now, feeder.key, Meet(99, since(middle), 0, False))
    assert not middle.stream.state.pairs[feeder.key].inputs
    assert middle.stream.state.pairs[feeder.key].since == since(feeder)


def bring(world: ModelSwarm, frm: Process, to: Process, **changes: Any) -> None:
    """All pieces of an activation, and some time."""
    bring_now(world, frm, to, **changes)
    world.run(world.now + 1.0)


def bring_now(world: ModelSwarm, frm: Process, to: Process, **changes: Any) -> None:
    for piece, payload in enumerate((b"xxx", b"xxx", b"xx")):
        to.stream.take_payload(world.now, frm.key, forward(frm, to, piece=piece, **changes), payload)


@pytest.mark.parametrize("last", [1 << 61, 0])
def test_a_path_that_leads_to_nobody_holds_nobody_up_for_ever(last: int) -> None:
    """A membership that was made up, and one that is of another stage."""
    world = swarm(4)
    microbatch, path = feed_one(world)
    everything_ends(world, microbatch)
    feeder, middle, third, _ = path
    other = liar(world, 1, path)
    route = (since(feeder), since(other), since(third), last or since(middle))
    bring(world, other, third, number=1, mark=1, route=route)
    assert ((since(feeder), 1) in third.stream.state.items) == (last > 0), "a stage is known"
    world.run(world.now + 3 * third.stream.state.terms.patience_s)
    assert not third.stream.state.items


def test_what_somebody_off_the_path_says_is_over_is_over_for_that_one_alone() -> None:
    world = swarm(3)
    microbatch, path = feed_one(world)
    everything_ends(world, microbatch)
    other, far = liar(world, 1, path), 1 << 31
    route = (since(path[0]), since(other), since(path[2]))
    bring(world, other, path[2], number=far, mark=far, route=route)
    world.feeds = True
    settled = world.seen["SETTLED"]
    world.run(world.now + 10.0)
    assert world.seen["SETTLED"] > settled + 5
    assert world.seen["PARTIAL"] == 0


def test_whoever_passes_a_liars_microbatch_on_sends_nothing_that_is_no_message() -> None:
    """A mark that falls, and is nobody's any more by the time that it goes up."""
    world = swarm(4)
    microbatch, path = feed_one(world)
    everything_ends(world, microbatch)
    other, third = liar(world, 1, path), path[2]
    route = (since(path[0]), since(other), since(third), since(path[3]))
    begun = forward(other, third, number=100, mark=100, route=route)
    third.stream.take_payload(world.now, other.key, begun, b"xxx")
    bring_now(world, other, third, number=103, mark=0, route=route)
    third.stream.replica_gone(world.now, ReplicaGone(since(other) + 1, other.key))
    world.run(world.now + 5.0)
    assert (since(path[0]), 103) in path[3].stream.state.items


def test_a_late_answer_is_not_one_to_the_question_after_it() -> None:
    """c6 has nothing of b3 and says so; b4 brings it, and dies too: the same word must not be taken again."""
    world = swarm(3, 3)
    microbatch, (a, b, c) = feed_one(world)
    name = microbatch[1:]
    answers: list[Has] = []
    hear = a.stream.take_control

    def overhear(now: float, peer: bytes, message: Any) -> None:
        answers.extend([message] if isinstance(message, Has) else [])
        hear(now, peer, message)

    a.stream.take_control = overhear  # type: ignore[method-assign]
    slow_down(world, lambda frm, to, m: frm == b.key and isinstance(m, Forward), NEVER_S)
    world.run_until(lambda: sent(a, microbatch) and name in b.stream.state.items)
    replace_of(world, b)
    world.run_until(lambda: bool(answers))
    slow_down(world, lambda frm, to, m: frm == c.key and isinstance(m, (Backward, Has)), NEVER_S)
    world.run_until(lambda: bool(c.stream.unheard()))
    item = a.stream.state.items[name]
    second = next(each for each in world.living(1) if since(each) == item.path[1])
    replace_of(world, second)
    world.run_until(lambda: item.asked == since(c))
    hear(world.now, c.key, answers[0])
    assert item.asked == since(c), "it is still to be answered"
    assert item.phase is Phase.UP


def test_feeders_that_are_made_up_take_no_more_room_than_a_sender_has_and_not_for_ever() -> None:
    world = swarm(3)
    middle, last = world.living(1)[0], world.living(2)[0]
    for number in range(50):
        last.stream.link_began(world.now, middle.key)
        with suppress(BadFrame):  # there is no room
            bring(world, middle, last, route=((1 << 61) + number, since(middle), since(last)))
    state = last.stream.state
    assert 0 < len(state.items) <= state.terms.window
    assert not any(feeder >= 1 << 61 for feeder in state.past)
    world.run(world.now + 3 * state.terms.patience_s)
    assert not state.items
    assert not state.unheard


def test_a_gradient_that_was_begun_is_not_kept_once_its_microbatch_is_given_up() -> None:
    world, microbatch, (_, middle, last) = held_up()
    name = microbatch[1:]
    begun = Backward(since(last), since(middle), *name, 1, 0)
    middle.stream.take_payload(world.now, last.key, begun, b"xxx")
    assert name in middle.stream.state.pairs[last.key].gradients_in
    middle.stream.take_control(world.now, last.key, Ended(since(last), since(middle), *name, 2, 0, 1))
    assert name not in middle.stream.state.pairs[last.key].gradients_in
    everything_ends(world, microbatch)


def test_nobody_above_says_that_a_microbatch_is_settled() -> None:
    with pytest.raises(BadFrame):
        unpack(pack(Ended(1, 2, 3, 4, How.SETTLED, 0, 0)))
    assert unpack(pack(Ended(1, 2, 3, 4, How.LOST, 0, 0))) == Ended(1, 2, 3, 4, How.LOST, 0, 0)


def test_a_microbatch_ends_at_a_stage_that_there_is() -> None:
    """Else the feeder's tally by stage does not add up."""
    world, microbatch, (_, middle, last) = held_up()
    told = Ended(since(last), since(middle), *microbatch[1:], How.PARTIAL, 3, 1)
    with pytest.raises(BadFrame, match="ended at stage 3 of 3"):
        middle.stream.take_control(world.now, last.key, told)
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED


@pytest.mark.parametrize("tokens", [0, SIZE // 4 + 1, 1 << 53])
def test_an_evaluation_weighs_no_more_than_a_microbatch_has_and_not_nothing(tokens: int) -> None:
    world = swarm(3)
    slow_down(world, lambda frm, to, message: isinstance(message, Evaluation), 3.0)
    evaluated, (_, middle, last) = evaluate_one(world)
    world.run_until(lambda: world.seen["evaluated"] > 0)
    with pytest.raises(BadFrame, match=f"{tokens} tokens of a microbatch"):
        middle.stream.take_control(
            world.now, last.key, Evaluation(since(last), since(middle), *evaluated[1:], 9.0, tokens)
        )
    world.run_until(lambda: evaluated in world.evaluations)
    assert world.evaluations[evaluated] == EvaluationEnded(evaluated, 2.5, 1)


@pytest.mark.parametrize("has", [1, 2])
def test_one_that_is_said_to_be_computed_for_ever_is_given_up(has: int) -> None:
    """The last stage never sends its gradient, and says whenever it is asked that it has it."""
    world, microbatch, path = held_up()
    middle, last = path[1], path[2]
    patience_s = middle.stream.state.terms.patience_s
    slow_down(world, lambda frm, to, m: frm == last.key and isinstance(m, (Backward, Has)), NEVER_S)
    told = Has(since(last), since(middle), *microbatch[1:], has, 0)
    for _ in range(MAX_WAITS - 1):
        middle.stream.take_control(world.now, last.key, told)
        world.run(world.now + patience_s)
        assert microbatch not in world.ends
    middle.stream.take_control(world.now, last.key, told)
    world.run(world.now + 2.0)
    assert (world.ends[microbatch].how, world.ends[microbatch].cause) == (How.PARTIAL, Cause.SLOW)
    assert microbatch[1:] not in middle.stream.state.items
