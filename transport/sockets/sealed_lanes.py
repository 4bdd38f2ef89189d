"""Bulk over sealed lanes: which connection carries a lane, and when one is given up.

A lane of the core has a connection of libzmq's, and beside it one of TCP that is sealed
(`transport.sealed`), if that comes about (`lane_asks`): then it carries what is sent on the lane, and the
other stands by. While that one stands the core need not know: nothing is lost. When the sealed one ends, or
the one that stood by, the core is told of a connection that is up anew: links greet and send again what was
not acknowledged. Its keys are of one connection and of two sessions: with either session it ends. All of it
runs on the driver's thread, but for what its door and its threads put in a mailbox. Keeps R1, R4 and X1.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from transport.effects import CONTROL_LANE, NEVER, STREAM_LANE, Trace
from transport.errors import BadMessage, PeerFault
from transport.keys import short
from transport.limits import Limits
from transport.sealed.trouble import LaneWatch
from transport.sockets.bulk_buffers import Buffers
from transport.sockets.bulk_door import BulkDoor, DialRefused
from transport.sockets.bulk_peers import BulkPeer, BulkPeers, StandingLane
from transport.sockets.bulk_threads import Ended, LaneThreads
from transport.sockets.control import Control
from transport.sockets.core_runner import CoreRunner
from transport.sockets.lane_asks import AGAIN_S, LaneAsks
from transport.sockets.libzmq import Poll
from transport.sockets.mailbox import Mailbox
from transport.sockets.sealed_connection import Frame, Opened, SealedConnection
from transport.sockets.traces import BulkLaneLostTrace, BulkLaneUpTrace
from transport.sockets.upload_gate import UploadGate
from transport.sockets.wire import Outgoing

_LOOK_S = 0.25
_IDLE_S = 30.0
"""Buffers that nobody took for so long are given back."""
_STUCK = "nothing got on over it, while the control connection did"

Told = Frame | Ended | Opened | DialRefused | Trace


@dataclass(frozen=True, slots=True)
class Bulk:
    """How a process wants its sealed lanes."""

    run: bytes = b""
    """Names the run."""
    port: int | None = None
    """Where to listen for them; by default the port after the one of control, or any if that is taken."""
    gate: UploadGate = field(default_factory=lambda: UploadGate(None))
    """Through which all bulk leaves, over these lanes and libzmq's."""


class SealedLanes:
    """The sealed lanes of a driver; until `open` none is asked for or offered."""

    def __init__(
        self,
        runner: CoreRunner,
        poll: Poll,
        key: bytes,
        control: Control,
        limits: Limits,
        run: bytes,
        gate: UploadGate,
    ) -> None:
        self.buffers, self._gate = Buffers(limits.buffer_bytes), gate
        self._runner, self._control, self._limits = runner, control, limits
        self._mailbox: Mailbox[Told] = Mailbox(poll, self._take)
        self._threads = LaneThreads(self._mailbox.put)
        self._peers = BulkPeers(limits.identities, limits.lanes)
        self._asks = LaneAsks(runner, key, run, control, self._peers, limits, self._has_no_more)
        self._look_at = NEVER
        self._used: tuple[int, float] = (0, 0.0)
        """How many buffers were given out at the last change of that, and when it was."""
        self.take_word = self._asks.take_word
        """Given what the driver of a peer says. Raises `PeerFault`."""
        runner.on_control = self._heard

    def open(self, listener: socket.socket | None) -> None:
        """From now on lanes are asked for, and offered if there is a bulk port."""
        self._asks.door = BulkDoor(listener, self._runner.clock, self._limits, self._mailbox.put)
        self._asks.door.start()

    @property
    def port(self) -> int:
        """The bulk port; 0 without one."""
        return 0 if self._asks.door is None else self._asks.door.port

    # -- what the driver asks -----------------------------------------------------------------

    def send(self, peer: bytes, message: Outgoing) -> bool:
        """Send on a sealed connection; False if the lane has none."""
        if message.lane == CONTROL_LANE:
            if self._asks.note_sessions(peer, message.header):
                self._look_at = NEVER
            return False
        found = self._peers.find(peer)
        lane = None if found is None else found.lanes.get(message.lane)
        if found is None or lane is None:
            return False
        if lane.connection.put(message):
            self._runner.count_sent(peer, message)
        else:
            self._give_up(found, lane, "too much waits to be sent")
        return True

    def carries(self, peer: bytes, lane: int) -> bool:
        """Whether a sealed connection carries a lane."""
        found = self._peers.find(peer)
        return found is not None and lane in found.lanes

    def close_peer(self, peer: bytes) -> None:
        """Its connections are to end."""
        found = self._peers.find(peer)
        if found is None:
            return
        if self._asks.door is not None:
            self._asks.door.forget(peer)
        for lane in found.lanes.values():
            lane.connection.end("the peer was closed")
        found.begin_anew()

    def give_up_peer(self, peer: bytes) -> None:
        """It broke the rules elsewhere: nothing more is taken from it here, and what was under way goes
        another way once there is one."""
        found = self._peers.find(peer)
        if found is None:
            return
        if self._asks.door is not None:
            self._asks.door.forget(peer)
        found.sessions = None  # what is coming up just now is of no session, until both greet anew
        for lane in list(found.lanes.values()):
            self._end(lane.connection, "it broke the rules")

    def is_waiting(self) -> bool:
        """Whether something was not handed to the kernel yet."""
        return any(lane.connection.num_waiting for _, lane in self._peers.lanes())

    def dues(self) -> list[float]:
        """When `serve_due` has something to do."""
        return [] if self._asks.door is None else [self._look_at]

    def serve_due(self, now: float) -> None:
        """Ask for lanes that are missing, and give up those that are of no use."""
        if self._asks.door is None or now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        self._asks.ask_due(now)
        for found, lane in self._peers.lanes():
            if lane.connection.sessions != found.sessions:
                self._end(lane.connection, "another session began")
            elif lane.is_stuck(now, found.control_heard_at):
                self._give_up(found, lane, _STUCK)
        for found in self._peers.with_lanes():
            if found.grows(now):
                for number in [each for each in found.lanes if STREAM_LANE > each > found.growth.lanes]:
                    self._end(found.lanes[number].connection, "it makes bulk no faster")
        if self._used[0] != self.buffers.num_taken:
            self._used = self.buffers.num_taken, now
        elif now - self._used[1] > _IDLE_S and self.buffers.kept_bytes:
            self.buffers.drop_free()

    def close(self) -> None:
        """End all of it."""
        for found, lane in self._peers.lanes():
            lane.connection.end("the transport stops")
            found.begin_anew()
        if self._asks.door is not None:
            self._asks.door.close()
        self._threads.close()
        _close_all(self._mailbox.close())

    def forked(self) -> None:
        """This is a forked child: close every descriptor, and end no connection."""
        for _, lane in self._peers.lanes():
            lane.connection.sock.close()
        if self._asks.door is not None:
            self._asks.door.forked()
        self._threads.forked()
        _close_all(self._mailbox.forked())

    # -- what its door and its threads tell ---------------------------------------------------

    def _heard(self, peer: bytes) -> None:
        found = self._peers.find(peer)
        if found is not None:
            found.control_heard_at = self._runner.clock()

    def _take(self, told: Told) -> None:
        if isinstance(told, Frame):
            self._take_frame(told)
        elif isinstance(told, Ended):
            self._has_ended(told)
        elif isinstance(told, Opened):
            self._take_up(told)
        elif isinstance(told, DialRefused):
            self._asks.refused(told)
        else:
            self._runner.trace(told)

    def _take_frame(self, frame: Frame) -> None:
        connection = frame.connection
        connection.took(frame)
        if connection.is_over:
            return
        if not connection.is_ours and self._runner.core.admits(connection.peer) != "member":
            self._end(connection, "no longer admitted")
            return
        self._runner.receive(connection.peer, connection.lane, frame.header, frame.payload)

    def _take_up(self, opened: Opened) -> None:
        peer, found = opened.peer, self._peers.find(opened.peer)
        admitted = opened.is_ours or self._runner.core.admits(peer) == "member"
        if found is None or found.sessions != opened.sessions or not admitted:
            opened.sock.close()
            return
        older = found.lanes.get(opened.lane)
        connection = SealedConnection(opened, self.buffers, self._limits, self._gate)
        try:
            self._threads.serve(connection)
        except (OSError, RuntimeError) as error:
            connection.end(str(error))
            opened.sock.close()
            self._asks.go_without(found, f"{type(error).__name__}: {error}")
            return
        found.lanes[opened.lane] = StandingLane(connection, LaneWatch(self._runner.clock()))
        found.choice.opened()
        self._runner.trace(BulkLaneUpTrace(short(peer), opened.lane))
        if older is not None:
            older.connection.end("another one replaced it")
        # What is under way over libzmq's connection still comes: nothing is said again for a first one. Of
        # one before it the peer may not have seen the end: then what it said since was lost with that.
        is_first = older is None and opened.lane not in found.ended
        found.ended.discard(opened.lane)
        stands = self._control.is_up(peer, opened.lane)  # if both dial, beside the other end's lane too
        if not (is_first and stands) and (opened.is_ours or stands):
            self._runner.feed(lambda now: self._runner.core.connected(now, peer, opened.lane))

    def _has_ended(self, ended: Ended) -> None:
        connection, error = ended.connection, ended.error
        if connection.is_over:
            return
        if isinstance(error, BadMessage):
            self._control.refuse(connection.peer, str(error))
        elif isinstance(error, PeerFault) or self._control.reached(connection.peer) is not None:
            # Whoever sits in between and cuts every lane gets three, and then bulk goes where it can.
            self._asks.count_trouble(self._peers.of(connection.peer))
        self._end(connection, connection.reason or str(error))

    # -- inside: lanes go ---------------------------------------------------------------------

    def _has_no_more(self, found: BulkPeer, lane: int, name: bytes) -> None:
        """The peer has no such connection any more."""
        if (standing := found.lanes.get(lane)) is not None:
            if standing.connection.name == name:  # another may have come up while that was said
                self._give_up(found, standing, _STUCK)
        else:
            # What was said since it ended may have gone the way of what ended.
            self._greet_again(found.peer, lane)

    def _give_up(self, found: BulkPeer, lane: StandingLane, reason: str) -> None:
        """The connection is at fault: what was under way goes another way."""
        self._asks.count_trouble(found)
        self._end(lane.connection, reason)

    def _end(self, connection: SealedConnection, reason: str) -> None:
        peer, number = connection.peer, connection.lane
        connection.end(reason)
        found = self._peers.find(peer)
        standing = None if found is None else found.lanes.get(number)
        if found is None or standing is None or standing.connection is not connection:
            return
        del found.lanes[number]
        found.ask_from[number] = self._runner.clock() + AGAIN_S
        self._runner.trace(BulkLaneLostTrace(short(peer), number, reason))
        if not connection.is_ours:
            # Whoever dialled may not see the end, and greets after it is told.
            self._asks.say_ended(peer, number, connection.name)
            if STREAM_LANE > number > 1:  # nothing else carries that lane
                self._runner.feed(lambda now: self._runner.core.ended(now, peer, number))
            self._greet_again(peer, number)  # if both dial: for the core what is lost went over ours
            return
        found.ended.add(number)
        if not self._greet_again(peer, number):
            self._runner.feed(lambda now: self._runner.core.disconnected(now, peer, number))

    def _greet_again(self, peer: bytes, lane: int) -> bool:
        """The other connection of a lane that we dial carries it again; False if it does not stand."""
        if not self._control.is_up(peer, lane):
            return False
        self._runner.feed(lambda now: self._runner.core.connected(now, peer, lane))
        return True


def _close_all(told: list[Told]) -> None:
    for each in told:
        if isinstance(each, Opened):
            each.sock.close()
