"""A member as its node and its training loop see it: every word reaches the part that it is for."""

from __future__ import annotations

from typing import Any

import pytest

from peers.member.rounds import Rounds
from peers.member.swaps import Swaps
from peers.protocol.commands import (
    ConfirmApplied,
    ConfirmLoaded,
    ConfirmMoved,
    LeaveRun,
    ReportProgress,
    TakeBack,
)
from peers.protocol.commands import Swap as SwapCommand
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    EntryRefused,
    Fate,
    IdentitySuperseded,
    OfferWanted,
    PaceSet,
    PeerLeft,
    PeersJoined,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    SaveWanted,
    SettingsChanged,
    StateFetched,
    SwapFailed,
    VersionExpected,
)
from peers.protocol.messages import (
    Applied,
    CatchUp,
    Committed,
    Counted,
    Decline,
    Done,
    Enter,
    Entered,
    Finished,
    Leave,
    MemberActive,
    MemberGone,
    NoSwap,
    Open,
    Pace,
    Ready,
    Refused,
    Rejected,
    Report,
    SaveNow,
    Seed,
    Serve,
    SettingsAre,
    Wanted,
    Withdraw,
)
from peers.protocol.profile import Matching
from peers.protocol.record import GENESIS
from tests.peers.member.fakes import (
    HOST,
    LIMITS,
    ME,
    OTHER,
    SIZE,
    THIRD,
    TIMEOUT_S,
    Partner,
    entry,
    name_of,
    pieces_of,
    record_on,
    result_of,
    state_of,
    vector,
)
from tests.peers.member.training_kit import HEAD, Training
from transport.collectives.chunks import PartChunk
from transport.collectives.fetch import Lack, Piece, Want, index_page
from transport.collectives.plan import Plan
from transport.digests import digest_of
from transport.effects import EncodedResult
from transport.errors import BadFrame
from transport.frames import pack

REPORT = Report(1, 2, 3, 1.0, True, 2.0, 3.0, 4, 5, 0)


def test_a_member_says_what_it_holds_when_it_enters() -> None:
    training = Training()
    training.member.begin_session(1.0, HOST)
    first, again = training.outlet.told(HOST, Enter)
    assert (first.name, first.holds_state) == ("me", False)
    assert (again.head, again.holds_state) == (HEAD, True)
    assert not training.member.active


def test_how_it_averages_is_chosen_when_it_is_made() -> None:
    assert isinstance(Training().member.averaging, Rounds)
    assert isinstance(Training(Matching("pair")).member.averaging, Swaps)


# -- commands -------------------------------------------------------------------------------------


def test_an_offer_is_taken_once_and_only_by_an_active_member() -> None:
    assert not Training(active=False).offer()
    training = Training()
    assert training.offer()
    assert not training.offer()
    assert training.outlet.told(HOST, Ready) == [Ready(0, HEAD, 100, 50, 1, 1.0)]


def test_who_offers_what_is_outdated_is_told_that_a_newer_version_comes() -> None:
    training = Training()
    training.hear(Committed(pack(record_on(HEAD, 1, (OTHER, THIRD)))))  # its mean is not here
    assert not training.offer()
    assert training.outlet.seen(VersionExpected) == [VersionExpected(0)]
    training.member.lose_peer(0.0, OTHER)
    training.member.lose_peer(0.0, THIRD)
    assert not training.offer(), "it fell behind"
    assert len(training.outlet.seen(VersionExpected)) == 1


def test_an_offer_is_taken_back_unless_a_round_has_it() -> None:
    training = Training()
    assert not training.do(TakeBack(0))
    training.offer()
    assert training.do(TakeBack(0))
    assert training.outlet.told(HOST, Withdraw) == [Withdraw(0, 1)]
    training.offer()
    training.hear(Open(1, 0, 0, HEAD, SIZE, (ME, OTHER), (50.0, 50.0), ()))
    assert not training.do(TakeBack(0))


def test_a_swap_is_taken_only_by_an_active_member() -> None:
    swap = SwapCommand(0, 3, 100, vector(1.0))
    assert not Training(Matching("pair"), active=False).do(swap)
    training = Training(Matching("pair"))
    assert training.do(swap)
    assert len(training.outlet.seen(SwapFailed)) == 1


def test_a_report_is_passed_on_while_the_member_is_in() -> None:
    training = Training()
    training.do(ReportProgress(REPORT))
    training.do(LeaveRun("enough"))
    training.do(ReportProgress(REPORT))
    assert training.outlet.told(HOST, Report) == [REPORT]


def test_one_who_leaves_says_so_once_and_gives_up_what_it_offered() -> None:
    training = Training()
    training.offer()
    for _ in range(2):
        training.do(LeaveRun("enough"))
        assert training.outlet.told(HOST, Leave) == [Leave("enough")]
    assert [each.fate for each in training.outlet.seen(ContributionEnded)] == [Fate.REJECTED]
    assert not training.member.active


def test_a_commit_goes_to_the_application_and_its_answer_moves_the_head() -> None:
    training = Training()
    record = record_on(HEAD, 1)
    training.commit(record)
    assert training.member.applying
    assert [event.record for event in training.outlet.seen(RoundCommitted)] == [record]
    training.do(ConfirmApplied(record, b"a" * 16))
    assert not training.member.applying
    assert training.member.versions.head == record.hash()


def test_the_mean_of_a_round_is_applied_where_it_was_made_and_handed_to_who_lacks_it() -> None:
    training = Training()
    training.offer()
    training.hear(Open(1, 0, 0, HEAD, SIZE // 2, (ME, OTHER), (50.0, 50.0), ()))
    partner = Partner(OTHER, 1, Plan(0, (ME, OTHER), (50.0, 50.0)), SIZE // 2)
    for _ in range(2):
        for _, message, payload in training.outlet.bulk:
            partner.take(ME, message, payload)
        training.outlet.bulk.clear()
        for _, message, payload in partner.chunks():
            training.member.take_bulk(0.0, OTHER, message, payload, 10)
        training.member.use_credit(0.0)
    (done,) = training.outlet.told(HOST, Done)
    record = record_on(HEAD, 1, (ME, OTHER), chunk_elements=SIZE // 2, result=done.digest)
    training.hear(Committed(pack(record)))
    (event,) = training.outlet.seen(RoundCommitted)
    assert (event.number, event.tokens, event.weight) == (1, 100, 1.0)
    assert (event.mean.output == 2.0).all()
    training.outlet.bulk.clear()
    training.hear(Want(done.digest, 1, False), THIRD)
    assert [(to, bytes(payload)) for to, _, payload in training.outlet.bulk] == [
        (THIRD, event.mean.output[SIZE // 2 :].tobytes())
    ]


def test_a_state_is_fetched_loaded_and_held() -> None:
    training = Training(active=False)
    state = state_of(0)
    training.hear(CatchUp(0, b"v" * 32, name_of(state), (OTHER,), b"n" * 32, 9, 0))
    assert training.member.waits_for() == {HOST, OTHER}
    digests = [digest_of(piece) for piece in pieces_of(state)]
    answers: list[tuple[bool, int, bytes]] = [
        (True, page, index_page(digests, page, LIMITS)) for page in range(2)
    ]
    answers += [(False, i, piece) for i, piece in enumerate(pieces_of(state))]
    while asked := training.outlet.told(OTHER, Want):
        training.outlet.said.clear()
        for want in asked:
            payload = next(p for index, i, p in answers if (index, i) == (want.index, want.piece))
            training.member.take_bulk(0.0, OTHER, Piece(want.blob, want.piece, want.index), payload, 10)
    (event,) = training.outlet.seen(StateFetched)
    assert bytes(event.data) == state
    training.do(ConfirmLoaded(0, b"v" * 32, b"l" * 16))
    assert training.outlet.seen(BecameActive) == [BecameActive(b"n" * 32, 9)]


def test_gossip_tells_of_every_state() -> None:
    training = Training(Matching("pair"))
    training.do(ConfirmMoved(0, b"2" * 16))
    assert training.outlet.told(HOST, Applied)[-1] == Applied(0, HEAD, b"2" * 16)


# -- messages -------------------------------------------------------------------------------------


def test_what_the_coordinator_says_for_people_becomes_an_event() -> None:
    training = Training()
    said = (Refused("codec", "another"), Pace(7.0), Wanted(0), SettingsAre(b"{}"), SaveNow(3), Finished(12))
    for message in said:
        training.hear(message)
    assert training.outlet.events[-6:] == [
        EntryRefused("codec", "another"),
        PaceSet(7.0),
        OfferWanted(0),
        SettingsChanged(b"{}"),
        SaveWanted(3),
        RunFinished(12),
    ]


NOWHERE = [
    Wanted(1),
    Serve(1, b"s" * 32),
    CatchUp(1, b"v" * 32, b"s" * 32, (OTHER,), b"h" * 32, 1, 0),
    Open(1, 0, 1, b"b" * 32, 1, (ME, OTHER), (1.0, 1.0), ()),
    Rejected(1, 1, "no"),
    Counted(1, 1, b"h" * 32),
    Committed(pack(record_on(GENESIS, fragment=1))),
]


@pytest.mark.parametrize("message", NOWHERE, ids=lambda each: type(each).__name__)
def test_a_fragment_that_the_model_does_not_have_is_refused_in_every_message(message: Any) -> None:
    training = Training()
    said = len(training.outlet.said)
    with pytest.raises(BadFrame, match="fragment 1 of 1"):
        training.hear(message)
    assert len(training.outlet.said) == said


def test_only_the_coordinator_is_believed() -> None:
    training = Training()
    num_events = len(training.outlet.events)
    training.offer()
    for message in (Pace(7.0), SettingsAre(b"{}"), Finished(1), Rejected(0, 1, "no"), entry(THIRD)):
        training.hear(message, OTHER)
    assert len(training.outlet.events) == num_events
    assert list(training.member.contributions.offered) == [0]


def test_members_who_come_and_go_are_told_of() -> None:
    training = Training()
    training.hear(entry(OTHER))
    training.hear(MemberGone(1, OTHER, "bye"))
    assert training.outlet.seen(PeersJoined) == [PeersJoined(((OTHER, "name of o"),))]
    assert training.outlet.seen(PeerLeft) == [PeerLeft(OTHER, "name of o", "bye")]


def test_a_rejected_contribution_has_its_fate() -> None:
    training = Training()
    training.offer()
    training.hear(Rejected(0, 1, "too large"))
    assert [each.fate for each in training.outlet.seen(ContributionEnded)] == [Fate.REJECTED]


def test_a_seed_is_asked_for_its_state_and_one_who_holds_a_state_is_none() -> None:
    training = Training()
    training.hear(Seed(2))
    assert len(training.outlet.seen(BecomeSeed)) == 1


def test_a_round_is_void_where_the_coordinator_lets_the_member_in_anew() -> None:
    training = Training()
    training.offer()
    training.hear(Open(1, 0, 0, HEAD, SIZE, (ME, OTHER), (50.0, 50.0), ()))
    assert training.member.waits_for() == {HOST, ME, OTHER}
    training.hear(Entered(2))
    assert training.member.waits_for() == {HOST}
    assert len(training.outlet.seen(RoundOpened)) == 1


def test_a_run_that_gossips_has_no_rounds_and_one_with_rounds_no_swaps() -> None:
    gossip = Training(Matching("pair"))
    gossip.hear(Open(1, 0, 0, HEAD, SIZE, (ME, OTHER), (50.0, 50.0), ()))
    assert not gossip.outlet.told(HOST, Decline)
    rounds = Training()
    num_said = len(rounds.outlet.said)
    rounds.hear(NoSwap(1), OTHER)
    assert len(rounds.outlet.said) == num_said


def test_chunks_reach_the_way_that_averages_and_a_payload_of_another_kind_is_rubbish() -> None:
    training = Training(Matching("pair"))
    training.read(entry(OTHER), MemberActive(OTHER))
    training.do(SwapCommand(0, 3, 100, vector(1.0)))
    training.member.take_bulk(0.0, THIRD, PartChunk(4, 0, 0), bytes(16), 10)
    assert training.outlet.told(THIRD, NoSwap) == [NoSwap(4)]
    with pytest.raises(BadFrame, match="payload beside"):
        training.member.take_bulk(0.0, THIRD, Wanted(0), bytes(16), 10)


def test_a_peer_gets_what_it_wants_once_there_is_credit() -> None:
    training = Training()
    training.app.states = [state_of(0)]
    training.hear(Serve(0, name_of(state_of(0))))
    training.outlet.room_bytes = 0
    training.hear(Want(name_of(state_of(0)), 0, False), OTHER)
    training.hear(Want(b"x" * 32, 0, False), THIRD)
    assert training.outlet.told(THIRD, Lack)
    training.outlet.room_bytes = 1000
    training.member.use_credit(1.0)
    assert [(to, payload) for to, _, payload in training.outlet.bulk] == [(OTHER, pieces_of(state_of(0))[0])]


@pytest.mark.parametrize("lost", ["link", "session"])
def test_whoever_is_gone_is_asked_no_more_and_whoever_is_back_is_asked_again(lost: str) -> None:
    training = Training()
    record = record_on(HEAD, 1, (OTHER, THIRD))
    training.hear(Committed(pack(record)))
    asked = len(training.outlet.told(OTHER, Want))
    assert asked == 1
    if lost == "link":
        training.member.lose_peer(1.0, OTHER)
        assert training.outlet.told(THIRD, Want)
        assert training.member.waits_for() == {HOST, THIRD}
    else:
        training.member.begin_session(1.0, OTHER)
        assert len(training.outlet.told(OTHER, Want)) == 2


def test_donors_are_met_as_soon_as_the_roster_tells_where_they_are() -> None:
    training = Training(Matching("pair"), active=False)
    training.hear(CatchUp(0, b"v" * 32, name_of(state_of(0)), (OTHER,), b"n" * 32, 9, 0))
    assert training.outlet.met == [OTHER]
    num_asked = len(training.outlet.told(OTHER, Want))
    training.outlet.strangers.add(OTHER)
    training.read(entry(OTHER, "tcp://o:1"))
    assert training.outlet.met == [OTHER, OTHER]
    assert len(training.outlet.told(OTHER, Want)) == 2 * num_asked > 0


# -- time -----------------------------------------------------------------------------------------


def test_a_silent_coordinator_is_missed_once_and_welcomed_back_once() -> None:
    training = Training()
    training.outlet.heard[HOST] = 1.0
    for now in (TIMEOUT_S, TIMEOUT_S + 2.0, TIMEOUT_S + 3.0):
        training.member.tick(now)
    assert training.outlet.seen(CoordinatorLost) == [CoordinatorLost(TIMEOUT_S + 1.0)]
    training.outlet.heard[HOST] = TIMEOUT_S + 3.0
    for now in (TIMEOUT_S + 4.0, TIMEOUT_S + 5.0):
        training.member.tick(now)
    assert len(training.outlet.seen(CoordinatorBack)) == 1


def test_a_member_beside_its_coordinator_never_misses_it() -> None:
    training = Training(coordinator=ME)
    training.outlet.heard[ME] = 0.0
    training.member.tick(10 * TIMEOUT_S)
    assert not training.outlet.seen(CoordinatorLost)


def test_an_older_process_is_told_to_stop_and_what_it_offered_is_superseded() -> None:
    training = Training()
    training.offer()
    training.member.supersede()
    assert [each.fate for each in training.outlet.seen(ContributionEnded)] == [Fate.SUPERSEDED]
    assert training.outlet.events[-1] == IdentitySuperseded()


@pytest.mark.parametrize("how", ["leaves", "is told to stop"])
def test_of_what_is_in_a_round_nothing_is_said_to_who_will_not_learn_what_became_of_it(how: str) -> None:
    training = Training()
    training.offer()
    training.hear(Open(1, 0, 0, HEAD, SIZE, (ME, OTHER), (50.0, 50.0), ()))
    if how == "leaves":
        training.do(LeaveRun("enough"))
    else:
        training.member.supersede()
    assert training.outlet.seen(ContributionEnded) == []
    assert training.member.contributions.offered[0].tokens == 100, "it is under way"


def test_what_a_member_holds_the_coordinator_of_its_own_process_gets_at_once() -> None:
    training = Training(coordinator=ME)
    record = record_on(HEAD)
    chunk = result_of(record.index)
    training.app.disk[record.result] = EncodedResult([digest_of(chunk)], [chunk])
    training.outlet.said.clear()
    found = training.member.find_blob(0.0, record.result)
    assert found is not None
    assert (list(found[0]), found[1](0)) == ([digest_of(chunk)], chunk)
    assert training.member.find_blob(0.0, b"x" * 32) is None
    assert training.outlet.said == []
