"""The connections of a simulated network: dialled, accepted, replaced and broken.

A dial succeeds after a round trip if somebody listens at its address, is not parted from us and admits the
key. When a lane is dialled again and where is decided by `transport.redial`, as on sockets. Of two
connections of one key and lane to one acceptor, the one that spoke first most recently replaces the other, as
`transport.sockets.accepted` does it. What travels over connections is `transport.simnet.transit`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol

from transport.effects import CONTROL_LANE, Connect, Probe
from transport.redial import SILENCE_S, Redial
from transport.simnet.links import NS, Endpoint, Faults, SimConnection
from transport.simnet.routes import Paths
from transport.simnet.timeline import Timeline


class Feed(Protocol):
    """Gives a process one input, under the name that the trace shows."""

    def __call__(self, peer: Endpoint, run: Callable[[], None], name: str) -> None: ...


class Connections:
    """All connections that stand or come up. ``living`` are the processes of each key, the oldest first."""

    def __init__(
        self,
        timeline: Timeline,
        faults: Faults,
        paths: Paths,
        living: Mapping[bytes, Sequence[Endpoint]],
        feed: Feed,
        stream: Callable[[str], Random],
    ) -> None:
        """``stream`` gives the random stream of a name: each key dials by its own, as each process has its
        own generator, so that a stranger who dials in vain changes nothing for others."""
        self.num_breaks = 0
        """Connections that stood and broke."""
        self._timeline = timeline
        self._faults = faults
        self._paths = paths
        self._living = living
        self._feed = feed
        self._stream = stream
        self._randoms: dict[bytes, Random] = {}
        self._all: dict[SimConnection, None] = {}

    def dial(self, peer: Endpoint, wanted: Connect) -> None:
        """Dial every lane, and keep dialling until `hang_up`; what was dialled before is closed."""
        peer.dialling.pop(wanted.peer, None)
        opened = [c for c in peer.connections if c.dialer is peer and c.acceptor.key == wanted.peer]
        self._break(opened, by=peer)
        random = self._randoms.get(peer.key)
        if random is None:
            random = self._randoms[peer.key] = self._stream(f"redial {peer.key.hex()}")
        lanes = {lane: Redial(wanted.addresses, random, wanted.eager_from) for lane in wanted.numbers}
        peer.dialling[wanted.peer] = lanes
        for lane, redial in lanes.items():
            redial.due = self._timeline.now_ns / NS
            self._dial_at(redial.due, peer, wanted.peer, lane, redial)

    def probe(self, peer: Endpoint, wanted: Probe) -> None:
        """A process asks a machine whether anybody listens there; only a refusal comes back."""
        there = self._listener(wanted.peer, wanted.address)
        cut = self._faults.is_cut(peer, wanted.peer)
        if there is None and not cut:
            self._refused_later(peer, wanted.peer)

    def hang_up(self, peer: Endpoint, other: bytes) -> None:
        """A process closes all that joins it to a key, and does not dial it any more."""
        peer.dialling.pop(other, None)
        self._break([c for c in peer.connections if c.joins(peer, other)], by=peer)

    def end(self, peer: Endpoint) -> None:
        """A process is gone, and its connections with it."""
        peer.dialling.clear()
        self._break(list(peer.connections))

    def refuse(self, acceptor: Endpoint, offender: bytes) -> None:
        """Break the connections of a key that broke the rules of messages, and refuse it for a while."""
        acceptor.bars.bar(self._timeline.now_ns / NS, offender)
        opened = [c for c in acceptor.connections if c.dialer.key == offender]
        self._break(opened, by=acceptor)

    def break_where(self, which: Callable[[SimConnection], bool]) -> None:
        """Break the connections for which ``which`` is true; their dialers dial again."""
        self._break([c for c in self._all if which(c)])

    def heard(self, connection: SimConnection) -> None:
        """A first frame came over a connection: the acceptor answers on it and closes the older one."""
        acceptor, dialer = connection.acceptor, connection.dialer
        before = acceptor.accepted.get((dialer.key, connection.lane))
        connection.heard = True
        if before is not None and before in self._all:
            self._break([before], by=acceptor)
        acceptor.accepted[dialer.key, connection.lane] = connection

    # -- inside -------------------------------------------------------------------------------

    def _dial_at(
        self, at_s: float, peer: Endpoint, to: bytes, lane: int, redial: Redial, *, waited: bool = False
    ) -> None:
        """Dial then, if it is still wanted. An attempt that has ``waited`` is at its end."""

        def dial() -> None:
            if not peer.alive or peer.dialling.get(to, {}).get(lane) is not redial:
                return
            if peer.stands_still:
                peer.backlog.append(dial)
            else:
                self._dial(peer, to, lane, redial, waited)

        self._timeline.push(round(at_s * NS), dial)

    def _listener(self, to: bytes, address: str) -> Endpoint | None:
        """The process that answers a dial: of several with one key, the one at the address."""
        for peer in reversed(self._living.get(to, ())):
            if not peer.address or peer.address == address:
                return peer
        return None

    def _is_silent(self, there: Endpoint, peer: Endpoint) -> bool:
        """Whether a process says neither yes nor no to another one now."""
        return there.stands_still or self._faults.is_cut(peer, there)

    def _answers(self, there: Endpoint, peer: Endpoint) -> bool:
        """Whether a process lets another one connect to it now."""
        if self._is_silent(there, peer):
            return False
        barred = there.bars.is_barred(self._timeline.now_ns / NS, peer.key)
        return not barred and there.guarded.admits(peer.key) == "member"

    def _dial(self, peer: Endpoint, to: bytes, lane: int, redial: Redial, waited: bool) -> None:
        there, now = self._listener(to, redial.address), self._timeline.now_ns / NS
        if there is not None and not waited and self._is_silent(there, peer):
            # As over TCP: it waits for an answer, and gets one if the other end can give it by then.
            redial.began(now)
            self._dial_at(now + SILENCE_S, peer, to, lane, redial, waited=True)
            return
        if there is None or not self._answers(there, peer):
            refuses = there is None and not self._faults.is_cut(peer, to) and redial.refused()
            if refuses and lane == CONTROL_LANE:
                self._refused_later(peer, to)
            redial.went_down(now)
            self._dial_at(redial.due, peer, to, lane, redial)
            return
        connection = SimConnection(peer, there, lane, self._paths.is_plain(peer, there))
        for held in (self._all, peer.connections, there.connections):
            held[connection] = None
        peer.dialled[to, lane] = connection

        def established() -> None:
            if connection in self._all:
                connection.up = True
                redial.came_up()
                # A frozen peer is told later: the time is that of the telling.
                self._feed(
                    peer,
                    lambda: peer.guarded.connected(self._timeline.now_ns / NS, to, lane),
                    f"up {lane}",
                )

        self._timeline.push(self._timeline.now_ns + 2 * self._paths.latency_ns(peer, there), established)

    def _break(self, which: list[SimConnection], by: Endpoint | None = None) -> None:
        for connection in which:
            dialer, acceptor, lane = connection.dialer, connection.acceptor, connection.lane
            for held in (self._all, dialer.connections, acceptor.connections):
                held.pop(connection, None)
            for end in (dialer, acceptor):
                end.uplink.forget((connection, end))
            was_up, connection.up, connection.closed_by = connection.up, False, by
            self.num_breaks += was_up
            if was_up and acceptor is not by and acceptor.accepted.get((dialer.key, lane)) is connection:
                self._ended_later(acceptor, dialer.key, lane)
            for table, key in ((dialer.dialled, acceptor.key), (acceptor.accepted, dialer.key)):
                if table.get((key, lane)) is connection:
                    del table[key, lane]
            lanes = dialer.dialling.get(acceptor.key)
            if lanes is None or dialer is by:
                continue
            if was_up:
                self._down_later(dialer, acceptor.key, lane)
            lanes[lane].went_down(self._timeline.now_ns / NS)
            self._dial_at(lanes[lane].due, dialer, acceptor.key, lane, lanes[lane])

    def _ended_later(self, peer: Endpoint, by: bytes, lane: int) -> None:
        def ended() -> None:
            self._feed(
                peer, lambda: peer.guarded.ended(self._timeline.now_ns / NS, by, lane), f"ended {lane}"
            )

        self._timeline.push(self._timeline.now_ns + 1000, ended)

    def _refused_later(self, peer: Endpoint, by: bytes) -> None:
        def refused() -> None:
            self._feed(peer, lambda: peer.guarded.refused(self._timeline.now_ns / NS, by), "refused")

        self._timeline.push(self._timeline.now_ns + 2 * round(peer.access.latency_s * NS), refused)

    def _down_later(self, peer: Endpoint, to: bytes, lane: int) -> None:
        def broken() -> None:
            self._feed(
                peer, lambda: peer.guarded.disconnected(self._timeline.now_ns / NS, to, lane), f"down {lane}"
            )

        self._timeline.push(self._timeline.now_ns + 1000, broken)
