"""What the owner of a run orders, through the door with the key that the host's identity alone derives.

Fields carry their bounds, as in `peers.protocol.messages`. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol import fields
from transport.frames import Key, kind


@kind(46)
@dataclass(frozen=True, slots=True)
class Kick:
    """Put a worker out of the run for good: its name, with or without the part that no other has."""

    protocol: fields.Protocol
    who: fields.Who


@kind(47)
@dataclass(frozen=True, slots=True)
class Stop:
    """End the run for all members, as if it had all its rounds."""

    protocol: fields.Protocol


@kind(153)
@dataclass(frozen=True, slots=True)
class SaveState:
    """Have all members that keep checkpoints write one of the newest commit."""

    protocol: fields.Protocol


@kind(49)
@dataclass(frozen=True, slots=True)
class MakeInvite:
    """Let holders of another ticket in; a welcome is the answer."""

    protocol: fields.Protocol
    key: Key
    """The public half of what its secret derives."""
    expires_at: fields.UnixSeconds
    uses: fields.Uses


@kind(39)
@dataclass(frozen=True, slots=True)
class RevokeInvite:
    """That ticket opens nothing any more."""

    protocol: fields.Protocol
    key: Key


@kind(48)
@dataclass(frozen=True, slots=True)
class Obeyed:
    """The order is carried out, and journaled."""

    detail: fields.Detail
    """What was done, for people."""
