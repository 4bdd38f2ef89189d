"""Frames on their way: what leaves one process over a connection, what it waits for, and when it arrives.

Bulk waits at the sender's access link, at shared lines and at the receiver's link; control takes the time of
its bytes and waits for nothing. While a process streams, its other bulk leaves in slices, when
`transport.yielding` says so. Order is kept within a connection, and what is on its way when it breaks is
lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from transport.effects import CONTROL_LANE, STREAM_LANE, Send, size_bytes
from transport.simnet.connections import Connections
from transport.simnet.links import NS, Endpoint, HeldFrame, Pipe, SimConnection
from transport.simnet.routes import Paths
from transport.simnet.timeline import Timeline
from transport.simnet.trace_log import TraceLog
from transport.yielding import SHARE

_FRAME_OVERHEAD = 64
"""Bytes that encryption and framing add to a frame."""
_LOOK_AGAIN_S = 0.03
"""Bulk that waits for a stream is looked at no sooner again, unless something of its sender came."""

_TOLD_EVERY_NS = NS // 10
"""The sender of a large frame is told as often what of it has come: all of it at once would look like a
faster line than there is."""
_SLICE_S = 0.005
"""Held bulk leaves in slices of so much of the measured line, or more on a slow one."""


@dataclass(slots=True, eq=False)
class _Slice:
    """A part of a frame whose sender is told when it has come; the last one brings the frame."""

    sender: Endpoint
    size: int
    effect: Send | None


class Transit:
    """All frames that are sent. ``carry_out`` is called for a process after it received one."""

    def __init__(
        self,
        timeline: Timeline,
        connections: Connections,
        paths: Paths,
        trace_log: TraceLog | None,
        carry_out: Callable[[Endpoint], None],
    ) -> None:
        """``trace_log`` is told of each frame, if it is given."""
        self.sent_again: Counter[bytes] = Counter()
        """Bytes of retransmissions by the sender's key."""
        self._timeline = timeline
        self._connections = connections
        self._paths = paths
        self._trace_log = trace_log
        self._carry_out = carry_out

    def send(self, connection: SimConnection, peer: Endpoint, effect: Send) -> None:
        """A frame leaves over a connection that is up."""
        lane = effect.lane
        other = connection.acceptor if peer is connection.dialer else connection.dialer
        size = len(effect.header) + size_bytes(effect.payload)
        peer.sent[effect.purpose] += size
        other.received[effect.purpose] += size
        if effect.again:
            self.sent_again[peer.key] += size
        size += _FRAME_OVERHEAD
        now = self._timeline.now_ns
        if self._trace_log is not None:
            self._trace_log.add(now, peer.key, ("send", lane, size, crc32(effect.header)))
        if lane == CONTROL_LANE:
            pipes = [] if connection.plain else self._paths.pipes(peer, other)
            # Flows share a link, so control on its own connection never waits for all queued bulk.
            ns = peer.up.time(size, peer.factor) + other.down.time(size, other.factor)
            ns += sum(pipe.time(size, 1.0) for pipe in pipes)
            ns += self._delay_ns(connection, peer, other, size, now)
            lands = connection.in_order(other, now + ns)
            self._timeline.push(lands, self._arrive, connection, other, effect)
            return
        if lane == STREAM_LANE:
            peer.uplink.streamed(now / NS)
            self._count(connection, peer, other, handed=size)
            self._flow(connection, peer, other, _Slice(peer, size, effect), size)
            return
        if peer.held or peer.uplink.is_shared(now / NS):
            peer.held.append(HeldFrame(connection, other, effect, size))
            if not peer.releases_at:
                self._release(peer, 0)
            return
        self._leave(connection, peer, other, effect, size)

    # -- inside -------------------------------------------------------------------------------

    def _leave(
        self,
        connection: SimConnection,
        peer: Endpoint,
        other: Endpoint,
        effect: Send | _Slice,
        size: int,
    ) -> None:
        pipes = [] if connection.plain else self._paths.pipes(peer, other)
        left = peer.up.put(self._timeline.now_ns, size, peer.factor)
        if isinstance(effect, _Slice) and peer.uplink.is_shared(self._timeline.now_ns / NS):
            peer.bulk.put(left, peer.up.time(size, peer.factor))
        if pipes:
            self._timeline.push(left, self._pass, connection, other, effect, size, pipes)
        else:
            self._cross(connection, other, effect, size, left)

    def _flow(
        self, connection: SimConnection, peer: Endpoint, to: Endpoint, frame: _Slice, size: int
    ) -> None:
        """A frame of a stream leaves: its bytes go on as they come, so that a line which is as fast as the
        one before it costs no time of its own, however large the frame is."""
        now = self._timeline.now_ns
        begins = max(now, peer.up.free_at)
        ahead = peer.bulk.ahead(now)
        tail = peer.up.put(now, size, peer.factor)
        peer.behind_bulk_ns = max(peer.behind_bulk_ns, ahead - round(SHARE * (tail - now)))
        pipes = [] if connection.plain else self._paths.pipes(peer, to)
        if pipes:
            self._timeline.push(begins, self._flow_on, connection, to, frame, size, pipes, tail)
        else:
            self._flow_over(connection, to, frame, size, begins, tail)

    def _flow_on(
        self,
        connection: SimConnection,
        to: Endpoint,
        frame: _Slice,
        size: int,
        pipes: list[Pipe],
        tail: int,
    ) -> None:
        """The head of a frame comes to the first of the ``pipes``, its last byte at ``tail``."""
        if not connection.up:
            return
        now = self._timeline.now_ns
        begins = max(now, pipes[0].free_at)
        tail = max(tail, pipes[0].put(now, size, 1.0))
        if pipes[1:]:
            self._timeline.push(begins, self._flow_on, connection, to, frame, size, pipes[1:], tail)
        else:
            self._flow_over(connection, to, frame, size, begins, tail)

    def _flow_over(
        self, connection: SimConnection, to: Endpoint, frame: _Slice, size: int, begins: int, tail: int
    ) -> None:
        reaches = connection.in_order(to, begins + self._delay_ns(connection, frame.sender, to, size, begins))
        self._timeline.push(reaches, self._flow_in, connection, to, frame, size, tail + reaches - begins)

    def _flow_in(self, connection: SimConnection, to: Endpoint, frame: _Slice, size: int, tail: int) -> None:
        """The head of a frame comes to the receiver's access link."""
        if not connection.up:
            return
        now = self._timeline.now_ns
        lands = max(tail, to.down.put(now, size, to.factor))
        lands = connection.landed[to] = max(lands, connection.landed.get(to, 0) + 1)
        if parts := (lands - now) // _TOLD_EVERY_NS:
            each = size // (parts + 1)
            frame.size -= parts * each
            for part in range(1, parts + 1):
                at = now + part * (lands - now) // (parts + 1)
                self._timeline.push(at, self._came, connection, frame.sender, to, each)
        self._timeline.push(lands, self._arrive, connection, to, frame)

    def _came(self, connection: SimConnection, sender: Endpoint, to: Endpoint, size: int) -> None:
        """A part of a large frame is there, which is all that its sender is told."""
        if connection.up:
            self._count(connection, sender, to, heard=size)

    def _release(self, peer: Endpoint, planned: int) -> None:
        """Let as many slices of what is held go as may."""
        if planned != peer.releases_at:
            return  # it was looked at meanwhile
        peer.releases_at = 0
        uplink, now_s = peer.uplink, self._timeline.now_ns / NS
        while peer.held:
            frame = peer.held[0]
            if not frame.connection.up:
                peer.held.popleft()
                continue
            shared = uplink.is_shared(now_s)
            slice_bytes = max(uplink.slice_bytes, int(uplink.rate * _SLICE_S))
            size = min(frame.left_bytes, slice_bytes) if shared else frame.left_bytes
            wait_s = uplink.wait_s(now_s, size)
            if wait_s:
                at = self._timeline.now_ns + round(max(wait_s, _LOOK_AGAIN_S) * NS)
                peer.releases_at = at
                self._timeline.push(at, self._release, peer, at)
                return
            frame.left_bytes -= size
            is_last = not frame.left_bytes
            if is_last:
                peer.held.popleft()
            self._leave_in_slice(frame.connection, peer, frame.to, size, frame.effect if is_last else None)

    def _leave_in_slice(
        self, connection: SimConnection, peer: Endpoint, to: Endpoint, size: int, effect: Send | None
    ) -> None:
        self._count(connection, peer, to, handed=size)
        self._leave(connection, peer, to, _Slice(peer, size, effect), size)

    def _count(
        self, connection: SimConnection, peer: Endpoint, to: Endpoint, handed: int = 0, heard: int = 0
    ) -> None:
        """Tell the sender's uplink of so many bytes more that were handed over, or have got there."""
        before = connection.slices.get(peer, (0, 0))
        far = connection.slices[peer] = before[0] + handed, before[1] + heard
        now_s, distance_s = self._timeline.now_ns / NS, self._paths.distance_s(peer, to)
        patient = connection.lane != STREAM_LANE
        peer.uplink.told(now_s, (connection, peer), *far, distance_s, patient=patient)

    def _pass(
        self, connection: SimConnection, to: Endpoint, effect: Send | _Slice, size: int, pipes: list[Pipe]
    ) -> None:
        """A bulk frame comes to a shared line, and waits for what came there before it."""
        if not connection.up:
            return
        left = pipes[0].put(self._timeline.now_ns, size, 1.0)
        if pipes[1:]:
            self._timeline.push(left, self._pass, connection, to, effect, size, pipes[1:])
        else:
            self._cross(connection, to, effect, size, left)

    def _cross(
        self, connection: SimConnection, to: Endpoint, effect: Send | _Slice, size: int, left: int
    ) -> None:
        sender = connection.acceptor if to is connection.dialer else connection.dialer
        reaches = connection.in_order(to, left + self._delay_ns(connection, sender, to, size, left))
        self._timeline.push(reaches, self._reach, connection, to, effect, size)

    def _delay_ns(
        self, connection: SimConnection, sender: Endpoint, to: Endpoint, size: int, now: int
    ) -> int:
        latency = self._paths.latency_ns(sender, to)
        if connection.plain and now >= sender.stalled_until and now >= to.stalled_until:
            return latency
        return latency + self._paths.resent_ns(sender, to, size, now)

    def _reach(self, connection: SimConnection, to: Endpoint, effect: Send | _Slice, size: int) -> None:
        """A bulk frame comes to the receiver's access link, and waits for what came there before it."""
        if connection.up:
            lands = to.down.put(self._timeline.now_ns, size, to.factor)
            self._timeline.push(lands, self._arrive, connection, to, effect)

    def _arrive(self, connection: SimConnection, to: Endpoint, effect: Send | _Slice) -> None:
        if isinstance(effect, _Slice):
            if connection.up:
                self._count(connection, effect.sender, to, heard=effect.size)
                if effect.sender.held:
                    self._release(effect.sender, effect.sender.releases_at)
            if effect.effect is None:
                return
            effect = effect.effect
        if not connection.up or not to.alive:
            return
        if self._trace_log is not None:
            self._trace_log.add(self._timeline.now_ns, to.key, ("recv", effect.lane))
        if to.stands_still:
            to.backlog.append(lambda: self._take(connection, to, effect))
        else:
            self._take(connection, to, effect)

    def _take(self, connection: SimConnection, to: Endpoint, effect: Send) -> None:
        if not to.alive or connection.closed_by is to:
            return
        dialer, sender = connection.dialer, connection.acceptor
        if to is not dialer:
            sender = dialer
            if not connection.heard:
                self._connections.heard(connection)
        now_s = self._timeline.now_ns / NS
        to.guarded.receive(now_s, sender.key, effect.lane, effect.header, effect.payload)
        self._carry_out(to)
