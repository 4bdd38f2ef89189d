"""The live view of a run as its host sees it: workers and rounds, as rich tables or plain lines.

Fed with the coordinator's traces; keeps only what it shows. Decides nothing. Names and reasons come
from other machines: they are shown as plain characters, never as markup or terminal codes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diloco.monitoring.display import Display, newest
from diloco.monitoring.event_log import EventLog
from diloco.monitoring.own_training import OwnTraining
from diloco.terminal import printable
from diloco.units import duration_text
from peers.protocol.messages import Report
from peers.protocol.traces import (
    AbortedTrace,
    ActiveTrace,
    AdoptedTrace,
    BadFrameTrace,
    BehindTrace,
    CommittedTrace,
    CoveredTrace,
    DisputedTrace,
    DissentTrace,
    EnteredTrace,
    LeftBehindTrace,
    OpenedTrace,
    OutlierTrace,
    ParityTrace,
    PartedTrace,
    PeerBarredTrace,
    PoisonedTrace,
    ProvedWrongTrace,
    RecomputedTrace,
    RefusedTrace,
    RemovedTrace,
    RepairedTrace,
    ReportTrace,
    RestoredTrace,
    SavedOtherTrace,
    SavedTrace,
    SeedLostTrace,
    SeedTrace,
    SetAsideTrace,
    StageGivenTrace,
    StageMoveTrace,
    StateLostTrace,
    SwappedTrace,
    UnusableTrace,
    fields_of,
)
from transport.effects import Trace
from transport.floods import FloodOverTrace, FloodTrace
from transport.guarded import InputLostTrace
from transport.in_order import StoreFailedTrace, StoreRecoveredTrace
from transport.keys import short
from transport.log_limit import LogLimit, with_left_out

_ROUNDS_SHOWN = 8
_NOTES_KEPT = 50
_NOTES_SHOWN = 5
_GONE_SHOWN = 4
_LINE_EVERY_S = 10.0
"""Where there is no terminal: a line about rounds, at most this often while they are alike."""
_TABLE_LINES = 5
"""Of a table without its rows: title, borders and headings."""
_TOLD: dict[type[Trace], str] = {
    EnteredTrace: "{name} entered",
    ActiveTrace: "{name} holds the shared state",
    SeedTrace: "{name} seeds the run",
    RemovedTrace: "{name} is out: {reason}",
    RepairedTrace: "the round goes on without {others}: {reason}",
    AbortedTrace: "the round was given up: {reason}",
    SetAsideTrace: "{name} sits out: {reason}",
    StageMoveTrace: "{name} moves from stage {stage} to stage {to}, which has too little speed",
    PartedTrace: "{others} do not reach each other: both go on, and add nothing up for a while",
    OutlierTrace: "{name}: {reason}",
    PoisonedTrace: "{name} says that {others} sent what cannot be added up: {reason}",
    ProvedWrongTrace: "it was shown who was wrong: {name}; {reason}",
    UnusableTrace: "{name} cannot use what it fetched: {reason}",
    BehindTrace: "commit {newest} is held by {names}, and the journal here ends at {index}: it is lost or "
    "an old copy. Nothing is overwritten, and nothing goes on: end this host, and start it with --adopt",
    AdoptedTrace: "the run goes on from the workers' commit {index}; the journal ended at {journal_index}",
    DisputedTrace: "workers hold different states after commit {index} ({camps}), and {why}: the run waits "
    "and overwrites nothing; end who is wrong, or put it out (diloco kick)",
    ParityTrace: "{name} held another state and fetches it again",
    LeftBehindTrace: "{name} came back with a replica of outer step {steps}, far behind the others: it "
    "fetches one of theirs",
    SavedOtherTrace: "what {name} saved or loaded of commit {index} is not the run's state, and counts not",
    RestoredTrace: "the run goes on from commit {to_index} of {name}: {reason}",
    StoreFailedTrace: "the journal cannot be written ({error}): nothing is decided until it can",
    StoreRecoveredTrace: "the journal is written again, and the run goes on",
    BadFrameTrace: "{name} sent what is no message: {reason}",
    PeerBarredTrace: "{name} did so again and again: it is not let in for {barred_s:.0f} s",
    InputLostTrace: "what came from {name} failed here and was lost: {error}",
    RefusedTrace: "{name} was refused: {detail}",
    FloodTrace: "connections come without end ({whence}): a part of them is let in",
    FloodOverTrace: "the flood of connections is over",
}
_FAULTS = (
    BadFrameTrace,
    FloodOverTrace,
    FloodTrace,
    InputLostTrace,
    PoisonedTrace,
    OutlierTrace,
    RefusedTrace,
    SavedOtherTrace,
    UnusableTrace,
)
"""What a peer can make us tell as often as it likes: a few lines of that a minute."""

_FOR_PROGRAMS = (SavedTrace, CoveredTrace, DissentTrace, RecomputedTrace, SeedLostTrace, StateLostTrace)
"""Of the story, and shown in another way: by status, by waits, or by what follows."""

_STYLES = {"gone": "red dim", "exchanging": "cyan", "training": "green", "waiting": "blue"}


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    key: bytes = b""
    state: str = "joining"
    report: Report | None = None
    share: float = 0.0
    stage: int = 0


@dataclass(slots=True)
class _Round:
    number: int
    stage: int
    participants: int
    seconds: float
    attempt: int
    num_bytes: int


@dataclass(slots=True)
class RunView:
    """What is known of a run, from traces alone."""

    title: str
    rounds_wanted: int
    workers: dict[bytes, _Worker] = field(default_factory=dict)
    rounds: deque[_Round] = field(default_factory=lambda: deque(maxlen=_ROUNDS_SHOWN))
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=_NOTES_KEPT))
    rounds_done: int = 0
    """Of a model that is cut: of the stage that has fewest."""
    stages: int = 1
    began: float = field(default_factory=time.monotonic)
    own: OwnTraining | None = None
    """Of a host that trains too."""
    _limit: LogLimit = field(default_factory=LogLimit)
    _bytes_before: int = 0
    _first_commit: tuple[float, int] | None = None
    """When the first commit was seen, and its index."""
    _rounds_of: dict[int, int] = field(default_factory=dict)
    """By stage."""

    def trace(self, trace: Trace) -> str | None:
        """Take one trace in; the line that tells of it, if it is worth one."""
        worker = self._worker(trace)
        match trace:
            case ReportTrace() if worker:
                return self._reported(worker, trace.report)
            case EnteredTrace() if worker:
                worker.state = "joining"
            case ActiveTrace() if worker:
                worker.state = "training"
            case RemovedTrace() if worker:
                worker.state = "gone"
                return self._with_warning(self._tell(trace, worker), worker.stage)
            case StageGivenTrace() if worker:
                worker.stage = trace.stage
            case OpenedTrace():
                self._mark(trace.members, "exchanging")
            case CommittedTrace():
                return self._committed(trace)
            case SwappedTrace():
                self.rounds_done = trace.index
                return f"outer step {trace.index}: taken by {_workers(len(trace.members))}"
        return self._tell(trace, worker)

    def _worker(self, trace: Trace) -> _Worker | None:
        peer: bytes = getattr(trace, "peer", b"")
        if peer and (name := getattr(trace, "peer_name", None)) is not None:
            self.workers.setdefault(peer, _Worker(printable(name), peer))
        return self.workers.get(peer)

    def _reported(self, worker: _Worker, report: Report) -> str | None:
        """A report tells how a worker fares: one whose steps stand still waits for the others. The line about
        contributions that it gave up since the last one."""
        before, worker.report = worker.report, report
        if worker.state in ("training", "waiting", "exchanging"):
            if before is None or report.step > before.step:
                worker.state = "training"
            elif worker.state == "training":
                worker.state = "waiting"
        if report.alike and not (before and before.alike):
            line = f"{worker.name} sends what others send: they seem to train on the same data"
            self.note(line)
            return line
        if report.non_finite <= (before.non_finite if before else 0):
            return None
        line = (
            f"{worker.name} gave up what it trained, as it was not finite ({report.non_finite} times so far)"
        )
        self.note(line)
        return line

    def _mark(self, members: tuple[bytes, ...], state: str) -> None:
        for member in members:
            if member in self.workers and self.workers[member].state != "gone":
                self.workers[member].state = state

    def _committed(self, trace: CommittedTrace) -> str:
        self._mark(trace.members, "training")
        total = sum(trace.weights)
        for member, weight in zip(trace.members, trace.weights, strict=True):
            if member in self.workers:
                self.workers[member].share = weight / total
        sent = sum(w.report.bytes_sent for w in self.workers.values() if w.report)
        found = _Round(
            trace.num_rounds,
            trace.course,
            len(trace.members),
            trace.seconds,
            trace.attempt,
            sent - self._bytes_before,
        )
        self._bytes_before = sent
        self.rounds.append(found)
        self._rounds_of[trace.course] = trace.num_rounds
        self.rounds_done = min(self._rounds_of.get(stage, 0) for stage in range(self.stages))
        self._first_commit = self._first_commit or (time.monotonic(), self.rounds_done)
        told = f"{_workers(found.participants)}, {found.seconds:.2f} s"
        where = f"stage {trace.course}, " if self.stages > 1 else ""
        return f"{where}round {round_and_commit(found.number, trace.index)}: {told}"

    def _with_warning(self, line: str | None, stage: int) -> str | None:
        """What became of a worker, and a warning if its stage has one replica now."""
        left = [each for each in self.workers.values() if each.stage == stage and each.state != "gone"]
        if self.stages == 1 or len(left) > 1 or self.rounds_done >= self.rounds_wanted:
            return line
        has = "has nobody" if not left else f"has {left[0].name} alone, and its state with it"
        warning = f"stage {stage} {has}: let another worker join"
        self.note(warning)
        return f"{line}; {warning}" if line else warning

    def _tell(self, trace: Trace, worker: _Worker | None) -> str | None:
        told = _TOLD.get(type(trace))
        if told is None:
            return None
        peer: bytes = getattr(trace, "peer", b"")
        left_out = self._limit.take(time.monotonic(), peer) if isinstance(trace, _FAULTS) else 0
        if left_out is None:
            return None
        who = self._label(worker) if worker else short(peer) if peer else "somebody"
        others: tuple[bytes, ...] = getattr(trace, "lost", ()) or getattr(trace, "peers", ())
        names = ", ".join(self._label(self.workers[k]) for k in others if k in self.workers)
        line = printable(told.format_map({**fields_of(trace), "name": who, "others": names}))
        line = with_left_out(line, left_out)
        self.note(line)
        return line

    def note(self, line: str) -> None:
        """Something to show for a while."""
        self.notes.append(f"{time.monotonic() - self.began:6.1f} s  {line}")

    def seconds_left(self) -> float | None:
        """How long it may still take at the pace so far; None until there is one."""
        if self._first_commit is None or not 1 < self.rounds_done < self.rounds_wanted:
            return None
        first_at, first_index = self._first_commit
        if self.rounds_done <= first_index:
            return None
        pace = (time.monotonic() - first_at) / (self.rounds_done - first_index)
        return pace * (self.rounds_wanted - self.rounds_done)

    def render(self, width: int | None = None, height: int | None = None) -> RenderableType:
        """The view; of a terminal that is too low for all of it the notes, the workers, and some rounds."""
        done = Text(f"{self.title}   round {self.rounds_done} of {self.rounds_wanted}   ")
        done.no_wrap, done.overflow = True, "ellipsis"
        done.append(duration_text(time.monotonic() - self.began), style="dim")
        if (left := self.seconds_left()) is not None:
            done.append(f", about {duration_text(left)} left", style="dim")
        bar = ProgressBar(total=self.rounds_wanted, completed=min(self.rounds_done, self.rounds_wanted))
        above: list[RenderableType] = [done, bar, Text()]  # which ends the bar's line
        if self.own is not None:
            above.append(self.own.panel(width))
        num_above = 2 + (2 if self.own is not None else 0)
        if height is None:
            notes = newest(list(self.notes)[-_NOTES_SHOWN:], width, None)
            return Group(*above, self._worker_table(), self._round_table(), notes)
        notes = newest(self.notes, width, min(_NOTES_SHOWN, max(1, height - num_above)))
        left_over = height - num_above - len(notes.plain.splitlines())
        shown = self._shown_workers()
        num_workers = min(len(shown), max(0, left_over - _TABLE_LINES))
        if num_workers < len(shown):
            num_workers = max(0, num_workers - 1)  # for the line that says so
        tables: list[RenderableType] = [self._worker_table(num_workers)] if num_workers else []
        left_over -= (num_workers + _TABLE_LINES + (num_workers < len(shown))) if num_workers else 0
        if left_over > _TABLE_LINES and self.rounds:
            tables.append(self._round_table(left_over - _TABLE_LINES))
        return Group(*above, *tables, notes)

    def _label(self, worker: _Worker) -> str:
        """A name; workers of one machine are told apart by their keys."""
        twice = sum(each.name == worker.name for each in self.workers.values()) > 1
        return f"{worker.name} ({worker.key.hex()[:4]})" if twice else worker.name

    def _shown_workers(self) -> list[_Worker]:
        gone = [each for each in self.workers.values() if each.state == "gone"]
        hidden = gone[:-_GONE_SHOWN]
        return [each for each in self.workers.values() if each not in hidden]

    def _worker_table(self, num_shown: int | None = None) -> Table:
        table = Table(title="workers", title_justify="left", expand=False)
        stage = ["stage"] if self.stages > 1 else []
        for heading in ("worker", *stage, "state", "step", "loss", "tokens/s", "share", "MB sent"):
            table.add_column(heading, justify="left" if heading in ("worker", "state") else "right")
        every = self._shown_workers()
        for worker in every[:num_shown]:
            report = worker.report
            numbers = (
                (f"{report.step:,}", self._loss_of(worker), f"{report.tokens_per_second:,.0f}")
                if report
                else ("", "", "")
            )
            sent = f"{report.bytes_sent / 1e6:.1f}" if report else ""
            style = _STYLES.get(worker.state, "yellow")
            share = f"{worker.share:.0%}" if worker.share and worker.state != "gone" else ""
            at = [str(worker.stage)] if stage else []
            name = Text(self._label(worker))
            table.add_row(name, *at, Text(worker.state, style=style), *numbers, share, sent)
        if num_shown is not None and num_shown < len(every):
            table.add_row(Text(f"and {len(every) - num_shown} more", style="dim"))
        return table

    def _loss_of(self, worker: _Worker) -> str:
        """Of stages the last one knows it."""
        return _loss_of(worker.report) if worker.report and worker.stage == self.stages - 1 else ""

    def _round_table(self, num_shown: int = _ROUNDS_SHOWN) -> Table:
        table = Table(title="rounds", title_justify="left", expand=False)
        stage = ["stage"] if self.stages > 1 else []
        for heading in (*stage, "round", "workers", "seconds", "attempts", "MB sent since"):
            table.add_column(heading, justify="right")
        for each in list(self.rounds)[-num_shown:]:
            table.add_row(
                *([str(each.stage)] if stage else []),
                str(each.number),
                str(each.participants),
                f"{each.seconds:.2f}",
                str(each.attempt + 1),
                f"{each.num_bytes / 1e6:.1f}",
            )
        return table


def round_and_commit(num_rounds: int, index: int) -> str:
    """How far a run is: the commit too where that has another number, since the run went back."""
    return f"{num_rounds}" if num_rounds == index else f"{num_rounds} (commit {index})"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _loss_of(report: Report) -> str:
    return f"{report.loss:.3f}" if report.loss_is_finite else "not finite"


class Screen(Display):
    """Shows a host's view, and keeps a record of what it tells."""

    tells = tuple(_TOLD)

    def __init__(
        self,
        view: RunView,
        console: Console,
        log: EventLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(view, console)
        self.view = view
        self._log = log
        self._clock = clock
        self._told_rounds: dict[int, tuple[float, int, int]] = {}
        """By stage, of the last round that a line told of: when, how many members, which attempt."""

    def on_trace(self, trace: Trace) -> None:
        """From the driver's thread."""
        with self.lock:
            line = self.view.trace(trace)
            is_news = not isinstance(trace, CommittedTrace | SwappedTrace) or self._is_worth_a_line(trace)
        if line is not None and is_news:
            self.say(line)
        if self._log is not None and (line is not None or isinstance(trace, _FOR_PROGRAMS)):
            self._log.trace(trace, line or "")

    def _is_worth_a_line(self, trace: CommittedTrace | SwappedTrace) -> bool:
        """Where there is no terminal a run of days is not to fill a disk: rounds now and then, and those that
        were not like the last one told of."""
        stage, attempt = (trace.course, trace.attempt) if isinstance(trace, CommittedTrace) else (0, 0)
        now, is_last = self._clock(), self.view.rounds_done >= self.view.rounds_wanted
        at, *alike = self._told_rounds.get(stage, (float("-inf"), 0, 0))
        if now - at < _LINE_EVERY_S and alike == [len(trace.members), attempt] and not is_last:
            return False
        self._told_rounds[stage] = now, len(trace.members), attempt
        return True

    def __enter__(self) -> Screen:
        super().__enter__()
        return self
