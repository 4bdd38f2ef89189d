"""For whom a run waits, and what its owner or workers can do: one line of text from the coordinator's state.

Pure: it changes nothing, and is told the time. `diloco status` shows the line, and host and workers log it
when the wait lasts (`diloco.swarm.waits`). Empty while nothing is waited for but training itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from peers.coordinator import assembling, catching_up, restoring
from peers.coordinator.adoption import is_behind
from peers.coordinator.course import Course
from peers.coordinator.last_round import fewest_here
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.fields import cut
from peers.protocol.record import GENESIS

MAX_BYTES = 256
AFTER_THE_END_TIMEOUTS = 2
"""Failure timeouts for which a host that starts again after the last round is there for who comes back."""
_NAMES_SHOWN = 3
_CAMPS_BYTES = 90
_WHAT_TO_DO = "end who is wrong, or diloco kick NAME"


class Wait(NamedTuple):
    """One wait in words, and the keys of members that are here and could end it."""

    text: str = ""
    awaited: frozenset[bytes] = frozenset()


def waits_for(state: RunState, now: float) -> str:
    """The most important wait of the run, at most `MAX_BYTES` long; empty without any."""
    if state.finished:
        return _after_the_end(state, now)
    several = len(state.courses) > 1
    for course in state.courses.values():
        line = course_waits_for(state, course, now)
        if line:
            return cut(f"stage {course.number}: {line}" if several else line, MAX_BYTES)
    return ""


def course_waits_for(state: RunState, course: Course, now: float) -> str:
    """The same of one stage, which says nothing of the others."""
    return "" if state.finished else cut(_wait_of(state, course, now).text, MAX_BYTES)


def awaited_members(state: RunState, now: float) -> frozenset[bytes]:
    """Who is here and is waited for, of all stages."""
    if state.finished:
        return frozenset()
    waits = [_wait_of(state, course, now) for course in state.courses.values()]
    return frozenset().union(*(each.awaited for each in waits))


def _after_the_end(state: RunState, now: float) -> str:
    if awaited := who_arrives(state, now):
        named = ", ".join(name for name, _ in awaited[:_NAMES_SHOWN])
        left_s = max(until for _, until in awaited) - now
        return cut(
            f"the run is over, and {named} came and will hear so as soon as the model there is built, within "
            f"{left_s:.0f} s; then the host ends (Ctrl-C: at once)",
            MAX_BYTES,
        )
    if now >= state.stays_until:
        return ""
    return (
        "the run is over, and a host that starts again tells so to workers that come back within "
        f"{AFTER_THE_END_TIMEOUTS * state.rules.failure_timeout_s:.0f} s; then it ends (Ctrl-C: at once)"
    )


def who_arrives(state: RunState, now: float) -> list[tuple[str, float]]:
    """Names of those who greeted, give signs of life and have not entered yet, and until when the end of the
    run waits for them."""
    timeout_s, entries = state.rules.failure_timeout_s, state.roster.entries
    return [
        (entries[key].name, until)
        for key, until in state.arriving.items()
        if now < until
        and not (entries[key].entered or entries[key].told_finished or entries[key].kicked)
        and now - state.outlet.last_heard(now, key) <= timeout_s
    ]


def too_few(num_here: int, wanted: int, away: str = "") -> str:
    """What to say where less than ``wanted`` workers are here. ``away`` are names of who took part last."""
    others = f"{away} took part last: start it again, or others" if away else "start more"
    return f"too few workers: {num_here} of {wanted} (min_peers); {others} with diloco join"


def _wait_of(state: RunState, course: Course, now: float) -> Wait:
    if text := _wait_for_owner(state, course):
        return Wait(text)
    return _wait_for_some(state, course, now, state.roster.entered_in(course.number))


def _wait_for_owner(state: RunState, course: Course) -> str:
    """Of what does not end by itself, or only by who is not here."""
    here, chain, wanted = state.roster.entered_in(course.number), course.chain, fewest_here(state, course)
    if is_behind(state, course):
        return (
            f"the host's journal ends at commit {chain.index}, before what workers hold: nothing goes on "
            "until its owner starts it with diloco host --adopt"
        )
    if state.resume is not None:
        return (
            f"the run goes on from commit {state.resume} of {chain.index} as soon as a worker that has it is "
            f"here: start one with diloco join --resume {state.resume}"
        )
    if state.forked and chain.head == GENESIS and state.me not in {entry.key for entry in here}:
        return (
            "the first state is that of an earlier run, and the host's own worker is awaited, which brings "
            "it (diloco host --train)"
        )
    if here and restoring.is_lost(course, here):
        lost = _lost(state, course, here)
        if lost:
            return lost
    if not here and state.has_all_rounds:
        who = _names(_took_part_last(state, course)) or "one that still holds the run's state"
        return f"all rounds are done, and nobody is here whose buffers could be averaged: start {who}"
    if len(here) < wanted:
        return too_few(len(here), wanted, _names(_took_part_last(state, course)))
    for each in course.disputes.values():
        return f"{cut(each.camps, _CAMPS_BYTES)} hold different states, and {each.why}: {_WHAT_TO_DO}"
    if any(each.pending and state.mode.disputed(course, f) for f, each in course.recomputations.items()):
        return "workers hold different states: the host computes which is right, and rounds wait for that"
    return ""


def _lost(state: RunState, course: Course, here: list[Entry]) -> str:
    """Nobody who is here holds the newest state. Empty where that ends by itself."""
    fetching = [entry.name for entry in here if entry.assembles]
    if fetching:
        return f"the run's state is put together again from shares on several disks, by {_names(fetching)}"
    best, newest = restoring.furthest(course, here), course.chain.index
    index = course.chain.index_of(best.head) if best else -1
    coming, upto = restoring.coming_nearer(course, here, index)
    away = restoring.away_with_more(state, course, max(index, upto))
    who = _names((entry.name for entry in away), " or ")
    if best is None and (missing := assembling.lacks(state, course, here)):
        return _lacking(missing, course.saves.covered_index(course.chain))
    if best is None and course.has_moved:
        what = f"outer step {course.num_steps}" if state.rules.gossips else f"commit {newest}"
        whom = f"start {who}, whose disk has it" if who else "start one that still holds it"
        return (
            f"no worker here holds the run's state ({what}): {whom}, or begin a new run "
            "(diloco host --fresh or --from)"
        )
    if coming and not away:
        return f"{_names(e.name for e in coming)} goes on to commit {upto} by the results on its disk"
    if not away:
        return ""
    else_ = f"; diloco host --resume {index} goes on from there at once" if best else ""
    here_is = f"commit {index} is the best here" if best else "nobody here has it"
    return (
        f"waiting for {who}, whose disk has more ({here_is}), for at most "
        f"{restoring.restore_wait_s(state):.0f} s{else_}"
    )


def _lacking(missing: dict[int, list[Entry]], index: int) -> str:
    """Shares of a state that nobody here has, and on whose disks they are."""
    by_holders: dict[str, list[int]] = {}
    for fragment, holders in missing.items():
        by_holders.setdefault(_names((e.name for e in holders), " or "), []).append(fragment)
    whom = [
        f"fragment{'s' * (len(those) > 1)} {', '.join(map(str, those))}"
        f" ({f'start {names}, whose disk has it' if names else 'nobody is known to have it'})"
        for names, those in by_holders.items()
    ]
    return f"workers here hold shares of the run's state (commit {index}), and lack {'; '.join(whom)}"


def _took_part_last(state: RunState, course: Course) -> list[str]:
    """Names of members that are away and were in one of the newest records, one for each fragment; with
    gossip, of those whose disks have a replica."""
    since = course.chain.index - (course.manifest.num_fragments if course.manifest else 1)
    away = [entry for entry in state.roster.entries.values() if not entry.entered and not entry.kicked]
    away = [entry for entry in away if entry.key != state.me]  # it comes by itself
    if state.rules.gossips:
        return [entry.name for entry in away if entry.key in course.saves.by_member]
    return [entry.name for entry in away if course.chain.newest_of(entry.key) > since]


def _wait_for_some(state: RunState, course: Course, now: float, here: list[Entry]) -> Wait:
    """Of what is waited for by itself: it ends without anybody's doing."""
    seed = state.roster.entries.get(course.seed) if course.seed else None
    if course.chain.head == GENESIS and seed is not None and seed.entered:
        else_ = "nobody else may bring it" if state.forked else "another worker is asked if it does not come"
        return Wait(f"the first state is awaited from {seed.name}; {else_}", frozenset([seed.key]))
    active = [entry for entry in here if entry.active]
    if len(active) < fewest_here(state, course):
        return _for_members(
            [entry for entry in here if not entry.active],
            "{who} must get the shared state first; if that lasts, look whether workers reach each other",
        )
    for current in course.rounds.values():
        missing = [m for m in current.members if m not in current.done]
        if missing and now - current.attempt_at > state.rules.failure_timeout_s:
            return _for_members(
                [state.roster.entries[m] for m in missing],
                "an open round waits for {who}; diloco kick puts a worker out that never comes",
            )
    if course.ready_since and now < course.opens_at:
        return Wait("workers accuse each other, and the next round is put off for at most a minute")
    if course.ready_since and (behind := catching_up.awaited(state, course, now)):
        return _for_members(
            behind, "the next round waits for {who}, which fell behind again and again, to get the state"
        )
    if course.ready_since and not course.rounds:
        return _for_members(
            [e for e in active if not e.ready and not e.is_missing],
            f"the next round waits for {{who}}, for {state.rules.grace_s:g} s (grace_s) after the first "
            "offer",
        )
    return Wait()


def _for_members(awaited: Collection[Entry], text: str) -> Wait:
    """A wait for these; none if there are none."""
    if not awaited:
        return Wait()
    who = _names(entry.name for entry in awaited)
    return Wait(text.format(who=who), frozenset(entry.key for entry in awaited))


def _names(found: Iterable[str], separator: str = ", ") -> str:
    names = sorted(found)
    rest = len(names) - _NAMES_SHOWN
    return separator.join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
