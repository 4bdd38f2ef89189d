"""One class of payloads of a link: numbers, credit in bytes, and what is kept until it is acknowledged.

A link has one for exchanges and states, and one for streams if the run has any: each with numbers and credit
of its own, so that neither waits for the other. Which lane a message takes, and when it is sent again, is
`transport.link.streams`' affair. Part of R1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transport.effects import Payload
from transport.errors import BadFrame
from transport.frames import from_items
from transport.link.messages import Arrival
from transport.link.window import Spare, Window

FRAME_COST = 256
"""Bytes of credit that a bulk frame takes beside its payload: bounds the number of small ones."""


@dataclass(slots=True)
class Sent:
    """One message of ours that is not acknowledged."""

    seq: int
    message: Any
    payload: Payload | None
    lane: int
    purpose: str
    cost: int
    """Bytes of credit; 0 for control."""
    over: int | None = None
    """The connection that it was transmitted over last, of those that we dialled; 0 for one that the other
    end dialled."""


class Bulk:
    """Both directions of one class."""

    __slots__ = (
        "_credit",
        "_kept_extra",
        "_most",
        "_most_ahead",
        "_received_cost",
        "_seen",
        "_sent_cost",
        "_spare",
        "acked_cost",
        "kept_cost",
        "next",
        "num_in",
        "out",
        "window",
    )

    def __init__(self, most: int, most_ahead: int, window: Window, spare: Spare) -> None:
        """At most ``most`` bytes that nobody acknowledged are kept, and of the ``spare`` that all links share
        some more; numbers run at most ``most_ahead`` ahead."""
        self.window = window
        """Bytes of credit that the other end may have in flight to us."""
        self._most, self._most_ahead, self._spare = most, most_ahead, spare
        self._kept_extra = 0
        """What is kept beyond that for who has not acknowledged it."""
        self.begin_anew()

    def begin_anew(self) -> None:
        """Number from 1 on."""
        self.out: list[Sent] = []
        self.next = 1
        """The number of the next message of ours."""
        self._sent_cost = 0
        self.kept_cost = 0
        self._kept_extra = self._spare.take(self._kept_extra, 0)
        self._credit = 0
        self.num_in = 0
        """All up to this number have come."""
        self._seen: set[int] = set()
        self._received_cost = 0
        self.window.begin_anew()
        self.acked_cost = 0
        """What was consumed when the other end was told last."""

    # -- sending ------------------------------------------------------------------------------

    def room(self) -> int:
        """Payload bytes that credit allows to send now; negative when not even an empty one may go."""
        granted = self._credit - self._sent_cost
        # Whoever grants much and acknowledges little must not make us keep more than a window, and a share of
        # what all links have beyond that.
        most = self._most + max(self._kept_extra, self._spare.most(self._kept_extra))
        unheard = most - self.kept_cost
        return (granted if granted < unheard else unheard) - FRAME_COST

    def add(self, message: Any, payload: Payload, lane: int, purpose: str) -> Sent:
        """Keep one message that is about to be sent; the caller looked at `room` first."""
        cost = FRAME_COST + len(payload)
        sent = Sent(self.next, message, payload, lane, purpose, cost)
        self.next += 1
        self.out.append(sent)
        self._sent_cost += cost
        self._keep(cost)
        return sent

    def acknowledged(self, num: int, credit: int) -> None:
        """The other end has all up to this number, which was looked at, and grants so much in all."""
        if credit > self._credit:
            self._credit = credit
        if self.out and self.out[0].seq <= num:
            self._drop(num)

    # -- receiving ----------------------------------------------------------------------------

    def arrived(self, seq: int, items: Any, payload: Payload | None, *, is_stream: bool) -> list[Arrival]:
        """One message came; returns it unless it came before. Raises `BadFrame`."""
        if payload is None:
            raise BadFrame("a bulk message without a payload")
        is_next = seq == self.num_in + 1
        if not is_next and (seq <= self.num_in or seq in self._seen):
            return []
        if seq > self.num_in + self._most_ahead:
            raise BadFrame("bulk beyond the window")
        message = from_items(items)
        cost = FRAME_COST + len(payload)
        self._received_cost += cost
        if self._received_cost > self.window.granted:
            raise BadFrame("bulk beyond the credit")
        if not is_next:
            self._seen.add(seq)
            return [Arrival(message, payload, cost, is_stream)]
        self.num_in = seq
        while self._seen and self.num_in + 1 in self._seen:
            self.num_in += 1
            self._seen.remove(self.num_in)
        return [Arrival(message, payload, cost, is_stream)]

    def consumed(self, now: float, cost: int, told_after: int = 8) -> bool:
        """The layer above is done with an arrival. Whether the other end should be told by now: after that
        part of the window."""
        window = self.window
        window.consume(now, cost)
        return window.consumed - self.acked_cost >= window.size // told_after

    # -- what is there ------------------------------------------------------------------------

    @property
    def num_seen(self) -> int:
        """Numbers of messages that came before an earlier one."""
        return len(self._seen)

    @property
    def unconsumed_cost(self) -> int:
        """Bytes of credit of what arrived and was not consumed."""
        return self._received_cost - self.window.consumed

    @property
    def owes_ack(self) -> bool:
        """The other end keeps what has arrived here."""
        return self.window.consumed != self.acked_cost

    def digest_parts(self) -> tuple[Any, ...]:
        """What two equal ones have in common."""
        return (self.next, self.num_in, len(self._seen), self._sent_cost, self._credit, self.window.consumed)

    # -- inside -------------------------------------------------------------------------------

    def _keep(self, cost: int) -> None:
        """So much more is kept, or less."""
        self.kept_cost += cost
        wanted = self.kept_cost - self._most
        if wanted > 0 or self._kept_extra:
            self._kept_extra = self._spare.take(self._kept_extra, wanted)

    def _drop(self, acknowledged: int) -> None:
        arrived = cost = 0
        for sent in self.out:
            if sent.seq > acknowledged:
                break
            arrived += 1
            cost += sent.cost
        self._keep(-cost)
        del self.out[:arrived]
