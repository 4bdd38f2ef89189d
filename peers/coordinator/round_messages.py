"""What members say about their contributions and the rounds that they are in, one function for each message.

What does not fit the round as it is now is ignored: it was said before its author heard how that goes on.
"""

from __future__ import annotations

from peers.coordinator import accusations, rounds
from peers.coordinator.course import Course
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.fields import cut
from peers.protocol.messages import Decline, Done, Ready, Stuck, Withdraw


def ready(state: RunState, now: float, course: Course, entry: Entry, message: Ready) -> None:
    """A contribution is offered."""
    if message.weight == 0:  # nothing was trained, so there is nothing to weigh it with
        if state.rules.stages > 1:  # no microbatch came there, and none may come before this round is over
            entry.passes[message.fragment] = message
        return
    entry.pace.offered(now, message.fragment, message.number, message.tokens)
    state.mode.offered(now, course, entry, message)


def withdraw(state: RunState, now: float, course: Course, entry: Entry, message: Withdraw) -> None:
    """It is taken back."""
    held = entry.ready.get(message.fragment)
    if held is not None and held.number == message.number:
        del entry.ready[message.fragment]
    passed = entry.passes.get(message.fragment)
    if passed is not None and passed.number == message.number:
        del entry.passes[message.fragment]


def done(state: RunState, now: float, course: Course, entry: Entry, message: Done) -> None:
    """A member holds the whole result of an attempt."""
    current = course.round_of(message.serial)
    if current and message.attempt == current.attempt and entry.key in current.members:
        if entry.key not in current.done:
            current.done_at = now
        current.done[entry.key], current.squares[entry.key] = message.digest, message.squares
        accusations.settle(state, course, now, current)  # if they differ, the coordinator asks who is right


def stuck(state: RunState, now: float, course: Course, entry: Entry, message: Stuck) -> None:
    """A member waits for others, or got what must not be added."""
    current = course.round_of(message.serial)
    if not current or message.attempt > current.attempt or entry.key not in current.members:
        return
    if message.poison:
        accusations.hear(state, course, now, current, entry, message)
        return
    if message.attempt != current.attempt:
        return
    current.stuck[entry.key] = message.peers
    if current.judge_at is None:
        current.judge_at = now + state.rules.failure_timeout_s / 4


def decline(state: RunState, now: float, course: Course, entry: Entry, message: Decline) -> None:
    """A member cannot take part. What it offers by now is another contribution."""
    current = course.round_of(message.serial)
    if current and entry.key in current.members:
        rounds.lose(state, course, now, current, [entry.key], cut(f"declined: {message.reason}"))
