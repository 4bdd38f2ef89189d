"""The connections that others open to us: who may, what they ask with an invite, and how one is ended.

Each handshake is decided by what the core says of its key, and who broke the shape of messages is kept out
for a while. The newest connection of a peer's lane carries what is sent back. What an invite opens is one
question and its answer, at a bounded rate; the owner's key opens the same at any rate. Keeps R4, X2 and X5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from transport.counters import OTHERS
from transport.effects import CONTROL_LANE, STREAM_LANE
from transport.errors import BadMessage, PeerFault
from transport.keys import short
from transport.limits import Limits
from transport.redial import Bars
from transport.sockets.accounts import Account, Accounts
from transport.sockets.admissions import Admissions
from transport.sockets.core_runner import CoreRunner
from transport.sockets.flood_gate import FloodGate
from transport.sockets.half_open import HalfOpen, HalfOpenBounds
from transport.sockets.kernel import Handle, address_of, arrived_over, remote, shut_down, taken_in
from transport.sockets.libzmq import FRAMES_PER_ROUND, Listener, Poll, ReceivedMessage
from transport.sockets.traces import PeerClosedTrace, StrangerRefusedTrace
from transport.sockets.unread import LOOK_S, TOO_MUCH, Unread, wire_bytes
from transport.sockets.upload_gate import Progress, UploadGate
from transport.sockets.wire import (
    DRIVER_LANE,
    AcceptedConnection,
    AcceptedConnections,
    Outbox,
    Outgoing,
    RateLimiter,
    parse,
)

_COMINGS_PER_ROUND = 256
"""Connections that come or go which are looked at before frames of members have their turn."""
_MANY_COMINGS = 8
_PAUSE_S = 0.02
"""After many at once the next ones are looked at so much later, all together: a flood must not wake us for
each of its connections."""


class AcceptedLanes:
    """The listening side of a driver; all of it runs on the driver's thread."""

    def __init__(
        self,
        runner: CoreRunner,
        listener: Listener,
        poll: Poll,
        limits: Limits,
        bounds: HalfOpenBounds,
        gate: UploadGate,
    ) -> None:
        self._upload = gate
        self.listener = listener
        self.connections = AcceptedConnections(limits)
        self.bars = Bars(limits)
        self._runner, self._limits = runner, limits
        self._doomed: list[tuple[float, Handle]] = []
        """Connections to be broken, and when: their last frames have time to leave."""
        self._ended: list[AcceptedConnection] = []
        """Connections that ended by themselves, and of which the core does not know it yet."""
        self._accounts, self._admissions = Accounts(), Admissions()
        self._unread = Unread(limits)
        self._looked_at = runner.clock()
        self.half_open = HalfOpen(bounds, shut_down)
        self._gate = FloodGate(listener.descriptor, limits.comings_per_second, runner.trace)
        self._knocks = RateLimiter(limits.knocks_per_minute)
        self._invites = RateLimiter(2 * limits.knocks_per_minute)
        self._poll = poll
        self.on_word: Callable[[bytes, bytes], None] = lambda peer, header: None
        """Given what the driver of a peer says to this one."""
        self.on_refused: Callable[[bytes], None] = lambda peer: None
        """Told who broke the rules: whatever else there is of that peer is to end."""
        self._look_again: float | None = None
        """When to look at comings again, while there are many."""
        poll.watch(listener.monitor, 1, self._serve_comings)
        poll.watch(listener.asking, 1, self._serve_handshakes)
        poll.watch(listener.socket, 4, self._serve_messages)

    def send(self, peer: bytes, message: Outgoing) -> bool:
        """Send on the newest connection of a peer's lane; False if there is none."""
        number = CONTROL_LANE if message.lane == DRIVER_LANE else message.lane
        connection = self.connections.find(peer, number)
        if connection is None:
            return False
        if not connection.outbox.push(message):
            self._break(connection, "too much waits to be sent")
        elif len(connection.outbox) == 1:
            self._flush_connection(connection)
        return True

    def refuse_peer(self, peer: bytes, reason: str) -> None:
        """A peer broke the rules elsewhere: it is kept out for a while."""
        self._runner.trace(PeerClosedTrace(short(peer), reason))
        self._bar(peer)

    def close_peer(self, peer: bytes, grace_s: float) -> None:
        """Take nothing more from a peer, and break its connections in ``grace_s`` seconds."""
        for connection in self.connections.of_peer(peer):
            self._drop(connection.route)
            self._doom(connection, grace_s)

    def close(self, grace_s: float) -> None:
        """Stop listening; what was handed over has ``grace_s`` seconds to leave."""
        self.listener.close(grace_s)

    def flush(self) -> bool:
        """Hand over what waits; whether something still waits."""
        waiting = self.connections.waiting()
        for connection in waiting:
            self._flush_connection(connection)
        return any(each.outbox.waiting for each in waiting)

    def is_waiting(self) -> bool:
        """Whether something waits to be sent that may leave."""
        return any(not self._held_s(each) for each in self.connections.waiting())

    def dues(self) -> list[float]:
        """When `serve_due` has something to do, beside sending what waits."""
        now = self._runner.clock()
        dues = [due for due, _ in self._doomed] + [now] * bool(self._ended)
        if self._look_again is not None:
            dues.append(self._look_again)
        dues += [now + waits_s for each in self.connections.waiting() if (waits_s := self._held_s(each))]
        if len(self.half_open) or len(self._accounts):
            dues.append(self._looked_at + LOOK_S)
        return dues if self._gate.due is None else [*dues, self._gate.due]

    def serve_due(self, now: float) -> None:
        """Hand over what waits, and break what had its time."""
        self.flush()
        if self._ended:
            self._tell_of_ends()
        self.guard(now, self._serve_messages)

    def guard(self, now: float, read: Callable[[], bool] = lambda: False) -> None:
        """Keep what others can make us hold in bounds, which goes on while the core gets nothing. ``read``
        reads what came, and says whether that was all."""
        if self._look_again is not None and self._look_again <= now:
            self._look_again = None
            self._poll.watch(self.listener.monitor, 1, self._serve_comings)
        if self._looked_at + LOOK_S <= now:
            self._looked_at = now
            self._look(read)
        self._gate.serve_due(now)
        for doomed in [each for each in self._doomed if each[0] <= now]:
            self._doomed.remove(doomed)
            shut_down(doomed[1])

    # -- inside: what comes -------------------------------------------------------------------

    def _serve_comings(self) -> None:
        now, held = self._runner.clock(), self.connections.descriptors()
        came, number = dict[int, None](), 0
        for number, (is_coming, descriptor) in enumerate(self.listener.comings(_COMINGS_PER_ROUND), 1):  # noqa: B007
            if is_coming:
                came[descriptor] = None
                continue
            if descriptor in came:  # who came and went meanwhile is not looked at
                del came[descriptor]
                self._gate.came(now, None)
            self.half_open.closed(descriptor)
            if descriptor in held and (gone := self.connections.held_by(descriptor)) is not None:
                self._ended.append(gone)
        for descriptor in came:
            self._came(now, descriptor)
        if _MANY_COMINGS <= number < _COMINGS_PER_ROUND:
            self._poll.unwatch(self.listener.monitor)
            self._look_again = now + _PAUSE_S

    def _came(self, now: float, descriptor: int) -> None:
        handle = remote(descriptor)
        self._gate.came(now, None if handle is None else address_of(handle))
        if handle is None:
            self.half_open.closed(descriptor)
        elif not self.connections.holds(handle):  # its first message may be read before we learn of it
            self.half_open.opened(handle, now)

    def _serve_handshakes(self) -> None:
        for verdict in self.listener.answer(self._admits_connection, FRAMES_PER_ROUND):
            if verdict.kind is None:
                self._runner.trace(StrangerRefusedTrace(short(verdict.key), verdict.address))
            else:
                self._admissions.admitted(self._runner.clock(), verdict.address, verdict.key)

    def _admits_connection(self, key: bytes) -> str | None:
        now = self._runner.clock()
        kind = self._runner.core.admits(key)
        if kind in ("invite", "owner") and self._runner.order.is_held:
            return "held"  # its question would wait as long as the journal cannot be written
        if self.bars.is_barred(now, key) or (kind == "invite" and not self._invites.take(now)):
            return None if kind is None else "later"
        return kind

    def _serve_messages(self) -> bool:
        """Read what came, up to a bound; whether that was all."""
        for _ in range(FRAMES_PER_ROUND):
            if (arrived := self.listener.read()) is None:
                return self.listener.reader.is_drained
            self.half_open.closed(arrived.descriptor)
            if not arrived.parts:  # it has no sender either: there is nothing to take, and nobody to close
                continue
            self._accounts.read(arrived.descriptor, arrived.route, arrived.sender, arrived.wire_bytes)
            if not self.connections.is_gone(arrived.route):
                self._accept(arrived)
        return False

    def _tell_of_ends(self) -> None:
        """Tell the core which connections ended, after everything that came over them."""
        if not self._serve_messages():
            return
        ended, self._ended = self._ended, []
        for gone in ended:
            if self._drop(gone.route) is not None:  # it was not replaced meanwhile
                self._runner.feed(partial(self._ends, gone))

    def _ends(self, gone: AcceptedConnection, now: float) -> None:
        self._runner.core.ended(now, gone.peer, gone.lane)

    def _accept(self, arrived: ReceivedMessage) -> None:
        key, route = arrived.sender, arrived.route
        kind = self._runner.core.admits(key)
        if kind is None:
            self._break(self._connection(0, arrived), "no longer admitted")
            return
        try:
            if len(route) != 5 or route[0] != 0:
                raise BadMessage("a peer chose its own routing id")
            lane, header, payload = parse(arrived.parts, self._limits)
            if lane == DRIVER_LANE:
                self._take_word(kind, key, route, header)
                return
            known = self.connections.known(key, lane, route)
        except PeerFault as error:
            self._refuse(self._connection(0, arrived), str(error))
            return
        if kind != "member":
            self._answer_knock(self._connection(lane, arrived), header, is_limited=kind != "owner")
            return
        if not known:
            self._add(self._connection(lane, arrived))
        self._runner.receive(key, lane, header, payload)

    def _take_word(self, kind: str, peer: bytes, route: bytes, header: bytes) -> None:
        if kind != "member" or not self.connections.known(peer, CONTROL_LANE, route):
            raise BadMessage("a driver speaks before its control connection stands")
        self.on_word(peer, header)

    def _answer_knock(self, caller: AcceptedConnection, header: bytes, *, is_limited: bool) -> None:
        # Whoever floods the door with a ticket must not keep the owner from closing it.
        if is_limited and not self._knocks.take(self._runner.clock()):
            self._break(caller, "too many join attempts")
            return
        self._runner.counters.add(OTHERS, "received", "knock", 1 + len(header))
        core = self._runner.core
        # What it decided is on the disk before the answer leaves.
        self._runner.feed(
            lambda now: core.knock(now, caller.peer, header), lambda reply: self._reply(caller, reply)
        )

    def _reply(self, caller: AcceptedConnection, reply: tuple[bytes, bytes] | None) -> None:
        if reply is None:
            self._break(caller, "its question has no answer")
        else:
            caller.outbox.push(Outgoing(0, reply[0], reply[1], "knock", False))
            self._flush_connection(caller)
            self._doom(caller, self._limits.answered_s)  # who has its answer needs no descriptor of ours

    def _connection(self, lane: int, arrived: ReceivedMessage) -> AcceptedConnection:
        handle = remote(arrived.descriptor)
        return AcceptedConnection(arrived.sender, lane, arrived.route, handle, Outbox(self._limits))

    # -- inside: what libzmq holds ------------------------------------------------------------

    def _look(self, read: Callable[[], bool]) -> None:
        """Cut those of whom libzmq holds too much."""
        turn = self._unread.next_ones([*self.half_open.handles(), *self._accounts.handles()])
        taken = {handle: taken_in(handle) for handle in turn}
        is_behind = not read()
        fresh = set(self.half_open.handles())
        held = self._accounts.held(taken, fresh)
        for handle, is_alone in self._unread.excess(held, fresh, is_behind=is_behind).items():
            self._cut(handle, self._accounts.find(handle), is_alone=is_alone)

    def _cut(self, handle: Handle, account: Account | None, *, is_alone: bool) -> None:
        if account is None:
            self._cut_fresh(handle, is_alone=is_alone)
        elif not self.connections.is_gone(account.route):
            offender = AcceptedConnection(account.peer, 0, account.route, handle, Outbox(self._limits))
            self._refuse(offender, TOO_MUCH)
        shut_down(handle)

    def _cut_fresh(self, handle: Handle, *, is_alone: bool) -> None:
        """Nothing came over it: whose it is may be known. Strangers cannot hold so much alone."""
        address = address_of(handle)
        key = self._admissions.only_key(address, self.half_open.heard_at(handle)) if is_alone else None
        if key is not None:
            self._bar(key)
        self._runner.trace(PeerClosedTrace(short(key) if key else f"somebody at {address}", TOO_MUCH))
        self.half_open.closed(handle[0])

    # -- inside: what ends and what leaves ----------------------------------------------------

    def _refuse(self, offender: AcceptedConnection, reason: str) -> None:
        """An admitted peer broke the rules: it is closed, and may come back after a while."""
        self._break(offender, reason)
        self._bar(offender.peer)

    def _bar(self, peer: bytes) -> None:
        """Whatever there is of a peer ends, and it is kept out for a while."""
        self.bars.bar(self._runner.clock(), peer)
        self.close_peer(peer, 0.0)
        self.on_refused(peer)

    def _break(self, connection: AcceptedConnection, reason: str) -> None:
        self._drop(connection.route)
        self._runner.trace(PeerClosedTrace(short(connection.peer), reason))
        self._doom(connection, 0.0)

    def _doom(self, connection: AcceptedConnection, grace_s: float) -> None:
        if connection.handle is not None:
            self._doomed.append((self._runner.clock() + grace_s, connection.handle))

    def _add(self, connection: AcceptedConnection) -> None:
        if (older := self.connections.add(connection)) is not None:
            self._upload.leave(older.route)
            self._doom(older, 0.0)
        if connection.lane != CONTROL_LANE:
            patient = connection.lane != STREAM_LANE
            self._upload.join(connection.route, lambda: _progress(connection), patient=patient)

    def _drop(self, route: bytes) -> AcceptedConnection | None:
        self._upload.leave(route)
        return self.connections.drop(route)

    def _flush_connection(self, connection: AcceptedConnection) -> None:
        while len(connection.outbox) and not self._held_s(connection):
            message = connection.outbox.peek()
            outcome = self.listener.send(message, connection.route)
            if outcome == "gone":
                # The peer dials again, and both ends greet and resend.
                connection.outbox.clear()
                self._ended.append(connection)
            if outcome != "sent":
                return
            connection.outbox.pop()
            connection.num_sent += wire_bytes(message.size_bytes)
            self._upload.count(message.size_bytes)
            if connection.lane == STREAM_LANE:
                self._upload.streams()
            self._runner.count_sent(connection.peer, message)

    def _held_s(self, connection: AcceptedConnection) -> float:
        """How long its bulk has to wait, for what left before takes all that may leave."""
        if connection.lane == CONTROL_LANE:
            return 0.0
        if connection.lane == STREAM_LANE:
            return self._upload.wait_s()
        return self._upload.patient_wait_s(connection.outbox.peek().size_bytes)


def _progress(connection: AcceptedConnection) -> Progress | None:
    found = None if connection.handle is None else arrived_over(connection.handle)
    if found is None:
        return None
    return Progress(connection.num_sent, min(found[0], connection.num_sent), found[1])
