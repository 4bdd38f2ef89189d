"""What a driver remembers of a peer's sealed lanes: those that stand, those that were asked for, and how they
fared."""

from __future__ import annotations

from dataclasses import dataclass, field

from transport.effects import NEVER, STREAM_LANE
from transport.sealed.growth import BusyRate, LaneGrowth
from transport.sealed.headers import Sessions
from transport.sealed.messages import LaneAsk
from transport.sealed.trouble import BulkChoice, LaneWatch
from transport.sockets.sealed_connection import SealedConnection
from transport.sockets.wire import RateLimiter

_WORDS_PER_MINUTE = 240
_ALIVE_S = 1.0
"""Control gets on if it brought something so long after the lane last did."""


@dataclass(slots=True)
class StandingLane:
    """A sealed connection that is up."""

    connection: SealedConnection
    watch: LaneWatch
    heard_bytes: int = 0
    """Bytes that the other machine had when it was looked at last."""

    def is_stuck(self, now: float, control_heard_at: float) -> bool:
        """Whether nothing got on over it for too long, while control did. What the other machine has is told
        by the kernel."""
        connection, watch = self.connection, self.watch
        # In this order: what is handed over meanwhile counts as under way.
        num_put, num_waiting, moved = connection.num_put, connection.num_waiting, connection.moved_bytes
        unheard = connection.unheard_bytes()
        if unheard is None:
            return False
        watch.sent(now, num_put)
        # What waits here, as at the gate of a limited upload, is not held up by the path.
        if moved - unheard > self.heard_bytes or not unheard:
            self.heard_bytes = moved - unheard
            watch.moved(now)
        if not unheard and not num_waiting:
            watch.taken(now, num_put)
        return watch.is_stuck(now, control_heard_at - _ALIVE_S)


@dataclass(slots=True)
class BulkPeer:
    """One peer."""

    peer: bytes
    growth: LaneGrowth
    """How many lanes it has if we dial it."""
    busy: BusyRate = field(default_factory=BusyRate)
    choice: BulkChoice = field(default_factory=BulkChoice)
    words: RateLimiter = field(default_factory=lambda: RateLimiter(_WORDS_PER_MINUTE))
    """What its driver may say to ours."""
    sessions: Sessions | None = None
    """Ours and its, as of our last greeting; None while it is not known."""
    control_heard_at: float = NEVER
    lanes: dict[int, StandingLane] = field(default_factory=dict)
    asked: dict[int, LaneAsk] = field(default_factory=dict, repr=False)
    ask_from: dict[int, float] = field(default_factory=dict)
    """By lane, when it may be asked for next."""
    ended: set[int] = field(default_factory=set)
    """Lanes of ours whose last sealed connection ended: the peer may not have seen that."""

    def grows(self, now: float) -> bool:
        """Look how fast bulk is; whether it is to have more lanes or fewer from now on, if we dial them."""
        lanes = self.patient
        got_on = sum(lane.heard_bytes for lane in lanes)
        is_busy = all(lane.connection.num_waiting for lane in lanes) and self.is_whole()
        rate_bps = self.busy.looked(now, len(lanes), got_on, is_busy=is_busy)
        return rate_bps is not None and self.growth.measured(now, rate_bps)

    def is_whole(self) -> bool:
        """Whether all lanes are up that it is to have, and we dialled them."""
        lanes = self.patient
        return len(lanes) == self.growth.lanes and all(lane.connection.is_ours for lane in lanes)

    @property
    def patient(self) -> list[StandingLane]:
        """The lanes of bulk that may wait."""
        return [lane for number, lane in self.lanes.items() if number != STREAM_LANE]

    def begin_anew(self) -> None:
        """Forget all but how its lanes fared."""
        self.sessions, self.control_heard_at = None, NEVER
        self.lanes, self.asked, self.ask_from = {}, {}, {}
        self.ended = set()


class BulkPeers:
    """All of them; at most ``most`` are remembered that have no lane."""

    def __init__(self, most: int, most_lanes: int) -> None:
        self._most, self._most_lanes = most, most_lanes
        self._peers: dict[bytes, BulkPeer] = {}

    def find(self, peer: bytes) -> BulkPeer | None:
        """What is known of a peer."""
        return self._peers.get(peer)

    def of(self, peer: bytes) -> BulkPeer:
        """The same; from now on it is known."""
        found = self._peers.get(peer)
        if found is None:
            found = self._peers[peer] = BulkPeer(peer, LaneGrowth(self._most_lanes))
            if len(self._peers) > self._most:
                oldest = next((each for each in self._peers.values() if not each.lanes), found)
                del self._peers[oldest.peer]
        return found

    def with_lanes(self) -> list[BulkPeer]:
        """Those that have any."""
        return [found for found in self._peers.values() if found.lanes]

    def lanes(self) -> list[tuple[BulkPeer, StandingLane]]:
        """Every lane that stands."""
        return [(found, lane) for found in self._peers.values() for lane in found.lanes.values()]
