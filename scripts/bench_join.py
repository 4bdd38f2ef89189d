"""What it costs to join: seconds until a joiner holds the state, beside raw TCP, and its memory.

A host (a process) holds a model of --elements fp32 values in one tensor and the outer optimizer's momentum,
which is as large, behind one round, so that a joiner (another process) has nothing of it alike; the joiner
attaches a model of the same size over loopback. *attach* is how long
that takes; *raw* is how long the same bytes take over a plain TCP connection into memory that is allocated
for them, between two processes, in the same run; *peak* is by how much the joiner's resident memory grew at
most while it attached, in multiples of the model's bytes. Medians of --repeats.

    python scripts/bench_join.py
    python scripts/bench_join.py --elements 1000000 --repeats 1
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_round import Vector
from process_usage import MIB, peak_mib

import diloco

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Join:
    """One of them."""

    attach_s: float
    cpu_s: float
    peak_bytes: int
    raw_s: float


def serve(num_elements: int, settings: diloco.RunSettings, folder: Path, pipe: Any) -> None:
    """The host: trains for one round, says its ticket, and stays until it is told to stop."""
    model = Vector(num_elements)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with diloco.host(settings, listen="tcp://127.0.0.1:0", state=folder) as swarm:
        swarm.home = None
        outer = diloco.attach(model, optimizer, swarm, tokens_per_step=1, timeout_s=600.0)
        model.values.grad = model.values.detach().clone()
        while outer.round < 1:
            optimizer.step()
        model.values.grad = None
        pipe.send(swarm.ticket)
        pipe.recv()
        outer.stop()


def join(ticket: str, num_elements: int, name: str, results: Any) -> None:
    """The joiner."""
    model = Vector(num_elements)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with diloco.join(ticket, name=name) as swarm:
        before_mib = peak_mib(os.getpid())
        began, cpu = time.perf_counter(), time.process_time()
        diloco.attach(model, optimizer, swarm, tokens_per_step=1, timeout_s=600.0)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        peak = int((peak_mib(os.getpid()) - before_mib) * MIB)
    results.put((took, cpu, peak))


def take(num_bytes: int, results: Any) -> None:
    """Takes so many bytes over TCP into fresh memory, and says how long that took."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        results.put(listening.getsockname())
        sock, _ = listening.accept()
    with sock:
        began = time.perf_counter()
        into = memoryview(bytearray(num_bytes))
        at = 0
        while at < num_bytes:
            at += sock.recv_into(into[at : at + _PIECE])
        results.put(time.perf_counter() - began)


def raw(context: Any, num_bytes: int) -> float:
    """Seconds for the same bytes over plain TCP."""
    results: Any = context.Queue()
    process = context.Process(target=take, args=(num_bytes, results), daemon=True)
    process.start()
    piece = memoryview(bytearray(_PIECE))
    with socket.create_connection(results.get(timeout=60)) as sock:
        for at in range(0, num_bytes, _PIECE):
            sock.sendall(piece[: min(_PIECE, num_bytes - at)])
        took: float = results.get(timeout=600)
    process.join(30)
    return took


def measure(options: argparse.Namespace) -> list[Join]:
    """All repeats, one joiner after the other."""
    context = multiprocessing.get_context("spawn")
    run = {"rounds": 10**6, "min_peers": 1, "failure_timeout_s": 30.0}
    settings = diloco.RunSettings.model_validate(
        {"run": run, "method": {"preset": "diloco", "sync_every": 1}}
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe()
        given = (options.elements, settings, Path(folder) / "host", theirs)
        host = context.Process(target=serve, args=given, daemon=True)
        host.start()
        ticket = ours.recv()
        for number in range(options.repeats):
            results: Any = context.Queue()
            given = (ticket, options.elements, f"joiner{number}", results)
            joiner = context.Process(target=join, args=given, daemon=True)
            joiner.start()
            found.append(Join(*results.get(timeout=900), raw(context, 2 * 4 * options.elements)))
            joiner.join(60)
        ours.send("stop")
        host.join(60)
    return found


def main(arguments: list[str] | None = None) -> list[Join]:
    """Measure, print and return."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 27, help="of the model; the state has twice")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    found = measure(options)

    def middle(name: str) -> float:
        return statistics.median(getattr(each, name) for each in found)

    state_bytes, model_bytes = 8 * options.elements, 4 * options.elements
    attach_s, raw_s = middle("attach_s"), middle("raw_s")
    print(
        f"state of {state_bytes / 2**20:.0f} MiB, {len(found)} joins: attach {attach_s:.2f} s, "
        f"{middle('cpu_s'):.2f} s of a processor, {state_bytes / attach_s / 1e9:.2f} GB/s; "
        f"raw TCP {raw_s:.2f} s, {attach_s / raw_s:.1f} times; "
        f"peak {middle('peak_bytes') / model_bytes:.1f} times the model"
    )
    return found


if __name__ == "__main__":
    main()
