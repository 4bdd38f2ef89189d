"""What share of a line's nominal rate an exchange gets: the factor of `diloco plan --line-efficiency`.

Two processes with everything that a training run has below its tensors (see bench_exchange.py) exchange
vectors of fp32 through an emulated link (see emulate_link.py): one that takes the line for --seconds, and one
of a quarter of that. *ours* is what the difference of their bytes would take at the nominal rate, over the
difference of their rounds' seconds: round trips, which `plan` counts by themselves, fall out. *round* is the
same of the whole long round, round trips included. *plain* is a bare TCP connection that carries the same
both ways through the same link, in the same run: what ours is below it is our own. Medians of --repeats. The
emulated link loses nothing and is shared with nobody, so this is the best that a real line gives.

    python scripts/bench_line.py
    python scripts/bench_line.py --rates 20Mbps --rtts 100ms --repeats 5
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench_exchange import ours
from emulate_link import running_link
from link_options import LinkSpec, rate_bps, seconds, size_bytes

PIECE_BYTES = 64 * 1024
BUDGET_S = 60.0
"""Of all repeats of one size."""


@dataclass(frozen=True, slots=True)
class Result:
    """Medians on one link, as shares of its nominal rate."""

    rate_bps: float
    rtt_s: float
    size_bytes: int
    """Of the longer vector, which crosses the link once each way."""
    ours: float
    whole_round: float
    plain: float
    repeats: int


def plain_seconds(spec: LinkSpec, size: int, repeats: int) -> float:
    """Median seconds until a bare TCP connection has carried so many bytes each way at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, running_link(spec) as link:
        near = socket.create_connection(link.map(("127.0.0.1", 0), listener.getsockname()[:2]))
        far, _ = listener.accept()
        with near, far:
            return statistics.median([_both_ways(near, far, size) for _ in range(1 + repeats)][1:])


def _both_ways(near: socket.socket, far: socket.socket, size: int) -> float:
    began = time.perf_counter()
    threads = [threading.Thread(target=end.sendall, args=(bytes(size),)) for end in (near, far)]
    threads += [threading.Thread(target=_receive, args=(end, size)) for end in (near, far)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _receive(end: socket.socket, size: int) -> None:
    while size:
        got = len(end.recv(min(size, PIECE_BYTES)))
        if not got:
            raise RuntimeError("the emulated link broke")
        size -= got


def measured(spec: LinkSpec, line_s: float, repeats: int) -> Result:
    """One link."""
    short, full = (int(share * line_s * spec.rate_bps / 8) // 4 * 4 for share in (0.25, 1.0))
    options = argparse.Namespace(sizes=[short, full], repeats=repeats, budget=BUDGET_S)
    found = ours(2, options, spec, ("fp32",))

    def round_s(size: int) -> float:
        return statistics.median(each for each, *_ in found[size, "fp32"])

    def share(seconds_of: Callable[[int], float]) -> float:
        return 8 * (full - short) / spec.rate_bps / (seconds_of(full) - seconds_of(short))

    return Result(
        spec.rate_bps,
        spec.rtt_s,
        full,
        ours=share(round_s),
        whole_round=8 * full / spec.rate_bps / round_s(full),
        plain=share(lambda size: plain_seconds(spec, size, repeats)),
        repeats=len(found[full, "fp32"]),
    )


def show(result: Result) -> None:
    """One row of the table."""
    print(
        f"{result.rate_bps / 1e6:6g} {result.rtt_s * 1e3:6g} {result.size_bytes / 1e6:7.1f}"
        f" {result.ours:7.1%} {result.whole_round:7.1%} {result.plain:7.1%} {result.repeats:8}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> list[Result]:
    """Measure, print, and return what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rates", type=rate_bps, nargs="+", default=[20e6, 100e6, 300e6])
    parser.add_argument("--rtts", type=seconds, nargs="+", default=[0.02, 0.1])
    parser.add_argument("--queue", type=size_bytes, default="1.25MB", help="bottleneck queue per direction")
    parser.add_argument("--seconds", type=float, default=4.0, help="that the longer vector takes the line")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args(arguments)
    print("shares of the nominal rate\n  Mbps     ms      MB    ours   round   plain  repeats")
    results = []
    for rate in options.rates:
        for rtt in options.rtts:
            results.append(measured(LinkSpec(rate, rtt, options.queue), options.seconds, options.repeats))
            show(results[-1])
    print(f"lowest of ours: {min(each.ours for each in results):.1%}")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in results], indent=1))
    return results


if __name__ == "__main__":
    main()
