"""What the two ends of a link say to each other beside messages, and what a link tells those above it.

A *session* numbers one life of one end: the peer's incarnation and a generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transport.effects import Payload
from transport.frames import Count, kind

GENERATIONS = 1 << 12
ACK, ASK = 2, 4


def session_of(incarnation: int, generation: int) -> int:
    """Sessions grow with the incarnation first, then with the generation."""
    return incarnation * GENERATIONS + generation % GENERATIONS


@kind(1)
@dataclass(frozen=True, slots=True)
class Hello:
    """Opens a lane: who we are, whom we take the other for, and what arrived so far."""

    session: Count
    known: Count
    control: Count
    bulk: Count
    credit: Count
    reply: bool


@kind(ACK)
@dataclass(slots=True)  # made for every frame, and a frozen one takes twice as long to make
class Ack:
    """What arrived and what may be sent; beside every message, or alone as a sign of life."""

    session: Count
    known: Count
    control: Count
    bulk: Count
    credit: Count
    seq: Count
    """Position of the message beside it in its stream; 0 without one."""


@kind(ASK)
@dataclass(slots=True)
class Ask(Ack):
    """The same from one who waits for a sign of life, and is to be answered."""


@kind(3)
@dataclass(frozen=True, slots=True)
class Stale:
    """A newer incarnation of your identity is alive: stop."""

    session: Count


@dataclass(frozen=True, slots=True)
class Started:
    """The other end began a session; unless it is our ``first``, whatever was under way is void."""

    first: bool


@dataclass(frozen=True, slots=True)
class Superseded:
    """A newer incarnation of our own identity is alive."""


@dataclass(slots=True)  # made for every frame, and a frozen one takes twice as long to make
class Arrival:
    """One message, delivered once; ``cost`` bytes of credit return through `Link.consumed`."""

    message: Any
    payload: Payload | None
    cost: int
