"""When a worker offers what it trained, waits, applies and rebases: decisions, no tensors and no IO.

The training loop tells of every inner step and hands over the member's events; the loop answers
with commands for the member. The same object runs below `attach` and in simulation; what differs is
the `Numbers` that it moves. Keeps S4 and S5 on the training side, and the rule that local training
waits for the network only where the method says so, and never without bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from peers.events import (
    BecameActive,
    BecomeSeed,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    EntryRefused,
    Fate,
    FellBehind,
    IdentitySuperseded,
    Restored,
    RoundAborted,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    StateFetched,
)
from peers.member import Member
from peers.record import Record
from transport.payloads import Payloads


class Numbers(Protocol):
    """The tensors below a loop."""

    def contribution(self, fragment: int) -> tuple[Payloads, float]:
        """A snapshot of the pseudo-gradient and its Euclidean norm. Raises `ValueError` if it is not
        finite."""

    def apply(self, fragment: int, mean: Payloads, ours: Payloads | None, fresh: bool) -> None:
        """One outer step with the decoded mean. ``ours`` is the contribution that is in it, or None.
        With ``fresh`` the local parameters become the outer ones; otherwise what was trained since
        the contribution (or, without one, since the last outer step) is kept on top."""

    def discard(self, fragment: int) -> None:
        """Local parameters become the outer ones."""

    def load(self, fragment: int, data: bytearray) -> None:
        """Outer state from a donor; local parameters become the outer ones."""

    def digest(self, fragment: int) -> bytes:
        """The digest of a fragment's outer state."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Offer a contribution; tells whether the member took it."""

    fragment: int
    tokens: int
    payloads: Payloads
    norm: float

    def tell(self, now: float, member: Member) -> bool:
        number = member.announce(now, self.fragment, self.tokens, self.payloads, self.norm)
        return number is not None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take an offer back; tells whether no round has it."""

    fragment: int

    def tell(self, now: float, member: Member) -> bool:
        return member.withdraw(now, self.fragment)


@dataclass(frozen=True, slots=True)
class Applied:
    """A record was applied; ``state`` is the digest of what followed."""

    record: Record
    state: bytes

    def tell(self, now: float, member: Member) -> bool:
        member.applied(now, self.record, self.state)
        return True


@dataclass(frozen=True, slots=True)
class Loaded:
    """A fetched state was loaded."""

    fragment: int
    version: bytes
    state: bytes

    def tell(self, now: float, member: Member) -> bool:
        member.loaded(now, self.fragment, self.version, self.state)
        return True


@dataclass(frozen=True, slots=True)
class Captured:
    """This worker's initial state of a fragment was captured as the run's."""

    fragment: int
    state: bytes

    def tell(self, now: float, member: Member) -> bool:
        member.captured(now, self.fragment, self.state)
        return True


Command = Announce | Withdraw | Applied | Loaded | Captured


@dataclass(slots=True)
class Progress:
    """What was trained on one fragment since it last moved."""

    steps: int = 0
    tokens: int = 0
    offered: Payloads | None = None
    offered_steps: int = 0
    offered_tokens: int = 0
    in_round: bool = False
    wait_until: float = 0.0
    next_offer: int = 0
    """Steps at which it is offered (again)."""


class OuterLoop:
    """One worker's outer loop over all fragments."""

    def __init__(self, num_fragments: int, sync_every: int, wait_s: float, numbers: Numbers) -> None:
        self.active = False
        self.finished = False
        self.refused: EntryRefused | None = None
        self.superseded = False
        self.coordinator_lost = False
        self.rounds_applied = 0
        self.rejected_reason = ""
        self.tokens_unoffered = 0
        """Tokens whose progress was given up before it was offered (fate: superseded)."""
        self._sync_every = sync_every
        self._wait_s = wait_s
        self._numbers = numbers
        self.progress = [Progress(next_offer=sync_every) for _ in range(num_fragments)]

    # -- the training loop's side -------------------------------------------------------------

    def stepped(self, now: float, tokens: int) -> list[Command]:
        """One inner step is done; what is due is offered."""
        for each in self.progress:
            each.steps += 1
            each.tokens += tokens
        return self.due(now)

    def due(self, now: float) -> list[Command]:
        """Offers that are due, and offers to take back because nobody comes for them."""
        commands: list[Command] = []
        for fragment, each in enumerate(self.progress):
            if each.offered is not None and not each.in_round and self._gives_up(now, each):
                commands.append(Withdraw(fragment))
            elif each.offered is None and each.steps >= each.next_offer and self._may_offer():
                commands += self._offer(now, fragment)
        return commands

    def _may_offer(self) -> bool:
        return self.active and not self.finished and not self.coordinator_lost

    def told(self, command: Command, done: bool) -> None:
        """What the member answered to a command."""
        match command:
            case Announce() if not done:
                self._take_back(self.progress[command.fragment], again_in=1)
            case Withdraw() if done:
                again_in = 1 if self.coordinator_lost else self._sync_every
                self._take_back(self.progress[command.fragment], again_in)
            case Withdraw():
                self.progress[command.fragment].in_round = True

    def waits(self, now: float) -> bool:
        """Whether the training loop is to wait for events instead of training on."""
        if self.finished or self.refused or self.superseded or self.coordinator_lost:
            return False
        return any(p.offered is not None and now < p.wait_until for p in self.progress)

    # -- the member's side --------------------------------------------------------------------

    def handle(self, now: float, event: object) -> list[Command]:
        """One event of the member."""
        match event:
            case RoundCommitted():
                return self._committed(event)
            case RoundOpened():
                self.progress[event.fragment].in_round = True
                # An open round has its own deadlines; this bound is for what nobody thought of.
                self.progress[event.fragment].wait_until = now + 4 * self._wait_s
            case RoundAborted():
                self.progress[event.fragment].in_round = False
                self.progress[event.fragment].wait_until = now + self._wait_s
            case ContributionEnded():
                self._ended(event)
            case StateFetched():
                return [self._loaded(event)]
            case BecomeSeed():
                return [Captured(f, self._numbers.digest(f)) for f in range(len(self.progress))]
            case BecameActive():
                self.active, self.coordinator_lost = True, False
                for each in self.progress:
                    each.in_round = False
            case FellBehind():
                self.active = False
            case Restored():
                return []
            case CoordinatorLost():
                self.coordinator_lost = True
            case CoordinatorBack():
                self.coordinator_lost = False
            case RunFinished():
                self.finished = True
            case EntryRefused():
                self.refused = event
            case IdentitySuperseded():
                self.superseded = True
        return []

    # -- inside -------------------------------------------------------------------------------

    def _gives_up(self, now: float, each: Progress) -> bool:
        return self.coordinator_lost or now >= each.wait_until

    def _offer(self, now: float, fragment: int) -> list[Command]:
        each = self.progress[fragment]
        try:
            payloads, norm = self._numbers.contribution(fragment)
        except ValueError as error:
            # It must never be averaged in: give the progress up and go on from the shared state.
            self.rejected_reason = str(error)
            self.tokens_unoffered += each.tokens
            self._numbers.discard(fragment)
            self._restart(fragment)
            return []
        each.offered, each.offered_steps, each.offered_tokens = payloads, each.steps, each.tokens
        each.wait_until = now + self._wait_s
        return [Announce(fragment, each.tokens, payloads, norm)]

    def _take_back(self, each: Progress, again_in: int) -> None:
        each.offered, each.in_round = None, False
        each.next_offer = each.steps + again_in

    def _restart(self, fragment: int) -> None:
        self.progress[fragment] = Progress(next_offer=self._sync_every)

    def _ended(self, event: ContributionEnded) -> None:
        if event.fate != Fate.APPLIED:
            # Its tokens have met their fate; what came after them starts over with the next state.
            each = self.progress[event.fragment]
            each.offered, each.in_round = None, False
            each.tokens -= each.offered_tokens
            each.steps -= each.offered_steps
            each.offered_tokens = each.offered_steps = 0
            self.tokens_unoffered += each.tokens
            self._numbers.discard(event.fragment)
            self._restart(event.fragment)

    def _committed(self, event: RoundCommitted) -> list[Command]:
        fragment = event.record.fragment
        each = self.progress[fragment]
        ours = each.offered if event.number is not None else None
        steps = each.steps - (each.offered_steps if ours else 0)
        tokens = each.tokens - (each.offered_tokens if ours else 0)
        self._numbers.apply(fragment, event.payloads, ours, fresh=steps == 0)
        self._restart(fragment)
        self.progress[fragment].steps, self.progress[fragment].tokens = steps, tokens
        self.rounds_applied += 1
        return [Applied(event.record, self._numbers.digest(fragment))]

    def _loaded(self, event: StateFetched) -> Loaded:
        self.tokens_unoffered += self.progress[event.fragment].tokens
        self._numbers.load(event.fragment, event.data)
        self._restart(event.fragment)
        return Loaded(event.fragment, event.version, self._numbers.digest(event.fragment))
