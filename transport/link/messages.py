"""What the two ends of a link say to each other beside messages, and what a link tells those above it.

A *session* numbers one life of one end: the peer's incarnation and a generation. Each has a field of its own,
so that neither can run over into the other, and generations do not begin again (S14).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from transport.effects import Payload
from transport.frames import Between, Count, kind

GENERATIONS = 1 << 62
"""Generations are below this."""
Generation = Annotated[int, Between(0, GENERATIONS - 1)]
ACK, ASK, STREAM_ACK = 2, 4, 6


class Session(NamedTuple):
    """One life of one end of a link. Sessions grow with the incarnation first, then with the generation."""

    incarnation: int
    generation: int


NOBODY = Session(0, 0)
"""The session of whoever did not greet yet."""


@kind(1)
@dataclass(frozen=True, slots=True)
class Hello:
    """Opens a lane: who we are, whom we take the other for, and what arrived so far."""

    incarnation: Count
    generation: Generation
    known_incarnation: Count
    known_generation: Generation
    control: Count
    bulk: Count
    credit: Count
    reply: bool

    @property
    def session(self) -> Session:
        """Whoever says this."""
        return Session(self.incarnation, self.generation)

    @property
    def known(self) -> Session:
        """Whom it is said to; `NOBODY` if that is not known yet."""
        return Session(self.known_incarnation, self.known_generation)


@kind(ACK)
@dataclass(slots=True)  # made for every frame, and a frozen one takes twice as long to make
class Ack:
    """What arrived and what may be sent; beside every message, or alone as a sign of life."""

    incarnation: Count
    generation: Generation
    known_incarnation: Count
    known_generation: Generation
    control: Count
    bulk: Count
    credit: Count
    seq: Count
    """Position of the message beside it in its stream. Without one, the number of the question that this
    answers; 0 if it answers none."""

    @property
    def session(self) -> Session:
        """Whoever says this."""
        return Session(self.incarnation, self.generation)

    @property
    def known(self) -> Session:
        """Whom it is said to."""
        return Session(self.known_incarnation, self.known_generation)


@kind(ASK)
@dataclass(slots=True)
class Ask(Ack):
    """The same from one who waits for a sign of life, and is to be answered with the number in ``seq``."""


@kind(STREAM_ACK)
@dataclass(slots=True)
class StreamAck(Ack):
    """The same about the stream of the link, whose numbers and credit are its own."""


@kind(3)
@dataclass(frozen=True, slots=True)
class Stale:
    """A newer incarnation of your identity is alive: stop."""

    incarnation: Count


@kind(5)
@dataclass(frozen=True, slots=True)
class DiskFull:
    """My disk takes no decision: until it does I say nothing else and hear nothing."""


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
    is_stream: bool = False
    """It came in the stream of the link, whose credit it takes."""
