"""`diloco plan` for a model in stages: what it prints of a `StagePlan`, and the sentence on when not to cut.

Decides nothing: which stages, codec and exchange is `planning.stage_plan`'s.
"""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.text import Text

from diloco.cli.methods import codec_text
from diloco.errors import UserError
from diloco.planning.advice import GOOD, snippet
from diloco.planning.stage_plan import (
    LEAST_REPLICAS,
    StagePlan,
    Wanted,
    best,
    memory_for_two,
    plans,
    wire_bytes,
)
from diloco.settings.sections import Pipeline
from diloco.terminal import plain_table, wide_console
from diloco.units import parse_bytes, show_bytes, show_rate, show_seconds

_NEAR = (0.6, 1.4)
"""Where a line is about as busy as a replica, the formula is a bound (`planning.stages`)."""


def parse_memory(text: str) -> float:
    """Bytes of a device: 80G, 80GB, 24GiB. Raises `UserError`."""
    return parse_bytes(text if text.lower().endswith(("b", "byte", "bytes")) else f"{text}B")


def print_stage_plan(wanted: Wanted, budget: float | None, price: float | None, as_json: bool) -> bool:
    """Print how to cut; False, and nothing for people, if a peer can hold the model uncut. ``budget``: tokens
    of the run; ``price``: of a peer and hour. Raises `UserError` for a model that cannot be cut so."""
    if wanted.stages == 1:
        raise UserError("--stages 1 is the whole model: leave --stages, --width and --memory out")
    rows = plans(wanted)
    chosen = best(rows)
    if chosen.stages == 1:
        return False
    if as_json:
        print(json.dumps(_plain(rows, chosen, budget, price), indent=1))
        return True
    console = wide_console()
    _print_rows(console, rows, chosen)
    for line in (*_cut(chosen), *_time(chosen), *_bytes(chosen), *_money(chosen, budget, price)):
        console.print(Text(line))
    console.print(Text(f"\n{_when_not_to(chosen)}\n", style="bold"))
    console.print(Text(f"{_pipeline_snippet(chosen)}\n\n{snippet(chosen.exchange)}"))
    return True


def whole_sentence(wanted: Wanted) -> str:
    """Why a model that fits a peer is planned as a whole."""
    return (
        f"A peer of {show_bytes(wanted.memory_bytes)} holds this model: do not cut it. Every peer trains the"
        " whole of it, and only exchanges cross slow links."
    )


def _print_rows(console: Console, rows: list[StagePlan], chosen: StagePlan) -> None:
    table = plain_table()
    table.add_column("boundaries", no_wrap=True)
    heads = ("stages", "replicas", "busy", "line", "G", "window", "step", "sent/day", "device", "host")
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        device, host = row.memory
        cells = [row.codec, f"{row.stages}", _replicas(row), f"{row.utilization:.1%}"]
        cells += [f"{row.times.line_s / row.times.compute_s:.0%}", f"{row.num_microbatches}", f"{row.window}"]
        cells += [show_seconds(row.step_s), show_bytes(sum(row.bytes_per_day.values()))]
        table.add_row(*cells, show_bytes(device), show_bytes(host), style="bold" if row is chosen else None)
    console.print(table)
    wanted = chosen.wanted
    console.print(
        Text(
            f"{wanted.num_parameters:,.0f} parameters in {wanted.num_layers} layers of width {wanted.width},"
            f" {wanted.peers} peers that reach {wanted.flops / 1e12:,.4g} TFLOP/s,"
            f" {show_rate(wanted.rate_bps)} each way, {show_seconds(wanted.rtt_s)} round trip; microbatches"
            f" of {wanted.microbatch_tokens:,} tokens, run forward again before backward. line: what a"
            " boundary takes of the time that a replica computes; G: microbatches of an inner step; busy and"
            " memory: of the largest stage.\n"
        )
    )


def _replicas(row: StagePlan) -> str:
    return f"{row.lines}-{row.lines + 1}" if row.with_one_more else f"{row.lines}"


def _cut(row: StagePlan) -> list[str]:
    sizes = [len(layers) for layers in row.layers]
    least, most = min(sizes), max(sizes)
    layers = f"{most} layers" if most == least else f"{least} or {most} layers"
    lines = [
        f"Take {row.stages} stages of {layers}, {show_bytes(16 * row.stage_parameters)} of parameters,"
        f" gradients and moments the largest; cuts = {row.cuts}."
    ]
    if row.lines < LEAST_REPLICAS:
        needed = LEAST_REPLICAS * row.stages
        lines.append(
            f"Warning: {row.stages - row.with_one_more} stages have one replica only, and whose process ends"
            f" takes that stage's state with it. {needed} peers would be two of each{_or_memory(row)}."
        )
    if row.with_one_more:
        lines.append(
            f"wiring = throughput, for {row.with_one_more} stages have a replica more; what follows counts"
            f" whole lines only: {row.lines}."
        )
    else:
        lines.append(
            f"wiring = lines: {row.lines}, of peers that are alike; where speeds differ take throughput."
        )
    return lines


def _or_memory(row: StagePlan) -> str:
    needed = memory_for_two(row)
    if not math.isfinite(needed) or needed <= row.wanted.memory_bytes:
        return ""
    return f", and so would {show_bytes(needed)} a peer"


def _time(row: StagePlan) -> list[str]:
    times, count, wanted = row.times, row.num_microbatches, row.wanted
    tokens = count * wanted.microbatch_tokens
    share = times.line_s / times.compute_s
    lines = [
        f"A replica computes {row.utilization:.1%} of the time: {count} microbatches of"
        f" {show_seconds(times.compute_s)} ({tokens:,} tokens of a line) in steps of"
        f" {show_seconds(row.step_s)}, at most {row.window} of a feeder under way; with the exchanges of a"
        f" stage ({row.exchange.preset}, H = {row.exchange.method.sync_every},"
        f" {codec_text(row.exchange.method)}) and smaller stages {row.mean_utilization:.1%} on average."
    ]
    if _NEAR[0] < share < _NEAR[1]:
        lines.append("Lines are about as busy as replicas: the formula is up to 12 % too high there.")
    if row.utilization < GOOD:
        lines.append(f"Warning: not busy for {GOOD:.0%}. {_what_would_help(row)}.")
    stages = row.stages
    lines.append(
        f"Bubble: {1 - row.utilization:.1%}. 1F1B and GPipe have the same on these links, and"
        f" {(stages - 1) / (count + stages - 1):.1%} without distance; zero bubble (backward split, with"
        f" the memory of not running forward again) {1 - times.utilization_split(count):.1%} at best;"
        f" asynchronous steps {1 - times.utilization_undrained:.1%}, with gradients up to {stages} steps"
        " old. Only the first is what a run does."
    )
    return lines


def _what_would_help(row: StagePlan) -> str:
    needed = row.times.microbatches_for(GOOD)
    if needed is not None:
        return f"{needed:,} microbatches in a step would do"
    rate_bps = row.model.least_rate_bps(wire_bytes(row.codec))
    return f"No step does, for lines are busier than replicas below {show_rate(rate_bps)}"


def _bytes(row: StagePlan) -> list[str]:
    day = row.bytes_per_day
    fetch_s = 8 * row.joiner_bytes / row.wanted.rate_bps
    return [
        f"A day, a replica of a middle stage sends {show_bytes(day['boundaries'])} over boundaries and"
        f" {show_bytes(day['exchanges'])} in exchanges, a feeder {show_bytes(day['targets'])} of targets; who"
        f" joins fetches {show_bytes(row.joiner_bytes)} of its stage, {show_seconds(fetch_s)} of the line."
    ]


def _money(row: StagePlan, budget: float | None, price: float | None) -> list[str]:
    text = f"The run trains {row.tokens_per_s:,.0f} tokens per second"
    if budget is None:
        return [f"{text}."]
    text += f", so {budget:,.0f} take {show_seconds(budget / row.tokens_per_s)}"
    return [f"{text}." if price is None else f"{text} and cost {_cost(row, budget, price):,.0f}."]


def _cost(row: StagePlan, budget: float, price: float) -> float:
    return budget / row.tokens_per_s / 3600 * price * row.wanted.peers


def _when_not_to(row: StagePlan) -> str:
    return (
        f"When not to: where one site has {row.stages} such peers on fast lines, cut the model inside it and"
        f" exchange between sites. Of a step only {show_bytes(row.exchange_bytes_per_step)} of a peer cross"
        f" slow links then, not {show_bytes(row.boundary_bytes_per_step)} more. Stages across slow links are"
        " for when no site can hold the model."
    )


def _pipeline_snippet(row: StagePlan) -> str:
    """The part of RUN.toml that runs of this version take."""
    wanted: dict[str, Any] = {
        "stages": row.stages,
        "cuts": row.cuts,
        "wiring": "throughput" if row.with_one_more else "lines",
        "quota": row.num_microbatches,
        "window": row.window,
        "activations": row.codec,
    }
    known = {key: value for key, value in wanted.items() if key in Pipeline.model_fields}
    return "\n".join(["[pipeline]", *(f"{key} = {json.dumps(value)}" for key, value in known.items())])


def _plain(
    rows: list[StagePlan], chosen: StagePlan, budget: float | None, price: float | None
) -> dict[str, Any]:
    return {
        "parameters": chosen.wanted.num_parameters,
        "peers": chosen.wanted.peers,
        "rows": [_plain_row(row, budget, price) for row in rows],
        "recommended": rows.index(chosen),
        "toml": f"{_pipeline_snippet(chosen)}\n\n{snippet(chosen.exchange)}",
    }


def _plain_row(row: StagePlan, budget: float | None, price: float | None) -> dict[str, Any]:
    device, host = row.memory
    count = row.num_microbatches
    return {
        "activations": row.codec,
        "stages": row.stages,
        "cuts": row.cuts,
        "lines": row.lines,
        "spare": row.with_one_more,
        "microbatches": count,
        "window": row.window,
        "step_s": row.step_s,
        "utilization": row.utilization,
        "mean_utilization": row.mean_utilization,
        "utilization_split": row.times.utilization_split(count),
        "utilization_undrained": row.times.utilization_undrained,
        "tokens_per_s": row.tokens_per_s,
        "bytes_per_day": row.bytes_per_day,
        "device_bytes": device,
        "host_bytes": host,
        "joiner_bytes": row.joiner_bytes,
        "preset": row.exchange.preset,
        "method": row.exchange.overrides,
        "seconds": None if budget is None else budget / row.tokens_per_s,
        "cost": None if budget is None or price is None else _cost(row, budget, price),
    }
