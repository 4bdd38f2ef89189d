"""What becomes of an open round in which one member accuses others without proof.

The attempt is repeated and the pair marked (`peers.coordinator.suspicion`). Nobody is set aside for one
member's word, but for that of more than half; and whoever says what cannot be, sits out itself. Keeps X2, L7.
"""

from __future__ import annotations

from peers.coordinator import rounds
from peers.coordinator.course import Course
from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from peers.protocol.fields import cut
from peers.protocol.messages import Stuck
from peers.protocol.traces import PoisonedTrace


def hear(
    state: RunState, course: Course, now: float, current: OpenRound, accuser: Entry, message: Stuck
) -> None:
    """A member of the round says that others sent what must not be added up. What it found in an earlier
    attempt still counts, once. If that was not proved, the present one is, and this host decodes what it is
    shown, it goes on all the same: whoever is wrong is found there."""
    index, suspicion = course.chain.index, course.suspicion
    named = [key for key in dict.fromkeys(message.peers) if key in current.members]
    if message.attempt < current.attempt:
        named = [key for key in named if not suspicion.is_marked(accuser.key, key, index)]
    if not named:
        return
    state.outlet.trace(PoisonedTrace(peer=accuser.key, peers=tuple(named), reason=message.poison))
    impossible = _impossible(current, accuser.key, named, message.attempt)
    if impossible:
        rounds.set_aside(state, course, now, current, [accuser.key], impossible)
        return
    pairs = [(accuser.key, key) for key in named]
    for pair in pairs:
        suspicion.accuse(*pair, index)
    if state.judges and current.proved and not current.plans[message.attempt].proved:
        return
    _go_on(state, course, now, current, pairs, cut(f"{accuser.name} accuses another: {message.poison}", 192))


def settle(state: RunState, course: Course, now: float, current: OpenRound) -> None:
    """Commit what all hold alike, unless owners measured of some member more than it claims: their word is
    taken for an accusation."""
    pairs = current.disputes() if current.agreement() is not None else []
    if not pairs:
        rounds.settle(state, course, now, current)
        return
    reason = "its contribution is longer than it says"
    for owner, member in pairs:
        state.outlet.trace(PoisonedTrace(peer=owner, peers=(member,), reason=reason))
        course.suspicion.accuse(owner, member, course.chain.index)
    _go_on(state, course, now, current, pairs, f"an owner says of a member that {reason}")


def _impossible(current: OpenRound, accuser: bytes, named: list[bytes], attempt: int) -> str:
    """Why an accusation cannot be true, or nothing."""
    if accuser in named:
        return "it refuses its own contribution"
    if attempt == current.attempt and accuser in current.idle and current.idle.issuperset(named):
        return "it accuses one of whom it got nothing"
    return ""


def _go_on(
    state: RunState,
    course: Course,
    now: float,
    current: OpenRound,
    pairs: list[tuple[bytes, bytes]],
    reason: str,
) -> None:
    """After these accusations. Where too few are left of whom nobody speaks ill, the first one of a pair
    costs a wait. If it comes again, one of the two sits out, or one liar had everybody wait for ever."""
    index, members = course.chain.index, current.members
    outvoted = course.suspicion.outvoted(members, index)
    if outvoted:
        reason = "it is at odds with more than half of the members"
        rounds.set_aside(state, course, now, current, outvoted, reason)
        return
    wait_s = course.suspicion.wait_s(members, index)
    again = [pair for pair in pairs if course.suspicion.times(*pair) > 1]
    if wait_s > 0.0 and again and len(members) > state.rules.fewest:
        worse = course.suspicion.worse_of(*again[0], members, index)
        rounds.set_aside(state, course, now, current, [worse], "it is at odds with another again and again")
    elif wait_s > 0.0:
        course.opens_at = max(course.opens_at, now + wait_s)
        state.abort(now, course, current, f"{reason}; it opens again in {wait_s:.0f} s")
    else:
        rounds.repeat(state, course, now, current)
