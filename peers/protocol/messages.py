"""What members and the coordinator say to each other: one frozen dataclass per kind.

Fields carry their bounds (see `transport.frames`). Who speaks is the authenticated key of the link,
never a field. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peers.protocol.record import Keys, Weights
from transport.frames import Between, Count, Key, Number, Small, Text, kind

PROTOCOL = 4
"""Version of everything below; members of one run speak the same."""

Addresses = Annotated[tuple[Annotated[str, Between(1, 64)], ...], Between(0, 3)]
Elements = Annotated[tuple[Count, ...], Between(1, 256)]


# -- through a ticket's door --------------------------------------------------------------------


@kind(40)
@dataclass(frozen=True, slots=True)
class Knock:
    """A joiner asks to be admitted: its identity vouches (signature) for its transport key."""

    protocol: Small
    card: Annotated[bytes, Between(1, 2048)]
    signature: Annotated[bytes, Between(64, 64)]


@kind(41)
@dataclass(frozen=True, slots=True)
class Welcome:
    """Admitted; the run's settings travel beside it."""

    run: Annotated[bytes, Between(16, 16)]
    settings: Key


@kind(42)
@dataclass(frozen=True, slots=True)
class AskStatus:
    """Whoever holds a ticket may look at the roster and the rounds; the answer travels beside."""

    protocol: Small


@kind(43)
@dataclass(frozen=True, slots=True)
class StatusFollows:
    """The status travels beside it, as msgpack of plain values."""

    members: Small


@kind(44)
@dataclass(frozen=True, slots=True)
class Refused:
    """No, and why: a code for programs, a sentence for people."""

    code: Text
    detail: Annotated[str, Between(0, 1024)]


# -- the owner's orders, through the door with the key that its identity alone derives -----------


@kind(46)
@dataclass(frozen=True, slots=True)
class Kick:
    """Put a worker out of the run for good: its name, with or without the part that no other has."""

    protocol: Small
    who: Annotated[str, Between(1, 96)]


@kind(47)
@dataclass(frozen=True, slots=True)
class Stop:
    """End the run for all members, as if it had all its rounds."""

    protocol: Small


@kind(49)
@dataclass(frozen=True, slots=True)
class MakeInvite:
    """Let holders of another ticket in; a welcome is the answer."""

    protocol: Small
    key: Key
    """The public half of what its secret derives."""
    expires_at: Count
    """In unix seconds."""
    uses: Small
    """Identities that it may let in, ever; 0 if nothing was said."""


@kind(39)
@dataclass(frozen=True, slots=True)
class RevokeInvite:
    """That ticket opens nothing any more."""

    protocol: Small
    key: Key


@kind(48)
@dataclass(frozen=True, slots=True)
class Obeyed:
    """The order is carried out, and journaled."""

    detail: Annotated[str, Between(0, 1024)]
    """What was done, for people."""


# -- member to coordinator ----------------------------------------------------------------------


@kind(50)
@dataclass(frozen=True, slots=True)
class Enter:
    """I am here: what I am about to train and which state I hold."""

    protocol: Small
    name: Annotated[str, Between(0, 64)]
    addresses: Addresses
    stage: Small
    head: Key
    holds_state: bool
    settings: Key
    tensors: Key
    shapes: Key
    codec: Text
    elements: Elements
    model: Text
    """Readable summary of the model, shown when something differs."""


@kind(51)
@dataclass(frozen=True, slots=True)
class Ready:
    """A contribution is ready: tokens trained since ``base``, and its weight in a mean. Where an outer step
    is several exchanges, the tokens come with the last one, and those before it have none."""

    fragment: Small
    base: Key
    tokens: Count
    weight: Count
    number: Count
    norm: Annotated[float, Between(0.0, 1e300)]
    """Euclidean norm of the contribution: one that is far from all others is not added up."""


@kind(52)
@dataclass(frozen=True, slots=True)
class Withdraw:
    """That contribution is no longer offered."""

    fragment: Small
    number: Count


@kind(53)
@dataclass(frozen=True, slots=True)
class Done:
    """I hold the whole result of this attempt, and this is its digest."""

    serial: Count
    attempt: Small
    digest: Key


@kind(54)
@dataclass(frozen=True, slots=True)
class Stuck:
    """These members owe me chunks and have been silent, or sent what must not be added."""

    serial: Count
    attempt: Small
    peers: Keys
    poison: Text


@kind(55)
@dataclass(frozen=True, slots=True)
class Decline:
    """I cannot take part in that round."""

    serial: Count
    reason: Text


@kind(56)
@dataclass(frozen=True, slots=True)
class Applied:
    """I hold this version of a fragment, and this is the digest of its state."""

    fragment: Small
    version: Key
    state: Key


@kind(57)
@dataclass(frozen=True, slots=True)
class CaughtUp:
    """My head is this record."""

    head: Key


@kind(58)
@dataclass(frozen=True, slots=True)
class NeedState:
    """I cannot follow from where I am: name donors."""

    reason: Text


@kind(59)
@dataclass(frozen=True, slots=True)
class Report:
    """How training goes, about once a second."""

    step: Count
    rounds: Count
    """Outer steps that it has taken."""
    tokens: Count
    loss: Number
    """Of the last step whose loss was finite; a frame carries nothing else."""
    loss_is_finite: bool
    """Whether that was the last step of all."""
    tokens_per_second: Number
    speed: Number
    """Tokens per second without the time that it waited."""
    bytes_sent: Count
    bytes_received: Count
    non_finite: Count
    """Contributions that it gave up because they were not finite."""


@kind(60)
@dataclass(frozen=True, slots=True)
class Leave:
    """Goodbye, on purpose."""

    reason: Text


# -- coordinator to member ----------------------------------------------------------------------


@kind(70)
@dataclass(frozen=True, slots=True)
class Entered:
    """You are in: rounds that you remember and that are not open any more are void."""

    epoch: Count
    open_serials: Annotated[tuple[Count, ...], Between(0, 256)]


@kind(71)
@dataclass(frozen=True, slots=True)
class MemberIs:
    """One entry of the roster."""

    epoch: Count
    key: Key
    name: Annotated[str, Between(0, 64)]
    addresses: Addresses
    stage: Small


@kind(72)
@dataclass(frozen=True, slots=True)
class MemberGone:
    """That member is out."""

    epoch: Count
    key: Key
    reason: Text


@kind(73)
@dataclass(frozen=True, slots=True)
class Seed:
    """Your own initial state is the run's: say its digests."""

    epoch: Count


@kind(74)
@dataclass(frozen=True, slots=True)
class CatchUp:
    """Fetch this state of one fragment from these donors; ``remaining`` more fragments follow.
    With the last one your head is ``head``, the record of that ``index``."""

    fragment: Small
    version: Key
    state: Key
    donors: Keys
    head: Key
    index: Count
    remaining: Small


@kind(79)
@dataclass(frozen=True, slots=True)
class Serve:
    """Someone is about to fetch this state from you: keep it, though you may soon move on."""

    fragment: Small
    state: Key


@kind(75)
@dataclass(frozen=True, slots=True)
class Open:
    """A round, or another attempt at it: who takes part, with which weights."""

    serial: Count
    attempt: Small
    fragment: Small
    base: Key
    chunk_elements: Count
    founders: Keys
    weights: Weights
    lost: Annotated[tuple[Small, ...], Between(0, 64)]
    course: Small = 0
    """The course whose members exchange; today there is one (`peers.coordinator.course`)."""


@kind(76)
@dataclass(frozen=True, slots=True)
class Abort:
    """That round is void, for you or for all; ``again`` if the contribution may be offered anew."""

    serial: Count
    reason: Text
    again: bool


@kind(80)
@dataclass(frozen=True, slots=True)
class Rejected:
    """That contribution of yours is not taken, and will not be."""

    fragment: Small
    number: Count
    reason: Text


@kind(77)
@dataclass(frozen=True, slots=True)
class Committed:
    """A record was written."""

    record: Annotated[bytes, Between(1, 3800)]


@kind(85)
@dataclass(frozen=True, slots=True)
class Counted:
    """That record counts your contribution to the round of that serial. Told to a member that comes back and
    will not be told all records since."""

    fragment: Small
    serial: Count
    record: Key


@kind(82)
@dataclass(frozen=True, slots=True)
class MemberActive:
    """That member holds a state: it may be matched."""

    key: Key


@kind(84)
@dataclass(frozen=True, slots=True)
class RosterBatch:
    """Gossip: changes of the roster, many at once and in order (`peers.protocol.roster_feed`)."""

    batch: Annotated[bytes, Between(1, 3800)]


@kind(81)
@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the fastest member computes."""

    fastest: Number
    """Tokens per second while it trains."""


@kind(83)
@dataclass(frozen=True, slots=True)
class Wanted:
    """Others wait for your contribution to this fragment, and you may wait for them elsewhere: offer it."""

    fragment: Small


@kind(78)
@dataclass(frozen=True, slots=True)
class Finished:
    """The run has all its rounds."""

    rounds: Count


# -- member to member ---------------------------------------------------------------------------


@kind(100)
@dataclass(frozen=True, slots=True)
class NoSwap:
    """We do not exchange with each other under that serial: I have passed it, or am matched with others."""

    serial: Count
