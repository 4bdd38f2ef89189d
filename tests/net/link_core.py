"""A core with real links and nothing above them: bulk that is put in comes out at the other end, once."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

from tests.net.swarm_kit import Node
from transport.collectives.chunks import PartChunk
from transport.effects import Effect, Payload, Phantom
from transport.errors import BadFrame
from transport.frames import unpack_items
from transport.keys import KeyPair
from transport.limits import LIMITS, Limits
from transport.link.link import Link
from transport.link.messages import Arrival, Session
from transport.sockets.driver import SocketDriver
from transport.sockets.sealed_lanes import Bulk

OF_THE_RUN = Bulk(b"run")


class LinkCore:
    """Everybody is a member. ``arrived`` has the numbers of what came, and the digests; ``streamed`` those of
    what came in the streams of its links."""

    def __init__(self, incarnation: int, limits: Limits = LIMITS, *, streams: bool = False) -> None:
        self.links: dict[bytes, Link] = {}
        self.arrived: list[tuple[int, bytes]] = []
        self.streamed: list[tuple[int, bytes]] = []
        self._streams = streams
        self.ups: list[int] = []
        """Lanes of which a connection came up."""
        self.also: list[Effect] = []
        """What else it says next, which no core of ours would."""
        self._incarnation, self._limits = incarnation, limits
        self._out: list[Effect] = []
        self._to_send: deque[tuple[bytes, int, bytes]] = deque()
        self._to_stream: deque[tuple[bytes, int, bytes]] = deque()
        self._num_put = 0

    def dial(self, now: float, peer: bytes, address: str) -> None:
        link = self.links.get(peer) or self._open(peer, (address,))
        link.dials, link.addresses = True, (address,)
        link.start(now)

    def put(self, now: float, peer: bytes, payloads: list[bytes]) -> None:
        for payload in payloads:
            self._to_send.append((peer, self._num_put, payload))
            self._num_put += 1
        self._pump(now)

    def stream(self, now: float, peer: bytes, payloads: list[bytes]) -> None:
        for number, payload in enumerate(payloads):
            self._to_stream.append((peer, number, payload))
        self._pump(now)

    # -- what a driver calls ------------------------------------------------------------------

    def start(self, now: float) -> None:
        return None

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        self.ups.append(lane)
        self.links[peer].connected(now, lane)

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        self.links[peer].disconnected(now, lane)

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        self.links[peer].ended(now, lane)

    def refused(self, now: float, peer: bytes) -> None:
        return None

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        link = self.links.get(peer) or self._open(peer, ())
        for result in link.receive(now, lane, unpack_items(header), payload):
            if isinstance(result, Arrival) and result.payload is not None:
                assert not isinstance(result.payload, Phantom)
                came = self.streamed if result.is_stream else self.arrived
                came.append((result.message.chunk, hashlib.sha256(result.payload).digest()))
                (link.streams.stream_consumed if result.is_stream else link.streams.consumed)(
                    now, result.cost
                )
        self._pump(now)

    def knock(self, now: float, invite: bytes, header: bytes) -> None:
        return None

    def admits(self, key: bytes) -> str | None:
        return "member"

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        raise BadFrame(reason)

    def tick(self, now: float) -> None:
        for link in self.links.values():
            link.tick(now)
        self._pump(now)

    def deadline(self) -> float | None:
        return min(
            (due for link in self.links.values() if (due := link.deadline()) is not None), default=None
        )

    def drain(self) -> list[Effect]:
        effects, self._out[:] = self._out[:], []
        said, self.also = self.also, []
        return effects + said

    def digest(self) -> str:
        return ""

    def _open(self, peer: bytes, addresses: tuple[str, ...]) -> Link:
        session = Session(self._incarnation, 1)
        link = self.links[peer] = Link(
            peer,
            session,
            dials=bool(addresses),
            addresses=addresses,
            heartbeat_s=0.5,
            silence_s=10.0,
            limits=self._limits,
            out=self._out,
            with_stream=self._streams,
        )
        return link

    def _pump(self, now: float) -> None:
        while self._to_stream:
            peer, number, payload = self._to_stream[0]
            if peer not in self.links or self.links[peer].streams.stream_room() < len(payload):
                break
            self._to_stream.popleft()
            self.links[peer].streams.send_stream(now, PartChunk(2, 0, number), payload)
        while self._to_send:
            peer, number, payload = self._to_send[0]
            if peer not in self.links or self.links[peer].streams.room() < len(payload):
                return
            self._to_send.popleft()
            self.links[peer].streams.send_bulk(now, PartChunk(1, 0, number), payload, "exchange")


class LinkNode(Node):
    """A driver with a `LinkCore`; without ``bulk`` all goes over CURVE."""

    def __init__(
        self,
        incarnation: int,
        bind: str | None = "tcp://127.0.0.1:0",
        bulk: Bulk | None = OF_THE_RUN,
        keys: KeyPair | None = None,
        limits: Limits = LIMITS,
        *,
        streams: bool = False,
    ) -> None:
        super().__init__(bind, keys, limits)
        self.linked = LinkCore(incarnation, limits, streams=streams)
        self.driver = SocketDriver(
            self.linked,
            self.keys,
            bind,
            self.events.append,
            self.traces.append,
            self.stored.append,
            limits,
            bulk=bulk,
        )

    def run(self, what: Any) -> Any:
        """Call ``what(core, now)`` on the driver's thread."""
        return self.driver.call(lambda core, now: what(self.linked, now)).result(20)

    def dials(self, other: Node, address: str | None = None) -> None:
        self.run(lambda core, now: core.dial(now, other.key, address or other.address))

    def says(self, *effects: Effect) -> None:
        """Have the core say what no core of ours would."""
        self.run(lambda core, now: core.also.extend(effects))

    def streams(self, other: Node, payloads: list[bytes]) -> None:
        self.run(lambda core, now: core.stream(now, other.key, payloads))

    def puts(self, other: Node, payloads: list[bytes]) -> None:
        self.run(lambda core, now: core.put(now, other.key, payloads))
