"""The outer loop: when a worker offers, waits, gives up, applies and rebases; and where its tokens go."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest

from diloco.errors import NonFinite, NonFiniteContribution, TrainingDiverged
from diloco.loop.outer_loop import OuterLoop, weight_of
from diloco.loop.replica import Replica
from diloco.methods import method
from diloco.methods.schedule import Schedule
from peers.protocol.commands import (
    ConfirmApplied,
    ConfirmCaptured,
    ConfirmLoaded,
    LeaveRun,
    Offer,
    Swap,
    TakeBack,
)
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    Fate,
    FellBehind,
    OfferWanted,
    PaceSet,
    ProgressLost,
    Restored,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    StateFetched,
    VersionExpected,
)
from peers.protocol.record import GENESIS, Record
from transport.collectives.reducer import NumpyReducer, Reducer

WAIT_S = 30.0


@dataclass
class Recorder:
    """A replica that only remembers what was asked of them."""

    calls: list[tuple[object, ...]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    broken: bool = False
    """What is learned is not finite."""
    infinite: set[int] = field(default_factory=set)
    """Fragments whose local parameters are not finite."""
    every: int = 4
    tells_offers: bool = False
    next_is_sketch: bool = False
    two_exchanges: bool = False
    """The method has a sketch in each outer step: rounds take turns."""

    def sketches(self, fragment: int) -> bool:
        return self.next_is_sketch

    def contribution_again(self, fragment: int) -> tuple[Reducer, float]:
        self.calls += [("again", fragment)] if self.tells_offers else []
        if self.broken:
            raise NonFiniteContribution(3, "values are not finite")
        return NumpyReducer(1), 1.0

    def contribution(self, fragment: int) -> tuple[Reducer, float]:
        self.calls += [("offer", fragment)] if self.tells_offers else []
        if self.broken or fragment in self.infinite:
            raise NonFiniteContribution(3, "values are not finite")
        return NumpyReducer(1), 1.0

    def count(self, fragment: int) -> int:
        return len(self.shares)

    def sync_every(self, fragment: int) -> int:
        return self.every

    def apply(
        self, fragment: int, mean: Reducer | None, ours: Reducer | None, share: float, keep_old: bool
    ) -> None:
        self.shares.append(share)
        self.calls.append(("sketch" if self.next_is_sketch else "apply", fragment, ours is not None))
        self.next_is_sketch = self.two_exchanges and not self.next_is_sketch

    def land(self, fragment: int, ours: Reducer | None, on_time: bool) -> None:
        self.calls.append(("land", fragment, ours is not None, on_time))

    def is_finite(self, fragment: int) -> bool:
        return fragment not in self.infinite

    def reset(self, fragment: int, offered: Reducer | None) -> None:
        self.infinite.discard(fragment)
        self.calls.append(("reset", fragment, offered is not None))

    def mend(self) -> list[str]:
        return ["moments began anew"]

    def discard(self, fragment: int) -> None:
        self.calls.append(("discard", fragment))

    def load(self, fragment: int, data: bytearray) -> None:
        self.calls.append(("load", fragment))

    def digest(self, fragment: int) -> bytes:
        return bytes([fragment]) * 32


def record(fragment: int = 0) -> Record:
    return Record(GENESIS, 1, fragment, 0, 7, 1, (b"k" * 32,), (1.0,), b"r" * 32)


def committed(number: int | None, fragment: int = 0, behind: int = 0) -> RoundCommitted:
    weight = 1.0 if number is not None else 0.0
    return RoundCommitted(record(fragment), NumpyReducer(1), number, 8, weight, 0.1, behind)


def schedule(num_fragments: int = 1, delay: int = 0, **more: Any) -> Schedule:
    """H is 4."""
    offsets = tuple((f + 1) * 4 // num_fragments for f in range(num_fragments))
    return Schedule((4,) * num_fragments, offsets, delay, more.pop("offers_before_landing", False), **more)


def active_loop(replica: Replica, **of_schedule: Any) -> OuterLoop:
    loop = OuterLoop(schedule(**of_schedule), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    return loop


@pytest.fixture
def replica() -> Recorder:
    return Recorder()


@pytest.fixture
def loop(replica: Recorder) -> OuterLoop:
    return active_loop(replica)


def step(loop: OuterLoop, times: int, now: float = 0.0) -> list[object]:
    """Inner steps of 2 tokens; every offer is taken."""
    said: list[object] = []
    for _ in range(times):
        loop.count(2)
        for command in loop.due(now):
            said.append(command)
            loop.told(command, True)
    return said


def test_it_offers_after_h_steps_with_their_tokens(loop: OuterLoop) -> None:
    assert step(loop, 3) == []
    offer = step(loop, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.tokens == 8
    assert loop.waits(0.0)


def test_it_offers_nothing_before_it_holds_the_shared_state(replica: Recorder) -> None:
    assert step(OuterLoop(schedule(), WAIT_S, replica), 9) == []


def test_after_a_commit_it_applies_and_begins_again(loop: OuterLoop, replica: Recorder) -> None:
    step(loop, 4)
    assert loop.handle(0.0, committed(1)) == [ConfirmApplied(record(), bytes(32))]
    assert replica.calls == [("apply", 0, True), ("land", 0, True, True)]
    assert replica.shares == [1.0]
    assert not loop.waits(0.0)
    assert len(step(loop, 4)) == 1


def test_what_was_trained_after_the_offer_is_kept_on_top_and_offered_next(
    loop: OuterLoop, replica: Recorder
) -> None:
    step(loop, 4)
    step(loop, 3)
    loop.handle(0.0, committed(1))
    assert replica.calls == [("apply", 0, True), ("land", 0, True, False)]
    offer = step(loop, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.tokens == 8


def test_it_waits_no_longer_than_the_bound_and_then_trains_on(loop: OuterLoop) -> None:
    step(loop, 4)
    assert loop.waits(WAIT_S - 1)
    assert not loop.waits(WAIT_S + 1)
    assert loop.due(WAIT_S + 1) == [TakeBack(0)]


def test_an_open_round_is_never_taken_back(loop: OuterLoop) -> None:
    step(loop, 4)
    loop.handle(0.0, RoundOpened(7, 0, 0, ()))
    loop.handle(0.0, CoordinatorLost(9.0))
    assert loop.due(10_000.0) == []
    assert not loop.waits(10_000.0)


def test_without_a_coordinator_it_trains_on_and_offers_everything_later(loop: OuterLoop) -> None:
    step(loop, 4)
    loop.handle(0.0, CoordinatorLost(5.0))
    assert not loop.waits(0.0)
    assert step(loop, 6) == [TakeBack(0)]
    loop.handle(0.0, CoordinatorBack())
    offer = step(loop, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.tokens == 2 * 11


def test_a_late_contribution_is_given_up_with_what_followed_it(loop: OuterLoop, replica: Recorder) -> None:
    step(loop, 6)
    loop.handle(0.0, ContributionEnded(0, 1, 8, Fate.LATE, "late"))
    assert replica.calls == [("discard", 0)]
    assert loop.tokens_unoffered == 4
    assert len(step(loop, 4)) == 1


def test_what_is_applied_without_its_result_counts_once_and_the_next_state_begins_anew(
    loop: OuterLoop, replica: Recorder
) -> None:
    step(loop, 6)
    loop.handle(0.0, ContributionEnded(0, 1, 8, Fate.APPLIED, "head", without_result=True))
    loop.handle(0.0, FellBehind("the shared state is fetched anew"))
    assert not loop.waits(0.0)
    loop.handle(0.0, StateFetched(0, GENESIS, bytearray()))
    assert loop.tokens_unoffered == 4, "eight are applied"
    assert replica.calls == [("discard", 0), ("load", 0)]


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


def test_overlapped_nothing_of_the_offer_is_left_in_the_live_model(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2, delay=4, offers_before_landing=True)
    step(loop, 3)
    replica.infinite = {0, 1}
    step(loop, 1)
    assert [call for call in replica.calls if call[0] == "reset"] == [
        ("reset", 0, False),
        ("reset", 1, False),
    ]


def test_a_round_without_it_keeps_its_progress_and_puts_it_in_step_with_the_others(
    loop: OuterLoop, replica: Recorder
) -> None:
    step(loop, 2)
    loop.handle(0.0, committed(None))
    assert replica.calls == [("apply", 0, False), ("land", 0, False, False)]
    assert step(loop, 3) == []
    offer = step(loop, 1)[0]  # when those who were in the round offer next
    assert isinstance(offer, Offer)
    assert offer.tokens == 12


def test_one_that_is_slower_than_rounds_comes_to_offer_nevertheless(loop: OuterLoop) -> None:
    step(loop, 1)
    for _ in range(3):
        loop.handle(0.0, committed(None))
        assert step(loop, 1) == []
    loop.handle(0.0, committed(None))
    assert len(step(loop, 1)) == 1


def test_with_a_delay_it_is_in_step_with_the_last_of_the_others(replica: Recorder) -> None:
    loop = active_loop(replica, delay=3)
    step(loop, 2)
    loop.handle(0.0, committed(None))
    assert len(step(loop, 1)) == 1
    step(loop, 2)
    assert not loop.waits(0.0)


def test_it_offers_early_what_others_wait_for(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=2)
    step(loop, 2)  # the first fragment is offered
    for fragment in range(2):
        assert loop.handle(0.0, OfferWanted(fragment)) == []
    (offer,) = loop.due(0.0)
    assert isinstance(offer, Offer)
    assert (offer.fragment, offer.tokens) == (1, 4)


def test_nothing_is_offered_early_before_its_result_has_landed(replica: Recorder) -> None:
    loop = active_loop(replica, delay=2)
    loop.handle(0.0, OfferWanted(0))
    assert loop.due(0.0) == []  # nothing is trained
    assert len(step(loop, 1)) == 1
    loop.handle(0.0, committed(1))
    loop.handle(0.0, OfferWanted(0))
    assert step(loop, 1) == []


def test_far_behind_it_follows_before_it_trains_on(loop: OuterLoop) -> None:
    loop.handle(0.0, committed(None, behind=2))
    assert loop.waits(0.0)
    assert loop.patience_ends(0.0) == WAIT_S
    assert not loop.waits(WAIT_S)  # nor for ever
    loop.handle(WAIT_S, committed(None, behind=1))
    assert not loop.waits(WAIT_S)
    loop.handle(WAIT_S, committed(None, behind=2))
    loop.handle(WAIT_S, FellBehind("the shared state is fetched anew"))
    assert not loop.waits(WAIT_S)


def test_an_offer_that_is_not_taken_is_made_again_at_the_next_step(loop: OuterLoop) -> None:
    step(loop, 3)
    loop.count(2)
    loop.told(loop.due(0.0)[0], False)
    assert not loop.waits(0.0)
    loop.count(2)
    assert isinstance(loop.due(0.0)[0], Offer)


def test_an_offer_that_is_not_taken_is_made_again_at_the_next_step_however_large_h_is(
    replica: Recorder,
) -> None:
    replica.every = 100
    loop = OuterLoop(Schedule((100,), (100,), 0, False), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    assert step(loop, 99) == []
    for tokens in (200, 202, 204):
        loop.count(2)
        (offer,) = loop.due(0.0)
        assert isinstance(offer, Offer)
        assert offer.tokens == tokens, "nothing of it is lost"
        assert loop.quiet_steps() == 1
        loop.told(offer, False)
        assert loop.due(0.0) == [], "not before the next step"
    assert loop.tokens_unoffered == 0


def test_a_swap_that_is_not_taken_is_made_again_at_the_next_step(replica: Recorder) -> None:
    replica.every = 100
    loop = OuterLoop(Schedule((100,), (100,), 0, False, gossips=True), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    step(loop, 99)
    for tokens in (200, 202):
        loop.count(2)
        (swap,) = loop.due(0.0)
        assert isinstance(swap, Swap)
        assert swap.tokens == tokens
        loop.told(swap, False)


@pytest.mark.parametrize("then", ["the commit", "another state", "a state gone back to"])
def test_no_contribution_is_made_while_a_newer_version_is_on_its_way(then: str, replica: Recorder) -> None:
    replica.tells_offers = True
    loop = active_loop(replica, num_fragments=2)
    step(loop, 1)
    loop.count(2)
    loop.told(loop.due(0.0)[0], False)
    loop.handle(0.0, VersionExpected(0))
    assert [c.fragment for c in step(loop, 3) if isinstance(c, Offer)] == [1]
    assert replica.calls == [("offer", 0), ("offer", 1)]
    assert loop.progress[0].tokens == 10
    if then == "the commit":
        loop.handle(0.0, committed(None))
        assert loop.tokens_unoffered == 0
    elif then == "another state":
        loop.handle(0.0, StateFetched(0, GENESIS, bytearray()))
    else:
        loop.handle(0.0, Restored(record()))
    assert 0 in [c.fragment for c in step(loop, 4) if isinstance(c, Offer)]


def test_fragments_are_staggered_over_h_and_applied_each_by_itself(replica: Recorder) -> None:
    loop = active_loop(replica, num_fragments=3)
    offered = [[c.fragment for c in step(loop, 1) if isinstance(c, Offer)] for _ in range(4)]
    assert offered == [[0], [1], [], [2]]
    loop.handle(0.0, committed(1, fragment=1))
    assert loop.waits(0.0)
    assert replica.calls == [("apply", 1, True), ("land", 1, True, False)]


def test_with_a_delay_it_trains_on_until_the_result_is_due(replica: Recorder) -> None:
    loop = active_loop(replica, delay=2)
    step(loop, 4)
    assert not loop.waits(0.0)
    step(loop, 1)
    loop.handle(0.0, committed(1))
    assert replica.calls == [("apply", 0, True)]
    step(loop, 1)
    assert replica.calls[1:] == [("land", 0, True, True)]
    assert [type(c) for c in step(loop, 2)] == [Offer], "H counts from the offer, not from the landing"


def test_it_waits_for_a_result_only_once_that_is_later_than_its_delay(replica: Recorder) -> None:
    loop = active_loop(replica, delay=2)
    step(loop, 5)
    assert not loop.waits(0.0)
    step(loop, 1)
    assert loop.waits(0.0)
    loop.handle(0.0, committed(1))
    assert not loop.waits(0.0)
    assert replica.calls == [("apply", 0, True), ("land", 0, True, True)]


def test_an_overlap_of_a_whole_outer_step_offers_before_what_it_offers_is_wiped_out(
    replica: Recorder,
) -> None:
    replica.tells_offers = True
    loop = active_loop(replica, delay=4, offers_before_landing=True)
    step(loop, 4)
    assert replica.calls == [("offer", 0), ("land", 0, False, True)]
    step(loop, 2)
    loop.handle(0.0, committed(1))
    step(loop, 2)
    assert replica.calls[2:] == [("apply", 0, True), ("offer", 0), ("land", 0, True, True)]


@pytest.mark.parametrize("landing", [True, False])
def test_an_overlapped_offer_that_is_not_taken_lands_nothing_and_loses_nothing(
    landing: bool, replica: Recorder
) -> None:
    replica.tells_offers = True
    loop = active_loop(replica, delay=4, offers_before_landing=True)
    step(loop, 3)
    if landing:
        step(loop, 1)
        loop.handle(0.0, committed(1))
        step(loop, 3)
    replica.calls.clear()
    for tokens in (8, 10, 12):
        loop.count(2)
        (offer,) = loop.due(0.0)
        assert isinstance(offer, Offer)
        assert offer.tokens == tokens
        assert replica.calls == [("offer", 0)]
        loop.told(offer, tokens == 12)
        assert replica.calls[1:] == ([("land", 0, landing, True)] if tokens == 12 else [])
        replica.calls.clear()
    assert loop.tokens_unoffered == 0
    assert loop.progress[0].landing is None


def test_an_overlapped_offer_that_a_round_went_on_without_is_counted_and_not_offered_again(
    replica: Recorder,
) -> None:
    loop = active_loop(replica, delay=4, offers_before_landing=True, rebases=True)
    step(loop, 5)
    loop.handle(0.0, committed(None))  # the member took the offer back
    assert loop.tokens_unoffered == 8, "its landing wiped it out"
    assert [(each.tokens, each.steps) for each in loop.progress] == [(2, 1)]


def test_without_a_coordinator_an_overlapped_result_leaves_local_steps_on_top(replica: Recorder) -> None:
    loop = active_loop(replica, delay=4, offers_before_landing=True)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    loop.handle(0.0, CoordinatorLost(9.0))
    step(loop, 4)
    assert replica.calls[-1] == ("land", 0, True, False)


def test_a_result_without_it_is_landed_after_what_was_pending(replica: Recorder) -> None:
    loop = active_loop(replica, delay=3)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    loop.handle(0.0, committed(None))
    assert replica.calls == [
        ("apply", 0, True),
        ("land", 0, True, False),
        ("apply", 0, False),
        ("land", 0, False, False),
    ]


def test_where_rounds_do_not_wait_an_offer_that_missed_one_is_made_again_with_all_its_tokens(
    replica: Recorder,
) -> None:
    loop = active_loop(replica, rebases=True)
    step(loop, 4)
    loop.handle(0.0, committed(None))
    (offer,) = loop.due(0.0)
    assert isinstance(offer, Offer)
    assert offer.tokens == 8
    assert replica.calls == [("apply", 0, False), ("land", 0, False, False)]


def test_a_slow_worker_offers_after_fewer_steps(replica: Recorder) -> None:
    loop = active_loop(replica)
    step(loop, 4)
    loop.speed = 52.0
    loop.handle(0.0, PaceSet(100.0))
    loop.handle(0.0, committed(1))
    assert step(loop, 1) == []
    assert [type(c) for c in step(loop, 1)] == [Offer], (
        "4 * 0.52 steps, the noise of which counts for nothing"
    )


def test_a_pace_that_is_set_half_way_holds_for_the_offer_to_come(replica: Recorder) -> None:
    loop = active_loop(replica)
    step(loop, 1)
    loop.speed = 50.0
    loop.handle(0.0, PaceSet(100.0))
    assert [type(c) for c in step(loop, 1)] == [Offer], "2 of 4 steps"


def test_a_pace_changes_nothing_for_what_is_offered(replica: Recorder) -> None:
    loop = active_loop(replica, delay=2)
    step(loop, 4)
    loop.speed = 50.0
    loop.handle(0.0, PaceSet(100.0))
    assert step(loop, 1) == []
    assert loop.progress[0].offered is not None


def test_h_follows_what_the_numbers_say(replica: Recorder) -> None:
    loop = active_loop(replica)
    step(loop, 4)
    replica.every = 1
    loop.handle(0.0, committed(1))
    assert [type(c) for c in step(loop, 1)] == [Offer]


@pytest.mark.parametrize(("weights", "expected"), [("tokens", 8), ("equal", 1), ("tokens_rate", 16)])
def test_weights_are_tokens_or_all_the_same_or_tokens_times_tokens_per_step(
    weights: str, expected: int
) -> None:
    assert weight_of(dataclasses.replace(schedule(), weights=weights), 8, 4) == expected  # type: ignore[arg-type]


def test_a_seed_captures_and_a_joiner_loads_every_fragment(replica: Recorder) -> None:
    loop = OuterLoop(schedule(2), WAIT_S, replica)
    assert loop.handle(0.0, BecomeSeed()) == [ConfirmCaptured(0, bytes(32)), ConfirmCaptured(1, b"\x01" * 32)]
    fetched = loop.handle(0.0, StateFetched(1, GENESIS, bytearray(8)))
    assert fetched == [ConfirmLoaded(1, GENESIS, b"\x01" * 32)]
    assert replica.calls == [("load", 1)]


def test_a_finished_run_waits_for_nothing(loop: OuterLoop) -> None:
    step(loop, 4)
    loop.handle(0.0, RunFinished(5))
    assert loop.finished
    assert not loop.waits(0.0)


@pytest.mark.parametrize(
    ("weights", "expected"), [("tokens", 600), ("equal", 1), ("tokens_rate", 600 * 600 // 3)]
)
def test_a_contribution_weighs_its_tokens_one_or_tokens_times_tokens_per_step(
    weights: str, expected: int
) -> None:
    assert weight_of(Schedule.of(method("diloco", weights=weights)), tokens=600, steps=3) == expected


def test_a_contribution_without_steps_has_a_weight_too() -> None:
    assert weight_of(Schedule.of(method("decoupled")), tokens=5, steps=0) == 25


# -- outer steps of two exchanges ---------------------------------------------------------------


@pytest.fixture
def two() -> Recorder:
    """Of a method whose outer steps are two exchanges."""
    return Recorder(tells_offers=True, next_is_sketch=True, two_exchanges=True)


def loop_of(two: Recorder, **of_schedule: Any) -> OuterLoop:
    return active_loop(two, exchanges_per_step=2, **of_schedule)


def offers(loop: OuterLoop, taken: bool = True) -> list[tuple[int, int]]:
    """Tokens and weights of what is offered now."""
    found = []
    for command in loop.due(0.0):
        assert isinstance(command, Offer)
        found.append((command.tokens, command.weight))
        loop.told(command, taken)
    return found


def test_a_snapshot_that_is_kept_is_given_up_with_what_is_not_finite(two: Recorder) -> None:
    loop = loop_of(two)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert loop.progress[0].keeps
    two.broken = True
    loop.count(2)
    loop.due(0.0)
    assert (loop.progress[0].keeps, loop.setbacks.tokens) == (False, 10)


def test_another_fragments_snapshot_that_is_kept_goes_with_its_own_values(two: Recorder) -> None:
    loop = active_loop(two, num_fragments=2, exchanges_per_step=2)
    offered = [c.fragment for c in step(loop, 4) if isinstance(c, Offer)]
    assert sorted(offered) == [0, 1]
    loop.handle(0.0, committed(1))
    assert loop.progress[0].keeps
    loop.handle(0.0, ContributionEnded(1, 1, 0, Fate.LATE, "why"))
    two.broken, two.infinite = True, {0, 1}
    loop.count(2)
    loop.due(0.0)
    two.broken = False
    assert not any(each.keeps for each in loop.progress)
    step(loop, 8)  # it goes on


def test_a_delay_shrinks_with_the_period_of_who_is_slower(replica: Recorder) -> None:
    replica.every = 20
    loop = OuterLoop(Schedule((20,), (20,), 15, False), WAIT_S, replica)
    loop.handle(0.0, BecameActive(GENESIS, 0))
    replica.every = 14  # H adapts
    offered, landed = [], []
    for at in range(1, 60):
        loop.count(2)
        commands = [c for c in loop.due(0.0) if isinstance(c, Offer)]
        for command in commands:
            loop.told(command, True)
            loop.handle(0.0, committed(1))
            offered.append(at)
        landed += [at] if replica.calls[-1:] == [("land", 0, True, True)] else []
        replica.calls.clear()
    assert offered == [20, 34, 48]
    assert landed == [30, 44, 58], "each before the next offer"


def test_a_sketch_has_the_weight_and_no_tokens_and_the_second_exchange_follows_at_once(two: Recorder) -> None:
    loop = loop_of(two)
    (sketch,) = step(loop, 4)
    assert isinstance(sketch, Offer)
    assert (sketch.tokens, sketch.weight) == (0, 8)
    assert loop.waits(0.0)
    assert loop.handle(0.0, committed(1)) == [ConfirmApplied(record(), bytes(32))]
    assert offers(loop) == [(8, 8)]
    assert loop.waits(0.0)
    loop.handle(0.0, committed(2))
    assert two.calls == [
        ("offer", 0),
        ("sketch", 0, True),
        ("again", 0),
        ("apply", 0, True),
        ("land", 0, True, True),
    ]
    assert not loop.waits(0.0)
    assert loop.rounds_applied == 2
    assert len(step(loop, 4)) == 1


def test_a_result_of_two_exchanges_lands_its_delay_after_the_first_offer(two: Recorder) -> None:
    loop = loop_of(two, delay=3)
    step(loop, 5)
    loop.handle(0.0, committed(1))
    assert loop.quiet_steps() == 1
    assert offers(loop) == [(8, 8)], "of the snapshot, not of the step since"
    assert (loop.quiet_steps(), loop.progress[0].steps_since_offer) == (2, 1)
    step(loop, 1)
    assert not loop.waits(0.0)
    step(loop, 1)
    assert loop.waits(0.0), "3 steps after the sketch was offered"
    loop.handle(0.0, committed(2))
    assert two.calls[-1] == ("land", 0, True, True)
    offer = step(loop, 1)[0]
    assert isinstance(offer, Offer)
    assert offer.weight == 8, "H counts from the first offer"


def test_with_a_whole_outer_step_of_overlap_only_the_first_offer_lands_what_came(two: Recorder) -> None:
    loop = loop_of(two, delay=4, offers_before_landing=True)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert offers(loop) == [(8, 8)]
    step(loop, 1)
    loop.handle(0.0, committed(2))
    step(loop, 3)
    lands = [call for call in two.calls if call[0] == "land"]
    assert lands == [("land", 0, False, True), ("land", 0, True, True)]
    assert loop.progress[0].offered_tokens == 8


@pytest.mark.parametrize("fate", [Fate.LATE, Fate.REJECTED, Fate.SUPERSEDED])
@pytest.mark.parametrize("whole", [False, True])
def test_a_sketch_that_meets_another_fate_loses_no_training(two: Recorder, fate: Fate, whole: bool) -> None:
    loop = loop_of(two, **({"delay": 4, "offers_before_landing": True} if whole else {}))
    step(loop, 4)
    loop.handle(0.0, ContributionEnded(0, 1, 0, fate, "why"))
    assert ("discard", 0) not in two.calls
    assert not loop.waits(0.0)
    loop.handle(0.0, committed(None))  # the others' sketch
    assert offers(loop) == [(8, 8)]
    loop.handle(0.0, committed(2))
    assert [call for call in two.calls if call[0] in ("offer", "again")] == [("offer", 0), ("again", 0)]
    assert loop.tokens_unoffered == 0


@pytest.mark.parametrize(("fate", "steps"), [(Fate.LATE, 1), (Fate.REJECTED, 4)])
def test_a_sketch_whose_round_came_to_nothing_is_offered_again_of_the_same_snapshot(
    two: Recorder, fate: Fate, steps: int
) -> None:
    two.every = 40
    loop = loop_of(two)
    step(loop, 4)
    loop.handle(0.0, ContributionEnded(0, 1, 0, fate, "why"))
    assert step(loop, steps - 1) == []
    (sketch,) = step(loop, 1)
    assert isinstance(sketch, Offer)
    assert (sketch.tokens, sketch.weight) == (0, 8)
    assert two.calls == [("offer", 0), ("again", 0)]


def test_who_was_not_in_the_sketch_offers_for_the_second_exchange_what_it_has_trained(two: Recorder) -> None:
    loop = loop_of(two)
    step(loop, 2)
    loop.handle(0.0, committed(None))
    assert offers(loop) == [(4, 4)]
    assert two.calls == [("sketch", 0, False), ("offer", 0)]


def test_who_joins_between_the_exchanges_offers_after_its_first_step(two: Recorder) -> None:
    two.next_is_sketch = False
    loop = loop_of(two)
    loop.handle(0.0, StateFetched(0, GENESIS, bytearray(8)))
    assert offers(loop) == []
    (offer,) = step(loop, 1)
    assert isinstance(offer, Offer)
    assert offer.tokens == 2


@pytest.mark.parametrize("whole", [False, True])
def test_a_second_offer_that_is_not_taken_is_made_again_of_the_same_snapshot(
    two: Recorder, whole: bool
) -> None:
    loop = loop_of(two, **({"delay": 4, "offers_before_landing": True} if whole else {}))
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert offers(loop, taken=False) == [(8, 8)]
    (offer,) = step(loop, 1)
    assert isinstance(offer, Offer)
    assert offer.tokens == 8
    assert two.calls[-2:] == [("again", 0), ("again", 0)]


@pytest.mark.parametrize(("whole", "lost"), [(False, 0), (True, 8)])
def test_an_outer_step_that_ends_without_what_was_kept_for_it_loses_what_a_landing_wiped_out(
    two: Recorder, whole: bool, lost: int
) -> None:
    loop = loop_of(two, **({"delay": 4, "offers_before_landing": True} if whole else {}))
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert offers(loop, taken=False) == [(8, 8)]  # the member has heard of the second commit already
    loop.handle(0.0, committed(None))
    assert loop.tokens_unoffered == lost
    assert loop.progress[0].tokens == 8 - lost
    assert not loop.progress[0].has_snapshot


def test_the_second_exchange_given_up_is_trained_on_and_offered_with_more(two: Recorder) -> None:
    loop = loop_of(two)
    step(loop, 4)
    loop.handle(0.0, committed(1))
    assert offers(loop) == [(8, 8)]
    (taken_back,) = loop.due(WAIT_S + 1)
    assert taken_back == TakeBack(0)
    loop.told(taken_back, True)
    (offer,) = step(loop, 4)
    assert isinstance(offer, Offer)
    assert offer.tokens == 16
    assert two.calls[-1] == ("offer", 0)
