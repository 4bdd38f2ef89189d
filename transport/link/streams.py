"""The two streams of a link: numbered control and bulk messages between one session of each end.

*Control* is ordered and travels alone on lane 0, so it never waits behind bulk. *Bulk* is unordered, uses
whichever other lanes are open, and is limited in bytes by credit that the receiver grants as the layers
above consume, so a slow receiver slows its sender and memory stays bounded (R1). What is not acknowledged is
kept. It is sent again on its lane when that lane opens anew, unless it is on its way over a connection that
stands, and over another lane when its own one closes; what arrives twice is dropped, so everything arrives
once.

The streams do not greet, judge sessions or notice silence: `transport.link.link` does, and says when the
streams begin anew and which lanes are open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transport.effects import CONTROL_LANE, NEVER, Effect, Payload, Send
from transport.errors import BadFrame
from transport.frames import from_items, pack_items, to_items
from transport.limits import Limits
from transport.link.messages import ACK, ASK, NOBODY, Ack, Arrival, Hello, Session
from transport.link.window import Spare, Window

FRAME_COST = 256
"""Bytes of credit that a bulk frame takes beside its payload: bounds the number of small ones."""
_ACK_CONTROL_AFTER = 32
"""Control messages that are acknowledged at once: their sender keeps them until then. Fewer are
acknowledged by what is said next, or when nothing was said for as long as a peer may be silent."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How much a link must keep because of its peer."""

    control_out: int
    """Control messages that the peer did not acknowledge."""
    bulk_out: int
    """Bulk messages that the peer did not acknowledge."""
    bulk_out_cost: int
    """Bytes of credit that those bulk messages take."""
    control_held: int
    """Control messages that came before an earlier one."""
    bulk_seen: int
    """Numbers of bulk messages that came before an earlier one."""
    unconsumed_cost: int
    """Bytes of credit of what arrived and was not consumed."""


@dataclass(slots=True)
class _Sent:
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


class Streams:
    """Both streams, in both directions."""

    __slots__ = (
        "_acked_cost",
        "_bulk_in",
        "_bulk_lanes",
        "_bulk_out",
        "_bulk_seen",
        "_connection",
        "_control_acked",
        "_control_held",
        "_control_in",
        "_control_out",
        "_credit",
        "_kept_cost",
        "_kept_extra",
        "_limits",
        "_next_bulk",
        "_next_control",
        "_num_connections",
        "_open_lanes",
        "_out",
        "_peer",
        "_received_cost",
        "_sent_cost",
        "_spare",
        "last_bulk",
        "last_sent",
        "peer_session",
        "session",
        "window",
    )

    def __init__(
        self,
        peer: bytes,
        session: Session,
        limits: Limits,
        out: list[Effect],
        spare: tuple[Spare, Spare] | None = None,
    ) -> None:
        """``spare`` is what all links of a node share of what may be in flight to us, and from us; without it
        the link is the only one."""
        to_us, from_us = spare or (Spare(limits.spare_bytes), Spare(limits.spare_bytes))
        self.window = Window(limits.window_bytes, to_us)
        """Bytes of credit that the other end may have in flight to us."""
        self._spare = from_us
        self._kept_extra = 0
        """What is kept beyond a window for who has not acknowledged it."""
        self.last_sent = NEVER
        self.last_bulk = NEVER
        """When a payload last went either way."""
        self._peer = peer
        self._limits = limits
        self._out = out
        self._open_lanes: set[int] = set()
        self._bulk_lanes: list[int] = []
        """Those of them that carry bulk, in order."""
        self._num_connections = 0
        self._connection: dict[int, int] = {}
        """By lane, the number of the connection that we dialled and that stands: frames go over it."""
        self._control_out: list[_Sent] = []
        self.begin_anew(session, NOBODY, keep_control=False)

    def begin_anew(self, session: Session, peer_session: Session, *, keep_control: bool) -> None:
        """Number both streams from 1 on, between these two sessions; a ``peer_session`` of `NOBODY` is not
        known yet. No lane is open. Control messages that wait are dropped, or meant for this session too."""
        queued = self._control_out if keep_control else []
        self.session = session
        self.peer_session = peer_session
        self._set_open(set())
        self._control_out = queued
        self._bulk_out: list[_Sent] = []
        self._next_control = 1 + len(queued)
        self._next_bulk = 1
        self._sent_cost = 0
        self._kept_cost = 0
        self._kept_extra = self._spare.take(self._kept_extra, 0)
        self._credit = 0
        self._control_in = 0
        self._control_held: dict[int, Any] = {}
        self._bulk_in = 0
        self._bulk_seen: set[int] = set()
        self._received_cost = 0
        self.window.begin_anew()
        self._acked_cost = 0
        self._control_acked = 0

    def end(self) -> None:
        """The link is dropped: what all links share is given back."""
        self.begin_anew(self.session, NOBODY, keep_control=False)

    # -- lanes --------------------------------------------------------------------------------

    def connected(self, lane: int) -> None:
        """A connection that we dialled is up: this lane uses it from now on, whether or not the other end
        dials too."""
        self._num_connections += 1
        self._connection[lane] = self._num_connections

    def open_lane(self, now: float, lane: int) -> None:
        """Both ends have greeted on this lane: messages of it that were not acknowledged are sent (again),
        but for those on their way over our own connection that stands. We are not told if the other end's
        broke: what went over that may be lost."""
        self._set_open(self._open_lanes | {lane})
        waiting = self._control_out if lane == CONTROL_LANE else self._bulk_out
        stands = self._connection.get(lane)
        for sent in list(waiting):
            if sent.lane not in self._open_lanes:  # bulk whose lane is away
                sent.lane = lane
            if sent.lane == lane and (stands is None or sent.over != stands):
                self._transmit_sent(now, sent)

    def close_lane(self, now: float, lane: int) -> None:
        """A connection broke. What is sent on this lane goes over others that are open, and where there are
        none it is kept until one opens."""
        self._set_open(self._open_lanes - {lane})
        self._connection.pop(lane, None)
        if lane == CONTROL_LANE or not self._bulk_lanes:
            return
        for sent in list(self._bulk_out):
            if sent.lane == lane:
                sent.lane = self._lane_of(sent.seq)
                self._transmit_sent(now, sent)

    def close_lanes(self) -> None:
        """All connections are closed: keep what is sent on any lane until one opens again."""
        self._set_open(set())
        self._connection.clear()

    def has_another(self, lane: int) -> bool:
        """Whether no connection of ours carries this lane, and bulk could go over another that is open."""
        return lane not in self._connection and any(each != lane for each in self._bulk_lanes)

    def _set_open(self, lanes: set[int]) -> None:
        self._open_lanes, self._bulk_lanes = lanes, sorted(lanes - {CONTROL_LANE})

    def _lane_of(self, seq: int) -> int:
        """The lane for a bulk message: those that are open have turns; the first one, until one is."""
        lanes = self._bulk_lanes
        return lanes[seq % len(lanes)] if lanes else 1

    # -- sending ------------------------------------------------------------------------------

    def room(self) -> int:
        """Payload bytes that credit allows to send now; negative when not even an empty one may go."""
        if self.peer_session == NOBODY:
            return -1
        granted = self._credit - self._sent_cost
        # Whoever grants much and acknowledges little must not make us keep more than a window, and a share of
        # what all links have beyond that.
        most = self._limits.window_bytes + max(self._kept_extra, self._spare.most(self._kept_extra))
        unheard = most - self._kept_cost
        return (granted if granted < unheard else unheard) - FRAME_COST

    def control_overflows(self) -> bool:
        """The peer has been away for longer than we keep messages for."""
        return len(self._control_out) > self._limits.control_queue

    def send_control(self, now: float, message: Any) -> None:
        """Queue one ordered message; it is dropped with the session if the session ends."""
        sent = _Sent(self._next_control, message, None, CONTROL_LANE, "control", 0)
        self._next_control += 1
        self._control_out.append(sent)
        if self.peer_session != NOBODY and CONTROL_LANE in self._open_lanes:
            self._transmit_sent(now, sent)

    def send_bulk(self, now: float, message: Any, payload: Payload, purpose: str) -> None:
        """Send one payload; the caller looked at `room` first."""
        seq = self._next_bulk
        lane = self._lane_of(seq)
        cost = FRAME_COST + len(payload)
        sent = _Sent(seq, message, payload, lane, purpose, cost)
        self._next_bulk += 1
        self.last_bulk = now
        self._bulk_out.append(sent)
        self._sent_cost += cost
        self._keep(cost)
        if self.peer_session != NOBODY and lane in self._open_lanes:
            self._transmit_sent(now, sent)

    def send_ack(self, now: float) -> None:
        """Acknowledge what arrived, and grant what may be sent."""
        self.transmit(now, CONTROL_LANE, [self._ack_items(0)], None)

    def send_ask(self, now: float) -> None:
        """Acknowledge like `send_ack`, and ask for a sign of life: how soon it comes is measured."""
        self.transmit(now, CONTROL_LANE, [self._ack_items(self.window.ask(now), ASK)], None)

    def answer(self, now: float, number: int) -> None:
        """Acknowledge, in answer to the other end's `send_ask` of that number."""
        self.transmit(now, CONTROL_LANE, [self._ack_items(number)], None)

    def hello(self, *, reply: bool) -> Hello:
        """The greeting: both sessions, and what arrived so far."""
        arrived = (self._control_in, self._bulk_in)
        return Hello(*self.session, *self.peer_session, *arrived, self.window.grant(), reply)

    def transmit(
        self,
        now: float,
        lane: int,
        items: list[Any],
        payload: Payload | None,
        purpose: str = "control",
        again: bool = False,
    ) -> None:
        """Put one frame on a lane, open or not: a greeting is what opens it."""
        header = pack_items(items)
        assert len(header) <= self._limits.header_bytes, f"a header of ours takes {len(header)} bytes"
        self.last_sent = now
        self._out.append(Send(self._peer, lane, header, payload, purpose, again))

    # -- receiving ----------------------------------------------------------------------------

    def acknowledged(self, ack: Ack | Hello) -> None:
        """The other end says what it has and what it grants. Raises `BadFrame`."""
        if ack.control >= self._next_control or ack.bulk >= self._next_bulk:
            raise BadFrame("it acknowledges what was never sent")
        if ack.credit > self._credit:
            self._credit = ack.credit
        if self._control_out and self._control_out[0].seq <= ack.control:
            self._control_out = [sent for sent in self._control_out if sent.seq > ack.control]
        if self._bulk_out and self._bulk_out[0].seq <= ack.bulk:
            self._drop_bulk(ack.bulk)

    def control_arrived(self, now: float, seq: int, items: Any) -> list[Arrival]:
        """One control message came; returns those that are next in order now. Raises `BadFrame`."""
        if seq <= self._control_in:
            return []
        if seq > self._control_in + self._limits.control_queue + 1:
            raise BadFrame("control messages beyond the queue")
        self._control_held[seq] = from_items(items)  # what is held has the bounds of a message
        arrivals = []
        while (ready := self._control_held.pop(self._control_in + 1, None)) is not None:
            self._control_in += 1
            arrivals.append(Arrival(ready, None, 0))
        if self._control_in - self._control_acked >= _ACK_CONTROL_AFTER:
            self.send_ack(now)
        return arrivals

    def bulk_arrived(self, now: float, seq: int, items: Any, payload: Payload | None) -> list[Arrival]:
        """One bulk message came; returns it unless it came before. Raises `BadFrame`."""
        if payload is None:
            raise BadFrame("a bulk message without a payload")
        is_next = seq == self._bulk_in + 1
        if not is_next and (seq <= self._bulk_in or seq in self._bulk_seen):
            return []
        if seq > self._bulk_in + self._limits.largest_window // FRAME_COST:
            raise BadFrame("bulk beyond the window")
        message = from_items(items)
        cost = FRAME_COST + len(payload)
        self._received_cost += cost
        if self._received_cost > self.window.granted:
            raise BadFrame("bulk beyond the credit")
        self.last_bulk = now
        if not is_next:
            self._bulk_seen.add(seq)
            return [Arrival(message, payload, cost)]
        self._bulk_in = seq
        while self._bulk_seen and self._bulk_in + 1 in self._bulk_seen:
            self._bulk_in += 1
            self._bulk_seen.remove(self._bulk_in)
        return [Arrival(message, payload, cost)]

    def consumed(self, now: float, cost: int) -> None:
        """The layer above is done with an arrival: its bytes become credit again."""
        window = self.window
        window.consume(now, cost)
        if window.consumed - self._acked_cost >= window.size // 8:
            if window.wants_round_trip(now):
                self.send_ask(now)
            else:
                self.send_ack(now)

    def owes_ack(self) -> bool:
        """The other end keeps what has arrived here."""
        return self.window.consumed != self._acked_cost or self._control_in != self._control_acked

    # -- what is there ------------------------------------------------------------------------

    def kept(self) -> Kept:
        """What the other end makes us keep: each has a bound (R1)."""
        return Kept(
            len(self._control_out),
            len(self._bulk_out),
            self._kept_cost,
            len(self._control_held),
            len(self._bulk_seen),
            self._received_cost - self.window.consumed,
        )

    def digest_parts(self) -> tuple[Any, ...]:
        """What two equal pairs of streams have in common."""
        return (
            self.session,
            self.peer_session,
            (self._next_control, self._next_bulk),
            self._control_in,
            self._bulk_in,
            len(self._bulk_seen),
            self._sent_cost,
            self._credit,
            self.window.consumed,
        )

    # -- inside -------------------------------------------------------------------------------

    def _transmit_sent(self, now: float, sent: _Sent) -> None:
        items = [self._ack_items(sent.seq), to_items(sent.message)]
        again, sent.over = sent.over is not None, self._connection.get(sent.lane, 0)
        self.transmit(now, sent.lane, items, sent.payload, sent.purpose, again)

    def _ack_items(self, seq: int, number: int = ACK) -> list[Any]:
        self._acked_cost = self.window.consumed
        self._control_acked = self._control_in
        arrived = (self._control_in, self._bulk_in)
        return [number, *self.session, *self.peer_session, *arrived, self.window.grant(), seq]

    def _keep(self, cost: int) -> None:
        """So much more is kept, or less."""
        self._kept_cost += cost
        wanted = self._kept_cost - self._limits.window_bytes
        if wanted > 0 or self._kept_extra:
            self._kept_extra = self._spare.take(self._kept_extra, wanted)

    def _drop_bulk(self, acknowledged: int) -> None:
        arrived = cost = 0
        for sent in self._bulk_out:
            if sent.seq > acknowledged:
                break
            arrived += 1
            cost += sent.cost
        self._keep(-cost)
        del self._bulk_out[:arrived]
