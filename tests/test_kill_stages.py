"""What scripts/kill_stages.py holds against replicas of a pipeline: planted lies in what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import stage_worker
import truth_pipeline
from kill_stages import Death, row
from stage_ledger import Commit, Found, judge

TOKENS, STAGES = 8, 3


class Replica:
    """Lines of one process."""

    def __init__(self, stage: int, number: int = 0) -> None:
        self.stage, self.life = stage, 10 * stage + number
        self.key = f"{self.life:064}"
        self.lines: list[dict[str, Any]] = []
        self.since_step: list[str] = []
        self.tell("StreamOpened", membership=1, void=False)

    def tell(self, what: str, **fields: Any) -> None:
        line = {"what": what, "at": 1.0, "life": self.life, "name": f"r{self.life}", "key": self.key}
        self.lines.append({**line, "stage": self.stage, **fields})

    def count(self, *numbers: int) -> None:
        for number in numbers:
            self.tell("Counted", of=f"f/1/{number}", tokens=TOKENS)
            self.since_step.append(f"f/1/{number}")

    def step(self) -> None:
        self.tell("Stepped", of=self.since_step, tokens=TOKENS * len(self.since_step))
        self.since_step = []

    def offer(self, microbatches: int, fate: str = "") -> None:
        self.tell("Offer", tokens=TOKENS * microbatches, weight=TOKENS * microbatches)
        self.tell("OfferTaken")
        if fate:
            number = sum(line["what"] == "OfferTaken" for line in self.lines)
            self.tell("ContributionEnded", number=number, fate=fate, tokens=TOKENS * microbatches)

    def end(self, number: int, how: str, below: int = 0) -> None:
        self.tell("MicrobatchEnded", of=f"f/1/{number}", how=how, stage_of=below, cause="cut")

    def commit(self, microbatches: int) -> Commit:
        return Commit(self.key, float(TOKENS * microbatches))


def judged(*replicas: Replica, commits: tuple[Commit, ...] = (), gone: tuple[Replica, ...] = ()) -> Found:
    def lines() -> Iterator[dict[str, Any]]:
        for each in replicas:
            yield from each.lines

    return judge(lines(), commits, STAGES, window=4, gone={each.key for each in gone})


def line_of_three() -> tuple[Replica, Replica, Replica]:
    """Two microbatches that every stage counts, and one that was cut below the last."""
    a, b, c = Replica(0), Replica(1), Replica(2)
    c.count(0, 1, 2)
    b.count(0, 1)
    a.count(0, 1)
    for number in (0, 1):
        a.end(number, "settled")
    a.end(2, "partial", 2)
    for each in (a, b, c):
        each.step()
    return a, b, c


def test_counted_tokens_are_those_that_settled_and_partial_ones_above() -> None:
    found = judged(*line_of_three())
    assert not found.broken
    assert found.counted == found.expected == {0: 2 * TOKENS, 1: 2 * TOKENS, 2: 3 * TOKENS}


def test_a_settled_one_that_a_stage_has_not_counted_is_found() -> None:
    a, b, c = line_of_three()
    b.lines = [line for line in b.lines if line.get("of") != "f/1/1"]
    assert any("f/1/1 is counted so by stage" in each for each in judged(a, b, c).broken)


def test_a_lost_or_cut_one_that_is_counted_below_the_cut_is_found() -> None:
    a, b, c = line_of_three()
    b.count(2)
    assert any("f/1/2 is partial" in each for each in judged(a, b, c).broken)
    a, b, c = line_of_three()
    c.count(3)
    a.end(3, "lost")
    assert any("f/1/3 is lost" in each for each in judged(a, b, c).broken)


def test_two_replicas_that_stand_and_count_the_same_are_found() -> None:
    a, b, c = line_of_three()
    d = Replica(2, 1)
    d.count(1)
    assert any("stage 2 counts f/1/1 twice" in each for each in judged(a, b, c, d).broken)


def test_what_a_dead_one_counted_is_void_unless_a_commit_has_it() -> None:
    a, b, c = line_of_three()
    c.offer(3)
    d = Replica(2, 1)
    d.count(1)
    dead = judged(a, b, c, d, gone=(c,))
    assert not dead.broken
    assert dead.void_tokens == 3 * TOKENS
    committed = judged(a, b, c, d, commits=(c.commit(3),), gone=(c,))
    assert any("stage 2 counts f/1/1 twice" in each for each in committed.broken)


def test_a_member_that_moved_on_is_judged_in_each_stage_by_the_commits_of_that() -> None:
    a, b, c = line_of_three()
    moved = Replica(1, 1)
    for line in moved.lines:
        line["key"] = c.key
    moved.key = c.key
    moved.count(3)
    moved.step()
    c.offer(3, fate="applied")
    commit = Commit(c.key, float(3 * TOKENS), stage=2)

    def found(*gone: str) -> Found:
        lines = [line for each in (a, b, c, moved) for line in each.lines]
        return judge(lines, [commit], STAGES, window=4, gone=gone)

    assert not any("records have it" in each for each in found().broken)
    assert found().void_tokens == 0
    assert found(f"{c.key}/1").void_tokens == TOKENS, "what it counted there, and no commit has"


def test_a_member_that_came_back_to_its_stage_has_the_commits_of_each_of_its_times_there() -> None:
    a, b, c = line_of_three()
    again = Replica(2, 1)
    for line in again.lines:
        line["key"] = c.key
    again.key = c.key
    again.count(3)
    again.step()
    c.offer(3, fate="applied")
    again.offer(1, fate="applied")
    first, second = (Commit(c.key, float(n * TOKENS), stage=2) for n in (3, 1))
    lines = [line for each in (a, b, c, again) for line in each.lines]
    for commits, is_right in (((first, second), True), ((second, first), False), ((first,), False)):
        found = judge(lines, commits, STAGES, window=4, gone=())
        assert is_right == (not any("record" in each for each in found.broken)), found.broken


def test_an_offer_of_more_than_was_counted_and_a_record_of_another_weight_are_found() -> None:
    a, b, c = line_of_three()
    b.offer(3)
    assert any("are of nothing" in each for each in judged(a, b, c).broken)
    a, b, c = line_of_three()
    b.offer(2, fate="applied")
    assert any("a record counts" in each for each in judged(a, b, c, commits=(b.commit(1),)).broken)


def test_an_offer_taken_back_is_offered_again_with_more() -> None:
    a, b, c = line_of_three()
    b.offer(1)
    b.tell("TakeBackTaken")
    b.offer(2, fate="applied")
    assert not judged(a, b, c, commits=(b.commit(2),)).broken


def test_what_was_offered_late_counts_in_no_commit() -> None:
    a, b, c = line_of_three()
    b.offer(2, fate="late")
    assert any("records have it" in each for each in judged(a, b, c, commits=(b.commit(2),)).broken)


def test_a_step_takes_what_was_counted_since_the_last_with_nothing_in_flight() -> None:
    a, b, c = line_of_three()
    b.tell("Stepped", of=["f/1/1"], tokens=TOKENS)
    assert any("and counted []" in each for each in judged(a, b, c).broken)
    a, b, c = line_of_three()
    b.tell("ForwardDone", of="f/1/7")
    b.step()
    assert any("in flight" in each for each in judged(a, b, c).broken)


def test_a_new_membership_drops_what_no_step_took() -> None:
    a, b, c = line_of_three()
    b.count(5)
    b.tell("StreamOpened", membership=2, void=False)
    b.since_step = []
    b.offer(2)
    found = judged(a, b, c)
    assert not [each for each in found.broken if "offers" in each or "steps" in each]


def test_one_that_ends_twice_and_more_than_a_window_are_found() -> None:
    a, b, c = line_of_three()
    a.end(0, "settled")
    assert any("ends twice" in each for each in judged(a, b, c).broken)
    a, b, c = line_of_three()
    for _ in range(8):
        a.tell("FeedTaken")
    assert any("have not ended" in each for each in judged(a, b, c).broken)


def test_the_table_tells_how_many_deaths_were_right() -> None:
    right = Death("middle", "any", 1, 2.0, 6.0, 1.0, 3, 0, (8, 8, 16), (8, 8, 16), 24, (), 1.0)
    wrong = Death("middle", "any", 1, 4.0, 8.0, 3.0, 5, 0, (8, 8, 16), (8, 8, 8), 0, (), 1.0)
    assert row("middle", [right, wrong]).split()[:5] == ["middle", "2", "1", "3.0", "4.0"]


def test_the_two_sides_of_a_truth_are_given_the_same_times() -> None:
    times = truth_pipeline.times()
    assert times.stages == truth_pipeline.STAGES
    assert times.activation_s == truth_pipeline.ROWS * stage_worker.WIDTH * 32 / truth_pipeline.RATE_BPS
    assert 0 < times.line_s < times.compute_s, "computing is the limit"
    assert times.window <= truth_pipeline.WINDOW
