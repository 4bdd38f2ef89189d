"""A slow internet link in user space: a TCP proxy with a rate, a round-trip time and a bounded queue.

Each direction of a link is one first-in first-out bottleneck that all its connections share: a piece
starts when the one before has left, takes bytes/rate to leave, and arrives half a round trip later.
When the bytes that wait to leave fill the queue, nothing more is read and the sender is slowed by TCP.
A link can be reset, paused and cut. It models no loss and no jitter; memory is bounded by
connections x (queue + bytes in flight). A new connection pays one round trip for its handshake.

    python scripts/emulate_link.py --rate 100Mbps --rtt 50ms --map 127.0.0.1:7001=127.0.0.1:7000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from link_options import Address, LinkSpec, add_link_arguments, address, pair, spec_from

READ_BYTES = 16 * 1024
"""Small pieces, so that connections share the bottleneck fairly."""
KERNEL_BUFFER_BYTES = 64 * 1024
"""Small, so that the kernel's buffers do not hide the queue."""
LOOPBACK, ELSEWHERE = "127.0.0.1", "127.0.0.2"
MAX_CONNECTIONS = 256


class Direction:
    """The bottleneck of one direction: decides when bytes arrive. Times are those of the link's clock."""

    def __init__(self, spec: LinkSpec) -> None:
        self._spec = spec
        self._free_at = 0.0
        self.num_bytes = 0

    def use(self, spec: LinkSpec) -> None:
        """From here on pieces leave at another rate; those that were admitted arrive as was said."""
        self._spec = spec

    def wait_s(self, now: float) -> float:
        """Seconds until the queue has room again; 0 when it has."""
        return max(0.0, self._free_at - now - self._spec.queue_bytes * 8 / self._spec.rate_bps)

    def admit(self, now: float, num_bytes: int) -> float:
        """Queue a piece; returns when it arrives at the far end."""
        self._free_at = max(now, self._free_at) + num_bytes * 8 / self._spec.rate_bps
        self.num_bytes += num_bytes
        return self._free_at + self._spec.rtt_s / 2


@dataclass(eq=False, slots=True)
class _Connection:
    near: socket.socket
    far: socket.socket
    task: asyncio.Task[None] | None = None

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.near, self.far


@dataclass(slots=True)
class _Pipe:
    """Pieces of one connection and direction on their way; an empty piece is the end of the stream."""

    pieces: deque[tuple[float, bytes]] = field(default_factory=deque)
    held_bytes: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Link:
    """One emulated link with any number of mapped ports; all methods belong to one event loop."""

    def __init__(self, spec: LinkSpec) -> None:
        self.spec = spec
        self._max_held_bytes = spec.queue_bytes + int(spec.rate_bps / 8 * spec.rtt_s / 2) + 2 * READ_BYTES
        self.there = Direction(spec)
        """From those who dial a map to its target (reversed for `back` maps)."""
        self.back = Direction(spec)
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: set[_Connection] = set()
        self._running = asyncio.Event()
        self._running.set()
        self._is_cut = False
        self._paused_at: float | None = None
        self._paused_s = 0.0

    async def map(self, listen: Address, target: Address, back: bool = False) -> Address:
        """Carry connections made to ``listen`` on to ``target``; returns the bound address. ``back`` says
        that the dialler sits at the far end of the link."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
        listener.setblocking(False)
        listener.bind(listen)
        listener.listen(64)
        self._listeners.append(listener)
        self._accepting.append(asyncio.create_task(self._accept(listener, target, back)))
        bound: Address = listener.getsockname()[:2]
        return bound

    def reset(self) -> None:
        """Break every connection with a TCP reset; new ones may come at once."""
        for connection in tuple(self._connections):
            _abort(connection)

    def pause(self) -> None:
        """Stop time on the link: nothing moves and nobody is told."""
        if self._paused_at is None:
            self._paused_at = time.monotonic()
            self._running.clear()

    def resume(self) -> None:
        """Go on after `pause`; what was on its way arrives as much later as the pause was long."""
        if self._paused_at is not None:
            self._paused_s += time.monotonic() - self._paused_at
            self._paused_at = None
            self._running.set()

    def cut(self) -> None:
        """Break every connection and each new one too, until `restore`."""
        self._is_cut = True
        self.reset()

    def restore(self) -> None:
        """End a `cut`."""
        self._is_cut = False

    def set_rate(self, rate_bps: float) -> None:
        """Carry what comes from here on at another rate, in each direction."""
        self.spec = replace(self.spec, rate_bps=rate_bps)
        for direction in (self.there, self.back):
            direction.use(self.spec)

    async def close(self) -> None:
        """Break every connection and stop listening."""
        self.reset()
        tasks = self._accepting + [c.task for c in self._connections if c.task is not None]
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    @property
    def num_connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def _now(self) -> float:
        now = time.monotonic() if self._paused_at is None else self._paused_at
        return now - self._paused_s

    async def _sleep_until(self, due: float) -> None:
        await self._running.wait()
        while (left := due - self._now()) > 0:
            await asyncio.sleep(left)
            await self._running.wait()

    async def _accept(self, listener: socket.socket, target: Address, back: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(listener)
            connection = _Connection(near, socket.socket())
            for sock in connection.sockets:
                _prepare(sock)
            if self._is_cut or len(self._connections) >= MAX_CONNECTIONS:
                _abort(connection)
                self._forget(connection)
                continue
            self._connections.add(connection)
            connection.task = asyncio.create_task(self._carry(connection, target, back))
            # Not in the task's own `finally`: a task cancelled before its first step never gets there.
            connection.task.add_done_callback(partial(self._forget, connection))

    async def _carry(self, connection: _Connection, target: Address, back: bool) -> None:
        near, far = connection.near, connection.far
        there, here = (self.back, self.there) if back else (self.there, self.back)
        try:
            await self._sleep_until(self._now() + self.spec.rtt_s)
            await asyncio.get_running_loop().sock_connect(far, target)
            async with asyncio.TaskGroup() as group:
                for direction, source, sink in ((there, near, far), (here, far, near)):
                    pipe = _Pipe()
                    group.create_task(self._read(direction, pipe, source))
                    group.create_task(self._write(pipe, sink))
        except (OSError, ExceptionGroup) as error:
            if not _is_network(error):
                raise
            _abort(connection)

    def _forget(self, connection: _Connection, _: asyncio.Task[None] | None = None) -> None:
        self._connections.discard(connection)
        for sock in connection.sockets:
            sock.close()

    async def _read(self, direction: Direction, pipe: _Pipe, source: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            await self._running.wait()
            while (wait := direction.wait_s(self._now())) > 0:
                await self._sleep_until(self._now() + wait)
            while pipe.held_bytes >= self._max_held_bytes:
                pipe.changed.clear()
                await pipe.changed.wait()
            data = await loop.sock_recv(source, READ_BYTES)
            pipe.pieces.append((direction.admit(self._now(), len(data)), data))
            pipe.held_bytes += len(data)
            pipe.changed.set()

    async def _write(self, pipe: _Pipe, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not pipe.pieces:
                pipe.changed.clear()
                await pipe.changed.wait()
            due, data = pipe.pieces.popleft()
            await self._sleep_until(due)
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, data)
            pipe.held_bytes -= len(data)
            pipe.changed.set()


@contextlib.contextmanager
def running_link(spec: LinkSpec) -> Iterator[BackgroundLink]:
    """A link in a thread of its own, for callers that have no event loop."""
    ready = threading.Event()
    links: list[BackgroundLink] = []

    async def serve() -> None:
        stop = asyncio.Event()
        links.append(BackgroundLink(Link(spec), asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        await links[0].link.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="emulated-link")
    thread.start()
    ready.wait()
    try:
        yield links[0]
    finally:
        links[0].do(lambda _: links[0].stop.set())
        thread.join()


@dataclass(frozen=True, slots=True)
class BackgroundLink:
    """Reaches a `Link` from other threads."""

    link: Link
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    def map(self, listen: Address, target: Address, back: bool = False) -> Address:
        """As `Link.map`."""
        return asyncio.run_coroutine_threadsafe(self.link.map(listen, target, back), self.loop).result()

    def map_with_bulk(self, port: int, bulk_port: int, back: bool = False) -> Address:
        """Reach a process of ours that listens on loopback at these ports; returns where. Bulk is dialled at
        the machine where control was reached, so that is another address of this machine."""
        self.map((ELSEWHERE, bulk_port), (LOOPBACK, bulk_port), back)
        return self.map((ELSEWHERE, 0), (LOOPBACK, port), back)

    def do(self, action: Callable[[Link], None]) -> None:
        """Run for example ``Link.reset`` on the link's thread; returns when it is done."""

        async def run() -> None:
            action(self.link)

        asyncio.run_coroutine_threadsafe(run(), self.loop).result()


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)


def _abort(connection: _Connection) -> None:
    # Lingering for zero seconds makes close() send a reset; shutdown() alone would look like a clean end.
    for sock in connection.sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if connection.task is not None:
        connection.task.cancel()


def _is_network(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_network(each) for each in error.exceptions)
    return isinstance(error, OSError)


async def _serve(spec: LinkSpec, maps: list[tuple[Address, Address, bool]]) -> None:
    link = Link(spec)
    try:
        for listen, target, back in maps:
            host, port = await link.map(listen, target, back)
            print(f"{host}:{port} -> {target[0]}:{target[1]}{' (back)' if back else ''}", flush=True)
        await asyncio.Event().wait()
    finally:
        await link.close()


def main() -> None:
    """Run one link until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--listen", type=address, help="HOST:PORT to accept on (port 0: any)")
    parser.add_argument("--target", type=address, help="HOST:PORT to carry on to")
    parser.add_argument(
        "--map", type=pair, action="append", default=[], help="LISTEN=TARGET, may be repeated"
    )
    parser.add_argument(
        "--map-back", type=pair, action="append", default=[], help="as --map, dialled from the link's far end"
    )
    add_link_arguments(parser)
    arguments = parser.parse_args()
    if (arguments.listen is None) != (arguments.target is None):
        parser.error("--listen and --target go together")
    maps = [(*each, False) for each in arguments.map] + [(*each, True) for each in arguments.map_back]
    if arguments.listen is not None:
        maps.append((arguments.listen, arguments.target, False))
    if not maps:
        parser.error("nothing to carry: give --listen and --target, or --map")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(spec_from(arguments), maps))


if __name__ == "__main__":
    main()
