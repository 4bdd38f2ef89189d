"""The connections of a simulated network: dialled, accepted, replaced and broken.

A dial succeeds after a round trip if somebody there listens, is not parted from us and admits the key; a
dial that fails is made again later, as is one whose connection broke. Of two connections of one key and lane
to one acceptor, the one that spoke first most recently replaces the other, as `transport.sockets.accepted`
does it. What travels over connections is `transport.simnet.transit`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from transport.effects import Connect
from transport.simnet.links import NS, Endpoint, Faults, SimConnection
from transport.simnet.routes import Paths
from transport.simnet.timeline import Timeline

_REDIAL_S = 0.3


class Feed(Protocol):
    """Gives a process one input, under the name that the trace shows."""

    def __call__(self, peer: Endpoint, run: Callable[[], None], name: str) -> None: ...


class Connections:
    """Those that stand or come up. ``living`` are the processes of each key, the oldest first."""

    def __init__(
        self,
        timeline: Timeline,
        faults: Faults,
        paths: Paths,
        living: Mapping[bytes, Sequence[Endpoint]],
        feed: Feed,
    ) -> None:
        self.num_breaks = 0
        """Connections that stood and broke."""
        self._timeline = timeline
        self._faults = faults
        self._paths = paths
        self._living = living
        self._feed = feed
        self._all: dict[SimConnection, None] = {}

    def dial(self, peer: Endpoint, wanted: Connect) -> None:
        """Dial every lane, and keep dialling until `hang_up`."""
        peer.dialling[wanted.peer] = wanted
        for lane in range(wanted.lanes + 1):
            self._dial_later(peer, wanted, lane, 0.0)

    def hang_up(self, peer: Endpoint, other: bytes) -> None:
        """A process closes all that joins it to a key, and does not dial it any more."""
        peer.dialling.pop(other, None)
        self._break([c for c in peer.connections if c.joins(peer, other)], by=peer)

    def end(self, peer: Endpoint) -> None:
        """A process is gone, and its connections with it."""
        peer.dialling.clear()
        self._break(list(peer.connections))

    def break_where(self, which: Callable[[SimConnection], bool]) -> None:
        """The network breaks some; their dialers dial again."""
        self._break([c for c in self._all if which(c)])

    def heard(self, connection: SimConnection) -> None:
        """Something came over it, so the acceptor answers there: an older connection of that key is shut."""
        acceptor, dialer = connection.acceptor, connection.dialer
        before = acceptor.accepted.get((dialer.key, connection.lane))
        connection.heard = True
        if before is not None and before in self._all:
            self._break([before], by=acceptor)
        acceptor.accepted[dialer.key, connection.lane] = connection

    # -- inside -------------------------------------------------------------------------------

    def _dial_later(self, peer: Endpoint, wanted: Connect, lane: int, delay_s: float) -> None:
        def dial() -> None:
            if peer.alive and peer.dialling.get(wanted.peer) is wanted:
                self._dial(peer, wanted, lane)

        self._timeline.push(self._timeline.now_ns + round(delay_s * NS), dial)

    def _listener(self, wanted: Connect) -> Endpoint | None:
        """The process that answers a dial: of several with one key, the one at an address that is tried."""
        for peer in reversed(self._living.get(wanted.peer, ())):
            if not peer.address or peer.address in wanted.addresses:
                return peer
        return None

    def _dial(self, peer: Endpoint, wanted: Connect, lane: int) -> None:
        there = self._listener(wanted)
        able = there is not None and not there.frozen and not self._faults.is_cut(peer, there)
        if peer.frozen or not able or there is None or there.core.admits(peer.key) != "member":
            self._dial_later(peer, wanted, lane, _REDIAL_S)
            return
        connection = SimConnection(peer, there, lane, self._paths.is_plain(peer, there))
        for held in (self._all, peer.connections, there.connections):
            held[connection] = None
        peer.dialled[wanted.peer, lane] = connection

        def established() -> None:
            if connection in self._all:
                connection.up = True
                # A frozen peer is told later: the time is that of the telling.
                self._feed(
                    peer,
                    lambda: peer.core.connected(self._timeline.now_ns / NS, wanted.peer, lane),
                    f"up {lane}",
                )

        self._timeline.push(self._timeline.now_ns + 2 * self._paths.latency_ns(peer, there), established)

    def _break(self, which: list[SimConnection], by: Endpoint | None = None) -> None:
        for connection in which:
            dialer, acceptor, lane = connection.dialer, connection.acceptor, connection.lane
            for held in (self._all, dialer.connections, acceptor.connections):
                held.pop(connection, None)
            self.num_breaks += connection.up
            connection.up, connection.closed_by = False, by
            for table, key in ((dialer.dialled, acceptor.key), (acceptor.accepted, dialer.key)):
                if table.get((key, lane)) is connection:
                    del table[key, lane]
            wanted = dialer.dialling.get(acceptor.key)
            if wanted is not None and dialer is not by:
                self._down_later(dialer, acceptor.key, lane)
                self._dial_later(dialer, wanted, lane, _REDIAL_S)

    def _down_later(self, peer: Endpoint, to: bytes, lane: int) -> None:
        def broken() -> None:
            self._feed(
                peer, lambda: peer.core.disconnected(self._timeline.now_ns / NS, to, lane), f"down {lane}"
            )

        self._timeline.push(self._timeline.now_ns + 1000, broken)
