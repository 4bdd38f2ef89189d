"""Who is in: one entry per identity, and the epoch that counts every change.

Facts only; the coordinator decides. An entry stays when its member leaves, because the identity
may come back. What a member is doing is one `MemberState`, which moves along `TRANSITIONS` and
no other way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from peers.coordinator.influence import NormHistory
from peers.coordinator.pace import MemberPace
from peers.protocol.messages import Enter, MemberIs, NewestRecord, Ready, Report
from peers.protocol.record import GENESIS, NO_DIGEST
from peers.protocol.shares import PartHeld
from peers.protocol.signing import NO_IDENTITY
from peers.protocol.stream import EndsAre
from transport.effects import NEVER
from transport.keys import short


class MemberState(Enum):
    """What an admitted identity is doing in the run."""

    ABSENT = "absent"
    """It has not entered, or is gone."""
    WAITING_FOR_STATE = "waiting for state"
    """It is here and cannot follow from where it is: donors are to be named to it."""
    SEEDING = "seeding"
    """Its own state was named the run's first, and it has not said yet which that is."""
    FOLLOWING = "following"
    """It is on its way to the shared state, by records or from the donors that it was told."""
    ACTIVE = "active"
    """It holds the shared state, so it may contribute and be a donor."""


_MAX_NAMED = 3
"""Versions of a fragment of which it is remembered what a member named them: the newest two, and one that is
about to come."""
_MAX_ASKED = 1024
"""Versions that a member is asked to name alone: those of one head at least."""
_MAX_PARTS = 16
"""States of which a member may say that its disk has a share."""
_MAX_HELD = 4096
"""Heads of a member that are remembered."""
_ENTERED, _CLAIMS = "entered", "claims"
_HERE = frozenset(MemberState) - {MemberState.ABSENT}

TRANSITIONS: dict[str, tuple[frozenset[MemberState], MemberState]] = {
    "enter": (frozenset({MemberState.ABSENT}), MemberState.FOLLOWING),
    "wait_for_state": (frozenset({MemberState.FOLLOWING}), MemberState.WAITING_FOR_STATE),
    "give_up_state": (_HERE, MemberState.WAITING_FOR_STATE),
    "begin_seeding": (frozenset({MemberState.WAITING_FOR_STATE}), MemberState.SEEDING),
    "follow_donors": (frozenset({MemberState.WAITING_FOR_STATE}), MemberState.FOLLOWING),
    "become_active": (_HERE - {MemberState.ACTIVE}, MemberState.ACTIVE),
    "leave": (_HERE, MemberState.ABSENT),
}
"""By transition, which is a method of `Entry`: the states that it may leave, and the one it leads to. A
member that waits may become active without a donor, since it may reach the head by itself."""


@dataclass(slots=True)
class HeldPart:
    """A member's share of a state, as it says."""

    index: int
    states: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """By fragment, also of those that it lacks: version and digest."""
    here: set[int] = field(default_factory=set)
    """Fragments on its disk."""


@dataclass(slots=True)
class Refusals:
    """States that a member could not use since it entered or was active."""

    by_blob: dict[bytes, tuple[tuple[bytes, ...], float]] = field(default_factory=dict)
    """From which members (none named: from anybody), and until when it is not offered again."""
    num_in_a_row: int = 0
    num_in_vain: int = 0
    """How often it was told donors, and had no state from them."""


@dataclass(slots=True)
class Chase:
    """How often a member fell behind since it was in a commit, and for how long rounds wait for it."""

    num_times: int = 0
    since: float = 0.0
    """The first time."""
    until: float = NEVER
    """Rounds wait so long while it fetches the state."""
    again_from: float = NEVER
    """And not again before."""


def _nobody_listens() -> None:
    pass


@dataclass(slots=True, eq=False)
class Entry:
    """One identity that was admitted."""

    key: bytes
    name: str
    identity: bytes = NO_IDENTITY
    """The Ed25519 key that checks what it signs."""
    order: int = 0
    """Position in the order of entering: ties go to whoever came first."""
    member_state: MemberState = MemberState.ABSENT
    """Set by the transitions below alone."""
    entered_at: float = 0.0
    addresses: tuple[str, ...] = ()
    course: int = 0
    """The number of the course that it belongs to: the stage that it trains."""
    given_stage: int | None = None
    """The stage that it was told to train, in a run with several."""
    rests: bool = False
    """It feeds a model in stages, and has no more: no round waits for it."""
    drains: bool = False
    """It is about to leave its stage: no new path goes through it."""
    moves_to: int | None = None
    """The stage that it was told to train from its next coming on."""
    may_move: bool = False
    """It would train another one, and asked for none."""
    memory_bytes: int = 0
    """What it has for a stage, as it said."""
    kept_terms: tuple[bool, int] = (False, 0)
    """Both, as the journal has them."""
    ends: EndsAre | None = None
    """How what it fed has ended, as it said last."""
    keeps_stage: bool = False
    """It may have been there, so its disk may have that stage's state."""
    num_reserved: int = 0
    """Places that were held for it since it was here last."""
    head: bytes = GENESIS
    takes: str = ""
    gives: str = ""
    """The boundaries of the stage that it trains, as `Enter` says them."""
    will_hold: bytes = b""
    """The record whose result it reported to hold."""
    holds_state: bool = False
    """It holds the whole state of ``head``, which may be an earlier one than the course's."""
    checks: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """By fragment: version and check of its state, as it said."""
    names: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    """By fragment and version, of the newest ones that it named: the digest; `NO_DIGEST` if it had none."""
    names_every: bool = False
    """It was told to name every version."""
    names_since: float = 0.0
    """When it was last told so, or that it need not."""
    asked_names: dict[tuple[int, bytes], float] = field(default_factory=dict)
    """By fragment and version that it was asked to name alone: when."""
    ready: dict[int, Ready] = field(default_factory=dict)
    passes: dict[int, Ready] = field(default_factory=dict)
    """By fragment: it was asked for what it has, and has nothing on top of that version."""
    norms: dict[int, NormHistory] = field(default_factory=dict)
    """By fragment; it outlives memberships, so that nobody gets rid of it by coming back: to its stage, for
    it is told no other but by a move, which the host decides."""
    claim: NewestRecord | None = None
    """The newest record that it says it holds; told just before it enters, and while it goes on by records
    of its own."""
    held: set[bytes] = field(default_factory=set)
    """All heads that it said so of: it was there, if it is further now."""
    was_told_donors: bool = False
    """Since it said so last: it fetches the run's state instead."""
    told_behind: bool = False
    refusals: Refusals = field(default_factory=Refusals)
    chase: Chase = field(default_factory=Chase)
    report: Report | None = None
    pace: MemberPace = field(default_factory=MemberPace)
    told_finished: bool = False
    gave_no_state: bool = False
    """The others could not use the first state that it gave: another one is asked before it."""
    num_penalties: int = 0
    """How often in a row it was set aside or rejected."""
    set_aside_at: float = NEVER
    """When it was set aside last."""
    num_dissents: int = 0
    """How often it held another result than most, and nobody could be shown to be wrong."""
    dissented_at: int = 0
    """Index of the last commit before the last time."""
    num_wrong: int = 0
    """How often its state was found wrong by computing, and it is not forgiven."""
    wrong_at: int = 0
    """Index of the newest commit at the last time."""
    served_from: float = 0.0
    """It is named no donors before."""
    num_stalls: int = 0
    """How often others waited for it in vain, and it is not forgiven."""
    invite: bytes = b""
    """The ticket that it came with, last."""
    certified_at: float = NEVER
    """When this process of the host first let it in."""
    absent_since: float = 0.0
    has_place: bool = True
    """It counts among those that its ticket may have let in; not after a long absence."""
    kicked: bool = False
    """The owner put this identity out: it may not even connect. The entry stays, for records name it."""
    out_of_sight: bool = False
    """Its link ended and is not back: no round counts on it, and it is a member all the same."""
    is_silent: bool = False
    """It gave no sign of life for the failure timeout."""
    stranded: bool = False
    """It lacked something that follows its head, and was told nothing of that since."""
    told_order: int = 0
    """Order of the member that had entered last when it was told what follows its head."""
    came_without_state: bool = False
    """It had nothing to go on from when it entered: it begins anew in the midst of the others' training."""
    parts: dict[bytes, HeldPart] = field(default_factory=dict)
    """By head: states of which its disk has a share, as it said when it came."""
    assembles: bytes = b""
    """The head whose state it was told to fetch from the shares of others, and does not hold yet."""
    assembled_at: float = NEVER
    """When it was told so last."""
    awaited_from: int = 0
    """Index of the commit from which on rounds wait for it; not for one who came in the midst of one (L3)."""
    sits_out_until: int = 0
    """Index of the commit before which it is not asked again, after having been set aside."""
    moved: Callable[[], None] = field(default=_nobody_listens, repr=False, compare=False)
    """Called when its state, its course, or whether it claims a record changes."""

    @property
    def full_name(self) -> str:
        """Name and key: no two in a run have the same."""
        return f"{self.name}-{self.key.hex()[:16]}"

    @property
    def entered(self) -> bool:
        """Whether the member has entered and has not left."""
        return self.member_state is not MemberState.ABSENT

    @property
    def claimed_speed(self) -> float:
        """Tokens per second while it computes, as it says itself, 0 before: of a stage the host sees only how
        fast all stages are together, whoever is slow."""
        return self.report.speed if self.report is not None else 0.0

    @property
    def active(self) -> bool:
        """Whether the member holds the shared state."""
        return self.member_state is MemberState.ACTIVE

    @property
    def is_missing(self) -> bool:
        """Whether no round is to count on the member just now, though it is one."""
        return self.out_of_sight or self.is_silent

    @property
    def waits_for_state(self) -> bool:
        """Whether the member waits until donors are named to it."""
        return self.member_state is MemberState.WAITING_FOR_STATE

    def _make(self, transition: str) -> None:
        before, after = TRANSITIONS[transition]
        assert self.member_state in before, (
            f"a member that is {self.member_state.value} cannot become {after.value} ({transition})"
        )
        self.member_state = after
        self.moved()

    def enter(self, now: float, message: Enter, order: int, course: int) -> None:
        """A fresh membership: nothing of an earlier one counts (S14)."""
        self._make("enter")
        self.name, self.addresses = message.name, message.addresses
        self.order, self.entered_at, self.course = order, now, course
        self.moved()
        self.head, self.holds_state, self.will_hold = message.head, message.holds_state, b""
        self.takes, self.gives = message.takes, message.gives
        self.ready, self.passes, self.report, self.pace = {}, {}, None, MemberPace()
        self.ends = None
        self._forget_states()
        self.names_every = False
        self.told_finished = self.out_of_sight = self.is_silent = self.stranded = False
        self.told_order = order
        self.refusals = Refusals()
        self.came_without_state, self.awaited_from = not message.holds_state, 0
        self.parts, self.assembles, self.assembled_at = {}, b"", NEVER

    def train_stage(self, stage: int) -> None:
        """It is told to train that one. What was known of it in another stage, whose commits and norms are
        others, counts no more."""
        if self.given_stage not in (None, stage):
            self.norms.clear()
            self.num_penalties = self.sits_out_until = self.dissented_at = self.wrong_at = 0
            self.set_aside_at, self.chase = NEVER, Chase()
        self.given_stage = stage

    def show(self, claim: NewestRecord) -> None:
        """It says how far it is."""
        self.claim, self.was_told_donors = claim, False
        self.moved()
        if len(self.held) < _MAX_HELD:
            self.held.add(claim.head)
        if self.entered and self.holds_state:
            self.head = claim.head

    def forget_claim(self) -> NewestRecord | None:
        """What it said of how far it is, which counts no more."""
        claim, self.claim = self.claim, None
        self.moved()
        return claim

    def _forget_states(self) -> None:
        self.checks.clear()
        self.names.clear()
        self.asked_names.clear()

    def tell_check(self, fragment: int, version: bytes, check: bytes) -> None:
        """It says which state it holds; what it named under that version before may have been another one.
        If it is the same, it names it again."""
        self.names.get(fragment, {}).pop(version, None)
        self.checks[fragment] = (version, check)

    def tell_part(self, told: PartHeld) -> None:
        """It says what its disk has, or lacks, of a state that was shared out."""
        part = self.parts.get(told.head)
        if part is None and len(self.parts) >= _MAX_PARTS:
            return
        if part is None:
            part = self.parts[told.head] = HeldPart(told.index)
        part.states[told.fragment] = (told.version, told.state)
        (part.here.add if told.here else part.here.discard)(told.fragment)

    def tell_name(self, fragment: int, version: bytes, name: bytes) -> None:
        """It says the digest of a version."""
        named = self.names.setdefault(fragment, {})
        named.pop(version, None)
        named[version] = name
        while len(named) > _MAX_NAMED:
            del named[next(iter(named))]

    def ask_name(self, now: float, fragment: int, version: bytes) -> None:
        """It is asked for the digest of a version."""
        self.asked_names[fragment, version] = now
        while len(self.asked_names) > _MAX_ASKED:
            del self.asked_names[next(iter(self.asked_names))]

    def name_of(self, fragment: int, version: bytes) -> bytes:
        """The digest that it told of a version; empty if it told none, or that it has none."""
        name = self.names.get(fragment, {}).get(version, b"")
        return b"" if name == NO_DIGEST else name

    def wait_for_state(self) -> None:
        """The member cannot follow from where it is."""
        self._make("wait_for_state")

    def give_up_state(self) -> None:
        """The member waits for a state; nothing that it held, offered or was to hold counts any more."""
        self._make("give_up_state")
        self.holds_state, self.will_hold, self.assembles = False, b"", b""
        self.ready.clear()
        self._forget_states()

    def begin_seeding(self) -> None:
        """The member's own state is to become the run's first."""
        self._make("begin_seeding")

    def follow_donors(self) -> None:
        """The member was told which donors have the state."""
        self.stranded, self.was_told_donors = False, True
        self._make("follow_donors")

    def become_active(self) -> None:
        """The member holds the shared state now."""
        self._make("become_active")
        self.assembles = b""
        self.refusals = Refusals()

    def leave(self) -> None:
        """The membership is over."""
        self._make("leave")
        self.forget_claim()
        self.told_behind = False
        self.held.clear()
        self.holds_state, self.will_hold, self.ready = False, b"", {}
        self.parts, self.assembles = {}, b""


class Roster:
    """All entries by key, and the epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        self.entries: dict[bytes, Entry] = {}
        self.num_invited: Counter[bytes] = Counter()
        """By ticket: identities that it let in, ever."""
        self._order = 0
        self._here: dict[bytes, Entry] = {}
        """Those who entered, in that order."""
        self._lists: dict[tuple[int, MemberState | str], list[Entry]] = {}
        """By course, and what its members have in common, until somebody moves: with a thousand members most
        messages move nobody."""

    def certify(self, key: bytes, name: str, invite: bytes = b"") -> Entry:
        """Admit an identity, and give it a place; the same entry for the same key, however often it asks."""
        if key not in self.entries:
            self.entries[key] = Entry(key, name, moved=self._lists.clear)
            self.num_invited[invite] += 1
        entry = self.entries[key]
        entry.invite, entry.has_place = invite, True
        return entry

    def admits(self, key: bytes) -> bool:
        """Whether this identity may connect."""
        entry = self.entries.get(key)
        return entry is not None and not entry.kicked

    def named(self, who: str) -> list[Entry]:
        """Whom a person means who may be put out: the one with that key or full name; else all who are here
        under the name, for several may have it; else all who were."""
        known = [entry for entry in self.entries.values() if not entry.kicked]
        one = [entry for entry in known if who in (entry.full_name, short(entry.key))]
        here = [entry for entry in known if entry.name == who and entry.entered]
        return one or here or [entry for entry in known if entry.name == who]

    def enter(self, now: float, entry: Entry, message: Enter, course: int) -> None:
        """Begin a membership in a course."""
        self._order += 1
        entry.enter(now, message, self._order, course)
        self._here.pop(entry.key, None)
        self._here[entry.key] = entry
        self._lists.clear()
        self.epoch += 1

    def leave(self, entry: Entry) -> None:
        """End a membership."""
        entry.leave()
        self._here.pop(entry.key, None)
        self._lists.clear()
        self.epoch += 1

    def entered(self) -> list[Entry]:
        """Everyone who is here, in the order of entering."""
        return list(self._here.values())

    def entered_in(self, course: int) -> list[Entry]:
        """Members of a course that have entered, in the order of entering."""
        return self._those(course, _ENTERED, lambda entry: True)

    def active_in(self, course: int) -> list[Entry]:
        """Members of a course that hold its state."""
        return self._in_state(course, MemberState.ACTIVE)

    def waiting_in(self, course: int) -> list[Entry]:
        """Everyone of a course to whom donors are to be named."""
        return self._in_state(course, MemberState.WAITING_FOR_STATE)

    def following_in(self, course: int) -> list[Entry]:
        """Members of a course that are on their way to its state."""
        return self._in_state(course, MemberState.FOLLOWING)

    def claiming_in(self, course: int) -> list[Entry]:
        """Members of a course that say which record they hold."""
        return self._those(course, _CLAIMS, lambda entry: entry.claim is not None)

    def _in_state(self, course: int, state: MemberState) -> list[Entry]:
        return self._those(course, state, lambda entry: entry.member_state is state)

    def _those(self, course: int, what: MemberState | str, has_it: Callable[[Entry], bool]) -> list[Entry]:
        known = self._lists.get((course, what))
        if known is None:
            known = [e for e in self._here.values() if e.course == course and has_it(e)]
            self._lists[course, what] = known
        return list(known)

    def member_is(self, entry: Entry) -> MemberIs:
        """What others are told of a member."""
        return MemberIs(self.epoch, entry.key, entry.name, entry.addresses, entry.course, entry.identity)
