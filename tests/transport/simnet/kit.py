"""Peers that talk over a simulated network, for the tests of this folder."""

from __future__ import annotations

from transport.effects import Close, Connect, Core, Effect, Payload, Send, Store
from transport.simnet.network import Access, SimNetwork

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
FRAME = 64
"""What the network adds to a frame."""


class Talker:
    """A core that does what it is told and remembers what it was given."""

    def __init__(self, dials: tuple[bytes, ...] = (), lanes: int = 1, wakes: float | None = None) -> None:
        self.dials, self.lanes, self.wakes = dials, lanes, wakes
        self.out: list[Effect] = []
        self.got: list[tuple[float, bytes, int, bytes, Payload | None]] = []
        self.ups: list[tuple[float, bytes, int]] = []
        self.downs: list[tuple[float, bytes, int]] = []
        self.ends: list[tuple[float, bytes, int]] = []
        self.refusals: list[tuple[float, bytes]] = []
        self.ticks: list[float] = []
        self.knocks: list[bytes] = []
        self.friends: set[bytes] = {A, B, C}

    def start(self, now: float) -> None:
        self.out += [Connect(peer, (), self.lanes) for peer in self.dials]

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        self.ups.append((now, peer, lane))

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        self.downs.append((now, peer, lane))

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        self.ends.append((now, peer, lane))

    def refused(self, now: float, peer: bytes) -> None:
        self.refusals.append((now, peer))

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        self.got.append((now, peer, lane, header, payload))
        if header == b"poison":
            raise KeyError("gone")
        if header == b"broken":
            raise AssertionError("two heads")
        if header == b"ping":
            self.out.append(Send(peer, lane, b"pong"))

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        self.knocks.append(header)
        self.out.append(Store(b"knocked"))
        return (b"welcome", header)

    def admits(self, key: bytes) -> str | None:
        return "invite" if key == b"invite" else "member" if key in self.friends else None

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        self.out.append(Close(peer, reason))

    def tick(self, now: float) -> None:
        self.ticks.append(now)

    def deadline(self) -> float | None:
        if self.wakes is None:
            return None
        return (self.ticks[-1] if self.ticks else 0.0) + self.wakes

    def drain(self) -> list[Effect]:
        out, self.out = self.out, []
        return out

    def digest(self) -> str:
        return ""

    def headers(self) -> list[bytes]:
        return [header for _, _, _, header, _ in self.got]


def access(**changes: float) -> Access:
    return Access(**{"up": 1e6, "down": 1e6, "latency_s": 0.05, "jitter": 0.0, **changes})


class Net(SimNetwork):
    """A network of talkers."""

    def join(self, key: bytes, talker: Talker, **changes: float) -> Talker:
        self.events: list[tuple[float, bytes, object]] = getattr(self, "events", [])
        self.add(key, talker, access(**changes), lambda now, event: self.events.append((now, key, event)))
        return talker

    def tell(self, key: bytes, *effects: Effect) -> None:
        def say(core: Core, now: float) -> None:
            assert isinstance(core, Talker)
            core.out += effects

        self.command(key, say)


def pair(seed: object = 1, **changes: float) -> tuple[Net, Talker, Talker]:
    net = Net(seed)
    b = net.join(B, Talker(), **changes)
    a = net.join(A, Talker((B,)), **changes)
    net.run(1.0)
    return net, a, b
