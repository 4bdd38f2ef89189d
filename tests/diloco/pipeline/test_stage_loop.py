"""What a stage computes next: backward first, the oldest first, a step only when nothing is in flight."""

from __future__ import annotations

import random

import pytest

from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.stage_loop import Backward, Evaluate, Forward, StageLoop, Step


def m(number: int, feeder: bytes = b"") -> MicrobatchId:
    return MicrobatchId(feeder, 0, number)


def do(loop: StageLoop, now: float = 0.0, tokens: int = 0) -> object:
    """Carry out the next piece of work at once."""
    work = loop.next_work(now)
    if work is not None:
        loop.done(work, tokens)
    return work


def a_middle_stage(quota: int, grace_s: float = 10.0) -> StageLoop:
    return StageLoop(quota, is_last=False, grace_s=grace_s)


def test_backward_goes_before_forward_and_the_oldest_before_the_younger() -> None:
    loop = a_middle_stage(4)
    for number in (2, 0, 1):
        loop.input_arrived(m(number))
    assert [do(loop), do(loop)] == [Forward(m(0)), Forward(m(1))]
    loop.gradient_arrived(m(1))
    loop.gradient_arrived(m(0))
    assert [do(loop), do(loop)] == [Backward(m(0)), Backward(m(1))]
    assert do(loop) == Forward(m(2))
    assert do(loop) is None


def test_a_step_names_what_was_counted_in_its_order_and_the_tokens() -> None:
    loop = a_middle_stage(2)
    for number in (0, 1):
        loop.input_arrived(m(number))
        do(loop)
    loop.gradient_arrived(m(1))
    do(loop, tokens=3)
    loop.gradient_arrived(m(0))
    do(loop, tokens=4)
    assert do(loop) == Step((m(1), m(0)), 7)
    assert do(loop) is None, "and the next begins with nothing"


def test_where_no_more_come_a_step_ends_at_once_but_not_before_what_is_there() -> None:
    loop = StageLoop(3, is_last=False, grace_s=10.0, ends_early=False)
    for number in range(2):
        loop.input_arrived(m(number))
    do(loop)
    loop.gradient_arrived(m(0))
    do(loop, tokens=4)
    loop.more_come(False)
    assert do(loop) == Forward(m(1))
    assert do(loop, now=99.0) is None, "it is in flight"
    loop.gradient_arrived(m(1))
    do(loop, tokens=4)
    assert do(loop) == Step((m(0), m(1)), 8)
    assert do(loop) is None
    loop.more_come()
    loop.input_arrived(m(2))
    do(loop)
    loop.gradient_arrived(m(2))
    do(loop)
    assert do(loop, now=99.0) is None


def test_what_comes_beyond_the_quota_waits_for_the_next_step() -> None:
    loop = a_middle_stage(2)
    for number in range(4):
        loop.input_arrived(m(number))
    assert [do(loop) for _ in range(3)] == [Forward(m(0)), Forward(m(1)), None]
    for number in (0, 1):
        loop.gradient_arrived(m(number))
    assert [do(loop) for _ in range(4)] == [
        Backward(m(0)),
        Backward(m(1)),
        Step((m(0), m(1)), 0),
        Forward(m(2)),
    ]


def test_the_last_stage_counts_a_microbatch_with_its_forward() -> None:
    loop = StageLoop(2, is_last=True, grace_s=10.0)
    for number in (0, 1):
        loop.input_arrived(m(number))
    assert [do(loop, tokens=5) for _ in range(3)] == [Forward(m(0)), Forward(m(1)), Step((m(0), m(1)), 10)]


def test_a_step_never_ends_while_something_is_in_flight() -> None:
    loop = a_middle_stage(2, grace_s=1.0)
    for number in (0, 1):
        loop.input_arrived(m(number))
        do(loop)
    loop.gradient_arrived(m(0))
    assert do(loop, now=5.0) == Backward(m(0))
    assert not loop.drained
    assert loop.ends_early_at_s is None
    assert do(loop, now=1e9) is None


def test_a_step_that_gets_too_few_ends_once_nothing_was_computed_for_the_grace() -> None:
    loop = a_middle_stage(4, grace_s=10.0)
    assert do(loop, now=1e9) is None, "nothing was counted: there is nothing to step with"
    loop.input_arrived(m(0))
    do(loop, now=100.0)
    loop.gradient_arrived(m(0))
    do(loop, now=104.0, tokens=6)
    assert loop.ends_early_at_s == 114.0
    assert do(loop, now=104.5) is None, "until then it computed"
    assert do(loop, now=114.4) is None
    assert do(loop, now=114.5) == Step((m(0),), 6)
    assert loop.ends_early_at_s is None
    loop.input_arrived(m(1))
    do(loop, now=200.0)
    loop.gradient_arrived(m(1))
    do(loop, now=200.0)
    assert loop.ends_early_at_s == 210.0, "each step has its own"


def test_a_microbatch_that_waits_is_begun_rather_than_the_step_ended() -> None:
    loop = a_middle_stage(3, grace_s=1.0)
    loop.input_arrived(m(0))
    do(loop)
    loop.gradient_arrived(m(0))
    do(loop)
    loop.input_arrived(m(1))
    assert do(loop, now=50.0) == Forward(m(1))


def test_it_says_how_many_more_a_step_has_use_for() -> None:
    loop = a_middle_stage(3)
    wanted = [loop.num_wanted]
    loop.input_arrived(m(0))
    wanted.append(loop.num_wanted)
    do(loop)
    wanted.append(loop.num_wanted)
    loop.gradient_arrived(m(0))
    do(loop)
    wanted.append(loop.num_wanted)
    assert wanted == [3, 2, 2, 2]


def test_feeders_are_told_apart() -> None:
    loop = a_middle_stage(2)
    loop.input_arrived(m(0, b"b"))
    loop.input_arrived(m(0, b"a"))
    assert [do(loop), do(loop)] == [Forward(m(0, b"a")), Forward(m(0, b"b"))]


def test_one_thing_is_computed_at_a_time() -> None:
    loop = a_middle_stage(2)
    loop.input_arrived(m(0))
    work = loop.next_work(0.0)
    assert work is not None
    assert not loop.drained
    with pytest.raises(AssertionError, match="one thing"):
        loop.next_work(0.0)
    with pytest.raises(AssertionError, match="to be done"):
        loop.done(Forward(m(1)))
    loop.done(work)
    with pytest.raises(AssertionError, match="not in flight"):
        loop.gradient_arrived(m(7))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_when_every_microbatch_is_counted_once_at_one_version(seed: int) -> None:
    """A stage in front of one that answers late, in any order: its steps are compared with what came."""
    rng = random.Random(seed)
    quota, total = rng.randint(1, 5), rng.randint(1, 30)
    loop = a_middle_stage(quota, grace_s=rng.choice([3.0, 1e9]))
    to_come, above = list(range(total)), []
    version, version_of, stepped, now = 0, {}, [], 0.0
    while len(stepped) < total - total % quota or (now < 1e5 and len(stepped) < total):
        now += 1.0
        if to_come and rng.random() < 0.4:
            loop.input_arrived(m(to_come.pop(0)))
        if above and rng.random() < 0.4:
            loop.gradient_arrived(above.pop(rng.randrange(len(above))))
        work = loop.next_work(now)
        match work:
            case Forward():
                version_of[work.microbatch] = version
                above.append(work.microbatch)
                assert sum(each == version for each in version_of.values()) <= quota
            case Backward():
                assert version_of[work.microbatch] == version, "the weights of its forward"
            case Step():
                assert not above
                assert 1 <= len(work.microbatches) <= quota
                assert all(version_of[each] == version for each in work.microbatches)
                assert work.tokens == sum(each.number for each in work.microbatches)
                stepped += [each.number for each in work.microbatches]
                version += 1
        if work is not None:
            loop.done(work, work.microbatch.number if isinstance(work, Backward) else 0)
        if now > 2e3:
            now = 1e9 + now  # the grace of all is over
    assert len(set(stepped)) == len(stepped)
    assert set(stepped) == set(range(total)) or len(stepped) == total - total % quota


def test_what_is_given_up_leaves_its_place_in_the_quota_to_another() -> None:
    loop = a_middle_stage(1)
    loop.input_arrived(m(0))
    do(loop)
    assert loop.given_up(m(0))
    loop.input_arrived(m(1))
    assert do(loop) == Forward(m(1))
    loop.gradient_arrived(m(1))
    assert not loop.given_up(m(1)), "its gradient is there: it is counted"
    assert do(loop) == Backward(m(1))


def test_in_a_line_a_step_ends_early_only_where_something_was_given_up() -> None:
    loop = StageLoop(2, is_last=True, grace_s=1.0, ends_early=False)
    loop.input_arrived(m(0))
    do(loop)
    assert do(loop, now=9.0) is None
    loop.input_arrived(m(1))
    assert loop.given_up(m(1))
    assert do(loop, now=10.0) == Step((m(0),), 0)


def test_a_step_ends_with_nothing_where_others_wait_for_it() -> None:
    loop = StageLoop(2, is_last=True, grace_s=1.0, ends_early=False)
    assert do(loop, now=5.0) is None
    loop.others_wait()
    assert do(loop, now=6.0) == Step((), 0)
    loop.others_wait(False)
    assert do(loop, now=9.0) is None


def test_where_nothing_comes_a_step_ends_as_soon_as_others_wait_for_it() -> None:
    loop = StageLoop(2, is_last=True, grace_s=9.0, ends_early=False)
    loop.others_wait(at_once=True)
    assert do(loop, now=0.5) == Step((), 0)
    loop.others_wait(False)
    loop.others_wait()
    assert do(loop, now=1.0) is None


def test_what_goes_forward_only_goes_before_other_forwards_and_is_in_no_step() -> None:
    loop = StageLoop(1, is_last=True, grace_s=10.0)
    loop.input_arrived(m(1))
    loop.evaluation_arrived(m(0))
    loop.evaluation_arrived(m(2))
    assert do(loop) == Evaluate(m(0))
    assert loop.given_up(m(2))
    assert [do(loop) for _ in range(3)] == [Forward(m(1)), Step((m(1),), 0), None]
    loop.evaluation_arrived(m(3))
    assert do(loop) == Evaluate(m(3))
    assert loop.at_rest


def test_another_quota_counts_from_the_next_step_on() -> None:
    loop = StageLoop(2, is_last=True, grace_s=10.0)
    loop.take_quota(1)
    loop.take_quota(2)
    for number in (0, 1, 2):
        loop.input_arrived(m(number))
    do(loop)
    loop.take_quota(1)
    assert [do(loop) for _ in range(4)] == [
        Forward(m(1)),
        Step((m(0), m(1)), 0),
        Forward(m(2)),
        Step((m(2),), 0),
    ]


def test_a_loop_that_is_reset_has_nothing() -> None:
    loop = a_middle_stage(2)
    for number in (0, 1):
        loop.input_arrived(m(number))
    do(loop)
    loop.reset()
    assert do(loop) is None
    assert loop.drained
