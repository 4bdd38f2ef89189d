"""Follower: records are applied in order on their parents, or the whole state is fetched."""

from __future__ import annotations

import pytest

from peers.member.contributions import Contributions
from peers.member.exchanges import Exchanges
from peers.member.fetches import Fetches
from peers.member.follower import Follower
from peers.member.membership import Membership
from peers.member.results import KeptResults
from peers.member.versions import Versions
from peers.protocol.commands import ConfirmApplied, ConfirmCaptured, ConfirmLoaded, ConfirmMoved, Offer
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    ContributionEnded,
    Fate,
    FellBehind,
    Restored,
    RoundCommitted,
    StateFetched,
)
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.manifest import Manifest
from peers.protocol.messages import (
    Applied,
    Applying,
    CatchUp,
    CaughtUp,
    Committed,
    NeedState,
    Ready,
    Seed,
    Withdraw,
)
from peers.protocol.naming import StateNamed
from peers.protocol.profile import Profile
from peers.protocol.record import Record, genesis_head
from tests.peers.member.fakes import (
    BASE,
    HOST,
    LIMITS,
    ME,
    OTHER,
    PATIENCE_S,
    SIZE,
    TIMEOUT_S,
    FakeApp,
    FakeOutlet,
    check_of,
    name_of,
    record_on,
    result_of,
    state_of,
    vector,
)
from transport.collectives.fetch import Lack, Want
from transport.digests import digest_of
from transport.effects import EncodedResult
from transport.errors import BadFrame
from transport.frames import pack

NUM_FRAGMENTS = 2
STATE = b"s" * 32
CHECK = check_of(STATE)


class FollowingMember:
    """A member that has entered; ``at`` is the head whose state it holds."""

    def __init__(self, at: bytes | None = BASE, *, rebases: bool = False, enters: bool = True) -> None:
        self.outlet = FakeOutlet()
        self.app = FakeApp()
        self.versions = Versions()
        self.results = KeptResults(self.app, 8, 0, self.outlet)
        self.contributions = Contributions(ME, HOST, self.outlet)
        manifest = Manifest(BASE, BASE, BASE, "fp32", (SIZE,) * NUM_FRAGMENTS, "a model")
        self.fetches = Fetches(
            ME, self.app, self.outlet, LIMITS, TIMEOUT_S, PATIENCE_S, 8 * SIZE * NUM_FRAGMENTS, self.results
        )
        self.follower = Follower(
            HOST,
            Profile("me", (), manifest, rebases=rebases),
            self.outlet,
            LIMITS.history_records,
            versions=self.versions,
            results=self.results,
            fetches=self.fetches,
            membership=Membership(ME, self.outlet, lambda now, key, reason: None),
            contributions=self.contributions,
            exchanges=Exchanges(self.outlet, TIMEOUT_S, PATIENCE_S),
        )
        if at is not None:
            self.versions.begin_at(at)
        if enters:
            self.follower.enter(0.0)

    def commit(self, record: Record, *, with_result: bool = True) -> None:
        """A record comes, and perhaps its result was here already."""
        if with_result and not record.restores:
            chunk = result_of(record.index)
            self.results.keep(record.result, EncodedResult([digest_of(chunk)], [chunk]), ())
        self.follower.take_commit(0.0, Committed(pack(record)))

    def applied(self, record: Record) -> None:
        self.follower.confirm_applied(0.0, ConfirmApplied(record, CHECK))

    def handed(self) -> list[int]:
        """Indexes of the records that the application was given."""
        return [event.record.index for event in self.outlet.seen(RoundCommitted)]

    def order(self, fragment: int) -> CatchUp:
        remaining = NUM_FRAGMENTS - fragment - 1
        return CatchUp(fragment, b"v" * 32, name_of(state_of(fragment)), (OTHER,), b"n" * 32, 9, remaining)

    def fetch_whole_state(self) -> None:
        """Order a state that is here already, under other names, so that it need not travel."""
        self.app.states = [state_of(fragment) for fragment in range(NUM_FRAGMENTS)]
        for fragment in range(NUM_FRAGMENTS):
            self.follower.fetch_state(0.0, self.order(fragment))
        self.follower.advance(0.0)


def test_one_who_enters_with_a_state_says_where_it_is_and_is_active() -> None:
    member = FollowingMember()
    assert member.outlet.told(HOST, CaughtUp) == [CaughtUp(BASE)]
    assert member.outlet.seen(BecameActive) == [BecameActive(BASE, 0)]


def test_one_who_enters_a_run_that_is_over_knows_so_as_soon_as_it_is_active() -> None:
    member = FollowingMember(enters=False)
    member.follower.enter(0.0, over=True)
    assert member.outlet.seen(BecameActive) == [BecameActive(BASE, 0, over=True)]
    assert member.follower.may_offer(0)


def test_one_without_a_state_says_nothing_and_offers_nothing() -> None:
    member = FollowingMember(at=None)
    assert member.outlet.said == member.outlet.events == []
    assert not member.follower.may_offer(0)


def test_a_seed_gives_the_run_its_head_once_every_fragment_is_captured() -> None:
    member = FollowingMember(at=None)
    earlier = ConfirmCaptured(0, b"x" * 32, b"x" * 16)
    member.follower.confirm_captured(0.0, earlier)
    member.follower.begin_seeding(0.0, Seed(1))
    member.follower.begin_seeding(0.0, Seed(1))
    assert member.outlet.events == [BecomeSeed()]
    states = [bytes([fragment]) * 32 for fragment in range(NUM_FRAGMENTS)]
    for fragment, state in reversed(list(enumerate(states))):
        assert not member.follower.active
        member.follower.confirm_captured(0.0, ConfirmCaptured(fragment, state, check_of(state)))
    head = genesis_head(states)
    assert member.versions.head == head
    told: list[object] = []
    for fragment, state in enumerate(states):
        told += [Applied(fragment, head, check_of(state)), StateNamed(fragment, head, state)]
    assert [message for _, message in member.outlet.said] == [*told, CaughtUp(head)]


def test_a_seed_that_is_told_another_ones_state_meanwhile_does_not_begin_at_its_own() -> None:
    member = FollowingMember(at=None)
    member.follower.begin_seeding(0.0, Seed(1))
    for fragment in range(NUM_FRAGMENTS):
        member.follower.fetch_state(0.0, member.order(fragment))
    for fragment in range(NUM_FRAGMENTS):
        member.follower.confirm_captured(0.0, ConfirmCaptured(fragment, b"x" * 32, b"x" * 16))
    assert not member.follower.active
    assert member.outlet.told(HOST, CaughtUp) == []


def test_one_record_at_a_time_is_with_the_application_and_in_order() -> None:
    member = FollowingMember()
    first = record_on(BASE, 1)
    second = record_on(first.hash(), 2)
    member.commit(first)
    member.commit(second)
    assert member.handed() == [1]
    assert not member.follower.may_offer(0)
    member.applied(first)
    assert member.handed() == [1, 2]
    member.applied(second)
    heads = [message.head for message in member.outlet.told(HOST, CaughtUp)]
    assert heads == [BASE, first.hash(), second.hash()]
    assert member.outlet.told(HOST, Applied) == [Applied(0, each.hash(), CHECK) for each in (first, second)]


def test_who_applies_the_result_of_others_says_so_first() -> None:
    member = FollowingMember()
    record = record_on(BASE, 1)
    member.commit(record, with_result=False)
    assert not member.outlet.told(HOST, Applying)
    member.commit(record)
    member.commit(record_on(record.hash(), 2))
    assert member.outlet.told(HOST, Applying) == [Applying(record.hash())]


def test_a_fragment_of_which_a_newer_version_is_known_is_not_offered() -> None:
    member = FollowingMember()
    member.commit(record_on(BASE, 1), with_result=False)
    assert not member.follower.may_offer(0)
    assert member.follower.may_offer(1)


def test_a_fragment_is_offered_while_a_record_of_another_one_is_applied() -> None:
    member = FollowingMember()
    first = record_on(BASE, 1)
    member.commit(first)
    assert not member.follower.may_offer(0)
    assert member.follower.may_offer(1)
    member.contributions.offer(member.versions.base(1), Offer(1, 100, 40, vector(1.0), 1.0))
    member.applied(first)
    assert member.versions.base(1) == BASE == member.contributions.offered[1].base
    assert member.follower.may_offer(0)


def test_a_version_is_expected_until_it_is_with_the_application() -> None:
    member = FollowingMember()
    first = record_on(BASE, 1)
    second = record_on(first.hash(), 2, fragment=1)
    member.commit(first)
    member.commit(second)
    assert (member.follower.expects(0), member.follower.expects(1)) == (False, True)
    member.commit(first)  # a link began anew, and it is said again
    assert not member.follower.expects(0)
    member.applied(first)
    assert not member.follower.expects(1)
    assert not member.follower.may_offer(1), "it is applied just now"


def test_nothing_is_offered_on_a_state_from_which_the_swarm_is_about_to_go_back() -> None:
    member = FollowingMember()
    record = record_on(BASE, 1)
    member.commit(record, with_result=False)
    member.commit(record_on(record.hash(), 2, fragment=ALL_FRAGMENTS, result=record.hash()))
    assert not member.follower.may_offer(1)


def test_who_is_where_the_swarm_goes_back_to_follows_none_of_the_records_that_are_undone() -> None:
    member = FollowingMember()
    undone = [record_on(BASE, 1)]
    undone.append(record_on(undone[0].hash(), 2))
    for record in undone:
        member.commit(record, with_result=False)
    restoring = record_on(undone[1].hash(), 3, fragment=ALL_FRAGMENTS, result=BASE)
    member.commit(restoring)
    assert member.versions.head == restoring.hash()
    assert member.outlet.told(HOST, NeedState) == []


def test_of_the_records_to_come_those_up_to_where_the_swarm_goes_back_are_followed() -> None:
    member = FollowingMember()
    records = [record_on(BASE, 1)]
    for index in (2, 3):
        records.append(record_on(records[-1].hash(), index))
    member.commit(records[0])  # it is with the application
    for record in records[1:]:
        member.commit(record)
    restoring = record_on(records[2].hash(), 4, fragment=ALL_FRAGMENTS, result=records[1].hash())
    member.commit(restoring)
    member.applied(records[0])
    member.applied(records[1])
    assert member.handed() == [1, 2]
    assert member.versions.head == restoring.hash()


def test_a_record_waits_for_its_result_which_is_asked_of_its_members() -> None:
    member = FollowingMember()
    record = record_on(BASE, 1)
    member.commit(record, with_result=False)
    assert member.handed() == []
    assert member.outlet.told(OTHER, Want)[0].blob == record.result
    member.fetches.drop_lacking(0.0, OTHER, Lack(record.result))
    member.follower.advance(0.0)
    assert member.outlet.told(HOST, NeedState)
    assert not member.follower.active


@pytest.mark.parametrize("counted", [True, False])
def test_a_contribution_is_applied_with_the_record_that_counts_it_and_late_for_another(counted: bool) -> None:
    member = FollowingMember()
    member.contributions.offer(BASE, Offer(0, 100, 40, vector(1.0), 1.0))
    member.contributions.offered[0].serial = 1
    member.commit(record_on(BASE, 1, (ME, OTHER) if counted else (OTHER,)))
    (ended,) = member.outlet.seen(ContributionEnded)
    (committed,) = member.outlet.seen(RoundCommitted)
    assert ended.fate == (Fate.APPLIED if counted else Fate.LATE)
    mine = (committed.number, committed.tokens, committed.weight)
    assert mine == ((1, 100, 1.0) if counted else (None, 0, 0.0))


def test_where_rounds_do_not_wait_what_was_not_in_one_is_taken_back_to_be_offered_anew() -> None:
    member = FollowingMember(rebases=True)
    member.contributions.offer(BASE, Offer(0, 100, 40, vector(1.0), 1.0))
    member.commit(record_on(BASE, 1))
    assert member.outlet.told(HOST, Withdraw)
    assert not member.outlet.seen(ContributionEnded)


def test_a_record_that_is_known_already_is_passed_over_and_a_strange_one_needs_the_state() -> None:
    member = FollowingMember()
    record = record_on(BASE, 1)
    member.commit(record)
    member.applied(record)
    member.commit(record)
    assert not member.outlet.told(HOST, NeedState)
    member.commit(record_on(b"x" * 32, 7))
    assert [said.reason for said in member.outlet.told(HOST, NeedState)] == [
        "a commit does not follow the head"
    ]
    assert member.handed() == [1]


def test_one_who_falls_too_far_behind_needs_the_state() -> None:
    member = FollowingMember()
    parent = BASE
    for index in range(1, LIMITS.history_records + 2):
        record = record_on(parent, index)
        assert not member.outlet.told(HOST, NeedState)
        member.commit(record, with_result=False)
        parent = record.hash()
    assert len(member.outlet.told(HOST, NeedState)) == 1
    assert len(member.outlet.seen(FellBehind)) == 1


def test_a_stranded_member_that_is_told_again_what_follows_its_head_goes_on() -> None:
    member = FollowingMember()
    member.commit(record_on(b"x" * 32, 7))
    record = record_on(BASE, 1)
    later = record_on(record.hash(), 2)
    member.commit(later)
    assert member.handed() == [], "that does not follow"
    for each in (record, later, record, later):
        member.commit(each)
    member.applied(record)
    member.applied(later)
    assert member.handed() == [1, 2]
    assert len(member.outlet.told(HOST, NeedState)) == 1


def test_who_lacks_the_next_result_first_tells_the_head_that_it_is_coming_to() -> None:
    member = FollowingMember()
    first = record_on(BASE, 1)
    second = record_on(first.hash(), 2)
    member.commit(first)
    member.commit(second, with_result=False)
    member.fetches.drop_lacking(0.0, OTHER, Lack(second.result))
    member.follower.advance(0.0)
    assert member.outlet.told(HOST, NeedState) == [], "it is applying"
    member.applied(first)
    said = [
        type(what)
        for to, what in member.outlet.said
        if to == HOST and isinstance(what, (CaughtUp, NeedState))
    ]
    assert said[-2:] == [CaughtUp, NeedState]
    assert member.outlet.told(HOST, CaughtUp)[-1].head == first.hash()


def test_a_stranded_member_goes_on_only_from_the_head_that_it_holds() -> None:
    member = FollowingMember()
    member.contributions.offer(BASE, Offer(1, 100, 40, vector(1.0), 1.0))
    member.commit(record_on(b"x" * 32, 7))
    assert [each.fate for each in member.outlet.seen(ContributionEnded)] == [Fate.LATE]
    member.commit(record_on(b"y" * 32, 8))
    member.commit(record_on(b"l" * 32, 8, fragment=ALL_FRAGMENTS, result=b"y" * 32))
    assert member.handed() == []
    restoring = record_on(b"l" * 32, 8, fragment=ALL_FRAGMENTS, result=BASE)
    member.commit(restoring)
    assert member.outlet.seen(Restored) == [Restored(restoring)]
    assert member.versions.head == restoring.hash()
    assert member.follower.active


@pytest.mark.parametrize("how", ["a new session", "another state"])
def test_a_stranded_member_follows_again_after(how: str) -> None:
    member = FollowingMember()
    member.commit(record_on(b"x" * 32, 7))
    if how == "a new session":
        member.follower.begin_session()
        member.follower.enter(0.0)
    else:
        member.fetch_whole_state()
        for fragment in range(NUM_FRAGMENTS):
            member.follower.confirm_loaded(0.0, ConfirmLoaded(fragment, b"v" * 32, CHECK))
    assert member.follower.active
    member.commit(record_on(member.versions.head, 10))
    assert member.handed() == [10]


def test_one_who_holds_another_state_than_the_swarm_goes_back_to_needs_it() -> None:
    member = FollowingMember()
    member.commit(record_on(b"l" * 32, 8, fragment=ALL_FRAGMENTS, result=b"y" * 32))
    assert [said.reason for said in member.outlet.told(HOST, NeedState)] == [
        "the swarm went back to an earlier state"
    ]


@pytest.mark.parametrize("decided", ["committed", "left out", "the link began anew"])
def test_one_who_falls_behind_in_a_round_learns_from_the_coordinator_what_became_of_it(decided: str) -> None:
    member = FollowingMember()
    for fragment in range(NUM_FRAGMENTS):
        member.contributions.offer(BASE, Offer(fragment, 100, 40, vector(1.0), 1.0))
    member.contributions.offered[0].serial = 7
    member.commit(record_on(b"x" * 32, 9, fragment=1))  # it cannot follow
    assert [(each.fragment, each.fate) for each in member.outlet.seen(ContributionEnded)] == [(1, Fate.LATE)]
    record = record_on(b"y" * 32, 7, (ME, OTHER))
    if decided == "committed":
        member.commit(record)
    else:
        member.contributions.leave_rounds()
    member.fetch_whole_state()
    ended = member.outlet.seen(ContributionEnded)[1]
    if decided == "committed":
        assert (ended.fate, ended.reason, ended.without_result) == (Fate.APPLIED, record.hash().hex(), True)
    else:
        assert (ended.fate, ended.without_result) == (Fate.LATE, False)
    assert member.contributions.offered == {}
    assert member.handed() == []


def test_where_the_swarm_goes_back_only_records_up_to_the_restored_one_stand() -> None:
    member = FollowingMember()
    standing = record_on(BASE, 1, (ME, OTHER), fragment=0)
    lost = record_on(standing.hash(), 2, (ME, OTHER), fragment=1)
    for fragment in range(NUM_FRAGMENTS):
        member.contributions.offer(BASE, Offer(fragment, 100, 40, vector(1.0), 1.0))
        member.contributions.offered[fragment].serial = fragment + 1
    for record in (standing, lost):
        member.commit(record, with_result=False)
    member.commit(record_on(lost.hash(), 3, fragment=ALL_FRAGMENTS, result=standing.hash()))
    ended = member.outlet.seen(ContributionEnded)
    assert [(each.fragment, each.fate) for each in ended] == [(1, Fate.SUPERSEDED)]
    member.commit(record_on(b"z" * 32, 9, fragment=ALL_FRAGMENTS, result=BASE))
    ended = member.outlet.seen(ContributionEnded)
    assert [(each.fragment, each.fate) for each in ended[1:]] == [(0, Fate.SUPERSEDED)]


def test_a_fetched_state_is_loaded_fragment_by_fragment_before_the_member_is_active_again() -> None:
    member = FollowingMember()
    member.fetch_whole_state()
    for fragment in range(NUM_FRAGMENTS):
        assert not member.follower.active
        assert not member.versions.holds_state
        assert [event.fragment for event in member.outlet.seen(StateFetched)] == [*range(fragment + 1)]
        assert bytes(member.outlet.seen(StateFetched)[fragment].data) == state_of(fragment)
        member.follower.confirm_loaded(0.0, ConfirmLoaded(fragment, b"v" * 32, CHECK))
    assert member.follower.active
    assert (member.versions.head, member.versions.index) == (b"n" * 32, 9)
    assert member.outlet.told(HOST, CaughtUp)[-1] == CaughtUp(b"n" * 32)
    applied = [Applied(fragment, b"v" * 32, CHECK) for fragment in range(NUM_FRAGMENTS)]
    assert member.outlet.told(HOST, Applied) == applied


def test_a_state_that_is_no_longer_ordered_is_not_taken() -> None:
    member = FollowingMember()
    member.fetch_whole_state()
    member.follower.confirm_loaded(0.0, ConfirmLoaded(0, b"w" * 32, CHECK))
    assert len(member.outlet.seen(StateFetched)) == 1
    member.fetch_whole_state()  # everything before it is void
    member.follower.confirm_loaded(0.0, ConfirmLoaded(0, b"v" * 32, CHECK))
    assert [event.fragment for event in member.outlet.seen(StateFetched)] == [0, 0, 1]


def test_a_state_of_which_nobody_is_left_to_ask_is_needed_from_others() -> None:
    member = FollowingMember()
    for fragment in range(NUM_FRAGMENTS):
        member.follower.fetch_state(0.0, member.order(fragment))
    member.fetches.drop_donor(0.0, OTHER)
    member.follower.advance(0.0)
    assert [said.reason for said in member.outlet.told(HOST, NeedState)] == [
        "no donor has the state any more"
    ]


def test_at_a_new_session_records_are_said_again_and_offers_too() -> None:
    member = FollowingMember()
    member.contributions.offer(BASE, Offer(1, 100, 40, vector(1.0), 1.0))
    record = record_on(BASE, 1)
    member.commit(record, with_result=False)
    member.follower.begin_session()
    assert not member.follower.entered
    assert member.fetches.donors() == set()
    member.follower.enter(0.0)
    assert len(member.outlet.told(HOST, Ready)) == 1
    assert member.follower.may_offer(0)
    member.commit(record)
    assert member.handed() == [1]


def test_one_who_enters_while_the_application_applies_says_its_head_afterwards() -> None:
    member = FollowingMember()
    record = record_on(BASE, 1)
    member.commit(record)
    member.follower.begin_session()
    member.follower.enter(0.0)
    assert not member.follower.active
    assert member.outlet.told(HOST, Applying)[1:] == [Applying(record.hash())]
    member.applied(record)
    assert member.follower.active
    assert member.outlet.told(HOST, CaughtUp)[-1] == CaughtUp(record.hash())


def test_one_who_enters_while_the_application_applies_says_what_it_holds_of_every_fragment() -> None:
    """Or it would be the donor of none but that fragment, and those who wait for the state had none."""
    member = FollowingMember()
    before = record_on(BASE, 1, fragment=1)
    member.commit(before)
    member.applied(before)
    record = record_on(before.hash(), 2)
    member.commit(record)
    member.follower.begin_session()
    member.follower.enter(0.0)
    member.outlet.said.clear()
    member.applied(record)
    held = [(each.fragment, each.version) for each in member.outlet.told(HOST, Applied)]
    assert held == [(0, record.hash()), (1, before.hash())]


def test_gossip_tells_the_digest_of_a_state_that_moved() -> None:
    member = FollowingMember()
    member.follower.confirm_moved(0.0, ConfirmMoved(1, CHECK))
    assert member.outlet.told(HOST, Applied) == [Applied(1, BASE, CHECK)]


def test_a_commit_without_a_record_is_rubbish() -> None:
    with pytest.raises(BadFrame, match="record"):
        FollowingMember().follower.take_commit(0.0, Committed(pack(Seed(1))))
