"""What a report says of a run, from traces and events that are fed by hand."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from diloco.simulation.identities import HOST, key_of
from diloco.simulation.recorder import Recorder
from diloco.simulation.report.report import Activity, SimulationReport, Span
from peers.protocol.commands import Offer, Swap
from peers.protocol.events import ContributionEnded, Fate, RoundAborted, RoundCommitted, RoundOpened, Swapped
from peers.protocol.record import GENESIS, Record
from peers.protocol.traces import (
    AbortedTrace,
    ActiveTrace,
    CommittedTrace,
    OpenedTrace,
    RemovedTrace,
    RepairedTrace,
)
from transport.collectives.reducer import PhantomReducer
from transport.effects import Trace

VECTOR = PhantomReducer(4, 4.0, b"")
A, B = key_of("a"), key_of("b")


class Recorded:
    """A recorder of two peers, a and b, and a host."""

    def __init__(self, num_fragments: int = 1) -> None:
        names = {A: "a", B: "b", key_of(HOST): HOST}
        process = SimpleNamespace(sent=Counter(exchange=70, control=5), received=Counter(state=40))
        net = SimpleNamespace(peers={A: process, key_of(HOST): process}, sent_again={A: 3})
        self.workers = {name: worker(name) for name in "ab"}
        engine: Any = SimpleNamespace(
            peers={name: each.peer for name, each in self.workers.items()},
            name_of=names.__getitem__,
            num_fragments=num_fragments,
            net=net,
            workers=self.workers,
        )
        self.recorder = Recorder()
        self.recorder.attach(engine)

    def does(self, name: str, *activities: tuple[float, Activity | None]) -> None:
        for now, activity in activities:
            self.recorder.activity(now, self.workers[name], activity)

    def trace(self, now: float, trace: Trace) -> None:
        self.recorder.effect(now, HOST, trace)

    def event(self, now: float, name: str, event: object) -> None:
        self.recorder.event(now, self.workers[name], event)

    def offers(self, now: float, name: str) -> None:
        self.recorder.command(now, self.workers[name], Offer(0, 1, 1, VECTOR, 1.0))

    def finish(self, now: float) -> SimulationReport:
        return self.recorder.finish(now, SimulationReport("s", "", 0, "timed", "diloco", 4, "the end"))


def worker(name: str) -> Any:
    return SimpleNamespace(
        name=name,
        peer=SimpleNamespace(name=name, region="", tokens_per_step=10),
        trainer=SimpleNamespace(step=None),
        stage=0,
        tokens_of=lambda steps: 10 * steps,
        session=SimpleNamespace(loss=0.0),
    )


def committed(serial: int = 5) -> RoundCommitted:
    record = Record(GENESIS, 1, 0, 1, serial, 4, (A, B), (1.0, 1.0), bytes(32))
    return RoundCommitted(record, VECTOR, 1, 1, 1.0, 0.0, 0)


def test_a_round_is_split_into_gathering_exchange_and_landing() -> None:
    run = Recorded()
    run.offers(10.0, "a")
    run.offers(12.0, "b")
    run.trace(13.0, OpenedTrace(5, 0, (A, B)))
    run.trace(16.0, RepairedTrace(5, 1, (), "lost"))
    run.trace(20.0, CommittedTrace(1, 5, 0, (A, B), (1.0, 1.0), 1, 7.0, 1))
    run.event(20.5, "a", committed())
    run.event(22.0, "b", committed())
    (found,) = run.finish(30.0).rounds
    assert (found.started_s, found.gather_s, found.exchange_s, found.land_s) == (10.0, 3.0, 7.0, 2.0)
    assert (found.index, found.participants, found.attempts) == (1, 2, 2)
    assert found.end_s == 22.0
    assert run.recorder.longest_exchange_s == 7.0


def test_a_round_that_was_given_up_gathers_on_from_its_first_offer() -> None:
    run = Recorded()
    run.offers(10.0, "a")
    run.trace(13.0, OpenedTrace(5, 0, (A, B)))
    run.trace(15.0, AbortedTrace(5, 0, "too few"))
    run.offers(16.0, "b")
    run.trace(17.0, OpenedTrace(6, 0, (A, B)))
    run.trace(18.0, CommittedTrace(1, 6, 0, (A, B), (1.0, 1.0), 0, 1.0, 1))
    report = run.finish(30.0)
    assert [(each.started_s, each.gather_s) for each in report.rounds] == [(10.0, 7.0)]
    assert [mark.text for mark in report.marks] == ["the round is given up: too few"]


def test_what_peers_do_adds_up_and_the_share_of_computing_is_the_utilization() -> None:
    run = Recorded()
    run.does("a", (0.0, "join"), (2.0, "compute"), (8.0, "wait"))
    run.does("b", (5.0, "compute"), (9.0, None))
    run.recorder.stepped(8.0, run.workers["a"], 3)
    report = run.finish(10.0)
    a, b = report.peers
    assert a.seconds == {"join": 2.0, "compute": 6.0, "wait": 2.0}
    assert a.spans == [Span("join", 0.0, 2.0), Span("compute", 2.0, 8.0), Span("wait", 8.0, 10.0)]
    assert (a.utilization, b.utilization) == (0.6, 1.0)
    assert report.utilization == pytest.approx(10.0 / 14.0)
    assert (a.steps, report.tokens, report.tokens_per_s) == (3, 30, 3.0)
    assert report.ideal_tokens_per_s == pytest.approx(30 / 6.0 * 10.0 / 10.0)


def test_a_fault_is_told_with_detection_next_commit_and_the_way_back() -> None:
    run = Recorded()
    run.recorder.injected(10.0, "crash a", "a", costs=True)
    run.recorder.injected(11.0, "freeze b", "b", costs=True)
    run.trace(14.0, RemovedTrace(A, "a", "silent"))
    run.trace(15.0, CommittedTrace(1, 5, 0, (B,), (1.0,), 0, 1.0, 1))
    run.recorder.returned(20.0, "restart", "a")
    run.trace(26.0, ActiveTrace(A, "a", 1))
    report = run.finish(30.0)
    found, other = report.recoveries
    assert (found.peer, found.what) == ("a", "crash a")
    assert (other.peer, other.detect_s, other.recommit_s, other.rejoin_s) == ("b", None, 4.0, None)
    assert (found.detect_s, found.recommit_s, found.rejoin_s) == (4.0, 5.0, 6.0)
    assert [mark.text for mark in report.marks if mark.injected] == ["crash a", "freeze b", "restart"]


def test_what_costs_nothing_is_marked_and_is_no_fault() -> None:
    run = Recorded()
    run.recorder.injected(10.0, "leave a", "a", costs=False)
    report = run.finish(30.0)
    assert report.recoveries == []
    assert len(report.marks) == 1


def test_a_joiner_is_timed_from_its_coming() -> None:
    run = Recorded()
    run.recorder.returned(20.0, "join", "b")
    run.trace(26.0, ActiveTrace(B, "b", 1))
    (found,) = run.finish(30.0).recoveries
    assert (found.what, found.detect_s, found.rejoin_s) == ("join", None, 6.0)


def test_the_coordinators_notes_name_peers_by_their_names() -> None:
    run = Recorded()
    run.trace(3.0, RepairedTrace(5, 1, (A, B), "they are silent"))
    (mark,) = run.finish(30.0).marks
    assert mark.text == "the round goes on without a, b: they are silent"


def test_traces_of_members_are_not_taken_for_the_hosts() -> None:
    run = Recorded()
    run.recorder.effect(3.0, "a", RemovedTrace(B, "b", "silent"))
    assert run.finish(30.0).marks == []


def test_exchanges_end_committed_aborted_or_unfinished() -> None:
    run = Recorded()
    run.event(1.0, "a", RoundOpened(5, 0, 0, ()))
    run.event(3.0, "a", committed())
    run.event(4.0, "a", RoundOpened(6, 0, 0, ()))
    run.event(6.0, "a", RoundAborted(0, 6, "too few", True))
    run.event(7.0, "a", RoundOpened(7, 0, 0, ()))
    found = run.finish(9.0).peers[0].exchanges
    assert [(each.outcome, each.start_s, each.end_s) for each in found] == [
        ("committed", 1.0, 3.0),
        ("aborted", 4.0, 6.0),
        ("unfinished", 7.0, 9.0),
    ]


def test_a_process_that_goes_down_leaves_its_exchange_unfinished() -> None:
    run = Recorded()
    run.event(1.0, "a", RoundOpened(5, 0, 0, ()))
    run.does("a", (2.0, "down"))
    (found,) = run.finish(9.0).peers[0].exchanges
    assert (found.outcome, found.end_s) == ("unfinished", 2.0)


def test_tokens_applied_count_once_though_each_fragment_counts_them() -> None:
    run = Recorded(num_fragments=2)
    for fragment in range(2):
        run.event(1.0, "a", ContributionEnded(fragment, fragment, 100, Fate.APPLIED, ""))
    run.event(1.0, "a", ContributionEnded(0, 9, 100, Fate.LATE, ""))
    assert run.finish(2.0).tokens_applied == 100


def test_outer_steps_of_gossip_are_the_rounds_of_its_report() -> None:
    run = Recorded()
    for name, now in (("a", 1.0), ("b", 2.0)):
        run.recorder.command(now, run.workers[name], Swap(0, 0, 10, VECTOR))
        run.event(now + 3.0, name, Swapped(0, 0, 10, VECTOR, ()))
    (found,) = run.finish(9.0).rounds
    assert (found.participants, found.started_s, found.exchange_s) == (2, 1.0, 4.0)


def test_traffic_is_that_of_peers_by_purpose_and_not_of_the_host() -> None:
    first, second = Recorded().finish(1.0).peers
    assert (first.sent, first.received, first.sent_again) == (
        {"control": 5, "exchange": 70},
        {"state": 40},
        3,
    )
    assert second.sent == {}


def test_losses_are_means_over_ten_steps_of_everyone() -> None:
    run = Recorded()
    one = run.workers["a"]
    one.trainer.step = lambda: 0.0
    run.does("a", (0.0, "compute"))
    for index in range(45):
        one.session.loss = float(index)
        run.recorder.stepped(index, one, 1)
    assert run.finish(50.0).losses == [(19, 200, 9.5), (39, 400, 29.5)]
