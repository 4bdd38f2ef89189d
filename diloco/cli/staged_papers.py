"""`diloco plan --paper swarm` and `--paper dilocox`: what they publish of models in stages, beside ours.

Owns how they are printed with what is assumed, for people and as JSON; the arithmetic is that of
`planning.published_stages`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from diloco.planning.published_stages import (
    DILOCOX,
    DILOCOX_PUBLISHED,
    DILOCOX_SPEEDUP,
    ROUND_TRIPS_MS,
    SWARM,
    SwarmRow,
)
from diloco.terminal import plain_table, wide_console
from diloco.units import show_rate, show_seconds

_SWARM_ASSUMED = """\
Published numbers are quoted at second hand. Two numbers of each row are taken from its entries at 0 and 100 \
ms: t, what computing takes, and what sending takes; the other three follow, by U = t / (t + line + RTT): \
one microbatch in flight, of which nothing overlaps."""
_SWARM_WINDOW = """\
The same stages and lines with a window of 1.5 (t + line + RTT) / max(t, line) microbatches, in steps long \
enough that filling does not count: latency leaves the table, bandwidth stays."""


def print_swarm(as_json: bool) -> None:
    """SWARM's table, and the same links with a window."""
    if as_json:
        print(json.dumps({row.name: _plain_swarm(row) for row in SWARM}))
        return
    console = wide_console()
    print("SWARM, arXiv 2301.11913: GPU utilization in % at 500 Mbit/s by round trip, ours (published)")
    _print_wrapped(console, _SWARM_ASSUMED)
    table = plain_table()
    for head in ("model", "t", "line", *(f"{rtt} ms" for rtt in ROUND_TRIPS_MS)):
        table.add_column(head, justify="left" if head == "model" else "right", no_wrap=True)
    for row in SWARM:
        cells = zip(ROUND_TRIPS_MS, row.published, strict=True)
        shown = [f"{row.utilization(rtt):.3g} ({published:g})" for rtt, published in cells]
        table.add_row(row.name, *_row_times(row), *shown)
    console.print(table)
    _print_wrapped(console, _SWARM_WINDOW)
    table = plain_table()
    for head in ("model", *(f"{rtt} ms (window)" for rtt in ROUND_TRIPS_MS)):
        table.add_column(head, justify="left" if head == "model" else "right", no_wrap=True)
    for row in SWARM:
        windows = [(rtt, row.window(rtt)) for rtt in ROUND_TRIPS_MS]
        table.add_row(
            row.name, *(f"{row.utilization(rtt, window):.3g} ({window})" for rtt, window in windows)
        )
    console.print(table)


def _row_times(row: SwarmRow) -> tuple[str, str]:
    return show_seconds(row.compute_ms / 1e3), show_seconds(row.line_ms / 1e3)


def _plain_swarm(row: SwarmRow) -> dict[str, object]:
    return {
        "compute_ms": row.compute_ms,
        "line_ms": row.line_ms,
        "rtt_ms": ROUND_TRIPS_MS,
        "published": row.published,
        "ours": [row.utilization(rtt) for rtt in ROUND_TRIPS_MS],
        "with_window": [row.utilization(rtt, row.window(rtt)) for rtt in ROUND_TRIPS_MS],
        "windows": [row.window(rtt) for rtt in ROUND_TRIPS_MS],
    }


def print_dilocox(as_json: bool) -> None:
    """DiLoCoX' speed beside that of an all-reduce, and what its ablations ask for."""
    run, published = DILOCOX, DILOCOX_PUBLISHED
    sync_every = run.sync_every_for(published["no compression"])
    exchange_s = run.exchange_s_for(sync_every, published["no overlap"])
    if as_json:
        ours = {"all-reduce": run.all_reduce_tokens_per_s, "speedup": run.speedup}
        implied = {"sync_every": sync_every, "exchange_s": exchange_s}
        theirs = {**published, "speedup": DILOCOX_SPEEDUP}
        print(json.dumps({"ours": ours, "published": theirs, "implied": implied}))
        return
    console = wide_console()
    print("DiLoCoX, arXiv 2506.21263: 107B over 1 Gbit/s between two clusters, tokens per second")
    _print_wrapped(
        console,
        "Assumed, for neither is published: B = 32,768 tokens in an inner step of both clusters, gradients in"
        " fp32 (fp16 and 16,384 tokens give the same), 10^9 bits in a Gbit. Published numbers but for the"
        " speedup are quoted at second hand; dilocox' own is taken as the speed at which nothing waits:"
        f" x = {show_seconds(run.step_s)} a step. An all-reduce takes A = 2 (D - 1) / D x 8 N b / rate ="
        f" {show_seconds(run.all_reduce_s)} ({run.all_reduce_s:,.0f} s) on a line of"
        f" {show_rate(run.rate_bps)} between D = {run.sites} clusters.",
    )
    table = plain_table()
    for head in ("", "ours", "published", "by"):
        table.add_column(head, justify="right" if head in ("ours", "published") else "left", no_wrap=True)
    found = f"{run.all_reduce_tokens_per_s:.3g}"
    table.add_row("all-reduce in each step", found, f"{published['all-reduce']:g}", "B / (A + x)")
    table.add_row("dilocox, all hidden", "taken", f"{published['dilocox']:,.0f}", "B / x")
    table.add_row("speedup", f"{run.speedup:.0f}", f"{DILOCOX_SPEEDUP:.0f}", "(A + x) / x")
    console.print(table)
    _print_wrapped(
        console,
        f"Their ablations follow with H = {sync_every:.0f} (no compression: H B / A ="
        f" {published['no compression']:,.0f}) and an exchange of {show_seconds(exchange_s)} (no overlap: H B"
        f" / (H x + c) = {published['no overlap']:,.0f}), {exchange_s / run.all_reduce_s:.0%} of A, which"
        f" {show_seconds(sync_every * run.step_s)} of computing hide. Neither is published.",
    )
    _print_wrapped(
        console,
        f"What {DILOCOX_SPEEDUP:.0f} measures: how long an all-reduce waits. {published['dilocox']:,.0f}"
        f" tokens per second are {run.share_of_peak:.1%} of the peak of 160 A800, so it says little of how"
        " fast the pipeline is.",
    )


def _print_wrapped(console: Console, text: str) -> None:
    console.print(Text(f"{text}\n"))


STAGED: dict[str, Callable[[bool], None]] = {"swarm": print_swarm, "dilocox": print_dilocox}
"""By the name of the paper, what prints it."""
