"""Contributions: each meets one fate, and tokens are counted once."""

from __future__ import annotations

import pytest

from peers.member.contributions import Contributions
from peers.protocol.commands import Offer
from peers.protocol.events import ContributionEnded, Fate
from peers.protocol.fields import MAX_WEIGHT
from peers.protocol.messages import Counted, Ready, Rejected, Withdraw
from tests.peers.member.fakes import BASE, HOST, ME, OTHER, FakeOutlet, record_on, vector


def offering(outlet: FakeOutlet, *fragments: int) -> Contributions:
    contributions = Contributions(ME, HOST, outlet)
    for fragment in fragments:
        contributions.offer(BASE, Offer(fragment, 100, 50, vector(1.0), 2.5))
    return contributions


def check_ledger(contributions: Contributions) -> None:
    open_tokens = sum(each.tokens for each in contributions.offered.values())
    assert contributions.tokens_trained == sum(contributions.tokens_by_fate.values()) + open_tokens


def test_the_coordinator_is_told_what_is_offered() -> None:
    outlet = FakeOutlet()
    offering(outlet, 0, 3).send_offer(0.0, 3)
    assert outlet.said == [(HOST, Ready(3, BASE, 100, 50, 2, 2.5))]


def test_one_fragment_has_one_contribution_at_a_time() -> None:
    contributions = offering(FakeOutlet(), 0)
    with pytest.raises(AssertionError, match="one contribution"):
        contributions.offer(BASE, Offer(0, 1, 1, vector(1.0), 1.0))


def test_what_no_round_has_is_taken_back_as_if_it_had_never_been_offered() -> None:
    outlet = FakeOutlet()
    contributions = offering(outlet, 0)
    taken = contributions.withdraw(1.0, 0)
    assert taken is not None
    assert outlet.said == [(HOST, Withdraw(0, taken.number))]
    assert contributions.tokens_trained == 0
    assert contributions.withdraw(1.0, 0) is None
    assert contributions.offer(BASE, Offer(0, 7, 7, vector(1.0), 1.0)).number == 2
    check_ledger(contributions)


@pytest.mark.parametrize("taken", ["in a round", "counted by a record"])
def test_what_a_round_has_is_not_taken_back_and_not_rejected(taken: str) -> None:
    outlet = FakeOutlet()
    contributions = offering(outlet, 0)
    contributions.offered[0].serial = 4
    if taken == "counted by a record":
        contributions.mark_committed(record_on(BASE, 4, (ME, OTHER)))
        contributions.leave_rounds()
    assert contributions.withdraw(1.0, 0) is None
    contributions.reject(Rejected(0, 1, "too large"))
    assert outlet.said == outlet.events == []


def test_what_is_only_offered_again_may_be_taken_back() -> None:
    contributions = offering(FakeOutlet(), 0)
    contributions.offered[0].serial = 4
    contributions.leave_rounds()
    assert contributions.withdraw(1.0, 0) is not None


def test_a_rejection_of_another_contribution_ends_nothing() -> None:
    outlet = FakeOutlet()
    contributions = offering(outlet, 0)
    contributions.reject(Rejected(0, 9, "too large"))
    assert outlet.events == []
    contributions.reject(Rejected(0, 1, "too large"))
    assert outlet.events == [ContributionEnded(0, 1, 100, Fate.REJECTED, "too large")]
    check_ledger(contributions)


def test_a_record_counts_only_who_was_in_its_round() -> None:
    contributions = offering(FakeOutlet(), 0)
    contributions.offered[0].serial = 4
    contributions.mark_committed(record_on(BASE, 4, (OTHER,)))
    contributions.mark_committed(record_on(BASE, 5, (ME, OTHER)))
    assert not contributions.offered[0].committed
    contributions.mark_committed(record_on(BASE, 4, (ME, OTHER)))
    assert contributions.offered[0].committed


def test_a_contribution_meets_one_fate() -> None:
    outlet = FakeOutlet()
    contributions = offering(outlet, 0, 1)
    contributions.end(0, Fate.APPLIED, "head")
    assert contributions.end(0, Fate.LATE, "again") is None
    contributions.end_decided(Fate.LATE, "behind")
    assert [(event.fragment, event.fate) for event in outlet.events] == [(0, Fate.APPLIED), (1, Fate.LATE)]
    check_ledger(contributions)


def test_what_a_record_counts_is_left_to_it_and_not_said_again() -> None:
    outlet = FakeOutlet()
    contributions = offering(outlet, 0, 1)
    contributions.offered[0].counted_by = b"c" * 32
    contributions.send_all_offers(1.0)
    assert [ready.fragment for ready in outlet.told(HOST, Ready)] == [1]


def test_what_a_record_counts_is_applied_and_what_is_in_a_round_waits_for_the_word_of_others() -> None:
    outlet = FakeOutlet()
    contributions = offering(outlet, 0, 1, 2)
    contributions.offered[0].serial = contributions.offered[1].serial = 4
    record = record_on(BASE, 4, (ME, OTHER))
    contributions.mark_committed(record)
    contributions.end_decided(Fate.LATE, "behind")
    assert outlet.events == [
        ContributionEnded(0, 1, 100, Fate.APPLIED, record.hash().hex(), without_result=True),
        ContributionEnded(2, 3, 100, Fate.LATE, "behind"),
    ]
    assert list(contributions.offered) == [1]
    check_ledger(contributions)


def test_a_record_that_was_not_told_counts_as_well() -> None:
    contributions = offering(FakeOutlet(), 0)
    contributions.offered[0].serial = 4
    for counted in (Counted(0, 3, BASE), Counted(1, 4, BASE)):
        contributions.mark_counted(counted)
    assert not contributions.offered[0].committed
    contributions.mark_counted(Counted(0, 4, BASE))
    contributions.leave_rounds()
    assert contributions.offered[0].counted_by == BASE


def test_where_the_swarm_goes_back_what_no_standing_record_counts_is_superseded() -> None:
    outlet = FakeOutlet()
    contributions = offering(outlet, 0, 1, 2)
    contributions.offered[0].counted_by, contributions.offered[1].counted_by = b"0" * 32, b"1" * 32
    contributions.supersede([b"0" * 32], "back")
    assert [(event.fragment, event.fate) for event in outlet.events] == [
        (1, Fate.SUPERSEDED),
        (2, Fate.SUPERSEDED),
    ]
    assert list(contributions.offered) == [0]
    check_ledger(contributions)


def test_gossip_counts_what_was_trained_as_applied() -> None:
    outlet = FakeOutlet()
    contributions = offering(outlet)
    contributions.count_applied(0, 7, 30)
    assert outlet.events == [ContributionEnded(0, 7, 30, Fate.APPLIED, "")]
    assert contributions.tokens_by_fate[Fate.APPLIED] == 30
    check_ledger(contributions)


def test_a_weight_that_no_round_takes_is_offered_as_the_largest() -> None:
    mine = offering(FakeOutlet())
    kept = mine.offer(BASE, Offer(0, 10**9, 10**18, vector(1.0), 1.0))
    assert kept.weight == MAX_WEIGHT
    assert int(float(kept.weight)) == MAX_WEIGHT
