"""One connection of a sealed lane: what is sealed and sent over it, and what comes over it and is opened.

Two threads serve it, one for each direction; the driver's thread puts messages in, takes frames out and ends
it. The descriptor is closed when both threads have left it, never while one may be using it. It decides
nothing about lanes: `transport.sockets.sealed_lanes` does. Keeps R1 and X2.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from transport.effects import STREAM_LANE, size_bytes
from transport.limits import Limits
from transport.sealed.keys import Session
from transport.sealed.records import SEALED_HEADER_BYTES, TAG_BYTES, Kind, Record, max_sealed_bytes
from transport.sealed.seals import Opener, Sealer
from transport.sockets.arrivals import Arrivals
from transport.sockets.bulk_buffers import Buffers
from transport.sockets.kernel import arrived
from transport.sockets.upload_gate import Progress, UploadGate
from transport.sockets.wire import Outgoing

WAITING_FRAMES = 4096
"""Messages that may wait to be sent over one connection."""
AT_ONCE_BYTES = 16 * 1024
"""A message up to this leaves at once, if nothing else waits: to wake a thread for it takes longer."""
HUNG_UP = "the other end hung up"
_FRAME_COST = 512
"""Bytes that a frame takes beside what came."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection over which both ends showed that they have the keys."""

    peer: bytes
    lane: int
    sessions: tuple[Session, Session]
    """Ours and theirs, for which it was agreed."""
    is_ours: bool
    """Whether we dialled it."""
    sock: socket.socket
    sealer: Sealer
    opener: Opener
    name: bytes = field(default=b"", repr=False)
    """The random id under which it was offered: both ends have it."""


@dataclass(slots=True)
class Frame:
    """What came in one record."""

    connection: SealedConnection
    header: bytes
    payload: memoryview | None

    @property
    def size_bytes(self) -> int:
        """What it takes while it waits to be taken out: small ones must not be many."""
        return _FRAME_COST + len(self.header) + size_bytes(self.payload)


class SealedConnection:
    """Its threads call `receive` and `send`; everything else is the driver's."""

    def __init__(self, opened: Opened, buffers: Buffers, limits: Limits, gate: UploadGate) -> None:
        self.peer, self.lane, self.sessions = opened.peer, opened.lane, opened.sessions
        self.is_ours, self.name = opened.is_ours, opened.name
        self.sock = opened.sock
        self.queue: SimpleQueue[Outgoing | None] = SimpleQueue()
        """What waits to be sent; None at the end."""
        self.say_waits: Callable[[], None] = lambda: None
        """Tells the thread that sends of more in the queue, where it does not wait at the queue itself."""
        self.say_room: Callable[[], None] = lambda: None
        """Tells the thread that receives that it may go on."""
        self.sends_at_once = False
        """The thread that sends touches nothing here while no message waits: then the driver's thread may
        send a small one itself."""
        self.is_over = False
        """The driver has ended it: nothing that came over it is taken any more."""
        self.is_paused = False
        """The thread that receives waits for room."""
        self.reason: str | None = None
        """Why it ended, where this end knows."""
        self.moved_bytes = 0
        """Bytes that were handed to the kernel."""
        self.num_sent = 0
        """Messages of which all bytes were."""
        self._limits, self._buffers, self._gate = limits, buffers, gate
        self._opener, self._sealer = opened.opener, opened.sealer
        self.is_patient = opened.lane != STREAM_LANE
        """What it carries has time: it waits while a stream is under way."""
        self._num_put = self._put_bytes = self._sent_bytes = 0
        self._received_bytes = self._taken_bytes = 0
        self._leaving = threading.Lock()
        self._users = 2
        self._arrivals = Arrivals(opened.sock)
        self._head = bytearray(SEALED_HEADER_BYTES)
        self._body = bytearray()
        self._wanted, self._num_got = memoryview(self._head), 0
        self._record: Record | None = None
        self._sealed = bytearray()
        self._left = memoryview(b"")
        self._sending: Outgoing | None = None
        gate.join(self, self.progress, patient=self.is_patient)

    # -- the driver's thread ------------------------------------------------------------------

    def put(self, message: Outgoing) -> bool:
        """Have a message sent; False when too much waits already."""
        if self.num_waiting >= WAITING_FRAMES:
            return False
        if self._put_bytes - self._sent_bytes >= 2 * self._limits.largest_window:
            return False
        gate = self._gate
        if not self.is_patient:
            gate.streams()
        held = gate.is_limited or (gate.is_shared and self.is_patient)
        at_once = self.sends_at_once and not self.num_waiting and not held
        self._put_bytes += message.size_bytes
        self._num_put += 1
        if not (at_once and message.size_bytes <= AT_ONCE_BYTES and self._leaves(message)):
            self.queue.put(message)
            self.say_waits()
        return True

    @property
    def num_put(self) -> int:
        """Messages that were put in so far."""
        return self._num_put

    @property
    def num_waiting(self) -> int:
        """Messages that the kernel has not got yet, not all of them."""
        return self._num_put - self.num_sent

    def took(self, frame: Frame) -> None:
        """A frame was taken out: there is room for another."""
        self._taken_bytes += frame.size_bytes
        if self.is_paused and not self.is_full:
            self.is_paused = False
            self.say_room()

    def unheard_bytes(self) -> int | None:
        """Bytes that the kernel holds until the other end's has them; None where that cannot be asked."""
        if sys.platform != "linux":
            return None
        import fcntl
        import termios

        waiting = array("i", [0])
        try:
            fcntl.ioctl(self.sock, termios.TIOCOUTQ, waiting)
        except (OSError, ValueError):  # it is closed by now
            return None
        return waiting[0]

    def progress(self) -> Progress | None:
        """How far what was handed to the kernel is, and of a stream what waits here; None once it is over.
        Where the kernel does not say what has arrived, all that it took has."""
        if self.is_over:
            return None
        # In this order: what is sent meanwhile counts as under way.
        found, moved = arrived(self.sock), self.moved_bytes
        handed = moved if self.is_patient else moved + self._put_bytes - self._sent_bytes
        heard, round_trip_s = (moved, 0.0) if found is None else found
        return Progress(handed, min(heard, handed), round_trip_s)

    def end(self, reason: str) -> None:
        """Both ends see the end of it, and both threads leave."""
        self._gate.leave(self)
        self.is_over, self.reason = True, self.reason or reason
        self.break_off()
        self.queue.put(None)
        self.say_waits()
        self.say_room()

    # -- its threads --------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """So much was not taken yet that reading has to wait. What is over has room for its end."""
        return not self.is_over and self._received_bytes - self._taken_bytes > self._limits.unread_bytes

    def receive(self, *, waits: bool) -> Frame | None:
        """The next frame; None if it has not all come, for one who does not wait for it. Raises `OSError` at
        the end, and `PeerFault` for what the other end did not send."""
        while True:
            while self._num_got < len(self._wanted):
                try:
                    num_bytes = self._arrivals.read(self._wanted[self._num_got :])
                except BlockingIOError:
                    if not waits:
                        return None
                    self._arrivals.wait()
                    continue
                if not num_bytes:
                    raise ConnectionResetError(HUNG_UP)
                self._num_got += num_bytes
            self._num_got = 0
            if self._record is None:
                self._record = self._opener.header(self._head)
                self._wanted = self._room_for(sum(self._record.parts))
                continue
            record, sealed, self._record = self._record, self._wanted, None
            self._wanted = memoryview(self._head)
            frame = self._open(record, sealed)
            self._received_bytes += frame.size_bytes
            return frame

    def send(self, flags: int, message: Outgoing | None = None) -> bool:
        """Send on, or ``message`` if nothing is left, or that of it which is left; False if a socket that
        does not block is full. Raises `OSError`."""
        if message is not None and message is not self._sending:
            assert self._sending is None, "one after the other"
            self._seal(message)
        while self._left:
            most = min(len(self._left), self._gate.slice_bytes)
            if self._gate.is_shared and self.is_patient:
                most = self._gate.wait_turn(self, most, lambda: self.is_over)
            try:
                num_bytes = self.sock.send(self._left[:most], flags)
            except BlockingIOError:
                return False
            self.moved_bytes += num_bytes
            self._left = self._left[num_bytes:]
            self._gate.wait_after(num_bytes, lambda: self.is_over)
        if self._sending is not None:
            self._sent_bytes += self._sending.size_bytes
            self._sending = None
            self.num_sent += 1
        return True

    def send_waiting(self, flags: int) -> bool:
        """Send what waits as long as the socket takes it; False if it is full."""
        while self.send(flags):
            try:
                message = self.queue.get_nowait()
            except Empty:
                return True
            if message is None:
                raise ConnectionResetError("it was ended here")
            if not self.send(flags, message):
                return False
        return False

    def fails(self, error: Exception) -> None:
        """The thread that sends could not."""
        self.reason = self.reason or f"{type(error).__name__}: {error}"

    def break_off(self) -> None:
        """Whatever comes next on either end is the end."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """One of the two threads is done with it."""
        with self._leaving:
            self._users -= 1
            if self._users == 0:
                self.sock.close()

    # -- inside -------------------------------------------------------------------------------

    def _leaves(self, message: Outgoing) -> bool:
        """Send a message on the driver's thread; False if the rest of it is for the thread that sends."""
        try:
            return self.send(socket.MSG_DONTWAIT, message)
        except OSError as error:
            self.fails(error)
            self.break_off()  # the thread that receives tells of the end
            return True

    def _room_for(self, num_bytes: int) -> memoryview:
        if len(self._body) < num_bytes:
            self._body = bytearray(_rounded(num_bytes, self._limits))
        return memoryview(self._body)[:num_bytes]

    def _open(self, record: Record, sealed: memoryview) -> Frame:
        at = record.prefix_bytes + TAG_BYTES
        header = self._opener.prefix(sealed[:at])
        if record.payload_bytes is None:
            return Frame(self, header, None)
        payload = self._buffers.take(record.payload_bytes)
        self._opener.payload(sealed[at:], payload)
        return Frame(self, header, payload)

    def _seal(self, message: Outgoing) -> None:
        payload = message.payload
        size = None if payload is None else size_bytes(payload)
        record = Record(Kind.FRAME, len(message.header), size)
        if len(self._sealed) < record.sealed_bytes:
            self._left = memoryview(b"")
            self._sealed = bytearray(_rounded(record.sealed_bytes, self._limits))
        sealed = memoryview(self._sealed)
        self._left = sealed[: self._sealer.seal(record, message.header, payload, sealed)]
        self._sending = message


def _rounded(num_bytes: int, limits: Limits) -> int:
    """A power of two that has room, or what the largest record takes."""
    return min(1 << (num_bytes - 1).bit_length(), max_sealed_bytes(limits))
