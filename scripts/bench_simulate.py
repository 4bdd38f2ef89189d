"""How long simulating takes, and how it grows with the peers: gossip, groups on a grid, direct exchange.

Timed scenarios with phantom payloads, each in a process of its own on one core. Seconds are those of this
machine; events and memory hardly depend on it.

    python scripts/bench_simulate.py
    python scripts/bench_simulate.py --kinds direct --peers 64 --rounds 200
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

KINDS = {
    "gossip": {"preset": "noloco", "sync_every": 50},
    "grid": {"preset": "moshpit", "sync_every": 50},
    "direct": {"preset": "diloco", "sync_every": 50, "codec": "int8"},
}
SIZES = {"gossip": [125, 250, 500, 1000], "grid": [125, 250, 500, 1000], "direct": [8, 16, 32, 64]}
HEADS = ["peers", "rounds", "seconds", "events", "us/event", "MiB"]


def scenario(kind: str, peers: int, rounds: int, timeout_s: float) -> dict[str, Any]:
    """Peers whose steps take log-normal times."""
    return {
        "name": f"{kind}, {peers} peers",
        "run": {"rounds": rounds, "failure_timeout_s": timeout_s, "grace_s": 120.0},
        "method": KINDS[kind],
        "model": {"parameters": "100M", "tokens_per_step": "4k"},
        "host": {"up": "10Gbps"},
        "peers": [
            {"name": "p", "count": peers, "step": "1s", "step_jitter": 0.2, "up": "10Gbps", "latency": "20ms"}
        ],
    }


def measure(kind: str, peers: int, rounds: int, timeout_s: float) -> dict[str, Any]:
    """One run, in this process."""
    from diloco.simulation.runner import simulate

    began = time.process_time()
    report = simulate(scenario(kind, peers, rounds, timeout_s))
    seconds = time.process_time() - began
    if report.ended != "the run is finished" or report.violations:
        raise RuntimeError(f"{kind} with {peers} peers ended with {report.ended}: {report.violations}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "events": report.num_events, "bytes": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--peers", nargs="+", type=int, help="instead of sizes up to 1000 (direct: 64)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--failure-timeout", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "PEERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, peers = options.one
        print(json.dumps(measure(kind, int(peers), options.rounds, options.failure_timeout)))
        return
    print(f"{'':8} " + " ".join(f"{head:>8}" for head in HEADS))
    for kind in options.kinds:
        for peers in options.peers or SIZES[kind]:
            one = ["--one", kind, f"{peers}", "--rounds", f"{options.rounds}"]
            one += ["--failure-timeout", f"{options.failure_timeout}"]
            done = subprocess.run(
                [sys.executable, __file__, *one], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout)
            columns = [
                f"{peers}",
                f"{options.rounds}",
                f"{found['seconds']:.1f}",
                f"{found['events']:,}",
                f"{1e6 * found['seconds'] / found['events']:.1f}",
                f"{found['bytes'] / 2**20:.0f}",
            ]
            print(f"{kind:8} " + " ".join(f"{column:>8}" for column in columns), flush=True)


if __name__ == "__main__":
    main()
