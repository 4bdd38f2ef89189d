"""The view of one worker: itself, the swarm as it knows it, its line, and what happened lately.

Fed with the member's events, its own steps, and now and then with what the host's status says of all; keeps
only what it shows. Decides nothing. Names and reasons come from other machines: they are shown as plain
characters.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from diloco.monitoring.display import Display, newest
from diloco.monitoring.own_training import OwnTraining, lines_table, wrapped
from diloco.terminal import printable
from diloco.units import duration_text
from peers.protocol.events import (
    BecameActive,
    CheckpointFailed,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorDiskFull,
    CoordinatorLost,
    Fate,
    FellBehind,
    PeerLeft,
    PeersJoined,
    ProgressLost,
    Restored,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    Swapped,
)

_ASKS, _FETCHES = "asks for the shared state", "fetches the shared state"
_NOTES_KEPT = 50
_NAMES_SHOWN = 4
_SLOW_SHARE = 0.7
"""A worker counts as slow below this share of the median speed."""
_LINE_EVERY_S = 10.0
"""Where there is no terminal: a line about progress, at most this often."""


@dataclass(frozen=True, slots=True)
class MemberSpeed:
    """What the host says of one member that holds the shared state."""

    key: bytes
    name: str
    speed: float
    """Tokens per second without waiting; 0 before its first report."""
    awaited: bool
    """The run waits for it."""


@dataclass(slots=True)
class WorkerView:
    """What one worker knows."""

    run: str
    me: bytes
    name: str
    """As others see it; workers of one machine may have the same."""
    rounds_wanted: int
    own: OwnTraining
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)
    rounds_done: int = 0
    participants: int = 0
    peers: dict[bytes, str] = field(default_factory=dict)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=_NOTES_KEPT))
    members: tuple[MemberSpeed, ...] = ()
    """By the host, some seconds ago."""
    num_undone: int = 0
    """Commits that are no rounds, since the run went back."""
    buffers_fragment: int = -1
    """Of which a commit is no round either."""
    _state: str = _ASKS
    _host_away: bool = False
    _first: tuple[float, int] | None = None
    """When the first commit was seen, and how many there were."""
    _line_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.began = self.clock()

    def event(self, event: object) -> str | None:
        """Take one event of the member in; the line that tells of it, if it is worth one."""
        line = self._told(event)
        if line is not None:
            line = printable(line)
            self.note(line)
        return line

    def note(self, line: str) -> None:
        """Something to show for a while."""
        self.notes.append(f"{self.clock() - self.began:6.1f} s  {line}")

    def progress(self) -> str | None:
        """Where there is no terminal: the line about progress that is due after a commit."""
        now = self.clock()
        if now - self._line_at < _LINE_EVERY_S and self.rounds_done < self.rounds_wanted:
            return None
        self._line_at = now
        left = self.seconds_left()
        eta = "" if left is None else f"; about {duration_text(left)} left"
        up, down = self.own.traffic()
        loss = "" if self.own.loss is None else f", loss {self.own.loss:.3f}"
        return (
            f"round {self.rounds_done} of {self.rounds_wanted}, {_workers(self.participants)}: step "
            f"{self.own.step:,}{loss}, {self.own.tokens_per_second:,.0f} tokens/s; {up / 1e6:.1f} MB up, "
            f"{down / 1e6:.1f} MB down, waited {duration_text(self.own.waited_s)}{eta}"
        )

    def _told(self, event: object) -> str | None:
        match event:
            case BecameActive():
                fetched = self._state == _FETCHES
                self._state, self.rounds_done = "trains", event.index - self.num_undone
                return "this worker holds the shared state" if fetched else None
            case FellBehind():
                was_active = self._state not in (_ASKS, _FETCHES)
                self._state = _FETCHES
                return f"this worker {_FETCHES}" + (f": {event.reason}" if was_active else "")
            case RoundOpened():
                self._state = "exchanges"
                self.participants = len(event.members)
            case RoundCommitted():
                if event.record.fragment == self.buffers_fragment:
                    self.num_undone += 1
                    return "this worker has the mean of the model's buffers"
                self._committed(event.record.index - self.num_undone, len(event.record.members))
            case Swapped():
                self._committed(event.step, 1 + len(event.partners))
            case Restored():
                self.num_undone += 1
                return "the last state was lost: the run goes on from the one that this worker holds"
            case PeersJoined():
                return self._joined(event)
            case PeerLeft():
                name = self._label(event.key) if event.key in self.peers else event.name
                self.peers.pop(event.key, None)
                return f"{name} is out: {event.reason}"
            case RunFinished():
                self._state = "is done"
                return f"the run has all its {event.rounds} rounds"
        return self._trouble(event)

    def _trouble(self, event: object) -> str | None:
        match event:
            case CoordinatorLost() if self._host_away:
                return None  # a host whose disk is full is silent after that
            case CoordinatorLost():
                self._host_away = True
                return f"the host is away (silent for {event.silent_s:.0f} s); this worker trains on"
            case CoordinatorDiskFull():
                self._host_away = True
                return "the host's disk is full, or fails; this worker trains on"
            case CoordinatorBack():
                self._host_away = False
                return "the host is back"
            case ContributionEnded() if event.fate in (Fate.LATE, Fate.REJECTED):
                came = "came too late" if event.fate == Fate.LATE else "was rejected"
                return f"a contribution of {event.tokens:,} tokens {came}: {event.reason}"
            case ProgressLost():
                return f"the progress of {event.tokens:,} tokens is lost: {event.reason}"
            case CheckpointFailed():
                return f"no checkpoint of {event.unit} {event.index}: {event.reason}"
        return None

    def _joined(self, event: PeersJoined) -> str | None:
        known = {*self.peers, self.me}
        new = {key: printable(name) for key, name in event.members if key not in known}
        self.peers |= new
        return f"{', '.join(self._label(key) for key in new)} joined" if new else None

    def _committed(self, index: int, participants: int) -> None:
        self._state, self.rounds_done, self.participants = "trains", index, participants
        self._first = self._first or (self.clock(), index)

    def seconds_left(self) -> float | None:
        """How long it may still take at the pace so far; None until there is one."""
        if self._first is None or not self._first[1] < self.rounds_done < self.rounds_wanted:
            return None
        first_at, first = self._first
        pace = (self.clock() - first_at) / (self.rounds_done - first)
        return pace * (self.rounds_wanted - self.rounds_done)

    # -- the swarm ----------------------------------------------------------------------------

    def _label(self, key: bytes) -> str:
        """A name; workers of one machine are told apart by their keys."""
        name = self.peers[key]
        twice = Counter([*self.peers.values(), printable(self.name)])[name] > 1
        return f"{name} ({key.hex()[:4]})" if twice else name

    def swarm_text(self) -> str:
        """Who is here, and in the last round."""
        names = [self._label(key) for key in self.peers]
        rest = len(names) - _NAMES_SHOWN
        others = ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        here = f"with {others}" if names else "nobody else is here"
        last = f"; {self.participants} in the last round" if self.participants else ""
        return f"{here}{last}"

    def slow_text(self) -> str:
        """Who holds the others up, by what they say of themselves; empty while nobody does."""
        awaited = [self._member(each) for each in self.members if each.awaited]
        if awaited:
            return f"the run waits for {', '.join(awaited[:_NAMES_SHOWN])}"
        active = [each for each in self.members if each.speed > 0]
        if len(active) < 2:
            return ""
        usual = statistics.median_high(each.speed for each in active)
        slowest = min(active, key=lambda each: each.speed)
        if slowest.speed >= _SLOW_SHARE * usual:
            return ""
        return f"{self._member(slowest)} is slow: {slowest.speed:,.0f} tokens/s where {usual:,.0f} are usual"

    def _member(self, found: MemberSpeed) -> str:
        if found.key == self.me:
            return "this worker"
        return self._label(found.key) if found.key in self.peers else printable(found.name)

    # -- the picture --------------------------------------------------------------------------

    def render(self, width: int | None = None, height: int | None = None) -> RenderableType:
        """All of it, or on a low terminal as many of the newest notes as fit below the rest."""
        now = self.clock()
        me = f"{printable(self.name)}-{self.me.hex()[:16]}"
        head = Text(f"run {self.run}   {me}   round {self.rounds_done} of {self.rounds_wanted}   ")
        head.no_wrap, head.overflow = True, "ellipsis"
        head.append(duration_text(now - self.began), style="dim")
        if (left := self.seconds_left()) is not None:
            head.append(f", about {duration_text(left)} left", style="dim")
        bar = ProgressBar(total=self.rounds_wanted, completed=min(self.rounds_done, self.rounds_wanted))
        state = self._state + (", while the host is away" if self._host_away else "")
        rows = [
            ("this worker", self.own.training_text()),
            ("state", state),
            ("swarm", self.swarm_text()),
            ("network", self.own.network_text()),
        ]
        if slow := self.slow_text():
            rows.insert(3, ("", slow))
        max_lines = 2 if height is None or height >= 2 + 2 * len(rows) + 1 else 1
        num_above = 2 + sum(len(wrapped(text, width, max_lines)) for _, text in rows)
        notes = newest(self.notes, width, None if height is None else max(1, height - num_above))
        return Group(head, bar, Text(), lines_table(rows, width, max_lines), notes)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


class WorkerScreen(Display):
    """Shows a worker's view: live, or as lines, of which those about progress are few."""

    def __init__(self, view: WorkerView, console: Console | None = None) -> None:
        super().__init__(view, console)
        self.view = view

    def event(self, event: object) -> None:
        """Of the member, on the training thread."""
        with self.lock:
            line = self.view.event(event)
            commits = line is None and isinstance(event, RoundCommitted | Swapped)
            progress = self.view.progress() if commits and not self.is_live else None
        for each in (line, progress):
            if each is not None:
                self.say(each)

    def stepped(self, step: int, loss: float | None, tokens_per_second: float, waited_s: float) -> None:
        """One inner step is done."""
        with self.lock:
            self.view.own.stepped(step, loss, tokens_per_second, waited_s)

    def heard(self, members: tuple[MemberSpeed, ...], num_undone: int) -> None:
        """From the host's status."""
        with self.lock:
            self.view.members, self.view.num_undone = members, num_undone

    def want(self, num_rounds: int) -> None:
        """The run is to have so many rounds."""
        with self.lock:
            self.view.rounds_wanted = num_rounds
