"""A worker's session, which has no clock: what it counts, what it tells, and in which order it decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diloco.errors import EntryError, SwarmClosed, TrainingDiverged
from diloco.loop.session import Terms, WorkerSession
from diloco.settings import RunSettings
from peers.protocol.commands import ConfirmApplied, Offer, ReportProgress
from peers.protocol.events import (
    BecameActive,
    ContributionEnded,
    EntryRefused,
    Fate,
    FellBehind,
    IdentitySuperseded,
    RoundCommitted,
    RunFinished,
    StateFetched,
    SwapFailed,
)
from peers.protocol.messages import Report
from peers.protocol.profile import Matching
from peers.protocol.record import GENESIS
from tests.diloco.loop.kit import Recorder, committed, record, schedule
from transport.collectives.reducer import NumpyReducer
from transport.frames import pack, unpack


class Counting(Recorder):
    """Knows which digests it was asked for."""

    def digest(self, fragment: int) -> bytes:
        self.calls.append(("digest", fragment))
        return super().digest(fragment)


def session_of(active: bool = True, replica: Counting | None = None, **of_schedule: Any) -> WorkerSession:
    """H is 4; it began at 100 s."""
    terms = Terms(b"s" * 32, schedule(**of_schedule), wait_s=30.0)
    session = WorkerSession(terms, replica or Counting(), now=100.0, report_every_s=2.0)
    if active:
        session.event(100.0, BecameActive(GENESIS, 7))
    return session


def step(session: WorkerSession, times: int, now: float = 100.0) -> list[object]:
    """Inner steps of 2 tokens in half a second each; every command is taken."""
    said: list[object] = []
    for _ in range(times):
        session.stepped(2, 0.5)
        for command in session.due(now):
            said.append(command)
            session.told(command, True)
    return said


def report_in(commands: list[Any]) -> Report:
    (command,) = commands
    assert isinstance(command, ReportProgress)
    return command.report


def test_a_step_is_counted_at_once_and_decided_upon_when_events_were_taken() -> None:
    session = session_of()
    step(session, 3)
    session.stepped(2, 0.5)
    assert (session.steps, session.tokens) == (4, 8)
    session.event(100.0, FellBehind("it was away"))
    assert session.due(100.0) == []
    session.event(100.0, BecameActive(GENESIS, 7))
    (offer,) = session.due(100.0)
    assert isinstance(offer, Offer)
    assert offer.tokens == 8


@pytest.mark.parametrize(("stages", "waits"), [(1, True), (2, False)])
def test_behind_the_last_round_only_a_worker_with_the_whole_model_waits_for_the_buffers_round(
    stages: int, waits: bool
) -> None:
    """Others may still need what a stage computes."""
    method = {"preset": "diloco", "sync_every": 4}
    run = {"run": {"rounds": 1}, "method": method, "pipeline": {"stages": stages}}
    terms = Terms.of(RunSettings.model_validate(run), buffers=True)
    session = WorkerSession(terms, Counting(), now=0.0)
    session.event(0.0, BecameActive(GENESIS, 0))
    step(session, 4, now=0.0)
    session.event(0.0, committed(1))
    assert session.waits(0.0) == waits


def test_a_step_whose_work_is_kept_counts_for_the_next_state() -> None:
    replica = Counting()
    session = session_of(replica=replica)
    step(session, 4)
    session.stepped(2, 0.5)
    (confirm,) = session.event(100.0, committed(1))
    assert isinstance(confirm, ConfirmApplied)
    assert replica.calls[-1] == ("land", 0, True, False), "on top, for it came after the offer"
    session.due(100.0)
    assert session.loop.progress[0].steps == 1


@pytest.mark.parametrize(
    "event", [StateFetched(0, GENESIS, bytearray(8)), ContributionEnded(0, 1, 8, Fate.LATE, "late")]
)
def test_a_step_whose_work_is_wiped_out_does_not_count_for_the_next_state(event: object) -> None:
    session = session_of()
    step(session, 4)
    session.stepped(2, 0.5)
    session.event(100.0, event)
    session.due(100.0)
    assert session.loop.progress[0].steps == 0
    offers = [each for each in step(session, 4) if isinstance(each, Offer)]
    assert [each.tokens for each in offers] == [8], "H steps weigh H steps"


def test_a_step_is_wiped_out_for_the_fragment_whose_parameters_were_replaced_alone() -> None:
    session = session_of(num_fragments=2)
    step(session, 1)
    session.stepped(2, 0.5)
    session.event(100.0, StateFetched(1, GENESIS, bytearray(8)))
    (offer,) = session.due(100.0)
    assert isinstance(offer, Offer)
    assert (offer.fragment, offer.tokens) == (0, 4)
    assert session.loop.progress[1].steps == 0


def test_a_result_that_comes_while_the_last_step_of_its_delay_is_taken_lands_on_time() -> None:
    replica = Counting()
    session = session_of(replica=replica, delay=1)
    step(session, 4)
    session.stepped(2, 0.5)
    session.event(100.0, committed(1))
    session.due(100.0)
    assert [call for call in replica.calls if call[0] == "land"] == [("land", 0, True, True)]
    assert [type(each) for each in step(session, 3)] == [Offer], "H counts from the offer"


def test_tokens_whose_progress_is_replaced_before_it_is_offered_are_superseded() -> None:
    session = session_of()
    step(session, 4)
    session.stepped(2, 0.5)
    session.event(100.0, ContributionEnded(0, 1, 8, Fate.LATE, "late"))
    step(session, 3)
    session.event(100.0, StateFetched(0, GENESIS, bytearray(8)))
    assert session.tokens == 16
    assert session.tokens_by_fate == {
        "applied": 0,
        "late": 8,
        "rejected": 0,
        "superseded": 8,
        "non_finite": 0,
    }


def test_what_is_not_finite_has_a_fate_of_its_own_and_is_told_once() -> None:
    replica = Counting(broken=True)
    session = session_of(replica=replica)
    step(session, 4)
    assert session.tokens_by_fate["non_finite"] == session.tokens == 8
    assert [each.tokens for each in session.progress_lost()] == [8]
    assert session.progress_lost() == []
    assert session.dismissal is None
    step(session, 4 * 4)
    assert isinstance(session.dismissal, TrainingDiverged)


def test_each_step_is_told_to_the_loop_once() -> None:
    session = session_of()
    step(session, 1)
    session.due(100.0)
    session.due(101.0)
    assert session.loop.progress[0].steps == session.steps == 1


def test_many_steps_in_one_go_come_to_the_same_as_one_by_one() -> None:
    at_once, one_by_one = session_of(), session_of()
    assert at_once.quiet_steps() == 4
    at_once.stepped(2, 2.0, steps=4)
    assert (
        [type(each) for each in at_once.due(100.0)] == [type(each) for each in step(one_by_one, 4)] == [Offer]
    )
    assert (at_once.steps, at_once.tokens) == (one_by_one.steps, one_by_one.tokens) == (4, 8)
    assert at_once.loop.progress[0].steps == one_by_one.loop.progress[0].steps


def test_steps_of_a_worker_that_stops_count_and_nothing_is_decided() -> None:
    session = session_of()
    session.count(2, 2.0, 4)
    assert (session.steps, session.tokens) == (4, 8)
    assert session.loop.progress[0].steps == 0
    assert session.due(100.0) == []


def test_steps_may_have_different_numbers_of_tokens() -> None:
    session = session_of()
    offers = []
    for tokens in (1, 2, 3, 4):
        session.stepped(tokens, 0.5)
        offers += session.due(100.0)
    assert [each.tokens for each in offers if isinstance(each, Offer)] == [10]


def test_an_offer_that_was_not_taken_is_made_again() -> None:
    session = session_of()
    step(session, 3)
    session.stepped(2, 0.5)
    (offer,) = session.due(100.0)
    session.told(offer, False)
    assert isinstance(step(session, 1)[0], Offer)


def test_tokens_meet_their_fates_and_a_fragment_counts_for_its_part() -> None:
    session = session_of(num_fragments=2)
    for fragment, fate in ((0, Fate.APPLIED), (1, Fate.APPLIED), (0, Fate.LATE)):
        session.event(100.0, ContributionEnded(fragment, 1, 8, fate, ""))
    assert session.tokens_by_fate == {
        "applied": 8,
        "late": 4,
        "rejected": 0,
        "superseded": 0,
        "non_finite": 0,
    }


def test_the_round_is_that_of_the_last_commit_it_saw() -> None:
    session = session_of()
    assert session.round == 7
    event = committed(None)
    session.event(100.0, event)
    assert session.round == event.record.index == 1


def test_the_mean_of_buffers_is_no_round_neither_for_who_saw_it_nor_for_who_came_after_it() -> None:
    class Trained(Counting):
        """Of parameters 7 outer steps, and those of buffers that came since."""

        def count(self, fragment: int) -> int:
            return len([call for call in self.calls if call[:2] == ("apply", 1)]) if fragment else 7

    replica = Trained()
    session = session_of(replica=replica, has_buffers=True)
    mean = replace(committed(None), record=replace(record(fragment=1), index=8))
    session.event(100.0, mean)
    assert session.round == 7
    session.event(100.0, BecameActive(GENESIS, 8))
    assert session.round == 7


def test_with_gossip_the_round_is_its_own_outer_steps() -> None:
    session = session_of(gossips=True)
    assert session.round == 0
    session.event(100.0, RoundCommitted(record(), NumpyReducer(1), None, 8, 0.0, 0.1, 0))
    assert session.round == session.loop.rounds_applied == 1


def swaps_until_done(session: WorkerSession) -> int:
    """Outer steps with gossip, until the worker is done; ten at most."""
    for number in range(10):
        if session.finished:
            return number
        step(session, 4)
        session.event(100.0, SwapFailed(0, number, 8, (), "nobody is there", alone=True))
    return 10


def test_gossip_goes_on_for_as_many_outer_steps_as_the_changed_settings_say() -> None:
    assert swaps_until_done(session_of(gossips=True)) == 10
    for rounds in (2, 5):
        session = session_of(gossips=True)
        session.follow(
            RunSettings.model_validate({"run": {"rounds": rounds}, "method": {"preset": "noloco"}})
        )
        assert swaps_until_done(session) == rounds


@pytest.mark.parametrize(("taken", "done"), [(1, False), (2, True), (3, True)])
def test_a_replica_from_a_disk_or_a_donor_that_has_all_outer_steps_ends_gossip_at_once(
    taken: int, done: bool
) -> None:
    replica = Counting(shares=[1.0] * taken)
    session = session_of(active=False, replica=replica, gossips=True)
    session.follow(RunSettings.model_validate({"run": {"rounds": 2}, "method": {"preset": "noloco"}}))
    assert not session.finished, "it is not in yet, and may fetch another one"
    session.event(100.0, BecameActive(GENESIS, 0))
    assert session.finished is done
    assert bool(step(session, 4)) is not done


def test_lag_is_the_steps_since_the_last_offer_of_what_waits_longest() -> None:
    session = session_of(num_fragments=2)
    step(session, 3)  # fragment 0 was offered after 2
    assert session.lag == 3
    step(session, 1)
    assert session.lag == 2


def test_a_worker_that_falls_behind_was_active_all_the_same() -> None:
    session = session_of(active=False)
    assert not session.was_active
    session.event(100.0, BecameActive(GENESIS, 0))
    session.event(100.0, FellBehind("it was away"))
    assert (session.active, session.was_active) == (False, True)


def test_reports_are_due_now_and_then_and_tell_what_was_counted() -> None:
    session = session_of()
    step(session, 4)
    session.loss = 1.5
    assert session.report_is_due(104.0)
    report = report_in(session.report(104.0, 10, 20))
    assert report == Report(4, 0, 8, 1.5, True, 2.0, 4.0, 10, 20, 0)
    assert session.loop.speed == report.speed
    assert not session.report_is_due(105.9)
    assert session.report_is_due(106.0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf"), 1e301])
def test_a_loss_that_no_frame_carries_is_reported_as_not_finite(loss: float) -> None:
    session = session_of(replica=Counting(broken=True))
    session.loss = 1.5
    assert report_in(session.report(100.0, 0, 0)).loss_is_finite
    step(session, 4)
    session.loss = loss
    report = report_in(session.report(104.0, 0, 0))
    assert (report.loss, report.loss_is_finite, report.non_finite) == (1.5, False, 1)
    assert unpack(pack(report)) == report


@pytest.mark.parametrize(
    ("event", "error", "text"),
    [
        (EntryRefused("shapes", "they differ"), EntryError, "shapes: they differ"),
        (IdentitySuperseded(), SwarmClosed, "a newer process"),
    ],
)
def test_who_cannot_go_on_is_told_why(event: object, error: type[Exception], text: str) -> None:
    session = session_of()
    assert session.dismissal is None
    session.event(100.0, event)
    assert isinstance(session.dismissal, error)
    assert text in str(session.dismissal)


def test_a_finished_run_is_finished() -> None:
    session = session_of()
    assert not session.finished
    session.event(100.0, RunFinished(9))
    assert session.finished


def test_it_waits_for_its_offer_and_not_for_ever() -> None:
    session = session_of()
    assert session.patience_ends(100.0) is None
    step(session, 4)
    assert session.waits(100.0)
    assert session.patience_ends(100.0) == 130.0
    assert not session.waits(130.0)


def test_the_profile_says_what_the_settings_say_and_hashes_no_state() -> None:
    settings = RunSettings.model_validate(
        {"method": {"preset": "noloco"}, "run": {"min_peers": 3, "seed": 5}}
    )
    replica = Counting()
    session = WorkerSession(Terms.of(settings), replica, now=0.0)
    profile = session.profile("w", ("tcp://w:1",), (16,), tensors=b"t" * 32, shapes=b"h" * 32, model="m")
    assert profile.matching == Matching("pair", 5, 2, 3)
    assert profile.manifest.settings == settings.digest()
    assert profile.manifest.codec == settings.method.resolved().codec
    assert (profile.manifest.tensors, profile.manifest.shapes) == (b"t" * 32, b"h" * 32)
    assert (profile.name, profile.addresses, profile.manifest.elements) == ("w", ("tcp://w:1",), (16,))
    assert (profile.rebases, profile.adapts) == (False, False)
    assert replica.calls == [], "a first state is hashed where it becomes the run's"


@pytest.mark.parametrize(
    ("preset", "rebases", "adapts"),
    [("diloco", False, False), ("async_diloco", True, False), ("dilocox", False, True)],
)
def test_terms_follow_from_the_method(preset: str, rebases: bool, adapts: bool) -> None:
    settings = RunSettings.model_validate({"method": {"preset": preset}, "run": {"rounds": 9}})
    terms = Terms.of(settings)
    assert (terms.schedule.rebases, terms.adapts, terms.matching) == (rebases, adapts, None)
    assert terms.rounds == 9
    assert terms.wait_s == settings.run.grace_s + 2 * settings.run.failure_timeout_s
