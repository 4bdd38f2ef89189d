"""Encoding and decoding what lies between two stages, beside the time that a stage computes.

A middle stage of the built-in model in 4 stages runs a microbatch forward, again and backward (t); beside it,
in the same run and taking turns, a boundary's activation and its gradient are encoded and decoded once each,
as a middle stage does for the two boundaries that it has: it decodes one activation and encodes one, and so
with gradients. Medians of the thread's processor time. Exit code 1 if a format takes more than 10 % of t.

    python scripts/bench_boundary.py
    python scripts/bench_boundary.py --layers 8 --width 256 --context 256
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from diloco.compression import kernels
from diloco.models.gpt import GPTSizes
from diloco.models.layered import gpt_layers
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.boundary_codecs import BOUNDARY_CODECS, BoundaryCodec
from diloco.pipeline.cuts import Part
from diloco.pipeline.cutting import cut
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart

STAGES = 4
LARGEST_SHARE = 0.10


def seconds(run: Callable[[], object]) -> float:
    """Of this thread's processor time, which other work disturbs less."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--microbatch", type=int, default=4, help="sequences")
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = GPTSizes(options.layers, options.heads, options.width, options.context)
    edge, part = Boundary((options.microbatch, options.context, options.width)), Part(1, STAGES)
    model = cut(gpt_layers(sizes), part)
    running = RunningPart(part, model, takes=edge, gives=edge, nominal_tokens=1)
    x, gradient, microbatch = torch.randn(edge.shape), torch.randn(edge.shape), MicrobatchId(b"", 0, 0)

    def compute() -> None:
        running.forward(microbatch, x)
        running.backward(microbatch, gradient)

    codecs = {name: BoundaryCodec(edge, name) for name in BOUNDARY_CODECS}
    payloads = {name: bytearray(codec.encode_activation(x, microbatch)) for name, codec in codecs.items()}
    computing: list[float] = []
    coding: dict[str, list[list[float]]] = {name: [] for name in codecs}
    for repeat in range(options.repeats + 1):
        times = {
            name: [
                seconds(partial(codec.encode_activation, x, microbatch)),
                seconds(partial(codec.decode_activation, payloads[name], microbatch)),
                seconds(partial(codec.encode_gradient, gradient, microbatch, 1)),
                seconds(partial(codec.decode_gradient, payloads[name], microbatch)),
            ]
            for name, codec in codecs.items()
        }
        took = seconds(compute)
        if repeat:  # the first one warms up
            computing.append(took)
            for name, found in times.items():
                coding[name].append(found)
    t = statistics.median(computing)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"a stage of {parameters:,} parameters, microbatches of {edge.rows:,} tokens, rows of {edge.columns}:"
        f" t = {t * 1e3:.1f} ms; by {kernels.running()}"
    )
    print(f"{'format':<14}{'bytes':>9}   activation: encode, decode   gradient: encode, decode   share of t")
    worst = 0.0
    for name, found in coding.items():
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        share = sum(medians) / t
        worst = max(worst, share)
        shown = "".join(f"{1e3 * each:>14.3f}" for each in medians)
        print(f"{name:<14}{codecs[name].activation_bytes:>9,}{shown} ms {100 * share:>9.2f} %")
    return int(worst > LARGEST_SHARE)


if __name__ == "__main__":
    raise SystemExit(main())
