"""The streams of a link: numbered control and bulk messages between one session of each end.

*Control* is ordered and travels alone on lane 0, so it never waits behind bulk. *Bulk* is unordered, uses
whichever other lanes are open, and is limited in bytes by credit that the receiver grants as the layers
above consume, so a slow receiver slows its sender and memory stays bounded (R1). What is not acknowledged is
kept. It is sent again on its lane when that lane opens anew, unless it is on its way over a connection that
stands, and over another lane when its own one closes; what arrives twice is dropped, so everything arrives
once. A *stream* is bulk that must not wait behind other bulk: it has a lane, numbers and credit of its own,
where the run has any.

The streams do not greet, judge sessions or notice silence: `transport.link.link` does, and says when the
streams begin anew and which lanes are open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transport.effects import CONTROL_LANE, NEVER, STREAM_LANE, Effect, Payload, Send
from transport.errors import BadFrame
from transport.frames import from_items, pack_items, to_items
from transport.limits import Limits
from transport.link.bulk import FRAME_COST as FRAME_COST
from transport.link.bulk import Bulk, Sent
from transport.link.messages import ACK, ASK, NOBODY, STREAM_ACK, Ack, Arrival, Hello, Session, StreamAck
from transport.link.window import Spare, Window

_ACK_CONTROL_AFTER = 32
"""Control messages that are acknowledged at once: their sender keeps them until then. Fewer are
acknowledged by what is said next, or when nothing was said for as long as a peer may be silent."""

_STREAM_TOLD_AFTER = 4
"""That part of its window is used before a stream is acknowledged by a frame of its own: tensors go both
ways, and each says what came."""


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
    stream_out_cost: int = 0
    """Bytes of credit that messages of the stream take which the peer did not acknowledge."""
    stream_seen: int = 0
    """Numbers of messages of the stream that came before an earlier one."""
    stream_unconsumed_cost: int = 0
    """Bytes of credit of what arrived in the stream and was not consumed."""


class Streams:
    """All streams, in both directions."""

    __slots__ = (
        "_bulk",
        "_bulk_lanes",
        "_connection",
        "_control_acked",
        "_control_held",
        "_control_in",
        "_control_out",
        "_limits",
        "_next_control",
        "_num_connections",
        "_open_lanes",
        "_out",
        "_peer",
        "last_bulk",
        "last_sent",
        "peer_session",
        "session",
        "stream",
    )

    def __init__(
        self,
        peer: bytes,
        session: Session,
        limits: Limits,
        out: list[Effect],
        spare: tuple[Spare, Spare] | None = None,
        *,
        with_stream: bool = False,
    ) -> None:
        """``spare`` is what all links of a node share of what may be in flight to us, and from us; without it
        the link is the only one. Without a stream nothing of one is taken."""
        to_us, from_us = spare or (Spare(limits.spare_bytes), Spare(limits.spare_bytes))
        most_ahead = limits.largest_window // FRAME_COST
        window = Window(limits.window_bytes, to_us)
        self._bulk = Bulk(limits.window_bytes, most_ahead, window, from_us)
        self.stream: Bulk | None = None
        if with_stream:
            most = limits.stream_window_bytes
            stream_window = Window(most, to_us, window.round_trips)
            self.stream = Bulk(most, most_ahead, stream_window, from_us)
        self.last_sent = NEVER
        self.last_bulk = NEVER
        """When a payload last went either way."""
        self._peer = peer
        self._limits = limits
        self._out = out
        self._open_lanes: set[int] = set()
        self._bulk_lanes: list[int] = []
        """Those of them that carry bulk other than streams, in order."""
        self._num_connections = 0
        self._connection: dict[int, int] = {}
        """By lane, the number of the connection that we dialled and that stands: frames go over it."""
        self._control_out: list[Sent] = []
        self.begin_anew(session, NOBODY, keep_control=False)

    @property
    def window(self) -> Window:
        """Bytes of credit that the other end may have in flight to us, but for streams."""
        return self._bulk.window

    def begin_anew(self, session: Session, peer_session: Session, *, keep_control: bool) -> None:
        """Number all streams from 1 on, between these two sessions; a ``peer_session`` of `NOBODY` is not
        known yet. No lane is open. Control messages that wait are dropped, or meant for this session too."""
        queued = self._control_out if keep_control else []
        self.session = session
        self.peer_session = peer_session
        self._set_open(set())
        self._control_out = queued
        self._next_control = 1 + len(queued)
        self._control_in = 0
        self._control_held: dict[int, Any] = {}
        self._control_acked = 0
        self._bulk.begin_anew()
        if self.stream is not None:
            self.stream.begin_anew()

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
        stands = self._connection.get(lane)
        for sent in list(self._sent_over(lane)):
            if sent.lane not in self._open_lanes:  # bulk whose lane is away
                sent.lane = lane
            if sent.lane == lane and (stands is None or sent.over != stands):
                self._transmit_sent(now, sent)

    def close_lane(self, now: float, lane: int) -> None:
        """A connection broke. What is sent on this lane goes over others that are open, and where there are
        none it is kept until one opens."""
        self._set_open(self._open_lanes - {lane})
        self._connection.pop(lane, None)
        if lane in (CONTROL_LANE, STREAM_LANE) or not self._bulk_lanes:
            return
        for sent in list(self._bulk.out):
            if sent.lane == lane:
                sent.lane = self._lane_of(sent.seq)
                self._transmit_sent(now, sent)

    def close_lanes(self) -> None:
        """All connections are closed: keep what is sent on any lane until one opens again."""
        self._set_open(set())
        self._connection.clear()

    def has_another(self, lane: int) -> bool:
        """Whether no connection of ours carries this lane, and another that is open could take its bulk."""
        is_bulk = lane not in (CONTROL_LANE, STREAM_LANE)
        return is_bulk and lane not in self._connection and any(each != lane for each in self._bulk_lanes)

    def _set_open(self, lanes: set[int]) -> None:
        self._open_lanes, self._bulk_lanes = lanes, sorted(lanes - {CONTROL_LANE, STREAM_LANE})

    def _sent_over(self, lane: int) -> list[Sent]:
        """What is not acknowledged of the messages that such a lane carries."""
        if lane == CONTROL_LANE:
            return self._control_out
        if lane == STREAM_LANE:
            return [] if self.stream is None else self.stream.out
        return self._bulk.out

    def _lane_of(self, seq: int) -> int:
        """The lane for a bulk message: those that are open have turns; the first one, until one is."""
        lanes = self._bulk_lanes
        return lanes[seq % len(lanes)] if lanes else 1

    # -- sending ------------------------------------------------------------------------------

    def room(self) -> int:
        """Payload bytes that credit allows to send now; negative when not even an empty one may go."""
        return -1 if self.peer_session == NOBODY else self._bulk.room()

    def stream_room(self) -> int:
        """The same of the stream; -1 without one."""
        return -1 if self.stream is None or self.peer_session == NOBODY else self.stream.room()

    def control_overflows(self) -> bool:
        """The peer has been away for longer than we keep messages for."""
        return len(self._control_out) > self._limits.control_queue

    def send_control(self, now: float, message: Any) -> None:
        """Queue one ordered message; it is dropped with the session if the session ends."""
        sent = Sent(self._next_control, message, None, CONTROL_LANE, "control", 0)
        self._next_control += 1
        self._control_out.append(sent)
        if self.peer_session != NOBODY and CONTROL_LANE in self._open_lanes:
            self._transmit_sent(now, sent)

    def send_bulk(self, now: float, message: Any, payload: Payload, purpose: str) -> None:
        """Send one payload; the caller looked at `room` first."""
        self._send_payload(now, self._bulk.add(message, payload, self._lane_of(self._bulk.next), purpose))

    def send_stream(self, now: float, message: Any, payload: Payload) -> None:
        """Send one payload that must not wait behind others; the caller looked at `stream_room` first."""
        assert self.stream is not None, "this link has no stream"
        self._send_payload(now, self.stream.add(message, payload, STREAM_LANE, "stream"))

    def _send_payload(self, now: float, sent: Sent) -> None:
        self.last_bulk = now
        if self.peer_session != NOBODY and sent.lane in self._open_lanes:
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

    def send_owed(self, now: float) -> None:
        """Acknowledge whatever has arrived and is not acknowledged yet."""
        if self._bulk.owes_ack or self._control_in != self._control_acked:
            self.send_ack(now)
        if self.stream is not None and self.stream.owes_ack:
            self._send_stream_ack(now)

    def hello(self, lane: int = CONTROL_LANE, *, reply: bool) -> Hello:
        """The greeting on a lane: both sessions, and what arrived so far."""
        of = self.stream if lane == STREAM_LANE and self.stream is not None else self._bulk
        arrived = (self._control_in, of.num_in)
        return Hello(*self.session, *self.peer_session, *arrived, of.window.grant(), reply)

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

    def acknowledged(self, ack: Ack | Hello, lane: int = CONTROL_LANE) -> None:
        """The other end says what it has and what it grants, in a greeting on this lane or at any time.
        Raises `BadFrame`."""
        is_stream = isinstance(ack, StreamAck) or (lane == STREAM_LANE and isinstance(ack, Hello))
        of = self.stream if is_stream else self._bulk
        if of is None or ack.control >= self._next_control or ack.bulk >= of.next:
            raise BadFrame("it acknowledges what was never sent")
        of.acknowledged(ack.bulk, ack.credit)
        if self._control_out and self._control_out[0].seq <= ack.control:
            self._control_out = [sent for sent in self._control_out if sent.seq > ack.control]

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
        self.last_bulk = now
        return self._bulk.arrived(seq, items, payload, is_stream=False)

    def stream_arrived(self, now: float, seq: int, items: Any, payload: Payload | None) -> list[Arrival]:
        """The same of the stream."""
        assert self.stream is not None, "what it acknowledges was looked at"
        self.last_bulk = now
        return self.stream.arrived(seq, items, payload, is_stream=True)

    def consumed(self, now: float, cost: int) -> None:
        """The layer above is done with an arrival: its bytes become credit again."""
        if self._bulk.consumed(now, cost):
            if self.window.wants_round_trip(now):
                self.send_ask(now)
            else:
                self.send_ack(now)

    def stream_consumed(self, now: float, cost: int) -> None:
        """The same of the stream."""
        assert self.stream is not None, "nothing came over it"
        if self.stream.consumed(now, cost, _STREAM_TOLD_AFTER):
            self._send_stream_ack(now)
            if self.window.wants_round_trip(now):
                self.send_ask(now)

    def owes_ack(self) -> bool:
        """The other end keeps what has arrived here."""
        owes_stream = self.stream is not None and self.stream.owes_ack
        return owes_stream or self._bulk.owes_ack or self._control_in != self._control_acked

    # -- what is there ------------------------------------------------------------------------

    def kept(self) -> Kept:
        """What the other end makes us keep: each has a bound (R1)."""
        stream = self.stream
        of_stream = (0, 0, 0)
        if stream is not None:
            of_stream = (stream.kept_cost, stream.num_seen, stream.unconsumed_cost)
        return Kept(
            len(self._control_out),
            len(self._bulk.out),
            self._bulk.kept_cost,
            len(self._control_held),
            self._bulk.num_seen,
            self._bulk.unconsumed_cost,
            *of_stream,
        )

    def digest_parts(self) -> tuple[Any, ...]:
        """What two equal ones have in common."""
        parts = (self.session, self.peer_session, self._next_control, self._control_in)
        of_stream = () if self.stream is None else self.stream.digest_parts()
        return (*parts, *self._bulk.digest_parts(), *of_stream)

    # -- inside -------------------------------------------------------------------------------

    def _transmit_sent(self, now: float, sent: Sent) -> None:
        acks = (self._stream_ack_items if sent.lane == STREAM_LANE else self._ack_items)(sent.seq)
        again, sent.over = sent.over is not None, self._connection.get(sent.lane, 0)
        self.transmit(now, sent.lane, [acks, to_items(sent.message)], sent.payload, sent.purpose, again)

    def _send_stream_ack(self, now: float) -> None:
        # Over the lane of control: on its own it would wait behind payloads that go the same way.
        self.transmit(now, CONTROL_LANE, [self._stream_ack_items(0)], None)

    def _ack_items(self, seq: int, number: int = ACK) -> list[Any]:
        bulk = self._bulk
        bulk.acked_cost = bulk.window.consumed
        self._control_acked = self._control_in
        arrived = (self._control_in, bulk.num_in)
        return [number, *self.session, *self.peer_session, *arrived, bulk.window.grant(), seq]

    def _stream_ack_items(self, seq: int) -> list[Any]:
        stream = self.stream
        assert stream is not None
        stream.acked_cost = stream.window.consumed
        self._control_acked = self._control_in
        arrived = (self._control_in, stream.num_in)
        return [STREAM_ACK, *self.session, *self.peer_session, *arrived, stream.window.grant(), seq]
