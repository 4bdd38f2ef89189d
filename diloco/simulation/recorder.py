"""Gathers a report while a swarm runs: activities, rounds and their phases, bytes, faults and what they cost.

A watcher: it sees effects, events and commands, and changes nothing. Facts about rounds and members come from
the coordinator's traces and the workers' events, the same that a host shows to people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from diloco.simulation.engine import Engine
from diloco.simulation.identities import HOST
from diloco.simulation.report.report import (
    BUSY,
    Activity,
    Exchange,
    Mark,
    PeerReport,
    Recovery,
    RoundReport,
    SimulationReport,
    Span,
)
from diloco.simulation.worker import Worker
from peers.protocol.commands import Command, Offer, Swap
from peers.protocol.events import (
    ContributionEnded,
    Fate,
    RoundAborted,
    RoundCommitted,
    RoundOpened,
    SwapFailed,
    Swapped,
)
from peers.protocol.traces import (
    AbortedTrace,
    ActiveTrace,
    BadFrameTrace,
    CommittedTrace,
    OpenedTrace,
    ParityTrace,
    PeerBarredTrace,
    RemovedTrace,
    RepairedTrace,
    RestoredTrace,
    SetAsideTrace,
    StageMoveTrace,
    StateLostTrace,
    fields_of,
)
from transport.effects import Effect, Trace

_MAX_MARKS = 2000
_COARSE = 1e-3
"""Later ones are put together until they are so large a part of the time since the beginning."""
_TOLD: dict[type[Trace], str] = {
    ActiveTrace: "holds the shared state",
    RemovedTrace: "is off the roster: {reason}",
    RepairedTrace: "the round goes on without {lost}: {reason}",
    AbortedTrace: "the round is given up: {reason}",
    SetAsideTrace: "sits out: {reason}",
    ParityTrace: "held another state",
    StageMoveTrace: "is told to move from stage {stage} to stage {to}",
    RestoredTrace: "the last state was lost; the run goes on from an earlier one",
    StateLostTrace: "nobody here holds the run's state",
    BadFrameTrace: "sent what is no message: {reason}",
    PeerBarredTrace: "is not let in for {barred_s} s, after messages that are none",
}


@dataclass(slots=True)
class _Round:
    fragment: int
    started_s: float
    opened_s: float = 0.0
    committed_s: float = 0.0
    landed_s: float = 0.0
    participants: int = 0
    attempts: int = 1
    stage: int = 0


@dataclass(slots=True)
class _Fault:
    at_s: float
    what: str
    peer: str
    back_s: float | None = None
    detect_s: float | None = None
    recommit_s: float | None = None
    rejoin_s: float | None = None


@dataclass(slots=True)
class _Track:
    """One peer."""

    report: PeerReport
    began_s: float | None = None
    activity: Activity | None = None
    since_s: float = 0.0
    exchanging: dict[int, Exchange] = field(default_factory=dict)
    """By fragment."""


class Recorder:
    """A watcher that ends in a `SimulationReport`."""

    def __init__(self, max_spans: float = math.inf) -> None:
        """Of a peer's spans the first ``max_spans`` are kept one by one: a replica of a stage does something
        else several times in a microbatch."""
        self._max_spans = max_spans
        self.losses: list[tuple[float, int, float]] = []
        self._tracks: dict[str, _Track] = {}
        self._open: dict[int, _Round] = {}
        """By serial; gossip: by step."""
        self._rounds: list[_Round] = []
        self._first_offer: dict[tuple[int, int], float] = {}
        """By stage and fragment: when the first of the offers was made that no round has taken."""
        self._committed_as: dict[int, _Round] = {}
        """By serial."""
        self._marks: list[Mark] = []
        self._faults: list[_Fault] = []
        self._loss_sum, self._loss_count = 0.0, 0
        self._tokens = 0
        self.longest_exchange_s = 0.0

    def attach(self, engine: Engine) -> None:
        """Before anything happens."""
        self._engine = engine
        for peer in engine.peers.values():
            self._tracks[peer.name] = _Track(PeerReport(peer.name, peer.region))

    # -- what was injected --------------------------------------------------------------------

    def injected(self, now: float, what: str, peer: str, *, costs: bool) -> None:
        """A scenario's event fires; ``costs`` if something has to recover from it."""
        self._mark(now, peer, what, injected=True)
        if costs:
            self._faults.append(_Fault(now, what, peer))

    def returned(self, now: float, what: str, peer: str) -> None:
        """What ``peer`` went through is over, or it is new: from here it is on its way back."""
        self._mark(now, peer, what, injected=True)
        pending = [f for f in self._faults if f.peer == peer and f.back_s is None]
        if not pending:
            pending = [_Fault(now, what, peer)]
            self._faults += pending
        pending[-1].back_s = now

    def _mark(self, now: float, peer: str, text: str, injected: bool = False) -> None:
        if len(self._marks) < _MAX_MARKS:
            self._marks.append(Mark(now, peer, text, injected))

    # -- as a watcher -------------------------------------------------------------------------

    def effect(self, now: float, name: str, effect: Effect) -> None:
        if isinstance(effect, Trace) and name == HOST:
            self._traced(now, effect)

    def activity(self, now: float, worker: Worker, activity: Activity | None) -> None:
        track = self._tracks[worker.name]
        if track.began_s is None:
            track.began_s = now
        self._close_span(now, track)
        track.activity, track.since_s = activity, now
        if activity == "down":
            self._end_exchanges(now, track, "unfinished")

    def stepped(self, now: float, worker: Worker, steps: int) -> None:
        report = self._tracks[worker.name].report
        report.steps += steps
        tokens = worker.tokens_of(steps)
        report.tokens += tokens
        self._tokens += tokens
        if worker.trainer.step is not None:
            self._note_loss(now, worker.session.loss)

    def event(self, now: float, worker: Worker, event: object) -> None:
        track = self._tracks[worker.name]
        match event:
            case RoundOpened():
                track.exchanging[event.fragment] = Exchange(event.fragment, now, now, "unfinished")
            case RoundAborted():
                self._end_exchange(now, track, event.fragment, "aborted")
            case RoundCommitted():
                self._end_exchange(now, track, event.record.fragment, "committed")
                found = self._committed_as.get(event.record.serial)
                if found is not None and event.number is not None:
                    found.landed_s = now
            case ContributionEnded() if event.fate == Fate.APPLIED:
                track.report.tokens_applied += event.tokens
            case Swapped():
                self._swapped(now, track, event, "swapped")
            case SwapFailed():
                self._swapped(now, track, event, "alone")

    def command(self, now: float, worker: Worker, command: Command) -> None:
        if isinstance(command, Offer):
            self._first_offer.setdefault((worker.stage, command.fragment), now)
        elif isinstance(command, Swap):
            exchange = Exchange(command.fragment, now, now, "unfinished")
            self._tracks[worker.name].exchanging[command.fragment] = exchange
            self._open.setdefault(command.step, _Round(command.fragment, now, now))

    # -- inside -------------------------------------------------------------------------------

    def _traced(self, now: float, trace: Trace) -> None:
        key: bytes | None = getattr(trace, "peer", None)
        peer = self._engine.name_of(key) if key is not None else ""
        match trace:
            case OpenedTrace():
                stage = self._engine.workers[self._engine.name_of(trace.members[0])].stage
                started = self._first_offer.pop((stage, trace.fragment), now)
                self._open[trace.serial] = _Round(trace.fragment, started, now, stage=stage)
            case RepairedTrace():
                if trace.serial in self._open:
                    self._open[trace.serial].attempts = trace.attempt + 1
            case AbortedTrace():
                found = self._open.pop(trace.serial, None)
                if found is not None:
                    self._first_offer.setdefault((found.stage, found.fragment), found.started_s)
            case CommittedTrace():
                self._committed(now, trace)
            case RemovedTrace():
                for fault in self._faults:
                    if fault.peer == peer and fault.detect_s is None and fault.rejoin_s is None:
                        fault.detect_s = now - fault.at_s
            case ActiveTrace():
                for fault in self._faults:
                    if fault.peer == peer and fault.rejoin_s is None and fault.back_s is not None:
                        fault.rejoin_s = now - fault.back_s
        told = _TOLD.get(type(trace))
        if told is not None:
            self._mark(now, peer, told.format_map({k: self._plain(v) for k, v in fields_of(trace).items()}))

    def _plain(self, value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return ", ".join(self._plain(each) for each in value)
        return self._engine.name_of(value) if isinstance(value, bytes) else str(value)

    def _committed(self, now: float, trace: CommittedTrace) -> None:
        found = self._open.pop(trace.serial, None) or _Round(trace.fragment, now, now)
        found.stage = trace.course
        found.committed_s = found.landed_s = now
        found.participants = len(trace.members)
        self._rounds.append(found)
        self._committed_as[trace.serial] = found
        self.longest_exchange_s = max(self.longest_exchange_s, now - found.opened_s)
        self._note_commit(now)

    def _note_commit(self, now: float) -> None:
        for fault in self._faults:
            if fault.recommit_s is None:
                fault.recommit_s = now - fault.at_s

    def _swapped(self, now: float, track: _Track, event: Swapped | SwapFailed, outcome: str) -> None:
        self._end_exchange(now, track, event.fragment, outcome)
        found = self._open.setdefault(event.step, _Round(event.fragment, now, now))
        found.committed_s = found.landed_s = now
        if isinstance(event, Swapped):
            found.participants += 1
            self._note_commit(now)

    def _end_exchange(self, now: float, track: _Track, fragment: int, outcome: str) -> None:
        exchange = track.exchanging.pop(fragment, None)
        if exchange is not None:
            exchange.end_s, exchange.outcome = now, outcome
            track.report.exchanges.append(exchange)

    def _end_exchanges(self, now: float, track: _Track, outcome: str) -> None:
        for fragment in list(track.exchanging):
            self._end_exchange(now, track, fragment, outcome)

    def _close_span(self, now: float, track: _Track) -> None:
        if track.activity is None or now <= track.since_s:
            return
        seconds = track.report.seconds
        self._keep_span(track.report.spans, Span(track.activity, track.since_s, now))
        seconds[track.activity] = seconds.get(track.activity, 0.0) + now - track.since_s

    def _keep_span(self, spans: list[Span], span: Span) -> None:
        """Of many only the first one by one: later ones become part of what is longer."""
        if len(spans) >= self._max_spans and spans[-1].end_s == span.start_s:
            last = spans[-1]
            if last.end_s - last.start_s < span.start_s * _COARSE:
                longer = max(last, span, key=lambda each: each.end_s - each.start_s)
                spans[-1] = Span(longer.activity, last.start_s, span.end_s)
                return
        spans.append(span)

    def _note_loss(self, now: float, loss: float) -> None:
        self._loss_sum, self._loss_count = self._loss_sum + loss, self._loss_count + 1
        if self._loss_count >= 10 * len(self._tracks):
            self.losses.append((now, self._tokens, self._loss_sum / self._loss_count))
            self._loss_sum, self._loss_count = 0.0, 0

    # -- the end ------------------------------------------------------------------------------

    def finish(self, now: float, report: SimulationReport) -> SimulationReport:
        """Fill in everything that was seen until ``now``."""
        self._count_traffic()
        present = computed = ideal = 0.0
        for track in self._tracks.values():
            self._close_span(now, track)
            self._end_exchanges(now, track, "unfinished")
            one = track.report
            lifetime = sum(one.seconds.values())
            busy = sum(one.seconds.get(activity, 0.0) for activity in BUSY)
            one.utilization = busy / lifetime if lifetime else 0.0
            one.tokens_applied //= self._engine.num_fragments  # each fragment has counted them
            present += lifetime
            computed += busy
            ideal += one.tokens / busy * lifetime if one.tokens else 0.0
            report.peers.append(one)
        report.seconds = now
        report.utilization = computed / present if present else 0.0
        report.tokens = self._tokens
        report.tokens_applied = sum(one.tokens_applied for one in report.peers)
        report.tokens_per_s = self._tokens / now if now else 0.0
        report.ideal_tokens_per_s = ideal / now if now else 0.0
        gossip = [self._open[step] for step in sorted(self._open) if self._open[step].participants]
        report.rounds = [_of(i + 1, each) for i, each in enumerate(self._rounds or gossip)]
        report.marks = self._marks
        report.recoveries = [
            Recovery(f.at_s, f.what, f.peer, f.detect_s, f.recommit_s, f.rejoin_s) for f in self._faults
        ]
        report.losses = self.losses
        return report

    def _count_traffic(self) -> None:
        net = self._engine.net
        for key, process in net.peers.items():
            track = self._tracks.get(self._engine.name_of(key))
            if track is not None:  # not the host
                track.report.sent = dict(sorted(process.sent.items()))
                track.report.received = dict(sorted(process.received.items()))
                track.report.sent_again = net.sent_again[key]


def _of(index: int, found: _Round) -> RoundReport:
    return RoundReport(
        index=index,
        fragment=found.fragment,
        participants=found.participants,
        attempts=found.attempts,
        started_s=found.started_s,
        gather_s=found.opened_s - found.started_s,
        exchange_s=found.committed_s - found.opened_s,
        land_s=found.landed_s - found.committed_s,
        stage=found.stage,
    )
