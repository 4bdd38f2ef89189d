"""The records of several processes as one story: events in the order in which they happened.

Clocks of machines differ, jump, and stand still while one sleeps. What all agree on are commits: each process
hears of one within moments of the others. So an event's time is that of the last commit that its process knew
on the clock of one of them, the reference, and the seconds since. Pure but for `read_events`.
"""

from __future__ import annotations

import bisect
import json
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diloco.errors import UserError

_LOG = logging.getLogger("diloco")
_COMMITS = {"round": "member", "committed": "host"}
_Commit = tuple[int, int]
"""Index and serial: there is one record of both."""


@dataclass(slots=True)
class Life:
    """What one process told."""

    who: str
    events: list[dict[str, Any]] = field(default_factory=list)

    def commits(self) -> dict[_Commit, float]:
        """When it heard of each, in seconds of its own."""
        found: dict[_Commit, float] = {}
        for each in self.events:
            if each["event"] in _COMMITS:
                found.setdefault((each["index"], each["serial"]), each["seconds"])
        return found

    @property
    def is_hosts(self) -> bool:
        return any(_COMMITS.get(each["event"]) == "host" for each in self.events)


@dataclass(frozen=True, slots=True)
class Moment:
    """One row of the story."""

    at_s: float
    """Since the first one."""
    who: tuple[str, ...]
    index: int
    event: str
    text: str


def read_events(path: Path) -> list[Life]:
    """The lives in one file. A last line that a kill cut short is left out, and so is what is no event, which
    is said. Raises `UserError` for a file that cannot be read, or that is of something else."""
    lives: list[Life] = []
    try:
        *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    damaged = [] if lines or rest[:1] in ("", "{") else [1]
    for number, line in enumerate(lines, 1):
        try:
            event = _checked(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            damaged.append(number)
            continue
        if event["event"] == "began" or not lives:
            lives.append(Life(event.get("who") or path.stem))
        lives[-1].events.append(event)
    if damaged and not lives:
        raise UserError(f"{path}, line {damaged[0]}: not an event that `--events` wrote")
    if damaged:
        more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        _LOG.warning("%s, line %d%s: no event, and left out", path, damaged[0], more)
    return lives


def _checked(event: Any) -> dict[str, Any]:
    """An event with what all have, and commits with their names. Raises ValueError, KeyError, TypeError or
    OverflowError."""
    numbers = [event["seconds"], event["wall"], event["index"]]
    if event["event"] in _COMMITS:
        numbers.append(event["serial"])
    texts = [event["event"], event.get("who") or "", event.get("text") or ""]
    if not all(map(math.isfinite, numbers)) or not all(isinstance(each, str) for each in texts):
        raise ValueError
    return dict(event)


def story(files: Sequence[list[Life]]) -> list[Moment]:
    """One row for each event that has something to say, and one for each commit, whoever told of it."""
    if not any(files):
        return []
    clock = _reference(max(files, key=_standing))
    rows: list[tuple[float, int, Life, dict[str, Any]]] = []
    for order, lives in enumerate(files):
        latest = float("-inf")  # a file's own order is right
        for life in lives:
            at_of = _aligned(life, clock)
            for event in life.events:
                latest = max(latest, at_of(event))
                rows.append((latest, order, life, event))
    rows.sort(key=lambda row: row[:2])
    return _told(rows)


def _standing(lives: list[Life]) -> tuple[bool, int]:
    """Whose clock is the best one: the host's, else that of who knew most commits."""
    return any(life.is_hosts for life in lives), sum(len(life.commits()) for life in lives)


def _reference(lives: list[Life]) -> dict[_Commit, float]:
    """When each commit was, on the wall of the reference."""
    found: dict[_Commit, float] = {}
    for life in lives:
        began = life.events[0]["wall"] - life.events[0]["seconds"]
        for commit, seconds in life.commits().items():
            found.setdefault(commit, began + seconds)
    return found


def _aligned(life: Life, clock: dict[_Commit, float]) -> Any:
    """The time of each of its events on the reference's wall."""
    anchors = sorted((at, clock[commit] - at) for commit, at in life.commits().items() if commit in clock)
    if not anchors:
        return lambda event: event["wall"]
    known = [at for at, _ in anchors]
    before = anchors[0][1]

    def at_of(event: dict[str, Any]) -> float:
        found = bisect.bisect_right(known, event["seconds"])
        offset: float = anchors[found - 1][1] if found else before
        at: float = event["seconds"] + offset
        # The next commit is not told before it is known.
        return min(at, known[found] + anchors[found][1]) if found < len(anchors) else at

    return at_of


def _told(rows: Iterable[tuple[float, int, Life, dict[str, Any]]]) -> list[Moment]:
    heard: dict[_Commit, list[str]] = defaultdict(list)
    told: list[tuple[float, Life, dict[str, Any]]] = []
    first: float | None = None
    for at, _, life, event in rows:
        first = at if first is None else first
        if event["event"] in _COMMITS:
            commit = event["index"], event["serial"]
            if commit in heard:
                heard[commit].append(life.who)
                continue
            heard[commit].append(life.who)
        elif not event.get("text"):
            continue
        told.append((at - (first or 0.0), life, event))
    return [
        Moment(
            round(at, 3),
            tuple(dict.fromkeys(heard[event["index"], event["serial"]]))
            if event["event"] in _COMMITS
            else (life.who,),
            event["index"],
            "commit" if event["event"] in _COMMITS else event["event"],
            str(event.get("text", "")),
        )
        for at, life, event in told
    ]


def spread_s(files: Sequence[list[Life]]) -> float:
    """How far apart members hear of one commit, by their walls: the median over commits that several told of,
    which is what their clocks differ by, and a moment."""
    walls: dict[_Commit, list[float]] = defaultdict(list)
    for lives in files:
        for life in lives:
            for each in life.events:
                if each["event"] in _COMMITS:
                    walls[each["index"], each["serial"]].append(each["wall"])
    several = [max(found) - min(found) for found in walls.values() if len(found) > 1]
    return statistics.median(several) if several else 0.0
