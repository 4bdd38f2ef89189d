"""One peer's link: everything sent arrives once, whatever the connections below do.

Two streams run over several lanes. *Control* is ordered and travels alone on lane 0, so it never
waits behind bulk. *Bulk* is unordered, may use every other lane, and is limited in bytes by credit
that the receiver grants as the layers above consume, so a slow receiver slows its sender and memory
stays bounded (R1). A connection never loses a frame while it stands; when one is replaced, both ends
greet (`Hello`), learn what arrived, and resend the rest. The link owns no socket and no clock.

Whoever waits for the other end *watches* the link: it asks for a sign of life when it hears nothing, and
dials anew when there is none. A link that nobody watches is quiet; that its connection stands is the
sockets' business.

A *session* numbers one life of one end of a link: the peer's incarnation and a generation. A higher
session from the other end starts both streams anew and is reported; a lower incarnation is told that
it is stale (S13), and frames of an older generation are ignored (S14).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transport.effects import CONTROL_LANE, NEVER, Close, Connect, Effect, Payload, Send
from transport.errors import BadFrame
from transport.frames import from_items, pack_items, to_items
from transport.limits import Limits
from transport.link.messages import (
    ACK,
    ASK,
    GENERATIONS,
    Ack,
    Arrival,
    Ask,
    Hello,
    Stale,
    Started,
    Superseded,
    session_of,
)

FRAME_COST = 256
"""Bytes of credit that a bulk frame takes beside its payload: bounds the number of small ones."""
_ACK_CONTROL_AFTER = 32
"""Control messages that are acknowledged at once: their sender keeps them until then. Fewer are
acknowledged by what is said next, or when nothing was said for as long as a peer may be silent."""
_HELLO_INTERVAL_S = 0.1


@dataclass(slots=True)
class _Sent:
    seq: int
    message: Any
    payload: Payload | None
    lane: int
    purpose: str
    cost: int
    """Bytes of credit; 0 for control."""
    transmitted: bool = False


class Link:
    """Both ends run the same code; the end that dials greets first."""

    __slots__ = (
        "_acked_cost",
        "_asked_at",
        "_bulk_in",
        "_bulk_out",
        "_bulk_seen",
        "_consumed_cost",
        "_control_acked",
        "_control_held",
        "_control_in",
        "_control_out",
        "_credit",
        "_dialled_at",
        "_heartbeat_s",
        "_kept_cost",
        "_known_said",
        "_last_hello",
        "_last_sent",
        "_limits",
        "_never_met",
        "_next_bulk",
        "_next_control",
        "_oldest",
        "_open_lanes",
        "_out",
        "_peer_session",
        "_rate_at",
        "_rate_tokens",
        "_received_cost",
        "_sent_cost",
        "_silence_s",
        "_watched",
        "_watched_at",
        "addresses",
        "dials",
        "last_bulk",
        "last_heard",
        "peer",
        "session",
        "window",
    )

    def __init__(
        self,
        peer: bytes,
        session: int,
        *,
        dials: bool,
        addresses: tuple[str, ...],
        heartbeat_s: float,
        silence_s: float,
        limits: Limits,
        out: list[Effect],
        oldest: int = 0,
    ) -> None:
        """``oldest`` is the newest incarnation of the peer that an earlier link to it met: those before it
        are stale, also while the newer process is away."""
        self.peer = peer
        self.session = session
        self.dials = dials
        self.addresses = addresses
        self.last_heard = NEVER
        self.last_bulk = NEVER
        """When a payload last went either way."""
        self.window = limits.window_bytes
        self._heartbeat_s = heartbeat_s
        self._silence_s = silence_s
        self._limits = limits
        self._out = out
        self._oldest = oldest
        self._peer_session = 0
        self._never_met = True
        self._open_lanes: set[int] = set()
        self._last_sent = NEVER
        self._asked_at = NEVER
        self._watched = True
        self._watched_at = NEVER
        self._last_hello = dict.fromkeys(range(limits.lanes + 1), NEVER)
        self._known_said = dict.fromkeys(self._last_hello, 0)
        self._dialled_at = 0.0
        self._rate_tokens = 10.0 * limits.control_per_second
        self._rate_at = 0.0
        self._start_streams()

    def _start_streams(self) -> None:
        self._control_out: list[_Sent] = []
        self._bulk_out: list[_Sent] = []
        self._next_control = 1
        self._next_bulk = 1
        self._sent_cost = 0
        self._kept_cost = 0
        self._credit = 0
        self._control_in = 0
        self._control_held: dict[int, list[Any]] = {}
        self._bulk_in = 0
        self._bulk_seen: set[int] = set()
        self._received_cost = 0
        self._consumed_cost = 0
        self._acked_cost = 0
        self._control_acked = 0

    # -- what the layers above ask ------------------------------------------------------------

    @property
    def up(self) -> bool:
        """The other end greeted in this session."""
        return self._peer_session != 0

    @property
    def incarnation(self) -> int:
        """The other end's incarnation; 0 before it greeted."""
        return self._peer_session // GENERATIONS

    def room(self) -> int:
        """Payload bytes that credit allows to send now; negative when not even an empty one may go."""
        if not self._peer_session:
            return -1
        granted = self._credit - self._sent_cost
        # Whoever grants much and acknowledges little must not make us keep more than a window.
        unheard = self._limits.window_bytes - self._kept_cost
        return (granted if granted < unheard else unheard) - FRAME_COST

    def begin_anew(self, session: int) -> None:
        """Drop what waits, of either stream: the other end was away for longer than we keep messages. It is
        greeted with a higher ``session`` when it is back, and learns by that what was lost."""
        self._oldest = max(self._oldest, self.incarnation)
        self.session, self._peer_session, self._never_met = session, 0, False
        self._open_lanes.clear()
        self._start_streams()

    def start(self, now: float) -> None:
        """Dial, if this end does."""
        self._dialled_at = now
        if self.dials:
            self._out.append(Connect(self.peer, self.addresses, self._limits.lanes))

    def send_control(self, now: float, message: Any) -> None:
        """Queue one ordered message; it is dropped with the session if the session ends."""
        self._send(now, message, None, CONTROL_LANE, "control")

    def control_overflows(self) -> bool:
        """The peer has been away for longer than we keep messages for."""
        return len(self._control_out) > self._limits.control_queue

    def send_bulk(self, now: float, message: Any, payload: Payload, purpose: str) -> None:
        """Send one payload; the caller looked at `room` first."""
        lanes = self._limits.lanes
        lane = 1 + self._next_bulk % lanes
        self._send(now, message, payload, lane, purpose)

    def consumed(self, now: float, cost: int) -> None:
        """The layer above is done with an arrival: its bytes become credit again."""
        self._consumed_cost += cost
        if self._consumed_cost - self._acked_cost >= self.window // 8:
            self._send_ack(now)

    # -- what the driver feeds ----------------------------------------------------------------

    def connected(self, now: float, lane: int) -> None:
        self._dialled_at = now
        self._hello(now, lane, reply=False)

    def disconnected(self, lane: int) -> None:
        self._open_lanes.discard(lane)

    def receive(
        self, now: float, lane: int, items: Any, payload: Payload | None
    ) -> list[Arrival | Started | Superseded]:
        """What one frame amounts to. Raises `BadFrame`."""
        if not isinstance(items, list) or not 1 <= len(items) <= 2:
            raise BadFrame("a frame is not a link header and at most one message")
        link_header = from_items(items[0])
        if not isinstance(link_header, (Ack, Hello)):
            if not isinstance(link_header, Stale):
                raise BadFrame("a frame does not start with a link header")
            newer = link_header.session // GENERATIONS > self.session // GENERATIONS
            return [Superseded()] if newer else []
        if link_header.session != self._peer_session and self._is_old(now, lane, link_header.session):
            return []
        self.last_heard = now
        if isinstance(link_header, Hello):
            return self._greeted(now, lane, link_header)
        if link_header.known != self.session or link_header.session != self._peer_session:
            if now - self._last_hello[lane] >= _HELLO_INTERVAL_S:
                self._hello(now, lane, reply=False)
            return []
        self._acknowledged(link_header)
        if len(items) == 1:
            if isinstance(link_header, Ask):
                self._charge_rate(now)
                self._send_ack(now)
            return []
        if lane == CONTROL_LANE:
            return self._control_arrived(now, link_header.seq, items[1], payload)
        return self._bulk_arrived(now, link_header.seq, items[1], payload)

    def _is_old(self, now: float, lane: int, session: int) -> bool:
        """Whether a frame is of an earlier life of the other end, which is told if a newer one lives."""
        newest = max(self.incarnation, self._oldest)
        if session // GENERATIONS < newest:
            self._transmit(now, lane, [to_items(Stale(session_of(newest, 0)))], None)
            return True
        return session < self._peer_session

    def tick(self, now: float, watched: bool = True) -> None:
        """Time has passed. ``watched`` says whether somebody here waits for the other end just now."""
        if watched and not self._watched:
            self._watched_at = now
        self._watched = watched
        if not self._peer_session:
            # Whoever was to dial may not reach us, behind a router say: then we try to reach it.
            self.dials = self.dials or (bool(self.addresses) and now - self._dialled_at >= self._silence_s)
            self._redial_if_silent(now, self._dialled_at)
            return
        if watched and self._ask_due() <= now:
            self._asked_at = now
            self._transmit(now, CONTROL_LANE, [self._ack_items(0, ASK)], None)
        elif self._owes() and self._last_sent + self._silence_s <= now:
            self._send_ack(now)
        if watched:
            self._redial_if_silent(now, self._silent_since())

    def deadline(self) -> float | None:
        if not self.up:
            return self._dialled_at + self._silence_s if self.dials else None
        due = [self._last_sent + self._silence_s] if self._owes() else []
        if self._watched:
            due.append(self._ask_due())
            if self.dials:
                due.append(self._silent_since() + self._silence_s)
        return min(due, default=None)

    def digest_parts(self) -> tuple[Any, ...]:
        """What two equal links have in common."""
        return (
            self.peer,
            self.session,
            self._peer_session,
            (self._next_control, self._next_bulk),
            self._control_in,
            self._bulk_in,
            len(self._bulk_seen),
            self._sent_cost,
            self._credit,
            self._consumed_cost,
        )

    # -- inside -------------------------------------------------------------------------------

    def _ask_due(self) -> float:
        return max(self.last_heard, self._asked_at, self._watched_at) + self._heartbeat_s

    def _owes(self) -> bool:
        """The other end keeps what has arrived here."""
        return self._consumed_cost != self._acked_cost or self._control_in != self._control_acked

    def _silent_since(self) -> float:
        return max(self.last_heard, self._dialled_at, self._watched_at)

    def _redial_if_silent(self, now: float, since: float) -> None:
        # A half-open connection looks like silence: a fresh one costs little and ends it.
        if self.dials and now - since >= self._silence_s:
            self._open_lanes.clear()
            self._out.append(Close(self.peer, "silent"))
            self.start(now)

    def _send(self, now: float, message: Any, payload: Payload | None, lane: int, purpose: str) -> None:
        if payload is None:
            sent = _Sent(self._next_control, message, None, lane, purpose, 0)
            self._next_control += 1
            self._control_out.append(sent)
        else:
            cost = FRAME_COST + len(payload)
            sent = _Sent(self._next_bulk, message, payload, lane, purpose, cost)
            self._next_bulk += 1
            self.last_bulk = now
            self._bulk_out.append(sent)
            self._sent_cost += cost
            self._kept_cost += cost
        if self._peer_session and lane in self._open_lanes:
            self._transmit_sent(now, sent)

    def _transmit_sent(self, now: float, sent: _Sent) -> None:
        items = [self._ack_items(sent.seq), to_items(sent.message)]
        again, sent.transmitted = sent.transmitted, True
        self._transmit(now, sent.lane, items, sent.payload, sent.purpose, again)

    def _transmit(
        self,
        now: float,
        lane: int,
        items: list[Any],
        payload: Payload | None,
        purpose: str = "control",
        again: bool = False,
    ) -> None:
        header = pack_items(items)
        assert len(header) <= self._limits.header_bytes, f"a header of ours takes {len(header)} bytes"
        self._last_sent = now
        self._out.append(Send(self.peer, lane, header, payload, purpose, again))

    def _ack_items(self, seq: int, number: int = ACK) -> list[Any]:
        self._acked_cost = self._consumed_cost
        self._control_acked = self._control_in
        credit = self._consumed_cost + self.window
        return [number, self.session, self._peer_session, self._control_in, self._bulk_in, credit, seq]

    def _send_ack(self, now: float) -> None:
        self._transmit(now, CONTROL_LANE, [self._ack_items(0)], None)

    def _hello(self, now: float, lane: int, *, reply: bool) -> None:
        self._last_hello[lane] = now
        self._known_said[lane] = self._peer_session
        credit = self._consumed_cost + self.window
        hello = Hello(self.session, self._peer_session, self._control_in, self._bulk_in, credit, reply)
        self._transmit(now, lane, [to_items(hello)], None)

    def _greeted(self, now: float, lane: int, hello: Hello) -> list[Arrival | Started | Superseded]:
        self._charge_rate(now)  # each greeting may cost a retransmission of everything
        started = hello.session > self._peer_session
        if started:
            self._peer_session = hello.session
            queued = self._control_out if self._never_met else []
            self._start_streams()
            self._requeue(queued)
            self._open_lanes.clear()
        first, self._never_met = self._never_met, False
        knows_us = hello.known == self.session
        # Answer a greeting, a wrong idea of who we are, and one to whom we did not yet say on this
        # lane that we know it: only then does the other end open the lane.
        if not hello.reply or not knows_us or self._known_said[lane] != hello.session:
            self._hello(now, lane, reply=True)
        if knows_us:
            self._acknowledged(hello)
            self._open_lanes.add(lane)
            self._resend(now, lane)
        return [Started(first)] if started else []

    def _requeue(self, queued: list[_Sent]) -> None:
        """What was said before the first greeting is meant for whoever greets."""
        self._control_out = queued
        self._next_control = 1 + len(queued)

    def _acknowledged(self, ack: Ack | Hello) -> None:
        if ack.control >= self._next_control or ack.bulk >= self._next_bulk:
            raise BadFrame("it acknowledges what was never sent")
        if ack.credit > self._credit:
            self._credit = ack.credit
        if self._control_out and self._control_out[0].seq <= ack.control:
            self._control_out = [sent for sent in self._control_out if sent.seq > ack.control]
        if self._bulk_out and self._bulk_out[0].seq <= ack.bulk:
            self._drop_bulk(ack.bulk)

    def _drop_bulk(self, acknowledged: int) -> None:
        arrived = 0
        for sent in self._bulk_out:
            if sent.seq > acknowledged:
                break
            arrived += 1
            self._kept_cost -= sent.cost
        del self._bulk_out[:arrived]

    def _resend(self, now: float, lane: int) -> None:
        waiting = self._control_out if lane == CONTROL_LANE else self._bulk_out
        for sent in list(waiting):
            if sent.lane == lane:
                self._transmit_sent(now, sent)

    def _control_arrived(
        self, now: float, seq: int, items: Any, payload: Payload | None
    ) -> list[Arrival | Started | Superseded]:
        if payload is not None:
            raise BadFrame("a control message carries a payload")
        self._charge_rate(now)
        if seq <= self._control_in:
            return []
        if seq > self._control_in + self._limits.control_queue + 1:
            raise BadFrame("control messages beyond the queue")
        self._control_held[seq] = items
        arrivals: list[Arrival | Started | Superseded] = []
        while (ready := self._control_held.pop(self._control_in + 1, None)) is not None:
            self._control_in += 1
            arrivals.append(Arrival(from_items(ready), None, 0))
        if self._control_in - self._control_acked >= _ACK_CONTROL_AFTER:
            self._send_ack(now)
        return arrivals

    def _charge_rate(self, now: float) -> None:
        per_second = self._limits.control_per_second
        self._rate_tokens = min(10.0 * per_second, self._rate_tokens + (now - self._rate_at) * per_second)
        self._rate_at = now
        self._rate_tokens -= 1.0
        if self._rate_tokens < 0.0:
            raise BadFrame(f"more than {per_second} control messages per second")

    def _bulk_arrived(
        self, now: float, seq: int, items: Any, payload: Payload | None
    ) -> list[Arrival | Started | Superseded]:
        if payload is None:
            raise BadFrame("a bulk message without a payload")
        is_next = seq == self._bulk_in + 1
        if not is_next and (seq <= self._bulk_in or seq in self._bulk_seen):
            return []
        if seq > self._bulk_in + self._limits.window_bytes // FRAME_COST:
            raise BadFrame("bulk beyond the window")
        message = from_items(items)
        cost = FRAME_COST + len(payload)
        self._received_cost += cost
        if self._received_cost > self._consumed_cost + self._limits.window_bytes:
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
