"""Times torch.distributed's gloo all-reduce between processes on this machine, as a yardstick.

Prints one JSON line per vector size: {"size", "world", "median_s", "min_s", "cpu_s", "repeats", "rate_bps",
"rtt_s"}, where the seconds of a repeat are those of its slowest process, and ``cpu_s`` are the processor
seconds that rank 0 takes, also a median. With --rate, gloo's connections run through one emulated link (see
emulate_link.py): every process listens on its own loopback address, and the store
in which gloo publishes addresses hands the others the address of the proxy instead. Linux only then,
as other systems have one loopback address. The rendezvous itself does not cross the link.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import struct
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from emulate_link import running_link
from link_options import LinkSpec, add_link_arguments, size_bytes, spec_from
from torch._C._distributed_c10d import AllreduceOptions, ReduceOp, Store, TCPStore
from torch.distributed import ProcessGroupGloo

SIZES = "4B,1MiB,16MiB,64MiB,256MiB"
TIMEOUT = timedelta(minutes=10)
PROXIES_READY = "proxies-ready"


def own_host(rank: int) -> str:
    """Where a process listens. Gloo decides who dials by comparing addresses, so that those that a process
    is told must compare like the true ones: 1 < 2 < 3 < 4 ..., true ones odd, proxies even."""
    return f"127.0.0.{2 * rank + 1}"


def proxy_host(rank: int) -> str:
    """Where the others find it; the port is the same."""
    return f"127.0.0.{2 * rank + 2}"


def sockaddr_prefix(blob: bytes, rank: int) -> int:
    """Where in gloo's published address the IPv4 sockaddr of ``rank`` starts: family, port, host."""
    host = bytes(int(part) for part in own_host(rank).split("."))
    family = struct.pack("=H", 2)
    found = [i for i in range(len(blob) - 8) if blob[i : i + 2] == family and blob[i + 4 : i + 8] == host]
    if len(found) != 1:
        raise RuntimeError(f"gloo's address format is not the one known here: {len(found)} matches")
    return found[0]


class ProxyStore(Store):
    """A store that shows every process the proxies' addresses in place of the others' own ones.

    Gloo keeps the address of rank r under a key that ends in "/r".
    """

    def __init__(self, store: Store, rank: int) -> None:
        super().__init__()
        self._store = store
        self._rank = rank

    def set(self, key: str, value: bytes) -> None:  # type: ignore[override]
        blob = bytes(value)
        at = sockaddr_prefix(blob, self._rank)
        (port,) = struct.unpack("!H", blob[at + 2 : at + 4])
        self._store.set(f"port/{self._rank}", str(port))
        self._store.set(key, blob)  # type: ignore[arg-type]

    def get(self, key: str) -> bytes:
        blob = self._store.get(key)
        rank = int(key.rpartition("/")[2])
        if rank == self._rank:
            return blob
        self._store.wait([PROXIES_READY], TIMEOUT)
        at = sockaddr_prefix(blob, rank) + 4
        return blob[:at] + bytes(int(part) for part in proxy_host(rank).split(".")) + blob[at + 4 :]

    def wait(self, keys: list[str], timeout: timedelta = TIMEOUT) -> None:
        self._store.wait(keys, timeout)

    def has_extended_api(self) -> bool:
        return False


def join(store: Store, rank: int, world: int, emulated: bool) -> Any:
    """A gloo group over loopback, through the proxies when ``emulated``."""
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    host = own_host(rank) if emulated else "127.0.0.1"
    options._devices = [ProcessGroupGloo.create_device(hostname=host)]
    options._timeout = TIMEOUT
    options._threads = 2
    seen = ProxyStore(store, rank) if emulated else store
    return ProcessGroupGloo(seen, rank, world, options)


def slowest(group: Any, elapsed_s: float) -> float:
    """The largest of all processes' values, the same everywhere."""
    value = torch.tensor([elapsed_s], dtype=torch.float64)
    options = AllreduceOptions()
    options.reduceOp = ReduceOp(ReduceOp.MAX)
    group.allreduce([value], options).wait()
    return value.item()


def time_once(group: Any, vector: torch.Tensor) -> tuple[float, float]:
    """Seconds of one all-reduce on the slowest process, and processor seconds of this one."""
    group.barrier().wait()
    start, used = time.perf_counter(), time.process_time()
    group.allreduce([vector]).wait()
    elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - used
    return slowest(group, elapsed_s), cpu_s


def measure(group: Any, size: int, repeats: int, budget_s: float) -> list[tuple[float, float]]:
    """Seconds of each repeat, as `time_once` gives them. All processes count the same seconds, so they stop
    together."""
    vector = torch.ones(size // 4)
    first = time_once(group, vector)
    if not torch.all(vector == group.size()):
        raise RuntimeError("gloo's sum is wrong")
    vector.zero_()
    # The first run opens buffers; it counts only where the budget allows no other.
    times = [time_once(group, vector) for _ in range(min(repeats, int(budget_s / first[0])))]
    return times or [first]


def work(rank: int, port: int, arguments: argparse.Namespace) -> None:
    """One process of the group; rank 0 prints."""
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, None, False, TIMEOUT)
    link = None if arguments.rate is None else spec_from(arguments)
    group = join(store, rank, arguments.world, link is not None)
    for size in arguments.sizes:
        found = measure(group, size, arguments.repeats, arguments.budget)
        times = [elapsed_s for elapsed_s, _ in found]
        result = {
            "size": size,
            "world": arguments.world,
            "median_s": statistics.median(times),
            "min_s": min(times),
            "cpu_s": statistics.median(cpu_s for _, cpu_s in found),
            "repeats": len(times),
            "rate_bps": link.rate_bps if link else None,
            "rtt_s": link.rtt_s if link else None,
        }
        if rank == 0:
            print(json.dumps(result), flush=True)
    group.barrier().wait()


@contextlib.contextmanager
def proxies(store: Store, spec: LinkSpec, world: int) -> Iterator[None]:
    """One emulated link between the processes, opened once all of them listen."""
    with running_link(spec) as link:
        for rank in range(world):
            store.wait([f"port/{rank}"], TIMEOUT)
            port = int(store.get(f"port/{rank}"))
            # Two processes: what goes to rank 1 is one direction, what goes to rank 0 the other.
            link.map((proxy_host(rank), port), (own_host(rank), port), back=rank == 0)
        store.set(PROXIES_READY, "1")
        yield


def sizes(text: str) -> list[int]:
    """Vector sizes in bytes, whole fp32 elements."""
    found = [size_bytes(each) for each in text.split(",")]
    if any(size < 4 or size % 4 for size in found):
        raise argparse.ArgumentTypeError("a size must be a multiple of 4 bytes")
    return found


def main() -> None:
    """Start the processes and wait for them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--world", type=int, default=2, help="processes")
    parser.add_argument("--sizes", type=sizes, default=SIZES, help=f"bytes per vector, default {SIZES}")
    parser.add_argument("--repeats", type=int, default=10, help="most repeats per size")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds per size for the repeats")
    add_link_arguments(parser, rate=None)
    arguments = parser.parse_args()
    if arguments.rate is not None and arguments.world != 2:
        parser.error("an emulated link joins two processes: --rate needs --world 2")
    context = multiprocessing.get_context("spawn")
    store = TCPStore("127.0.0.1", 0, None, True, TIMEOUT, wait_for_workers=False)
    workers = [
        context.Process(target=work, args=(rank, store.port, arguments)) for rank in range(arguments.world)
    ]
    for worker in workers:
        worker.start()
    emulated = arguments.rate is not None
    with proxies(store, spec_from(arguments), arguments.world) if emulated else contextlib.nullcontext():
        for worker in workers:
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a gloo process failed; its error is above")


if __name__ == "__main__":
    main()
