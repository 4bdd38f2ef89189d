"""A tiny core and helpers for tests over real sockets: what came in is recorded, nothing is decided."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from transport.effects import Close, Connect, Effect, Payload, Phantom, Send, Store, Trace
from transport.keys import KeyPair, random_pair
from transport.limits import LIMITS, Limits
from transport.sockets.driver import SocketDriver

T = TypeVar("T", bound=Trace)


def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first true value of a condition; fails when the deadline passes."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.002)
    raise AssertionError("it did not happen in time")


def never(condition: Callable[[], Any], watch_s: float = 0.2) -> None:
    """Fails when a condition comes true within the time that we watch."""
    until = time.monotonic() + watch_s
    while time.monotonic() < until:
        assert not condition()
        time.sleep(0.005)


class EchoCore:
    """Sends every frame whose header starts with `echo` back, and records its inputs."""

    def __init__(self) -> None:
        self.kinds: dict[bytes, str] = {}
        self.out: list[Effect] = []
        self.up: list[tuple[bytes, int]] = []
        self.down: list[tuple[bytes, int]] = []
        self.ends: list[tuple[bytes, int]] = []
        self.refusals: list[bytes] = []
        self.received: list[tuple[bytes, int, bytes, bytes | None]] = []
        self.knocks: list[tuple[bytes, bytes]] = []
        self.ticks = 0
        self.due: float | None = None
        self.fails_at: bytes | None = None
        """A header in the midst of whose handling it fails."""

    def start(self, now: float) -> None:
        return None

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        self.up.append((peer, lane))

    def disconnected(self, now: float, peer: bytes, lane: int) -> None:
        self.down.append((peer, lane))

    def ended(self, now: float, peer: bytes, lane: int) -> None:
        self.ends.append((peer, lane))

    def refused(self, now: float, peer: bytes) -> None:
        self.refusals.append(peer)

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        assert not isinstance(payload, Phantom)
        self.received.append((peer, lane, header, None if payload is None else bytes(payload)))
        if header == self.fails_at:
            self.out.append(Store(b"half"))
            raise KeyError("gone")
        if header.startswith(b"echo"):
            self.out.append(Send(peer, lane, b"back" + header[4:], payload))

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        self.knocks.append((invite, header))
        if header == self.fails_at:
            raise KeyError("gone")
        return b"welcome " + header, b"settings"

    def admits(self, key: bytes) -> str | None:
        return self.kinds.get(key)

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        self.out.append(Close(peer, reason))

    def tick(self, now: float) -> None:
        self.ticks += 1
        self.due = None

    def deadline(self) -> float | None:
        return self.due

    def drain(self) -> list[Effect]:
        effects, self.out = self.out, []
        return effects

    def digest(self) -> str:
        return ""


class Disk:
    """A journal that is full, until there is room."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.room = False

    def store(self, entry: bytes) -> None:
        if not self.room:
            raise OSError(28, "No space left on device")
        self.entries.append(entry)


class Node:
    """A driver with an `EchoCore`, and what it reported. What it stores goes to ``disk``, if there is one."""

    def __init__(
        self,
        bind: str | None = "tcp://127.0.0.1:0",
        keys: KeyPair | None = None,
        limits: Limits = LIMITS,
        core: EchoCore | None = None,
        disk: Disk | None = None,
        **more: Any,
    ) -> None:
        self.core = core or EchoCore()
        self.keys = keys or random_pair()
        self.events: list[object] = []
        self.traces: list[Trace] = []
        self.stored: list[bytes] = []
        store = disk.store if disk else self.stored.append
        self.driver = SocketDriver(
            self.core, self.keys, bind, self.events.append, self.traces.append, store, limits, **more
        )

    @property
    def key(self) -> bytes:
        return self.keys.public

    @property
    def address(self) -> str:
        assert self.driver.address is not None
        return self.driver.address

    def do(self, *effects: Effect) -> None:
        """Have the core hand back these effects."""
        self.driver.call(lambda core, now: self.core.out.extend(effects)).result(3)

    def admit(self, key: bytes, kind: str = "member") -> None:
        self.core.kinds[key] = kind

    def dial(self, other: Node, *addresses: str, lanes: int = 1) -> None:
        """Connect to another node and wait until every lane is up and the other can answer on it."""
        self.admit(other.key)
        before = len(self.core.up)
        self.do(Connect(other.key, addresses or (other.address,), lanes))
        eventually(lambda: len(self.core.up) >= before + lanes + 1)

    def block(self, for_s: float) -> None:
        """Keep the driver's thread busy, as a slow core would; returns at once."""
        self.driver.call(lambda core, now: time.sleep(for_s))

    def traced(self, kind: type[T]) -> list[T]:
        return [trace for trace in self.traces if isinstance(trace, kind)]

    def close(self, peer: bytes) -> None:
        self.do(Close(peer, "test"))


@contextmanager
def running(*nodes: Node) -> Iterator[None]:
    """Start nodes; stop them at the end; none may have failed by itself or left a thread."""
    threads = threading.active_count()
    started: list[Node] = []
    try:
        for node in nodes:
            node.driver.start()
            started.append(node)
        yield
        for node in nodes:
            assert node.driver.error is None, node.driver.error
    finally:
        for node in started:
            node.driver.stop(0.5)
        # One thread of pyzmq's, which frees sent buffers, may have come and stays. Those with which nodes
        # that run on have served these take a moment to leave.
        eventually(lambda: threading.active_count() <= threads + 1)
