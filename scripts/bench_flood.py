"""What connections without a key cost an admitted link: round trips per second before, during and after.

A host and a member (two processes) send one frame to and fro as fast as it goes. A third process opens TCP
connections, --rate a second from one address, and leaves each after it sent --bytes bytes of nothing valid.
It takes processor time itself, so it first floods a decoy, a process that only accepts and closes: *ratio* is
round trips while the host is flooded over those while the decoy is, each the median of --repeats turns in one
run. Also printed: connections per second that were begun, and the processor time that the host's
process spent for each second, idle members' link included.

    python scripts/bench_flood.py
    python scripts/bench_flood.py --rate 4000 --seconds 3 --repeats 5
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from transport.effects import Close, Connect, Effect, Payload, Send
from transport.keys import KeyPair, random_pair
from transport.sockets.driver import SocketDriver

_HELD = 64
"""Connections that the flooder keeps open at a time."""


class Echo:
    """Sends each frame back that it gets, and counts them; admits one key."""

    def __init__(self, admitted: bytes, first_to: bytes | None = None) -> None:
        self.count = 0
        self._admitted, self._first_to = admitted, first_to
        self._out: list[Effect] = []

    def dial(self, peer: bytes, address: str) -> None:
        self._out.append(Connect(peer, (address,), 0))

    def start(self, now: float) -> None: ...

    def connected(self, now: float, peer: bytes, lane: int) -> None:
        if peer == self._first_to:
            self._out.append(Send(peer, 0, b"to and fro"))

    def disconnected(self, now: float, peer: bytes, lane: int) -> None: ...

    def ended(self, now: float, peer: bytes, lane: int) -> None: ...

    def refused(self, now: float, peer: bytes) -> None: ...

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        self.count += 1
        self._out.append(Send(peer, lane, header))

    def knock(self, now: float, invite: bytes, header: bytes) -> tuple[bytes, bytes] | None:
        return None

    def admits(self, key: bytes) -> str | None:
        return "member" if key == self._admitted else None

    def expel(self, now: float, peer: bytes, reason: str) -> None:
        self._out.append(Close(peer, reason))

    def tick(self, now: float) -> None: ...

    def deadline(self) -> float | None:
        return None

    def drain(self) -> list[Effect]:
        out, self._out = self._out, []
        return out

    def digest(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of some seconds came to, per second."""

    round_trips: float
    connections: float
    host_cpu: float
    driver_cpu: float
    """The part of that on the driver's thread; the rest is libzmq's."""


def driver(core: Echo, keys: KeyPair, bind: str | None) -> SocketDriver:
    found = SocketDriver(core, keys, bind, lambda event: None, lambda trace: None, lambda entry: None)
    found.start()
    return found


def host(pipe: Connection, keys: KeyPair, member: bytes) -> None:
    """Says its address, and then its processor time whenever it is asked."""
    running = driver(Echo(member), keys, "tcp://127.0.0.1:0")
    pipe.send(running.address)
    while pipe.recv():
        pipe.send((time.process_time(), running.call(lambda core, now: time.thread_time()).result(30)))
    running.stop(0.0)


def decoy(pipe: Connection) -> None:
    """Accepts and closes, which is the least that can be done."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        pipe.send(sock.getsockname()[1])
        while True:
            sock.accept()[0].close()


def flooder(pipe: Connection, num_bytes: int, source: str) -> None:
    """Floods a port at a rate for some seconds, as told; says how many connections were begun."""
    while True:
        port, rate, seconds = pipe.recv()
        began, made, held = time.monotonic(), 0, list[socket.socket]()
        while (now := time.monotonic() - began) < seconds:
            if made >= now * rate:
                time.sleep(0.0005)
                continue
            sock = socket.socket()
            sock.setblocking(False)  # whoever floods waits for no answer
            sock.bind((source, 0))
            with suppress(BlockingIOError):
                sock.connect(("127.0.0.1", port))
            with suppress(OSError):
                sock.send(b"\xff" * num_bytes)
            held.append(sock)
            made += 1
            if len(held) > _HELD:
                held.pop(0).close()
        for sock in held:
            sock.close()
        pipe.send(made)


def measured(args: argparse.Namespace) -> dict[str, list[Turn]]:
    """Turns of each kind."""
    fork = multiprocessing.get_context("spawn")
    keys, member = random_pair(), random_pair()
    started = []

    def begun(run: Callable[..., None], *given: Any) -> Connection:
        ours, theirs = fork.Pipe()
        process = fork.Process(target=run, args=(theirs, *given), daemon=True)
        process.start()
        started.append(process)
        return ours

    at_host = begun(host, keys, member.public)
    address = at_host.recv()
    at_decoy = begun(decoy)
    ports = {"host": int(address.rpartition(":")[2]), "decoy": at_decoy.recv()}
    at_flooder = begun(flooder, args.bytes, args.source)
    core = Echo(keys.public, keys.public)
    running = driver(core, member, None)
    running.call(lambda _, now: core.dial(keys.public, address)).result(5)

    def turn(target: str | None) -> Turn:
        at_host.send(True)
        count, (cpu, of_driver), began = core.count, at_host.recv(), time.monotonic()
        made = 0
        if target is None:
            time.sleep(args.seconds)
        else:
            at_flooder.send((ports[target], args.rate, args.seconds))
            made = at_flooder.recv()
        took = time.monotonic() - began
        at_host.send(True)
        cpu_now, of_driver_now = at_host.recv()
        times = (cpu_now - cpu) / took, (of_driver_now - of_driver) / took
        return Turn((core.count - count) / took, made / took, *times)

    time.sleep(1.0)
    turns: dict[str, list[Turn]] = {"before": [], "decoy": [], "host": [], "after": []}
    for _ in range(args.repeats):
        for name, target in (("before", None), ("decoy", "decoy"), ("host", "host"), ("after", None)):
            turns[name].append(turn(target))
    at_host.send(False)
    running.stop(0.0)
    for process in started:
        process.terminate()
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=4000.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=10)
    parser.add_argument("--source", default="127.0.0.1", help="whence they come; the member: 127.0.0.1")
    args = parser.parse_args()
    turns = measured(args)
    print(f"{os.cpu_count()} processors")
    print(f"{'':8}{'round trips/s':>16}{'connections/s':>16}{'host cpu':>12}{'its driver':>12}")
    middle = {}
    for name, each in turns.items():
        middle[name] = statistics.median(turn.round_trips for turn in each)
        made = statistics.median(turn.connections for turn in each)
        cpu = statistics.median(turn.host_cpu for turn in each)
        of_driver = statistics.median(turn.driver_cpu for turn in each)
        print(f"{name:8}{middle[name]:16,.0f}{made:16,.0f}{cpu:12.2f}{of_driver:12.2f}")
    print(f"ratio   {middle['host'] / middle['decoy']:16.2f}   host flooded over decoy flooded")
    print(f"        {middle['after'] / middle['before']:16.2f}   after over before")


if __name__ == "__main__":
    main()
