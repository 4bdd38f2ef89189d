"""The stories that a model of the protocol found: letters are stages, numbers replicas.

Each is played with production streams, whose messages and news take the time that the story gives them. A
microbatch is counted at most once by commits of each stage (PP1), and none waits for ever (PP8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from peers.protocol.stage_work import Cause, EvaluationEnded, Feed, FeedMore, How, MicrobatchId
from peers.protocol.stream import (
    Backward,
    Evaluation,
    Feeding,
    Forward,
    ReplicaGone,
)
from peers.routing.state import Phase
from tests.peers.routing.model import SIZE, ModelSwarm, Process, Shape

NEVER_S = 1e6


def swarm(stages: int, replicas: int = 2, *, quota: int = 1, steps: int = 1) -> ModelSwarm:
    """A swarm that has begun: everybody is in, and nothing is fed yet."""
    world = ModelSwarm(1, Shape(stages, replicas, quota=quota, window=4, steps=steps))
    world.feeds = False
    world.run(1.0)
    return world


def feed_one(world: ModelSwarm) -> tuple[MicrobatchId, list[Process]]:
    """One microbatch leaves one feeder; returns it and the processes of its path."""
    feeder = min(world.living(0), key=lambda each: each.key)
    for other in world.living(0):
        other.may_feed = other.may_feed if other is feeder else 0
    world.feeds = True
    before = set(world.fed)
    world.run_until(lambda: len(world.fed) > len(before))
    world.feeds = False
    (microbatch,) = world.fed - before
    item = feeder.stream.state.items[microbatch[1:]]
    by_since = {world.standing[key]: world.processes[key] for key in world.standing}
    return microbatch, [by_since[since] for since in item.path]


def slow_down(world: ModelSwarm, which: Callable[[bytes, bytes, Any], bool], delay_s: float) -> None:
    """Messages that are like that take so long."""
    world.intercept = lambda frm, to, message: delay_s if which(frm, to, message) else None


def sent(process: Process, microbatch: MicrobatchId) -> bool:
    """Whether a piece of it has left for the stage above."""
    item = process.stream.state.items.get(microbatch[1:])
    return item is not None and item.sent_to > 0


def everything_ends(world: ModelSwarm, microbatch: MicrobatchId) -> None:
    world.run_until(lambda: microbatch in world.ends)
    world.run(world.now + 5.0)
    assert not [each for p in world.living() for each in p.stream.state.items.values()]


def replace_of(world: ModelSwarm, process: Process) -> None:
    """That one dies and the coordinator says so at once."""
    world.kill(process)
    world.end(process.key)


def test_a_microbatch_goes_there_and_back() -> None:
    world = swarm(3)
    microbatch, path = feed_one(world)
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED
    assert [microbatch in process.stepped[-1] for process in path] == [True] * 3
    assert {stage for stage, counted in world.committed if counted == microbatch} == {0, 1, 2}


def evaluate_one(world: ModelSwarm) -> tuple[MicrobatchId, list[Process]]:
    """One leaves a feeder that goes forward only; returns it and the processes of its path."""
    feeder = min(world.living(0), key=lambda each: each.key)
    fed = MicrobatchId(feeder.key, feeder.membership, feeder.fed)
    assert feeder.stream.do(world.now, Feed(feeder.fed, bytes(SIZE), evaluates=True))
    feeder.fed += 1
    by_since = {world.standing[key]: world.processes[key] for key in world.standing}
    path = [by_since[since] for since in feeder.stream.state.items[fed[1:]].path]
    feeder.loop.evaluation_arrived(fed)
    return fed, path


def test_one_that_evaluates_tells_its_loss_and_nobody_counts_it() -> None:
    world = swarm(4)
    evaluated, path = evaluate_one(world)
    world.run_until(lambda: evaluated in world.evaluations)
    assert world.evaluations[evaluated] == EvaluationEnded(evaluated, 2.5, 1)
    assert not [each for p in world.living() for each in p.stream.state.items.values()]
    trained, _ = feed_one(world)
    everything_ends(world, trained)
    assert {microbatch for _, microbatch in world.committed} == {trained}
    assert not any(evaluated in each for p in path for each in p.stepped)


@pytest.mark.parametrize("victim", [1, 2, 3])
def test_one_that_evaluates_ends_too_when_a_replica_of_its_path_dies(victim: int) -> None:
    world = swarm(4)
    slow_down(world, lambda frm, to, message: isinstance(message, Evaluation), 5.0)
    evaluated, path = evaluate_one(world)
    world.run_until(lambda: any(p.loop.drained and world.seen["evaluated"] for p in path))
    replace_of(world, path[victim])
    world.run_until(lambda: evaluated in world.evaluations)
    world.run(world.now + 20.0)
    assert not [each for p in world.living() for each in p.stream.state.items.values()]
    assert not world.ends, "it is none of those that train"


def test_a_gradient_of_one_that_evaluates_is_of_no_use_and_an_evaluation_of_one_that_trains_is_none() -> None:
    world = swarm(3)
    slow_down(world, lambda frm, to, message: isinstance(message, Evaluation), 3.0)
    evaluated, path = evaluate_one(world)
    world.run_until(lambda: world.seen["evaluated"] > 0)
    last, middle = path[2], path[1]
    number, here = evaluated.number, middle.stream.state.since
    lie = Backward(last.stream.state.since, here, evaluated.incarnation, number, 1, 0)
    middle.stream.take_payload(world.now, last.key, lie, bytes(3))
    assert middle.stream.state.items[evaluated[1:]].phase is Phase.UP
    world.run_until(lambda: evaluated in world.evaluations)
    trained, path = feed_one(world)
    world.run_until(lambda: sent(path[1], trained))
    told = Evaluation(path[2].stream.state.since, path[1].stream.state.since, *trained[1:], 0.1, 1)
    path[1].stream.take_control(world.now, path[2].key, told)
    everything_ends(world, trained)
    assert world.ends[trained].how is How.SETTLED


def test_where_nobody_feeds_any_more_steps_end_with_what_they_have() -> None:
    world = swarm(3, 1, quota=2)
    (feeder,) = world.living(0)
    feeder.may_feed = 1
    microbatch, path = feed_one(world)
    assert feeder.stream.do(world.now, FeedMore(False))
    assert not world.said, "it is under way"
    world.run_until(lambda: microbatch in world.ends)
    world.run(world.now + 1.0)
    assert world.said == [(feeder.key, Feeding(feeder.membership, False))]
    assert not any(each.stepped for each in path)
    world.rests.add(feeder.key)
    for each in path:
        world.tell(each.key, world.is_in(feeder.key, 0))
    world.run(world.now + 1.0)
    assert [each.stepped for each in path[1:]] == [[(microbatch,)]] * 2
    assert feeder.stream.do(world.now, FeedMore(True))
    assert world.said[1:] == [(feeder.key, Feeding(feeder.membership, True))]


def test_one_that_a_middle_replica_had_not_passed_on_is_sent_again() -> None:
    world = swarm(3)
    microbatch, (_, middle, _) = feed_one(world)
    slow_down(world, lambda frm, to, m: frm == middle.key and isinstance(m, Forward), NEVER_S)
    world.run_until(lambda: microbatch[1:] in middle.stream.state.items)
    replace_of(world, middle)
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED
    assert world.seen["Has"] == 1
    assert world.seen["CUT"] == 0


def test_one_that_was_passed_on_goes_on_above_the_cut_and_is_given_up_below() -> None:
    world = swarm(3)
    microbatch, (_, middle, last) = feed_one(world)
    world.run_until(lambda: microbatch[1:] in last.stream.state.items)
    replace_of(world, middle)
    everything_ends(world, microbatch)
    ended = world.ends[microbatch]
    assert (ended.how, ended.stage, ended.cause) == (How.PARTIAL, 1, Cause.CUT)
    assert {stage for stage, counted in world.committed if counted == microbatch} == {2}


def test_the_replacement_of_a_last_replica_asks_the_feeder_for_the_targets() -> None:
    world = swarm(3)
    microbatch, (_, middle, last) = feed_one(world)
    slow_down(world, lambda frm, to, m: to == last.key and isinstance(m, Forward), NEVER_S)
    world.run_until(lambda: sent(middle, microbatch))
    replace_of(world, last)
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED
    assert world.seen["AskTargets"] == 1


def test_an_offer_waits_until_its_gradients_were_acknowledged() -> None:
    """Acknowledgement: b3 to c6, c6 counts, and may not commit what b3 never heard of."""
    world = swarm(3)
    microbatch, (_, _, last) = feed_one(world)
    slow_down(world, lambda frm, to, m: frm == last.key and isinstance(m, Backward), NEVER_S)
    world.run_until(lambda: last.offered is not None)
    world.run(world.now + 5.0)
    assert not last.told, "what is offered was not acknowledged"
    replace_of(world, last)
    world.intercept = lambda frm, to, message: None
    everything_ends(world, microbatch)
    assert world.committed[2, microbatch] != last.key


def test_an_answer_is_of_a_membership_and_not_of_an_attempt() -> None:
    """Whose promise: b3's frame is late; it asks as one that is slow, is told no and sends once more; its
    membership ends; the feeder asks, and is told no; then c6 must not take either frame of b3."""
    world = swarm(3)
    microbatch, (_, middle, last) = feed_one(world)
    name = microbatch[1:]
    slow_down(world, lambda frm, to, m: (frm, to) == (middle.key, last.key) and isinstance(m, Forward), 30.0)
    world.run_until(lambda: sent(middle, microbatch))
    world.run_until(lambda: middle.stream.state.items[name].attempt == 2)
    world.end(middle.key)
    world.freeze(middle, NEVER_S)
    everything_ends(world, microbatch)
    world.run(world.now + 30.0)
    assert world.ends[microbatch].how is How.SETTLED
    assert sum(counted == microbatch for _, counted in world.committed) == 3


def test_more_than_one_gone_above_gives_it_up() -> None:
    """Path changed above: c6 dies and b3 sends by c7; b3 dies too, and the feeder knows of c6 alone: it can
    not tell whether the last one has it."""
    world = swarm(4)
    microbatch, (_, b, c, d) = feed_one(world)
    slow_down(world, lambda frm, to, m: frm == c.key and isinstance(m, Forward), NEVER_S)
    world.run_until(lambda: microbatch[1:] in c.stream.state.items)
    replace_of(world, c)
    world.run_until(lambda: microbatch[1:] in d.stream.state.items)
    replace_of(world, b)
    everything_ends(world, microbatch)
    assert (world.ends[microbatch].how, world.ends[microbatch].cause) == (How.PARTIAL, Cause.TWO_GONE)


def test_a_question_is_answered_once_its_epoch_was_heard() -> None:
    """News by link: b3 knows of c6's end, d9 does not yet; d9 says nothing until it does, and then takes
    nothing of c6."""
    world = swarm(4)
    microbatch, (_, b, c, d) = feed_one(world)
    name = microbatch[1:]

    def late(frm: bytes, to: bytes, message: Any) -> float | None:
        if to == d.key and isinstance(message, ReplicaGone):
            return 6.0
        return 12.0 if frm == c.key and to == d.key and isinstance(message, Forward) else None

    world.intercept = late
    world.run_until(lambda: sent(c, microbatch))
    world.end(c.key)
    world.freeze(c, NEVER_S)
    world.run_until(lambda: b.stream.state.items[name].asked > 0)
    world.run(world.now + 3.0)
    assert world.seen["Has"] == 0
    assert d.stream.state.asks
    everything_ends(world, microbatch)
    assert world.ends[microbatch].how is How.SETTLED
    assert sum(counted == microbatch for _, counted in world.committed) == 4


def test_all_give_up_what_a_feeder_that_is_gone_had_fed() -> None:
    world = swarm(3)
    microbatch, (feeder, middle, last) = feed_one(world)
    slow_down(world, lambda frm, to, m: frm == last.key, NEVER_S)
    world.run_until(lambda: sent(middle, microbatch))
    replace_of(world, feeder)
    world.intercept = lambda frm, to, message: None
    world.run(world.now + 5.0)
    assert not [each for p in world.living() for each in p.stream.state.items.values()]


def test_nobody_waits_for_a_stage_that_nobody_holds() -> None:
    world = swarm(3, replicas=1)
    microbatch, (feeder, middle, last) = feed_one(world)
    world.run_until(lambda: microbatch[1:] in middle.stream.state.items)
    replace_of(world, last)
    world.run_until(lambda: microbatch in world.ends)
    world.run(world.now + 1.0)
    assert world.ends[microbatch].cause is Cause.NO_REPLICA
    assert middle.loop.drained
    assert feeder.loop.drained
