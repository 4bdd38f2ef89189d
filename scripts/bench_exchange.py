"""Times one whole round of the exchange beside torch.distributed's gloo all-reduce, in the same run.

Ours are processes with everything that a training run has below its tensors: `peers.node.Node` in a
`SocketDriver`, CURVE over TCP, process 0 coordinating. After a barrier each one announces a vector;
*round* is from there until the slowest process has got `RoundCommitted` (ready, open, exchange, digests
agreed, commit), *exchange* from `RoundOpened` to there. Gloo (see gloo_peer.py) is neither encrypted nor
hashed, and knows its peers beforehand. Every process has one thread for arithmetic. Times are medians;
*cpu* is the processor time that a process takes for a round, which other work on the machine distorts less.
With --link, two processes and gloo each cross an emulated internet link (see emulate_link.py).

    python scripts/bench_exchange.py --quick
    python scripts/bench_exchange.py --link 100Mbps --rtt 50ms --queue 1.25MB
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_worker import TIMEOUT_S, Plan, work
from emulate_link import running_link
from gloo_peer import sizes as parse_sizes
from link_options import LinkSpec, rate_bps, seconds, size_bytes

from transport.keys import random_pair

CODECS = ("fp32", "bf16", "int8")


def codecs(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(text.split(","))


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of one size and codec over the repeats; gloo's without codec."""

    link: str
    processes: int
    codec: str
    size_bytes: int
    round_s: float
    exchange_s: float
    gloo_s: float
    cpu_s: float
    """Processor seconds of the process that took most."""
    gloo_cpu_s: float
    repeats: int

    @property
    def ratio(self) -> float:
        """Gloo's seconds over those of our round."""
        return self.gloo_s / self.round_s


@contextlib.contextmanager
def host_address(addresses: tuple[str, str], spec: LinkSpec | None) -> Iterator[str]:
    """Where the others find process 0, which listens at two ports: at the far end of the emulated link, if
    there is one."""
    if spec is None:
        yield addresses[0]
        return
    with running_link(spec) as link:
        near = link.map_with_bulk(*(int(each.rpartition(":")[2]) for each in addresses))
        yield f"tcp://{near[0]}:{near[1]}"


def ours(
    num_processes: int,
    options: argparse.Namespace,
    spec: LinkSpec | None,
    codecs: tuple[str, ...] = CODECS,
) -> dict[Any, list[Any]]:
    """Times by size and codec, of each repeat as `bench_worker.Times`."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_processes, timeout=2 * TIMEOUT_S)
    times = context.Array("d", 3 * num_processes, lock=False)
    results: Any = context.Queue()
    keys = tuple(random_pair() for _ in range(num_processes))
    plan = Plan(keys, tuple(options.sizes), codecs, options.repeats, options.budget)
    first = context.Process(target=work, args=(0, plan, "", barrier, times, results))
    first.start()
    found = {}
    with host_address(results.get(timeout=TIMEOUT_S), spec) as host:
        rest = [
            context.Process(target=work, args=(rank, plan, host, barrier, times, results))
            for rank in range(1, num_processes)
        ]
        for process in rest:
            process.start()
        try:
            for _ in range(len(plan.sizes) * len(plan.codecs)):
                fragment, name, each = results.get(timeout=2 * TIMEOUT_S + options.budget)
                found[plan.sizes[fragment], name] = each
        finally:
            for process in (first, *rest):
                process.join(10)
                process.terminate()
    return found


def gloo(num_processes: int, options: argparse.Namespace, spec: LinkSpec | None) -> dict[int, dict[str, Any]]:
    """What `gloo_peer` prints, by size."""
    sizes = ",".join(f"{size}B" for size in options.sizes)
    command = [sys.executable, str(Path(__file__).with_name("gloo_peer.py")), "--sizes", sizes]
    command += ["--world", str(num_processes), "--repeats", str(2 * options.repeats)]
    command += ["--budget", str(options.budget)]
    if spec is not None:
        command += ["--rate", f"{spec.rate_bps:f}bps", "--rtt", f"{spec.rtt_s:f}s"]
        command += ["--queue", f"{spec.queue_bytes}B"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {each["size"]: each for each in map(json.loads, lines)}


def compare(num_processes: int, options: argparse.Namespace, spec: LinkSpec | None) -> list[Result]:
    """Both sides, one after the other."""
    theirs = gloo(num_processes, options, spec)
    label = "loopback" if spec is None else f"{spec.rate_bps / 1e6:g} Mbps, {spec.rtt_s * 1e3:g} ms"
    return [
        Result(
            link=label,
            processes=num_processes,
            codec=name,
            size_bytes=size,
            round_s=statistics.median(each[0] for each in found),
            exchange_s=statistics.median(each[1] for each in found),
            gloo_s=theirs[size]["median_s"],
            cpu_s=statistics.median(each[2] for each in found),
            gloo_cpu_s=theirs[size]["cpu_s"],
            repeats=len(found),
        )
        for (size, name), found in ours(num_processes, options, spec, options.codecs).items()
    ]


def show(results: list[Result], spec: LinkSpec | None) -> None:
    """A plain table."""
    print(f"\n{results[0].link}, {results[0].processes} processes; milliseconds")
    columns = f"{'gloo':>9} {'round':>9} {'exchange':>9} {'gloo/round':>10} {'gloo cpu':>9} {'cpu':>9}"
    print(f"{'vector':>10} {'codec':>5} {columns}  repeats")
    for each in results:
        size = f"{each.size_bytes / 2**20:g} MiB" if each.size_bytes >= 2**20 else f"{each.size_bytes} B"
        times = (f"{1e3 * value:9.2f}" for value in (each.gloo_s, each.round_s, each.exchange_s))
        cpu = f"{1e3 * each.gloo_cpu_s:9.2f} {1e3 * each.cpu_s:9.2f}"
        print(f"{size:>10} {each.codec:>5} {' '.join(times)} {each.ratio:10.2f} {cpu}  {each.repeats}")
    if spec is not None:
        for line in of_the_line(results, spec):
            print(line)


def of_the_line(results: list[Result], spec: LinkSpec) -> Iterator[str]:
    """How much of the link is used: each direction of two processes carries the vector once."""
    for size in sorted({each.size_bytes for each in results}):
        by = {each.codec: each for each in results if each.size_bytes == size}
        ideal_s = size * 8 / spec.rate_bps
        if "fp32" not in by:
            continue
        fp32 = by["fp32"]
        yield (
            f"{size >> 20} MiB: fp32 has {ideal_s / fp32.exchange_s:.0%} of the line rate in the exchange, "
            f"{ideal_s / fp32.round_s:.0%} in the round, gloo {ideal_s / fp32.gloo_s:.0%}"
        )
        for name, other in by.items():
            if other is not fp32:
                yield (
                    f"{name}'s exchange is {fp32.exchange_s / other.exchange_s:.2f} times as fast as fp32's, "
                    f"its round {fp32.round_s / other.round_s:.2f} times"
                )


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; --quick sets what was not given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", help="default 2 4; with --link always 2")
    parser.add_argument("--sizes", type=parse_sizes, help="default 4B,1MiB,16MiB,64MiB,256MiB; --link 16MiB")
    parser.add_argument("--codecs", type=codecs, default=CODECS, help=f"default {','.join(CODECS)}")
    parser.add_argument("--repeats", type=int, help="most repeats per size and codec, default 7")
    parser.add_argument("--budget", type=float, help="seconds per size and codec for repeats")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, nothing above 16 MiB")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--link", type=rate_bps, help="cross an emulated link of this rate, as 100Mbps")
    parser.add_argument("--rtt", type=seconds, default="50ms", help="the link's round-trip time")
    parser.add_argument("--queue", type=size_bytes, default="1.25MB", help="the link's queue per direction")
    options = parser.parse_args(arguments)
    default = "4B,1MiB,16MiB" if options.quick else "4B,1MiB,16MiB,64MiB,256MiB"
    options.sizes = options.sizes or parse_sizes("16MiB" if options.link else default)
    options.processes = [2] if options.link else options.processes or [2, 4]
    options.budget = options.budget or (8.0 if options.link else 1.0 if options.quick else 3.0)
    options.repeats = options.repeats or (3 if options.quick else 7)
    return options


def main(arguments: list[str] | None = None) -> list[Result]:
    """Measure, print, and return what was measured."""
    options = options_of(arguments)
    spec = LinkSpec(options.link, options.rtt, options.queue) if options.link else None
    results = []
    for num_processes in options.processes:
        found = compare(num_processes, options, spec)
        show(found, spec)
        results += found
    if options.json is not None:
        options.json.write_text(json.dumps([{**asdict(r), "ratio": r.ratio} for r in results], indent=1))
    return results


if __name__ == "__main__":
    main()
