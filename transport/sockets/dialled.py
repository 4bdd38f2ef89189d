"""The connections that we dial: each lane of each peer that the core names, again and again until `Close`.

A lane's socket is opened afresh for every attempt, once the name in its address was looked up. When an
attempt is made, and at which address, is decided by `transport.redial`; what was on its way when a connection
broke is lost, and links send it again.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from transport.addresses import is_numeric, parts
from transport.effects import CONTROL_LANE, STREAM_LANE, Connect
from transport.errors import BadMessage, DialFailed, PeerFault
from transport.keys import KeyPair, short
from transport.limits import Limits
from transport.redial import REFUSAL_S, Redial
from transport.sockets.core_runner import CoreRunner
from transport.sockets.kernel import arrived_over, taken_in
from transport.sockets.lane import Lane
from transport.sockets.libzmq import FRAMES_PER_ROUND, NOBODY, Context, Dialer, Poll
from transport.sockets.names import LOOKUP_S, Lookup, Names
from transport.sockets.traces import LaneLostTrace, LaneRefusedTrace, PeerClosedTrace
from transport.sockets.unread import LOOK_S, TOO_MUCH, Unread
from transport.sockets.upload_gate import Progress, UploadGate
from transport.sockets.wire import DRIVER_LANE, Outbox, Outgoing, parse


class DialledLanes:
    """The dialled side of a driver; all of it runs on the driver's thread."""

    def __init__(
        self,
        runner: CoreRunner,
        context: Context,
        poll: Poll,
        keys: KeyPair,
        names: Names,
        limits: Limits,
        random: Random,
        gate: UploadGate,
    ) -> None:
        """``random`` is what dialling draws from; bulk leaves through the ``gate``."""
        self._gate = gate
        self._names = names
        self._runner, self._context, self._poll = runner, context, poll
        self._keys, self._limits = keys, limits
        self._lanes: dict[bytes, dict[int, Lane]] = {}
        """By peer and number."""
        self._random = random
        self._unread = Unread(limits)
        self.on_word: Callable[[bytes, bytes], None] = lambda peer, header: None
        """Given what the driver of a peer says to this one."""
        self.on_refused: Callable[[bytes], None] = lambda peer: None
        """Told who broke the rules: whatever else there is of that peer is to end."""
        self.is_carried: Callable[[bytes, int], bool] = lambda peer, lane: False
        """Whether something else carries a lane, and the connection here stands by."""
        self._looked_at = runner.clock()

    def connect(self, wanted: Connect) -> None:
        """Dial a peer for control and for bulk; connections to it that we dialled before are closed."""
        self.close(wanted.peer, 0.0)
        # More than one carry bulk only if they are sealed.
        lanes = [number for number in wanted.numbers if number <= 1 or number == STREAM_LANE]
        self._lanes[wanted.peer] = {
            lane: Lane(wanted.peer, lane, self._redial(wanted), Outbox(self._limits)) for lane in lanes
        }
        for lane in self._lanes[wanted.peer].values():
            self._dial(lane, self._runner.clock())

    def close(self, peer: bytes, grace_s: float) -> None:
        """End the dialling of a peer; what was handed over has ``grace_s`` seconds to leave."""
        for lane in self._lanes.pop(peer, {}).values():
            self._hang_up(lane, grace_s)
            # It may still be in the hands of a caller further up: it must never dial again.
            lane.redial.stop()
            lane.broken = lane.lookup = None

    def targets(self) -> frozenset[tuple[str, int]]:
        """Where the connections go, in numbers."""
        return frozenset(lane.target for lane in self._all() if lane.target is not None)

    def break_all(self, peer: bytes, reason: str) -> None:
        """The connections to a peer are of no use any more: they are dialled again a little later."""
        for lane in self._lanes.get(peer, {}).values():
            lane.broken = lane.broken or reason

    def close_all(self, grace_s: float) -> None:
        """End all dialling."""
        for peer in list(self._lanes):
            self.close(peer, grace_s)

    def peers(self) -> list[bytes]:
        """Whom it dials."""
        return list(self._lanes)

    def has_bulk(self, peer: bytes) -> bool:
        """Whether bulk goes there."""
        return 1 in self._lanes.get(peer, ())

    def has_stream(self, peer: bytes) -> bool:
        """Whether what is streamed goes there."""
        return STREAM_LANE in self._lanes.get(peer, ())

    def is_up(self, peer: bytes, lane: int) -> bool:
        """Whether the connection of a lane stands."""
        found = self._lanes.get(peer, {}).get(lane)
        return found is not None and found.redial.up and found.broken is None

    def reached(self, peer: bytes) -> str | None:
        """The machine to which the control connection leads, in numbers; None while it does not stand."""
        target = self._lanes[peer][CONTROL_LANE].target if self.is_up(peer, CONTROL_LANE) else None
        return None if target is None else target[0]

    def send(self, peer: bytes, message: Outgoing) -> bool:
        """Send on a lane that is up; False if there is none."""
        number = CONTROL_LANE if message.lane == DRIVER_LANE else message.lane
        lane = self._lanes.get(peer, {}).get(number)
        if lane is None or not lane.redial.up or lane.broken is not None:
            return False
        if not lane.outbox.push(message):
            lane.broken = "too much waits to be sent"
        self._flush_lane(lane)
        return True

    def flush(self) -> bool:
        """Hand over what waits; whether something waited."""
        waiting = [lane for lane in self._all() if lane.outbox.waiting]
        for lane in waiting:
            self._flush_lane(lane)
        return bool(waiting)

    def dues(self) -> list[float]:
        """When `serve_due` has something to do."""
        dues, has_dialer = [], False
        for lane in self._all():
            if not lane.redial.up:
                dues.append(lane.redial.due)
            has_dialer = has_dialer or lane.dialer is not None
            if lane.is_held and lane.outbox.waiting:
                dues.append(self._runner.clock() + self._held_s(lane))
        return [*dues, self._looked_at + LOOK_S] if has_dialer else dues

    def serve_due(self, now: float) -> None:
        """Dial what is due, give up what was not answered, and tell the core of what broke."""
        self._names.serve()
        for lane in self._all():
            if lane.is_held:
                self._flush_lane(lane)
        self.guard(now, self._serve_messages)
        for lane in self._all():
            if lane.broken is None and not lane.redial.up and lane.redial.due <= now:
                if lane.lookup is not None:
                    self._look_no_longer(lane, now)
                elif lane.dialer is None:
                    self._dial(lane, now)
                else:
                    lane.broken = "nobody answers there"
            if lane.broken is not None:
                self._redial_later(lane, lane.broken, now)

    def guard(self, now: float, read: Callable[[Lane, Dialer], bool] = lambda lane, dialer: False) -> None:
        """Hang up on those of whom libzmq holds too much, which goes on while the core gets nothing. ``read``
        reads what came, and says whether that was all."""
        if now < self._looked_at + LOOK_S:
            return
        self._looked_at = now
        up = {lane.dialer.handle: lane for lane in self._all() if lane.dialer and lane.dialer.handle}
        for handle in self._unread.next_ones(up):
            lane, taken = up[handle], taken_in(handle)
            if taken is None or (dialer := lane.dialer) is None:
                continue
            is_behind = not read(lane, dialer)
            held = {handle: taken - dialer.num_read}
            if lane.dialer is dialer and self._unread.excess(held, (), is_behind=is_behind):
                self._give_up(lane, TOO_MUCH)

    # -- inside -------------------------------------------------------------------------------

    def _all(self) -> list[Lane]:
        return [lane for lanes in self._lanes.values() for lane in lanes.values()]

    def _redial(self, wanted: Connect) -> Redial:
        return Redial(wanted.addresses, self._random, wanted.eager_from)

    def _dial(self, lane: Lane, now: float) -> None:
        found = parts(lane.redial.address)
        if found is None:
            lane.broken = "the address does not work"
        elif is_numeric(found[0]):
            self._open(lane, found, now)
        else:
            lane.redial.began(now, LOOKUP_S)
            lane.lookup = self._names.look_up(found[0], lambda lookup: self._looked_up(lane, lookup))

    def _looked_up(self, lane: Lane, lookup: Lookup) -> None:
        if lane.lookup is not lookup:  # it was given up, or the lane was
            return
        lane.lookup = None
        found = parts(lane.redial.address)
        if not lookup.found or found is None:
            lane.broken = lookup.error
        else:
            self._open(lane, (self._random.choice(lookup.found), found[1]), self._runner.clock())

    def _look_no_longer(self, lane: Lane, now: float) -> None:
        """The name took too long: go where it led last, if that is known."""
        lookup, lane.lookup = lane.lookup, None
        found = parts(lane.redial.address)
        assert lookup is not None
        if found is not None and (known := self._names.known(lookup.name)):
            self._open(lane, (self._random.choice(known), found[1]), now)
        else:
            lane.broken = f"{lookup.name} did not resolve in {LOOKUP_S:.0f} s"

    def _open(self, lane: Lane, target: tuple[str, int], now: float) -> None:
        lane.redial.began(now)
        lane.target = target
        address = f"tcp://{target[0]}:{target[1]}"
        try:
            dialer = Dialer(self._context, self._keys, lane.peer, address, self._limits)
        except DialFailed as error:
            lane.broken = str(error)
            return
        lane.dialer = dialer
        if lane.lane != CONTROL_LANE:
            self._gate.join(dialer, lambda: _progress(dialer), patient=lane.lane != STREAM_LANE)
        self._poll.watch(dialer.monitor, 2, lambda: self._serve_events(lane, dialer))
        rank = 3 if lane.lane == CONTROL_LANE else 4
        self._poll.watch(dialer.socket, rank, lambda: self._serve_messages(lane, dialer))

    def _serve_events(self, lane: Lane, dialer: Dialer) -> None:
        for failure in dialer.events():
            if failure:
                soon = self._runner.clock() < lane.redial.began_at + REFUSAL_S
                lane.refused = lane.refused or (failure == NOBODY and not lane.redial.up and soon)
                lane.broken = lane.broken or failure
            elif not lane.redial.up and lane.broken is None:
                lane.redial.came_up()
                if not self.is_carried(lane.peer, lane.lane):
                    self._runner.feed(lambda now: self._runner.core.connected(now, lane.peer, lane.lane))

    def _serve_messages(self, lane: Lane, dialer: Dialer) -> bool:
        """Read what came, up to a bound; whether that was all."""
        self._flush_lane(lane)
        for _ in range(FRAMES_PER_ROUND):
            # None also when the core closed the connection in between.
            if (parts := dialer.read()) is None:
                return dialer.reader.is_drained
            try:
                number, header, payload = parse(parts, self._limits)
                if number == DRIVER_LANE and lane.lane == CONTROL_LANE:
                    self.on_word(lane.peer, header)
                    continue
                if number != lane.lane:
                    raise BadMessage("a connection changed its lane")
            except PeerFault as error:
                self._give_up(lane, str(error))
                break
            self._runner.receive(lane.peer, lane.lane, header, payload)
        return False

    def _give_up(self, lane: Lane, reason: str) -> None:
        """The other end broke the rules."""
        self._runner.trace(PeerClosedTrace(short(lane.peer), reason))
        lane.broken = reason
        self._hang_up(lane, 0.0)
        self.on_refused(lane.peer)

    def _redial_later(self, lane: Lane, reason: str, now: float) -> None:
        was_up, address = lane.redial.up, lane.redial.address
        is_gone = lane.refused and lane.redial.refused() and lane.lane == CONTROL_LANE
        self._hang_up(lane, 0.0)
        lane.broken, lane.refused = None, False
        lane.redial.went_down(now)
        kind = LaneLostTrace if was_up else LaneRefusedTrace
        self._runner.trace(kind(short(lane.peer), lane.lane, address, reason))
        if was_up and self.is_carried(lane.peer, lane.lane):
            # What was still under way here is lost: both ends greet anew over what carries the lane.
            self._runner.feed(lambda at: self._runner.core.connected(at, lane.peer, lane.lane))
        elif was_up:
            self._runner.feed(lambda at: self._runner.core.disconnected(at, lane.peer, lane.lane))
        elif is_gone:
            self._runner.feed(lambda at: self._runner.core.refused(at, lane.peer))

    def _hang_up(self, lane: Lane, grace_s: float) -> None:
        lane.outbox.clear()
        lane.is_held = False
        lane.lookup = None
        if lane.dialer is not None:
            self._poll.unwatch(lane.dialer.socket)
            self._poll.unwatch(lane.dialer.monitor)
            lane.dialer.close(grace_s)
            self._gate.leave(lane.dialer)
            lane.dialer = None

    def _flush_lane(self, lane: Lane) -> None:
        if lane.dialer is None:
            return
        lane.is_held = False
        while len(lane.outbox):
            lane.is_held = self._held_s(lane) > 0.0
            if lane.is_held or not lane.dialer.send(message := lane.outbox.peek()):
                break
            lane.outbox.pop()
            self._gate.count(message.size_bytes)
            if lane.lane == STREAM_LANE:
                self._gate.streams()
            self._runner.count_sent(lane.peer, message)
        self._poll.want_room(lane.dialer.socket, len(lane.outbox) > 0 and not lane.is_held)

    def _held_s(self, lane: Lane) -> float:
        """How long what waits on a lane has to wait for what left before."""
        if lane.lane == CONTROL_LANE:
            return 0.0
        if lane.lane == STREAM_LANE:
            return self._gate.wait_s()
        return self._gate.patient_wait_s(lane.outbox.peek().size_bytes)


def _progress(dialer: Dialer) -> Progress | None:
    found = None if dialer.handle is None else arrived_over(dialer.handle)
    return None if found is None else Progress(dialer.num_sent, min(found[0], dialer.num_sent), found[1])
