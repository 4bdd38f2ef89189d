"""The outer loop when what was trained is not finite: what is given up, told, and when a worker stops."""

from __future__ import annotations

import pytest

from diloco.errors import NonFinite, TrainingDiverged
from diloco.loop.outer_loop import OuterLoop
from peers.protocol.commands import (
    ConfirmApplied,
    LeaveRun,
    Offer,
)
from peers.protocol.events import (
    ProgressLost,
)
from tests.diloco.loop.kit import Recorder, active_loop, committed, step
from transport.collectives.reducer import Reducer


def test_values_that_are_not_finite_are_never_offered(loop: OuterLoop, replica: Recorder) -> None:
    replica.broken = True
    assert step(loop, 4) == []
    assert replica.calls == [("reset", 0, False)]
    assert (loop.setbacks.tokens, loop.tokens_unoffered) == (8, 0)
    (lost,) = loop.setbacks.take()
    assert lost == ProgressLost(0, (0,), 8, "3 values are not finite", 1, ("moments began anew",))
    assert loop.setbacks.take() == [], "it is told once"
    replica.broken = False
    assert len(step(loop, 4)) == 1


def test_any_other_error_of_a_contribution_is_raised() -> None:
    class Faulty(Recorder):
        def contribution(self, fragment: int) -> tuple[Reducer, float]:
            raise NonFinite(1, "is our bug")

    with pytest.raises(NonFinite, match="our bug"):
        step(active_loop(Faulty()), 4)


@pytest.mark.parametrize("gossips", [False, True])
def test_five_contributions_in_a_row_that_are_not_finite_end_training(
    replica: Recorder, gossips: bool
) -> None:
    loop = active_loop(replica, gossips=gossips)
    replica.broken = True
    assert step(loop, 4 * 4) == []
    assert loop.setbacks.diverged is None
    (leave,) = step(loop, 4)
    assert isinstance(leave, LeaveRun)
    assert isinstance(loop.setbacks.diverged, TrainingDiverged)
    assert "5th time in a row" in str(loop.setbacks.diverged)
    assert [each.in_a_row for each in loop.setbacks.take()] == [1, 2, 3, 4, 5]
    assert not loop.waits(0.0)
    replica.broken = False
    assert step(loop, 8) == [], "it has left"


def test_a_finite_contribution_in_between_begins_the_count_anew(loop: OuterLoop, replica: Recorder) -> None:
    for _ in range(3):
        replica.broken = True
        assert step(loop, 4 * 4) == []
        replica.broken = False
        assert [type(each) for each in step(loop, 4)] == [Offer]
        loop.handle(0.0, committed(1))
    assert loop.setbacks.count == 12


def test_of_several_fragments_each_counts_by_itself(replica: Recorder) -> None:
    class Stubborn(Recorder):
        def reset(self, fragment: int, offered: Reducer | None) -> None:
            """It is not finite again at the next step."""

    stubborn = Stubborn(infinite={1})
    loop = active_loop(stubborn, num_fragments=2)
    said: list[object] = []
    for _ in range(5):
        said += step(loop, 2)
        loop.handle(0.0, committed(1))
        said += step(loop, 2)
    assert [type(each) for each in said] == [Offer] * 5 + [LeaveRun]


def test_every_fragment_that_is_not_finite_is_given_up_at_once_and_offered_when_it_would_have_been(
    replica: Recorder,
) -> None:
    loop = active_loop(replica, num_fragments=4)
    replica.infinite = {0, 1, 3}
    assert step(loop, 1) == []
    assert replica.calls == [("reset", 0, False), ("reset", 1, False), ("reset", 3, False)]
    assert loop.setbacks.take()[0].fragments == (0, 1, 3)
    offers = [[each for each in step(loop, 1) if isinstance(each, Offer)] for _ in range(4)]
    assert [[each.fragment for each in some] for some in offers] == [[1], [2], [3], [0]]
    assert [[each.tokens for each in some] for some in offers] == [[2], [6], [6], [8]]
    assert loop.setbacks.tokens == 3 * 2


def test_what_is_under_way_stays_so_when_another_fragment_is_not_finite(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2, delay=3)
    step(loop, 3)  # the first was offered after 2
    replica.infinite = {0, 1}
    step(loop, 1)
    assert replica.calls == [("reset", 0, True), ("reset", 1, False)]
    assert loop.setbacks.tokens == 2 * 2 + 4 * 2
    first = loop.progress[0]
    assert (first.offered is not None, first.steps, first.tokens) == (True, 2, 4)
    step(loop, 1)
    assert isinstance(loop.handle(0.0, committed(1))[0], ConfirmApplied)
    assert first.steps_since_offer == 1


def test_what_came_after_an_offer_is_forgotten_and_the_offer_is_not(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2, delay=3)
    step(loop, 3)  # the first was offered after 2
    loop.forget_since_offer(0)
    first = loop.progress[0]
    assert replica.calls == [("reset", 0, True)]
    assert (first.offered is not None, first.steps, first.tokens, loop.tokens_unoffered) == (True, 2, 4, 2)
    loop.forget_since_offer(0)
    assert replica.calls == [("reset", 0, True)], "there is no more"
    loop.handle(0.0, committed(1))
    assert (first.steps_since_offer, loop.progress[0].tokens) == (0, 0)


def test_overlapped_nothing_of_the_offer_is_left_in_the_live_model(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2, delay=4, offers_before_landing=True)
    step(loop, 3)
    replica.infinite = {0, 1}
    step(loop, 1)
    assert [call for call in replica.calls if call[0] == "reset"] == [
        ("reset", 0, False),
        ("reset", 1, False),
    ]
