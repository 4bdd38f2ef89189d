"""What members and the coordinator say to each other: one frozen dataclass per kind.

Fields carry their bounds (see `peers.protocol.fields`). Who speaks is the authenticated key of the link,
never a field. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peers.protocol import fields
from peers.protocol.signing import NO_IDENTITY
from transport.frames import Between, Key, Small, kind

PROTOCOL = 11
"""Version of everything below; members of one run speak the same."""


# -- through a ticket's door --------------------------------------------------------------------


@kind(40)
@dataclass(frozen=True, slots=True)
class Knock:
    """A joiner asks to be admitted: its identity vouches (signature) for its transport key."""

    protocol: fields.Protocol
    card: Annotated[bytes, Between(1, 2048)]
    signature: fields.Signature


@kind(41)
@dataclass(frozen=True, slots=True)
class Welcome:
    """Admitted; the run's settings travel beside it."""

    run: fields.RunId
    settings: fields.Digest


@kind(42)
@dataclass(frozen=True, slots=True)
class AskStatus:
    """Whoever holds a ticket may look at the roster and the rounds; the answer travels beside."""

    protocol: fields.Protocol


@kind(43)
@dataclass(frozen=True, slots=True)
class StatusFollows:
    """The status travels beside it, as msgpack of plain values."""

    members: Small


@kind(44)
@dataclass(frozen=True, slots=True)
class Refused:
    """No, and why: a code for programs, a sentence for people."""

    code: fields.Code
    detail: fields.Detail
    row: fields.Row = -1
    """The first row of the member's layout that differs from the run's, where that is why."""
    num_rows: fields.Row = 0
    """So many rows from there on may be meant."""


# -- member to coordinator ----------------------------------------------------------------------


@kind(50)
@dataclass(frozen=True, slots=True)
class Enter:
    """I am here: what I am about to train and which state I hold."""

    protocol: fields.Protocol
    name: fields.Name
    addresses: fields.Addresses
    stage: fields.Stage
    head: fields.Head
    holds_state: bool
    settings: fields.Digest
    tensors: fields.Digest
    shapes: fields.Digest
    """The name of the text that tells names, shapes and dtypes, by which it can be fetched (`Want`)."""
    codec: fields.Description
    elements: fields.Elements
    model: fields.Description
    """Readable summary of the model, shown when something differs."""
    rows: fields.RowPrints = b""
    """By which it is told where layouts differ (`layout_rows`)."""
    takes: fields.Description = ""
    """Of a stage: the boundary to the one below, in words that both ends say alike; empty: there is none."""
    gives: fields.Description = ""
    """That to the one above."""


@kind(137)
@dataclass(frozen=True, slots=True)
class NewestRecord:
    """Just before I enter: how far I am, in case that you lost your journal; in a run that gossips, how far
    the replica is that came from my disk."""

    head: fields.Head
    index: fields.RecordIndex
    """Of the head's record; with gossip, the replica's outer steps."""
    shown: fields.MaybePacked
    """The record of that hash; nothing where I fetched the state behind it."""


@kind(51)
@dataclass(frozen=True, slots=True)
class Ready:
    """A contribution is ready: tokens trained since ``base``, and its weight in a mean. Where an outer step
    is several exchanges, the tokens come with the last one, and those before it have none."""

    fragment: fields.Fragment
    base: fields.Head
    tokens: fields.Tokens
    weight: fields.Weight
    number: fields.OfferNumber
    norm: fields.Norm
    """Euclidean norm of the contribution: one that is far from all others is not added up."""


@kind(52)
@dataclass(frozen=True, slots=True)
class Withdraw:
    """That contribution is no longer offered."""

    fragment: fields.Fragment
    number: fields.OfferNumber


@kind(53)
@dataclass(frozen=True, slots=True)
class Done:
    """I hold the whole result of this attempt, and this is its digest."""

    serial: fields.Serial
    attempt: fields.Attempt
    digest: fields.Digest
    squares: fields.Squares = ()
    """By founder: the squared norm of what it sent of the chunks that this member owns."""


@kind(54)
@dataclass(frozen=True, slots=True)
class Stuck:
    """These members owe me chunks and have been silent, or sent what must not be added."""

    serial: fields.Serial
    attempt: fields.Attempt
    peers: fields.Keys
    poison: fields.Reason


@kind(55)
@dataclass(frozen=True, slots=True)
class Decline:
    """I cannot take part in that round."""

    serial: fields.Serial
    reason: fields.Reason


@kind(56)
@dataclass(frozen=True, slots=True)
class Applied:
    """I hold this version of a fragment, and this is the check of its state, as I wrote it. Two members with
    the same one hold the same bits, as long as nobody makes up a state: which bytes a version has is named by
    digests alone."""

    fragment: fields.Fragment
    version: fields.Head
    check: fields.Check


@kind(57)
@dataclass(frozen=True, slots=True)
class CaughtUp:
    """My head is this record."""

    head: fields.Head


@kind(206)
@dataclass(frozen=True, slots=True)
class Applying:
    """I have the result of this record, and my application applies it, which may take a while."""

    head: fields.Head


@kind(139)
@dataclass(frozen=True, slots=True)
class Saved:
    """The shared state at this head is on my disk for good; with gossip, my own replica."""

    index: fields.RecordIndex
    """With gossip, outer steps."""
    head: fields.Head
    state: fields.Digest
    """Of all of it, as `peers.protocol.held.state_name` gives it."""
    keeps: bool
    """Results of later rounds are on it too, before I say that I hold them."""
    fragments: fields.FragmentBits = b""
    """Those that are on it, as `peers.protocol.shares.pack_fragments` gives them; by default all."""


@kind(58)
@dataclass(frozen=True, slots=True)
class NeedState:
    """I cannot follow from where I am: name donors."""

    reason: fields.Reason


@kind(105)
@dataclass(frozen=True, slots=True)
class Unusable:
    """A result or a state that I fetched is of no use to me: it does not decode or load. If ``peers`` are
    named, it is they who are of no use for it: they handed out other bytes."""

    fragment: fields.Fragment
    blob: fields.Digest
    peers: fields.Keys
    reason: fields.Reason


@kind(59)
@dataclass(frozen=True, slots=True)
class Report:
    """How training goes, about once a second."""

    step: fields.Steps
    rounds: fields.Rounds
    """Outer steps that it has taken."""
    tokens: fields.Tokens
    loss: fields.Loss
    """Of the last step whose loss was finite; a frame carries nothing else."""
    loss_is_finite: bool
    """Whether that was the last step of all."""
    tokens_per_second: fields.Speed
    speed: fields.Speed
    """Tokens per second without the time that it waited."""
    bytes_sent: fields.Bytes
    bytes_received: fields.Bytes
    non_finite: fields.OfferNumber
    """Contributions that it gave up because they were not finite."""
    alike: bool = False
    """Round after round others sent what it sent itself, as if they trained on the same data."""
    validation: fields.Loss = 0.0
    """Of stage 0: the loss of what it evaluated last, forward only, through all stages."""
    validated: bool = False
    """Whether there is one."""


@kind(60)
@dataclass(frozen=True, slots=True)
class Leave:
    """Goodbye, on purpose."""

    reason: fields.Reason


# -- coordinator to member ----------------------------------------------------------------------


@kind(70)
@dataclass(frozen=True, slots=True)
class Entered:
    """You are in: rounds that you remember are void."""

    epoch: fields.Epoch
    over: bool = False
    """The run has all its rounds: `Finished` follows, once nobody needs a donor any more."""


@kind(150)
@dataclass(frozen=True, slots=True)
class SettingsAre:
    """Some of the run's settings were changed after it began. Told just before you are in."""

    values: fields.SettingValues


@kind(154)
@dataclass(frozen=True, slots=True)
class SaveNow:
    """The owner wants the state behind that record, or the next one that you have, on your disk now."""

    index: fields.RecordIndex


@kind(71)
@dataclass(frozen=True, slots=True)
class MemberIs:
    """One entry of the roster."""

    epoch: fields.Epoch
    key: Key
    name: fields.Name
    addresses: fields.Addresses
    stage: fields.Stage
    identity: fields.Key = NO_IDENTITY
    """The Ed25519 key that checks what it signs."""


@kind(72)
@dataclass(frozen=True, slots=True)
class MemberGone:
    """That member is out."""

    epoch: fields.Epoch
    key: Key
    reason: fields.Reason


@kind(73)
@dataclass(frozen=True, slots=True)
class Seed:
    """Your own initial state is the run's: say its digests."""

    epoch: fields.Epoch


@kind(74)
@dataclass(frozen=True, slots=True)
class CatchUp:
    """Fetch this state of one fragment from these donors; ``remaining`` more fragments follow.
    With the last one your head is ``head``, the record of that ``index``."""

    fragment: fields.Fragment
    version: fields.Head
    state: fields.Digest
    donors: fields.Keys
    head: fields.Head
    index: fields.RecordIndex
    remaining: fields.FragmentCount


@kind(79)
@dataclass(frozen=True, slots=True)
class Serve:
    """Someone is about to fetch this state from you: keep it, though you may soon move on."""

    fragment: fields.Fragment
    state: fields.Digest


@kind(75)
@dataclass(frozen=True, slots=True)
class Open:
    """A round, or another attempt at it: who takes part, with which weights."""

    serial: fields.Serial
    attempt: fields.Attempt
    fragment: fields.Fragment
    base: fields.Head
    chunk_elements: fields.ChunkElements
    founders: fields.Keys
    weights: fields.Weights
    lost: Annotated[tuple[fields.FounderIndex, ...], Between(0, fields.MAX_MEMBERS)]
    idle: Annotated[tuple[fields.FounderIndex, ...], Between(0, fields.MAX_MEMBERS)] = ()
    """Founders who own no chunks: they contribute, and get the means of the others."""
    proved: bool = False
    """Members sign what they send, so that who is wrong can be shown (`transport.collectives.proofs`)."""
    course: fields.CourseNumber = 0
    """The course whose members exchange: a stage's replicas."""
    part_limits: fields.Squares = ()
    """By founder: the largest squared norm that its contribution may have, by what it claims."""
    mean_limit: fields.Square = fields.MAX_SQUARE
    """The same of the means of any owner."""
    life: fields.Life = bytes(16)
    """The host's, which members name in what they sign."""
    numbers: fields.OfferNumbers = ()
    """By founder: its contribution that is in this round."""


@kind(76)
@dataclass(frozen=True, slots=True)
class Abort:
    """That round is void, for you or for all; ``again`` if the contribution may be offered anew."""

    serial: fields.Serial
    reason: fields.Reason
    again: bool


@kind(80)
@dataclass(frozen=True, slots=True)
class Rejected:
    """That contribution of yours is not taken, and will not be."""

    fragment: fields.Fragment
    number: fields.OfferNumber
    reason: fields.Reason


@kind(77)
@dataclass(frozen=True, slots=True)
class Committed:
    """A record was written."""

    record: fields.Packed


@kind(85)
@dataclass(frozen=True, slots=True)
class Counted:
    """That record counts your contribution to the round of that serial. Told to a member that comes back and
    will not be told all records since."""

    fragment: fields.Fragment
    serial: fields.Serial
    record: fields.Head


@kind(82)
@dataclass(frozen=True, slots=True)
class MemberActive:
    """That member holds a state: it may be matched."""

    key: Key


@kind(84)
@dataclass(frozen=True, slots=True)
class RosterBatch:
    """Gossip: changes of the roster, many at once and in order (`peers.protocol.roster_feed`)."""

    batch: fields.Packed


@kind(81)
@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the fastest member computes."""

    fastest: fields.Speed
    """Tokens per second while it trains."""


@kind(138)
@dataclass(frozen=True, slots=True)
class HostBehind:
    """My journal ends before the record that you hold: I was lost, or am an old copy. Keep your state."""

    index: fields.RecordIndex
    """Of my newest record."""


@kind(83)
@dataclass(frozen=True, slots=True)
class Wanted:
    """Others wait for your contribution to this fragment, and you may wait for them elsewhere: offer it."""

    fragment: fields.Fragment


@kind(78)
@dataclass(frozen=True, slots=True)
class Finished:
    """The run has all its rounds."""

    rounds: fields.Rounds


@kind(130)
@dataclass(frozen=True, slots=True)
class Missing:
    """My link to that member ended or is refused, in an exchange with it: look for it. The coordinator
    is told, and believes nothing but its own link and its own probe."""

    key: Key


# -- member to member ---------------------------------------------------------------------------


@kind(131)
@dataclass(frozen=True, slots=True)
class Goodbye:
    """I leave the run and end this link: wait for nothing of mine."""


@kind(100)
@dataclass(frozen=True, slots=True)
class NoSwap:
    """We do not exchange with each other under that serial: I have passed it, or am matched with others."""

    serial: fields.Serial
