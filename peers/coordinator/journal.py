"""What the coordinator decided, as entries of its journal: they are messages of `transport.frames`.

Nothing is written that could not be read again: `read_entry` is asked before. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peers.protocol import fields
from peers.protocol.manifest import Manifest, unpack_manifest
from peers.protocol.record import Record, record_in
from transport.errors import BadFrame
from transport.frames import Key, Small, kind, pack, unpack

FORMAT = 4
"""Of a journal. Format 1 named results and states by another hash; in format 2 entries named no course;
format 3 knew whole checkpoints alone."""


@kind(93)
@dataclass(frozen=True, slots=True)
class FormerTermBegan:
    """How a term began in format 1. Nobody writes it: it shows that a journal has that format."""

    term: fields.Term


@kind(170)
@dataclass(frozen=True, slots=True)
class TermBegan:
    """A coordinator started: its serials are higher than those of all terms before."""

    term: fields.Term
    format: Small = FORMAT
    """Of what this coordinator writes."""


@kind(94)
@dataclass(frozen=True, slots=True)
class PeerCertified:
    """This identity may enter, without a ticket."""

    key: Key
    name: fields.Name


@kind(88)
@dataclass(frozen=True, slots=True)
class PeerInvited:
    """This identity may enter: it came with a ticket, and has one of its places."""

    key: Key
    name: fields.Name
    invite: Key
    at: fields.UnixSeconds = 0
    """When it came."""


@kind(114)
@dataclass(frozen=True, slots=True)
class PeerSigns:
    """This identity signs with that key: what it vouches for is checked by it, over all restarts."""

    key: Key
    identity: Key


@kind(89)
@dataclass(frozen=True, slots=True)
class PlaceGivenBack:
    """This identity was away so long that others may have its place; it may ask for one anew."""

    key: Key


@kind(90)
@dataclass(frozen=True, slots=True)
class InviteRevoked:
    """This ticket opens nothing any more."""

    key: Key


@kind(91)
@dataclass(frozen=True, slots=True)
class InviteMade:
    """This ticket lets identities in."""

    key: Key
    expires_at: fields.UnixSeconds
    uses: fields.Uses


@kind(135)
@dataclass(frozen=True, slots=True)
class IncarnationSeen:
    """This process of an identity greeted: older ones are to stop."""

    key: Key
    incarnation: fields.Incarnation


@kind(98)
@dataclass(frozen=True, slots=True)
class PeerKicked:
    """This identity may enter no more."""

    key: Key


@kind(99)
@dataclass(frozen=True, slots=True)
class RunStopped:
    """The owner ended the run before it had all its rounds."""

    rounds: fields.Rounds


@kind(151)
@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The owner changed some of the run's settings; all that may change are told."""

    values: fields.SettingValues
    """As they are from here on."""
    read: fields.SettingValues
    """As the owner's file has them: what differs from that in a later file is changed again."""
    goes_on: bool
    """The run got more rounds: that it was stopped before counts no more."""


@kind(152)
@dataclass(frozen=True, slots=True)
class Forked:
    """The run begins from an earlier state, which its host's own worker brings."""

    origin: fields.Digest
    """Names what that was read from."""


@kind(95)
@dataclass(frozen=True, slots=True)
class ModelAgreed:
    """The first member's model is the course's."""

    packed: fields.Packed
    course: fields.CourseNumber = 0

    @classmethod
    def of(cls, manifest: Manifest, course: int = 0) -> ModelAgreed:
        return cls(pack(manifest), course)

    def manifest(self) -> Manifest:
        """Raises `BadFrame`."""
        return unpack_manifest(self.packed)


@kind(97)
@dataclass(frozen=True, slots=True)
class RunBegan:
    """The seed's state is the course's first; `GENESIS` when it was lost before anything built on it."""

    head: fields.Head
    course: fields.CourseNumber = 0


@kind(96)
@dataclass(frozen=True, slots=True)
class CommitWritten:
    """A commit record, which names its course."""

    packed: fields.Packed

    @classmethod
    def of(cls, record: Record) -> CommitWritten:
        return cls(pack(record))

    def commit(self) -> Record:
        """Raises `BadFrame`."""
        return record_in(self.packed)


@kind(136)
@dataclass(frozen=True, slots=True)
class Adopted:
    """The owner had a record adopted that members hold and this journal lacks; the chain goes on behind it
    with a restoring one."""

    packed: fields.Packed
    restoring_packed: fields.PackedRestoring

    @classmethod
    def of(cls, record: Record, restoring: Record) -> Adopted:
        return cls(pack(record), pack(restoring))

    def record(self) -> Record:
        """Raises `BadFrame`."""
        return record_in(self.packed)

    def restoring(self) -> Record:
        """Raises `BadFrame`."""
        return record_in(self.restoring_packed)


@kind(141)
@dataclass(frozen=True, slots=True)
class StepsTaken:
    """Gossip: all members of a course that held a replica had taken so many outer steps."""

    steps: fields.Rounds
    course: fields.CourseNumber = 0


@kind(182)
@dataclass(frozen=True, slots=True)
class StageGiven:
    """This identity was told to train that stage, and may enter with no other."""

    key: Key
    stage: fields.Stage


@kind(202)
@dataclass(frozen=True, slots=True)
class StageMoves:
    """This identity was told to leave its stage and to train that one; it is its own stage where the move was
    given up."""

    key: Key
    stage: fields.Stage


@kind(207)
@dataclass(frozen=True, slots=True)
class WouldMove:
    """Whether this identity would train another stage, and what memory it has for one, as it asked for its
    own; none is known where there is no such entry."""

    key: Key
    moves: bool
    memory_bytes: fields.Bytes


@kind(199)
@dataclass(frozen=True, slots=True)
class Stands:
    """In a run whose model has stages: this member's membership began in that epoch; 0 if it is over."""

    key: Key
    since: fields.Epoch


@kind(140)
@dataclass(frozen=True, slots=True)
class StateSaved:
    """This member's disk has the shared state at that head, and it is the one that was agreed on. With gossip
    it is its word that it has a replica, and the index counts outer steps."""

    key: Key
    index: fields.RecordIndex
    head: fields.Head
    state: fields.Digest
    """As in `peers.protocol.messages.Saved`."""
    keeps: bool
    """It keeps the results of later rounds too."""
    course: fields.CourseNumber = 0
    """Whose state that is."""
    fragments: fields.FragmentBits = b""
    """Those that its disk has, as in `Saved`."""


@kind(144)
@dataclass(frozen=True, slots=True)
class StateCovered:
    """All fragments of the shared state at that head are on members' disks, which may part with older
    ones."""

    index: fields.RecordIndex
    head: fields.Head
    course: fields.CourseNumber = 0
    """Whose state that is."""


def format_of(entry: Any) -> int | None:
    """The format of the journal that an entry is in; None if the entry does not tell."""
    if isinstance(entry, FormerTermBegan):
        return 1
    return entry.format if isinstance(entry, TermBegan) else None


def read_entry(packed: bytes) -> Any:
    """One entry, what it carries included. Raises `BadFrame`."""
    entry = unpack(packed)
    if type(entry).__module__ != __name__:
        raise BadFrame(f"{type(entry).__name__} is no entry of a journal")
    if isinstance(entry, CommitWritten):
        entry.commit()
    elif isinstance(entry, ModelAgreed):
        entry.manifest()
    elif isinstance(entry, Adopted):
        entry.record()
        entry.restoring()
    return entry
