"""One peer's link: everything sent arrives once, whatever the connections below do.

A connection never loses a frame while it stands; when one is replaced, both ends greet (`Hello`), learn
what arrived, and resend the rest. The link owns sessions, greetings and signs of life; numbers, credit and
retransmission are those of its `transport.link.streams`. It owns no socket and no clock.

Whoever waits for the other end *watches* the link: it asks for a sign of life when it hears nothing, and
dials anew when there is none. A link that nobody watches is quiet; that its connection stands is the
sockets' business.

A *session* numbers one life of one end of a link: the peer's incarnation and a generation. A higher
session from the other end starts both streams anew and is reported; a lower incarnation is told that
it is stale (S13), and frames of an older generation are ignored (S14).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transport.effects import CONTROL_LANE, NEVER, STREAM_LANE, Close, Connect, Effect, Payload
from transport.errors import BadFrame
from transport.frames import from_items, to_items
from transport.limits import Limits
from transport.link.messages import (
    NOBODY,
    Ack,
    Arrival,
    Ask,
    DiskFull,
    Hello,
    Session,
    Stale,
    Started,
    StreamAck,
    Superseded,
)
from transport.link.streams import Streams
from transport.link.window import Spare

_HELLO_INTERVAL_S = 0.1


class Link:
    """Both ends run the same code; the end that dials greets first."""

    __slots__ = (
        "_asked_at",
        "_began_at",
        "_dialled_at",
        "_eager",
        "_heartbeat_s",
        "_known_said",
        "_last_hello",
        "_limits",
        "_never_met",
        "_oldest",
        "_out",
        "_rate_at",
        "_rate_tokens",
        "_silence_s",
        "_watched",
        "_watched_at",
        "addresses",
        "dials",
        "last_heard",
        "peer",
        "streams",
    )

    def __init__(
        self,
        peer: bytes,
        session: Session,
        *,
        dials: bool,
        addresses: tuple[str, ...],
        heartbeat_s: float,
        silence_s: float,
        limits: Limits,
        out: list[Effect],
        oldest: int = 0,
        eager: bool = False,
        spare: tuple[Spare, Spare] | None = None,
        with_stream: bool = False,
    ) -> None:
        """``oldest`` is the newest incarnation of the peer that an earlier link to it met: those before it
        are stale, also while the newer process is away. ``eager``: see `transport.effects.Connect`."""
        self.peer = peer
        self.dials = dials
        self.addresses = addresses
        self.last_heard = NEVER
        self.streams = Streams(peer, session, limits, out, spare, with_stream=with_stream)
        """Bulk and its credit are asked for there, chunk by chunk."""
        self._eager = eager
        self._began_at = NEVER
        self._heartbeat_s = heartbeat_s
        self._silence_s = silence_s
        self._limits = limits
        self._out = out
        self._oldest = oldest
        self._never_met = True
        self._asked_at = NEVER
        self._watched = True
        self._watched_at = NEVER
        self._last_hello = dict.fromkeys((*range(limits.lanes + 1), STREAM_LANE), NEVER)
        self._known_said = dict.fromkeys(self._last_hello, NOBODY)
        self._dialled_at = 0.0
        self._rate_tokens = 10.0 * limits.control_per_second
        self._rate_at = 0.0

    # -- what the layers above ask ------------------------------------------------------------

    @property
    def up(self) -> bool:
        """The other end greeted in this session."""
        return self.streams.peer_session != NOBODY

    @property
    def session(self) -> Session:
        """Our own end's session."""
        return self.streams.session

    @property
    def incarnation(self) -> int:
        """The other end's incarnation; 0 before it greeted."""
        return self.streams.peer_session.incarnation

    def begin_anew(self, session: Session) -> None:
        """Drop what waits, of either stream: the other end was away for longer than we keep messages. It is
        greeted with a higher ``session`` when it is back, and learns by that what was lost."""
        self._oldest = max(self._oldest, self.incarnation)
        self._never_met = False
        self.streams.begin_anew(session, NOBODY, keep_control=False)

    def start(self, now: float) -> None:
        """Dial, if this end does."""
        self._dialled_at = now
        if self.dials:
            self._began_at = now if self._began_at == NEVER else self._began_at
            eager_from = max(self._began_at, self.last_heard) if self._eager else None
            wanted = Connect(
                self.peer,
                self.addresses,
                self._limits.lanes,
                eager_from,
                with_stream=self.streams.stream is not None,
            )
            self._out.append(wanted)

    def ask(self, now: float) -> None:
        """Ask for a sign of life, if there is anything to ask."""
        if self.up:
            self.streams.send_ask(now)

    def say_disk_full(self, now: float) -> None:
        """Tell the other end, if it is there, that nothing is decided here now. It goes beside the stream of
        messages: those wait until the decision before them is stored."""
        if self.up:
            self.streams.transmit(now, CONTROL_LANE, [to_items(DiskFull())], None)

    def send_control(self, now: float, message: Any) -> None:
        """Queue one ordered message; it is dropped with the session if the session ends."""
        self.streams.send_control(now, message)

    def control_overflows(self) -> bool:
        """The peer has been away for longer than we keep messages for."""
        return self.streams.control_overflows()

    # -- what the driver feeds ----------------------------------------------------------------

    def connected(self, now: float, lane: int) -> None:
        self._dialled_at = now
        self.streams.connected(lane)
        self._hello(now, lane, reply=False)

    def disconnected(self, now: float, lane: int) -> None:
        self.streams.close_lane(now, lane)

    def ended(self, now: float, lane: int) -> None:
        """A connection that the other end dialled is gone. Bulk goes over other lanes, if there are any; if
        not, it is sent again when the other end greets anew."""
        if lane != CONTROL_LANE and self.streams.has_another(lane):
            self.streams.close_lane(now, lane)

    def receive(
        self, now: float, lane: int, items: Any, payload: Payload | None
    ) -> Sequence[Arrival | Started | Superseded | DiskFull]:
        """What one frame amounts to. Raises `BadFrame`."""
        if not isinstance(items, list) or not 1 <= len(items) <= 2:
            raise BadFrame("a frame is not a link header and at most one message")
        link_header, streams = from_items(items[0]), self.streams
        is_stream = isinstance(link_header, StreamAck)
        if (is_stream or lane == STREAM_LANE) and streams.stream is None:
            raise BadFrame("a stream where there is none")
        if not isinstance(link_header, (Ack, Hello)):
            if isinstance(link_header, DiskFull):
                self._charge_rate(now)
                return [link_header]
            if not isinstance(link_header, Stale):
                raise BadFrame("a frame does not start with a link header")
            return [Superseded()] if link_header.incarnation > streams.session.incarnation else []
        session = link_header.session
        if session != streams.peer_session and self._is_old(now, lane, session):
            return []
        self.last_heard = now
        if isinstance(link_header, Hello):
            return self._greeted(now, lane, link_header)
        if link_header.known != streams.session or session != streams.peer_session:
            if now - self._last_hello[lane] >= _HELLO_INTERVAL_S:
                self._hello(now, lane, reply=False)
            return []
        streams.acknowledged(link_header)
        if len(items) == 1:
            if isinstance(link_header, Ask):
                self._charge_rate(now)
                streams.answer(now, link_header.seq)
            elif not is_stream:
                streams.window.answered(now, link_header.seq)
            return []
        if is_stream != (lane == STREAM_LANE):
            raise BadFrame("a message of a stream on another lane, or another message on its lane")
        if is_stream:
            return streams.stream_arrived(now, link_header.seq, items[1], payload)
        if lane != CONTROL_LANE:
            return streams.bulk_arrived(now, link_header.seq, items[1], payload)
        if payload is not None:
            raise BadFrame("a control message carries a payload")
        self._charge_rate(now)
        return streams.control_arrived(now, link_header.seq, items[1])

    def tick(self, now: float, watched: bool = True) -> None:
        """Time has passed. ``watched`` says whether somebody here waits for the other end just now."""
        if watched and not self._watched:
            self._watched_at = now
        self._watched = watched
        if not self.up:
            # Whoever was to dial may not reach us, behind a router say: then we try to reach it.
            self.dials = self.dials or (bool(self.addresses) and now - self._dialled_at >= self._silence_s)
            self._redial_if_silent(now, self._dialled_at)
            return
        if watched and self._ask_due() <= now:
            self._asked_at = now
            self.streams.send_ask(now)
        elif self.streams.owes_ack() and self.streams.last_sent + self._silence_s <= now:
            self.streams.send_owed(now)
        if watched:
            self._redial_if_silent(now, self._silent_since())

    def deadline(self) -> float | None:
        if not self.up:
            return self._dialled_at + self._silence_s if self.dials else None
        due = [self.streams.last_sent + self._silence_s] if self.streams.owes_ack() else []
        if self._watched:
            due.append(self._ask_due())
            if self.dials:
                due.append(self._silent_since() + self._silence_s)
        return min(due, default=None)

    def digest_parts(self) -> tuple[Any, ...]:
        """What two equal links have in common."""
        return (self.peer, *self.streams.digest_parts())

    # -- inside: greetings --------------------------------------------------------------------

    def _is_old(self, now: float, lane: int, session: Session) -> bool:
        """Whether a frame is of an earlier life of the other end, which is told if a newer one lives."""
        newest = max(self.incarnation, self._oldest)
        if session.incarnation < newest:
            self.streams.transmit(now, lane, [to_items(Stale(newest))], None)
            return True
        return session < self.streams.peer_session

    def _hello(self, now: float, lane: int, *, reply: bool) -> None:
        self._last_hello[lane] = now
        self._known_said[lane] = self.streams.peer_session
        self.streams.transmit(now, lane, [to_items(self.streams.hello(lane, reply=reply))], None)

    def _greeted(self, now: float, lane: int, hello: Hello) -> list[Started]:
        self._charge_rate(now)  # each greeting may cost a retransmission of everything
        streams = self.streams
        started = hello.session > streams.peer_session
        if started:
            # What was said before the first greeting is meant for whoever greets.
            streams.begin_anew(streams.session, hello.session, keep_control=self._never_met)
        first, self._never_met = self._never_met, False
        knows_us = hello.known == streams.session
        # Answer a greeting, a wrong idea of who we are, and one to whom we did not yet say on this
        # lane that we know it: only then does the other end open the lane.
        if not hello.reply or not knows_us or self._known_said[lane] != hello.session:
            self._hello(now, lane, reply=True)
        if knows_us:
            streams.acknowledged(hello, lane)
            streams.open_lane(now, lane)
        return [Started(first)] if started else []

    def _charge_rate(self, now: float) -> None:
        per_second = self._limits.control_per_second
        self._rate_tokens = min(10.0 * per_second, self._rate_tokens + (now - self._rate_at) * per_second)
        self._rate_at = now
        self._rate_tokens -= 1.0
        if self._rate_tokens < 0.0:
            raise BadFrame(f"more than {per_second} control messages per second")

    # -- inside: silence ----------------------------------------------------------------------

    def _ask_due(self) -> float:
        return max(self.last_heard, self._asked_at, self._watched_at) + self._heartbeat_s

    def _silent_since(self) -> float:
        return max(self.last_heard, self._dialled_at, self._watched_at)

    def _redial_if_silent(self, now: float, since: float) -> None:
        # A half-open connection looks like silence: a fresh one costs little and ends it.
        if self.dials and now - since >= self._silence_s:
            self.streams.close_lanes()
            self._out.append(Close(self.peer, "silent"))
            self.start(now)
