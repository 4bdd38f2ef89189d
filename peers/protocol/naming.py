"""What members and the coordinator say of digests of states: who is to hash which, and what came out.

Who asks when is decided in `peers.coordinator.naming`.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol import fields
from transport.frames import kind


@kind(160)
@dataclass(frozen=True, slots=True)
class StateNamed:
    """The digest of a version of a fragment that I hold: I have hashed it beside training."""

    fragment: fields.Fragment
    version: fields.Head
    state: fields.Digest
    """`NO_DIGEST` where I do not hold that version any more."""


@kind(163)
@dataclass(frozen=True, slots=True)
class Saving:
    """I begin to write the state at this head to my disk: have it named by others too, so that it can count
    once it is there."""

    head: fields.Head


@kind(161)
@dataclass(frozen=True, slots=True)
class NameState:
    """Somebody needs the digest of that version, the newest or the one before: hash it beside training."""

    fragment: fields.Fragment
    version: fields.Head


@kind(162)
@dataclass(frozen=True, slots=True)
class NameEvery:
    """The same of all that you hold, and of every version from now on; or, if not ``on``, no more."""

    on: bool
