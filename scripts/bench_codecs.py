"""Times every codec beside a plain copy of the same tensor, in the same run, and the whole outer step.

A *copy* is `out.copy_(x)` into memory that is there already, with the same threads. Copy, encode and decode
take turns; times are medians, so that what else the machine does hits all alike. On an accelerator encoding
is timed up to its result on the device's clock, and then includes the way of the payload to the CPU:
`--device cuda`.

    python scripts/bench_codecs.py
    python scripts/bench_codecs.py --threads 1 --kernels torch
    python scripts/bench_codecs.py --outer-step --elements 100000000 --repeats 3
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from diloco.compression import kernels
from diloco.compression.codecs import codec
from diloco.compression.kernels.library import CHOICES
from diloco.methods.presets import method
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.outer.replica import TensorReplica


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of one codec; sizes in bytes, times in seconds."""

    codec: str
    device: str
    elements: int
    payload_bytes: int
    copy_s: float
    encode_s: float
    decode_s: float

    @property
    def encode_copies(self) -> float:
        """Copies that take as long as encoding."""
        return self.encode_s / self.copy_s

    @property
    def decode_copies(self) -> float:
        return self.decode_s / self.copy_s

    def gigabytes_per_second(self, seconds: float) -> float:
        """Of fp32 values."""
        return 4 * self.elements / seconds / 1e9


@dataclass(frozen=True, slots=True)
class OuterStep:
    """Parts of one outer step of a model without layers, in seconds."""

    elements: int
    codec: str
    pseudo_gradient_s: float
    encode_s: float
    decode_s: float
    step_s: float
    write_s: float


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one call: of the processor where one thread does it all, which other work disturbs less."""
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


def bench(names: list[str], elements: int, device: str, repeats: int) -> list[Result]:
    """The codecs on normal values, one after the other and that again: what slows a while of the run down,
    as its beginning, slows few of the times of each."""
    x = torch.randn(elements, device=device)
    out = torch.empty_like(x)
    coders = [codec(name) for name in names]
    encoded = [bytearray(coder.encode(x)) for coder in coders]
    times: list[list[tuple[float, float, float]]] = [[] for _ in names]
    for repeat in range(repeats + 1):
        for coder, payload, found in zip(coders, encoded, times, strict=True):
            copy_s = timed(lambda: out.copy_(x), device)
            encode_s = timed(partial(coder.encode, x), device)
            decode_s = timed(partial(coder.decode, payload, elements, out), device)
            if repeat:  # the first one warms up
                found.append((copy_s, encode_s, decode_s))
    return [
        Result(name, device, elements, len(payload), *map(statistics.median, zip(*found, strict=True)))
        for name, payload, found in zip(names, encoded, times, strict=True)
    ]


def bench_outer_step(name: str, elements: int, device: str, repeats: int) -> OuterStep:
    """DiLoCo's outer step of one vector of parameters, as a worker alone takes it."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.randn(elements, device=device))
    replica = TensorReplica.of(model, method("diloco", codec=name))
    coder, parts = codec(name), []
    for _ in range(repeats):
        with torch.no_grad():
            model.weight.mul_(1.001)  # a pseudo-gradient that is not all zeros
        began = time.perf_counter()
        delta = replica.local.pseudo_gradient(0)
        gathered = time.perf_counter()
        payload = coder.encode(delta)
        encoded = time.perf_counter()
        mean = coder.decode(bytearray(payload) if name == "fp32" else payload, elements)
        decoded = time.perf_counter()
        replica.outer.step(0, mean)
        stepped = time.perf_counter()
        replica.local.discard(0)
        if device != "cpu":
            torch.cuda.synchronize()
        written = time.perf_counter()
        marks = (began, gathered, encoded, decoded, stepped, written)
        parts.append([b - a for a, b in itertools.pairwise(marks)])
    return OuterStep(elements, name, *(statistics.median(column) for column in zip(*parts, strict=True)))


def table(results: list[Result]) -> str:
    """For people."""
    copy = statistics.median(each.copy_s for each in results)
    lines = [
        f"{results[0].elements:,} values on {results[0].device}, {torch.get_num_threads()} threads,"
        f" codecs by {kernels.running()}:"
        f" a copy takes {copy * 1e3:.2f} ms ({4 * results[0].elements / copy / 1e9:.1f} GB/s)",
        f"{'codec':<12} {'bits/value':>10} {'encode':>9} {'GB/s':>7} {'decode':>9} {'GB/s':>7}   (in copies'"
        f" time)",
    ]
    for each in results:
        bits = 8 * each.payload_bytes / each.elements
        lines.append(
            f"{each.codec:<12} {bits:>10.2f} {each.encode_copies:>8.1f}x"
            f" {each.gigabytes_per_second(each.encode_s):>7.1f} {each.decode_copies:>8.1f}x"
            f" {each.gigabytes_per_second(each.decode_s):>7.1f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[Result]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--elements", type=int, default=1 << 24)
    parser.add_argument("--codecs", default=",".join(WIRE_FORMATS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kernels", choices=CHOICES, default="auto", help="what codecs run by")
    parser.add_argument("--outer-step", action="store_true", help="time DiLoCo's whole outer step instead")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    kernels.use(options.kernels)
    if options.threads:
        torch.set_num_threads(options.threads)
    names = options.codecs.split(",")
    if unknown := [name for name in names if name not in WIRE_FORMATS]:
        parser.error(f"unknown codecs {', '.join(unknown)}: there are {', '.join(WIRE_FORMATS)}")
    if options.outer_step:
        for name in names:
            step = bench_outer_step(name, options.elements, options.device, options.repeats)
            values = asdict(step).items()
            print("  ".join(f"{key} {v:.4g}" if isinstance(v, float) else f"{key} {v}" for key, v in values))
        return []
    results = bench(names, options.elements, options.device, options.repeats)
    print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in results]) + "\n")
    return results


if __name__ == "__main__":
    main()
