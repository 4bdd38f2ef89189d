"""Times one hop of a tensor between two processes, with a full exchange beside and without, and beside gloo.

A tensor goes there and back in the stream of a link, in pieces of 1 MiB, as between two stages of a model; a
*hop* is half of that, median over the repeats; *beside* is the same while both ends keep as much bulk of an
exchange on the way as credit allows: on loopback that costs processor time that the hop needs too, so a line
tells more. With --line (as root, Linux with `ip` and `tc`) each process has a network of its own and the line
between them has this rate each way, with a queue of 200 ms: then *late* is what the exchange adds, in
milliseconds of line time, and *bulk* what it gets of the line meanwhile. Gloo's send and recv of the
same bytes are neither encrypted nor in pieces. Every process has one thread for arithmetic.

    python scripts/bench_stream.py
    python scripts/bench_stream.py --line 100mbit --sizes 1MiB
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from link_options import size_bytes
from stream_end import Running

from transport.effects import STREAM_LANE
from transport.keys import KeyPair, random_pair

TIMEOUT_S = 120.0
_CLONE_NEWNET = 0x40000000
QUEUE = "200ms"
NEAR, FAR = "10.231.7.1", "10.231.7.2"


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of one size."""

    transport: str
    size_bytes: int
    hop_s: float
    beside_s: float
    worst_beside_s: float
    bulk_bps: float
    """Bits per second of the exchange beside, towards the end that begins."""
    gloo_s: float
    repeats: int

    @property
    def late_ms(self) -> float:
        """What the exchange adds to a hop."""
        return 1000 * (self.beside_s - self.hop_s)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs: in the network of its own of that name, or here."""

    network: str | None
    host: str

    def enter(self) -> None:
        """From here on this process is there."""
        if self.network is not None:
            libc = ctypes.CDLL(None, use_errno=True)  # Python has the call from 3.12 on
            with Path(f"/run/netns/{self.network}").open() as found:
                if libc.setns(found.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter the network {self.network}")


@contextlib.contextmanager
def places(rate: str | None) -> Iterator[tuple[Place, Place]]:
    """Two places, and the line between them if there is to be one."""
    if rate is None:
        yield Place(None, "127.0.0.1"), Place(None, "127.0.0.1")
        return
    names = [f"bench{secrets.token_hex(3)}" for _ in range(2)]
    try:
        for name in names:
            run("ip", "netns", "add", name)
        run(
            "ip",
            "link",
            "add",
            names[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            names[1],
            "netns",
            names[1],
        )
        for name, host in zip(names, (NEAR, FAR), strict=True):
            inside = ("ip", "netns", "exec", name)
            run(*inside, "ip", "addr", "add", f"{host}/24", "dev", name)
            run(*inside, "ip", "link", "set", name, "up")
            run(*inside, "ip", "link", "set", "lo", "up")
            limit = ("rate", rate, "burst", "32kb", "latency", QUEUE)
            run(*inside, "tc", "qdisc", "add", "dev", name, "root", "tbf", *limit)
        yield Place(names[0], NEAR), Place(names[1], FAR)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def run(*command: str) -> None:
    """Run a command. Ends the script in one line if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}; --line needs root")


def far_end(place: Place, keys: KeyPair, other: bytes, most: int, sealed: bool, pipe: Connection) -> None:
    """The process that others dial."""
    place.enter()
    running = Running(keys, other, f"tcp://{place.host}:0", None, most, sealed=sealed)
    pipe.send(running.driver.address)
    pipe.recv()
    running.driver.stop(0.0)


def near_end(
    place: Place, keys: KeyPair, other: bytes, address: str, options: argparse.Namespace, pipe: Connection
) -> None:
    """The process that begins; it sends back hops without and with an exchange, and the exchange's rate."""
    place.enter()
    sealed = options.sealed
    running = Running(keys, other, None, address, max(options.sizes), sealed=sealed)
    until = time.monotonic() + TIMEOUT_S
    while not running.end.is_up.is_set() or (sealed and running.lanes != {1, STREAM_LANE}):
        if time.monotonic() > until:
            raise TimeoutError("the lanes do not come up")
        time.sleep(0.05)
    found = []
    for size in options.sizes:
        hops = measure(running, size, options.repeats, exchange=False)
        measure(running, size, max(2, options.repeats // 4), exchange=True)  # the line is measured by now
        came, began = running.end.chunk_bytes, time.monotonic()
        beside = measure(running, size, options.repeats, exchange=True)
        rate = 8 * (running.end.chunk_bytes - came) / (time.monotonic() - began)
        running.do(lambda end, now: end.rest(now))
        drain(running)
        found.append((hops, beside, rate))
    pipe.send(found)
    running.driver.stop(0.0)


def measure(running: Running, size: int, repeats: int, *, exchange: bool) -> list[float]:
    """Seconds of each hop."""
    running.do(lambda end, now: end.measure(now, size, repeats, exchange=exchange))
    if not running.end.finished.wait(TIMEOUT_S):
        raise TimeoutError(f"a tensor of {size} bytes does not come back")
    return [each / 2 for each in running.end.times]


def drain(running: Running) -> None:
    """Wait until nothing of the exchange comes any more."""
    before = -1
    while before != running.end.chunk_bytes:
        before = running.end.chunk_bytes
        time.sleep(0.5)


def ours(
    options: argparse.Namespace, two: tuple[Place, Place]
) -> list[tuple[list[float], list[float], float]]:
    """Both processes, until all sizes are measured."""
    keys = random_pair(), random_pair()
    most = max(options.sizes)
    context = multiprocessing.get_context("spawn")
    (pipe_a, far_a), (pipe_b, far_b) = context.Pipe(), context.Pipe()
    b = context.Process(target=far_end, args=(two[1], keys[1], keys[0].public, most, options.sealed, far_b))
    b.start()
    address = receive(pipe_b, b)
    a = context.Process(target=near_end, args=(two[0], keys[0], keys[1].public, address, options, far_a))
    a.start()
    found: list[tuple[list[float], list[float], float]] = receive(pipe_a, a)
    pipe_b.send(None)
    for each in (a, b):
        each.join(20)
    return found


def receive(pipe: Connection, process: multiprocessing.process.BaseProcess) -> object:
    """What a process says. Ends the script if it is gone instead."""
    while not pipe.poll(0.1):
        if not process.is_alive():
            sys.exit(f"a process has ended with {process.exitcode}")
    return pipe.recv()


def gloo_end(
    place: Place, rank: int, host: str, port: int, options: argparse.Namespace, pipe: Connection
) -> None:
    """One of the two processes of gloo."""
    place.enter()
    os.environ["GLOO_SOCKET_IFNAME"] = place.network or "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.TCPStore(host, port, 2, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = []
    for size in options.sizes:
        tensor, times = torch.zeros(size, dtype=torch.uint8), []
        for _ in range(options.repeats + 1):
            began = time.perf_counter()
            for turn in (0, 1):
                if turn == rank:
                    dist.send(tensor, 1 - rank)
                else:
                    dist.recv(tensor, 1 - rank)
            times.append((time.perf_counter() - began) / 2)
        found.append(statistics.median(times[1:]))
    dist.destroy_process_group()
    pipe.send(found)


def gloo(options: argparse.Namespace, two: tuple[Place, Place]) -> list[float]:
    """Median seconds of a hop of each size."""
    context = multiprocessing.get_context("spawn")
    pipes, processes, port = [context.Pipe() for _ in two], [], 29517
    for rank, place in enumerate(two):
        ends = (place, rank, two[0].host, port, options, pipes[rank][1])
        processes.append(context.Process(target=gloo_end, args=ends))
        processes[-1].start()
    found = [receive(pipe, process) for (pipe, _), process in zip(pipes, processes, strict=True)]
    for each in processes:
        each.join(20)
    assert isinstance(found[0], list)
    return found[0]


def lines(results: list[Result]) -> Iterator[str]:
    """A table."""
    names = ("hop ms", "beside", "worst", "late", "bulk Mbit/s", "gloo ms", "x gloo")
    yield f"{'':8}{'size':>10}" + "".join(f"{name:>12}" for name in names)
    for each in results:
        ratio = each.hop_s / each.gloo_s if each.gloo_s else float("nan")
        times = [1000 * s for s in (each.hop_s, each.beside_s, each.worst_beside_s)]
        figures = (*times, each.late_ms, each.bulk_bps / 1e6, 1000 * each.gloo_s, ratio)
        yield f"{each.transport:8}{each.size_bytes:>10}" + "".join(f"{figure:12.2f}" for figure in figures)


def main(arguments: list[str]) -> list[Result]:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = lambda text: [size_bytes(each) for each in text.split(",")]  # noqa: E731
    parser.add_argument("--sizes", type=sizes, default=sizes("64KiB,1MiB,4MiB,16MiB"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--line", help="rate of a line between the two, as tc says it: 100mbit")
    parser.add_argument("--only", choices=("sealed", "curve"))
    parser.add_argument("--no-gloo", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    results = []
    with places(options.line) as two:
        beside = [0.0] * len(options.sizes) if options.no_gloo else gloo(options, two)
        for transport in (options.only,) if options.only else ("sealed", "curve"):
            options.sealed = transport == "sealed"
            for size, (hops, late, rate), yardstick in zip(
                options.sizes, ours(options, two), beside, strict=True
            ):
                medians = statistics.median(hops), statistics.median(late)
                results.append(Result(transport, size, *medians, max(late), rate, yardstick, options.repeats))
    for line in lines(results):
        print(line)
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in results], indent=1))
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
