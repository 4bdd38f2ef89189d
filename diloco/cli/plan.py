"""`diloco plan`: what a run will do on links that one describes, before anything is rented."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diloco.cli.measured_host import measured_at
from diloco.cli.methods import codec_text
from diloco.cli.papers import by_target, print_paper
from diloco.cli.stage_plan import parse_memory, print_stage_plan, whole_sentence
from diloco.cli.usage import finite
from diloco.errors import UserError
from diloco.planning.advice import (
    GOOD,
    Candidate,
    bandwidth_for,
    candidates,
    left_out,
    recommended,
    snippet,
    what_would_help,
)
from diloco.planning.predict import LINE_EFFICIENCY, UniformSwarm, predict
from diloco.planning.published_tables import TARGETS
from diloco.planning.stage_plan import CODECS, MICROBATCH_TOKENS, Wanted, decoder_sizes
from diloco.settings import RunSettings, load_settings
from diloco.terminal import plain_table, wide_console
from diloco.units import (
    parse_count,
    parse_price,
    parse_rate,
    parse_seconds,
    show_bytes,
    show_rate,
    show_seconds,
)

_FLOPS_PER_PARAMETER = 6
_TOKENS_PER_STEP = "16k"


# What some options are.
_LineEfficiency = Annotated[
    float | None,
    typer.Option(
        help=f"Share of these rates that TCP really gets. [default: {LINE_EFFICIENCY}; 1 for a rate that"
        " --from-host has measured]",
    ),
]
_Mfu = Annotated[
    float, typer.Option(min=0.01, max=1.0, callback=finite, help="Share of --flops that is reached.")
]
_TokensPerStep = Annotated[
    str | None,
    typer.Option(help="Tokens of a peer's inner step. [default: 16k; in stages, what keeps them busy]"),
]
_Width = Annotated[
    int | None,
    typer.Option(min=1, max=1_000_000, help="For a model in stages: values of a token between layers."),
]
_Memory = Annotated[str | None, typer.Option(help="For a model in stages: of a peer's device, 80G or 24GiB.")]
_Stages = Annotated[
    int | None, typer.Option(min=1, help="So many stages. [default: the fewest that fit --memory]")
]
_Microbatch = Annotated[str, typer.Option(help="Tokens that go through the stages together.")]
_FromHost = Annotated[
    str | None,
    typer.Option(metavar="TICKET", help="Take model, peers, speed and round trip from a running host."),
]
_Utilization = Annotated[
    bool, typer.Option("--utilization", help="The bandwidth that each method needs, for 50 to 99 %.")
]
_Paper = Annotated[
    str | None,
    typer.Option(help="A paper's table, reproduced: streaming, scaling-laws, intellect-1, swarm, dilocox."),
]


_RunFile = Annotated[
    Path | None,
    typer.Argument(metavar="RUN.toml", help="A run: its model, its steps and, if it is cut, its stages."),
]


def plan_command(
    run: _RunFile = None,
    params: Annotated[str | None, typer.Option(help="Parameters of the model: 10B, 350M.")] = None,
    layers: Annotated[int, typer.Option(min=1, max=10_000, help="Its layers.")] = 24,
    peers: Annotated[int | None, typer.Option(min=2, max=4096, help="Workers. [default: 8]")] = None,
    up: Annotated[str | None, typer.Option(help="Upload of each peer: 500Mbps, 1Gbit/s, 10MB/s.")] = None,
    down: Annotated[str | None, typer.Option(help="Download, if it differs from the upload.")] = None,
    line_efficiency: _LineEfficiency = None,
    rtt: Annotated[str | None, typer.Option(help="Round trip between any two. [default: 60ms]")] = None,
    step: Annotated[str | None, typer.Option(help="Seconds of an inner step: 0.8s, 300ms.")] = None,
    flops: Annotated[str | None, typer.Option(help="Or peak FLOP/s of a peer: 300T, 8P.")] = None,
    mfu: _Mfu = 0.4,
    tokens_per_step: _TokensPerStep = None,
    tokens: Annotated[str | None, typer.Option(help="Token budget of the run: 200B.")] = None,
    price: Annotated[str | None, typer.Option(help="Of a peer: 2.5/h.")] = None,
    width: _Width = None,
    memory: _Memory = None,
    stages: _Stages = None,
    microbatch: _Microbatch = f"{MICROBATCH_TOKENS}",
    from_host: _FromHost = None,
    utilization: _Utilization = False,
    paper: _Paper = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Methods and settings for a model on given links: busy time, traffic, memory, days and cost."""
    if paper is not None:
        print_paper(paper, as_json)
        return
    measured = measured_at(from_host) if from_host is not None else {}
    if run is None:
        found = parse_count(params) if params is not None else measured.get("parameters")
        model = _Model(found, layers, width, stages, _positive(parse_count(microbatch), "--microbatch"))
    elif params or width or stages or tokens_per_step:
        raise UserError(f"{run} says how large the model and its steps are: leave these options out")
    else:
        model = _Model.of_run(load_settings(run))
    count = model.params
    up_bps = parse_rate(up) if up is not None else measured.get("up_bps", 1e9 if utilization else None)
    if from_host is not None and count is None:
        raise UserError("the host knows no model yet: wait until workers train, or say --params and --up")
    if count is None or up_bps is None:
        raise UserError(
            "say at least how large the model is and how fast a peer uploads:"
            " diloco plan --params 10B --up 500Mbps --step 0.8s"
        )
    if line_efficiency is None:  # what exchanges did is what TCP gets
        line_efficiency = 1.0 if up is None and "up_bps" in measured else LINE_EFFICIENCY
    swarm = UniformSwarm(
        peers or measured.get("peers", 8),
        _positive(up_bps, "--up"),
        _positive(parse_rate(down) if down is not None else up_bps, "--down"),
        parse_seconds(rtt) if rtt is not None else measured.get("rtt_s", 0.06),
        math.nan,
        _share(line_efficiency, "--line-efficiency"),
    )
    speed, size = _Speed(step, flops, mfu, tokens_per_step or model.step_tokens), _positive(count, "--params")
    money = _Money.of(tokens, price)
    if model.is_cut or memory is not None:
        if utilization:
            raise UserError("--utilization is of whole models: leave --width, --memory and --stages out")
        wanted = _wanted(model, size, swarm, memory, speed)
        if print_stage_plan(wanted, money.budget, money.per_hour, as_json):
            return
        print(whole_sentence(wanted), file=sys.stderr)
    swarm = replace(swarm, step_s=speed.step_s(size, measured))
    rows = candidates(size, model.layers, swarm)
    if utilization:
        _needed(rows, size, swarm, as_json)
        return
    _print_plan(_Plan(rows, size, swarm, speed.tokens, money.budget, money.per_hour), as_json)


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise UserError(f"{name} must be above 0")
    return value


def _share(value: float, name: str) -> float:
    if not 0 < value <= 1:
        raise UserError(f"{name} is {value:g}: it must be above 0 and at most 1")
    return value


@dataclass(frozen=True, slots=True)
class _Speed:
    """How fast a peer is, as it was typed."""

    step: str | None
    flops: str | None
    mfu: float
    tokens_per_step: str | None

    @property
    def tokens(self) -> float:
        """Of an inner step."""
        return _positive(parse_count(self.tokens_per_step or _TOKENS_PER_STEP), "--tokens-per-step")

    def step_s(self, params: float, measured: dict[str, Any]) -> float:
        """Seconds of an inner step of a whole model."""
        if self.step is not None and self.flops is not None:
            raise UserError("--step and --flops say the same: give one of them")
        if self.step is not None:
            return _positive(parse_seconds(self.step), "--step")
        if self.flops is not None:
            return _FLOPS_PER_PARAMETER * params * self.tokens / self.reached_flops
        if "step_s" in measured:
            found: float = measured["step_s"]
            return found
        raise UserError("say how long an inner step takes, by --step 0.8s or --flops 300T")

    @property
    def reached_flops(self) -> float:
        """Per second."""
        if self.flops is None or self.step is not None:
            raise UserError("stages take a share of a model's computing: say --flops 300T, and not --step")
        return _positive(parse_count(self.flops), "--flops") * self.mfu


@dataclass(frozen=True, slots=True)
class _Money:
    """What a run may take."""

    budget: float | None
    """Tokens."""
    per_hour: float | None
    """Of a peer."""

    @classmethod
    def of(cls, tokens: str | None, price: str | None) -> _Money:
        budget = _positive(parse_count(tokens), "--tokens") if tokens is not None else None
        return cls(budget, parse_price(price) if price is not None else None)


@dataclass(frozen=True, slots=True)
class _Model:
    """What is trained, as it was typed or as a RUN.toml has it."""

    params: float | None
    layers: int
    width: int | None
    stages: int | None
    microbatch: float
    """Tokens."""
    sizes: tuple[float, ...] = ()
    """Parameters of each layer, where they are not alike."""
    cuts: tuple[int, ...] = ()
    recompute: bool = True
    codecs: tuple[str, ...] = CODECS
    step_tokens: str | None = None

    @property
    def is_cut(self) -> bool:
        return self.width is not None or self.stages is not None

    @classmethod
    def of_run(cls, settings: RunSettings) -> _Model:
        """The built-in model of a run."""
        model, pipeline, context = settings.model, settings.pipeline, settings.model.context
        sizes = decoder_sizes(model.layers, model.heads, model.width)
        if pipeline.stages == 1:
            count = sum(sizes) - (sizes[0] if model.tied else 0)
            tokens = f"{settings.train.batch_size * context}"
            return cls(count, model.layers, None, None, context, step_tokens=tokens)
        return cls(
            params=sum(sizes),
            layers=model.layers,
            width=model.width,
            stages=pipeline.stages,
            microbatch=pipeline.microbatch * context,
            sizes=sizes,
            cuts=pipeline.cuts,
            recompute=pipeline.recompute,
            codecs=(pipeline.activations,),
            step_tokens=f"{pipeline.quota * pipeline.microbatch * context}",
        )


def _wanted(model: _Model, params: float, swarm: UniformSwarm, memory: str | None, speed: _Speed) -> Wanted:
    """A model that shall be cut. Raises `UserError` where something is not said that this needs."""
    if model.width is None or (memory is None and model.step_tokens is None):
        raise UserError(
            "for a model in stages say both --width 10496, the values of a token between layers, and"
            " --memory 80G of a peer's device"
        )
    return Wanted(
        sizes=model.sizes or (params / model.layers,) * model.layers,
        width=model.width,
        peers=swarm.peers,
        rate_bps=swarm.exchange_bps,
        rtt_s=swarm.rtt_s,
        flops=speed.reached_flops,
        memory_bytes=math.inf if memory is None else _positive(parse_memory(memory), "--memory"),
        microbatch_tokens=max(1, round(model.microbatch)),
        stages=model.stages,
        cuts=model.cuts,
        recompute=model.recompute,
        codecs=model.codecs,
        step_tokens=None if speed.tokens_per_step is None else speed.tokens,
    )


# -- a plan -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    rows: list[Candidate]
    params: float
    swarm: UniformSwarm
    tokens_per_step: float
    budget: float | None
    """Tokens of the run."""
    price: float | None
    """Of a peer and hour."""

    def seconds(self, row: Candidate) -> float | None:
        """Until the budget is trained; None without one."""
        if self.budget is None:
            return None
        per_s = self.swarm.peers * self.tokens_per_step / self.swarm.step_s * row.prediction.utilization
        return self.budget / per_s

    def cost(self, row: Candidate) -> float | None:
        """Of the budget; None without one, or without a price."""
        seconds = self.seconds(row)
        if seconds is None or self.price is None:
            return None
        return seconds / 3600 * self.price * self.swarm.peers


def _print_plan(plan: _Plan, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_plain(plan), indent=1))
        return
    console, swarm = wide_console(), plan.swarm
    chosen, reason = recommended(plan.rows)
    console.print(_table(plan, chosen))
    console.print(
        Text(
            f"{plan.params:,.0f} parameters, {swarm.peers} peers, {_rates(swarm)},"
            f" {show_seconds(swarm.rtt_s)} round trip, {show_seconds(swarm.step_s)} a step"
        )
    )
    console.print(Text("Lower part: every other method as its preset is, in no order"))
    _print_left_out(console)
    if chosen.prediction.utilization < GOOD:
        _print_what_would_help(console, plan, chosen)
    console.print(Text(f"\nTake {_setting(chosen)}: {reason}.", style="bold"))
    console.print(Text(f"\n{snippet(chosen)}"))


def _print_left_out(console: Console) -> None:
    for name, why in left_out().items():
        console.print(Text(f"No row for {name}: {why}"))


def _print_what_would_help(console: Console, plan: _Plan, chosen: Candidate) -> None:
    title = f"Warning: nothing in the upper part reaches {GOOD:.0%}. With its best row this would help:"
    console.print(Text(title, style="bold"))
    for line in what_would_help(chosen, plan.params, plan.swarm):
        console.print(Text(f"  - {line}"))


def _rates(swarm: UniformSwarm) -> str:
    down = "" if swarm.down_bps == swarm.up_bps else f" and {show_rate(swarm.down_bps)} down"
    way = " each way" if not down else " up"
    return f"{show_rate(swarm.up_bps)}{way}{down}, of which TCP gets {swarm.line_efficiency:.0%}"


def _setting(row: Candidate) -> str:
    m = row.method
    overlap = f" tau={m.delay}" if m.delay else ""
    fragments = f" P={m.num_fragments}" if m.num_fragments > 1 else ""
    return f"{row.preset} H={m.sync_every}{overlap}{fragments} {codec_text(m)}"


def _table(plan: _Plan, chosen: Candidate) -> Table:
    table = plain_table()
    table.add_column("method")  # on a narrow screen this one takes two lines
    for name in ("busy", "hidden", "exposed", "sent/day", "device", "host"):
        table.add_column(name, justify="right", no_wrap=True)
    if plan.budget is not None:
        table.add_column("time", justify="right", no_wrap=True)
    if plan.budget is not None and plan.price is not None:
        table.add_column("cost", justify="right", no_wrap=True)
    for row, following in zip(plan.rows, [*plan.rows[1:], None], strict=True):
        p, seconds, cost = row.prediction, plan.seconds(row), plan.cost(row)
        cells = [_setting(row)]
        cells += [f"{p.utilization:.1%}", show_seconds(p.timing.hidden_s), show_seconds(p.timing.exposed_s)]
        cells += [show_bytes(p.bytes_per_day), show_bytes(p.device_bytes), show_bytes(p.host_bytes)]
        cells += [] if seconds is None else [show_seconds(seconds)]
        cells += [] if cost is None else [f"{cost:,.0f}"]
        last_ranked = row.ranked and following is not None and not following.ranked
        table.add_row(*cells, style="bold" if row is chosen else None, end_section=last_ranked)
    return table


def _plain(plan: _Plan) -> dict[str, Any]:
    chosen, reason = recommended(plan.rows)
    return {
        "parameters": plan.params,
        "swarm": asdict(plan.swarm),
        "rows": [
            {
                "preset": row.preset,
                "ranked": row.ranked,
                "method": row.overrides,
                "utilization": row.prediction.utilization,
                "hidden_s": row.prediction.timing.hidden_s,
                "exposed_s": row.prediction.timing.exposed_s,
                "bytes_per_day": row.prediction.bytes_per_day,
                "device_bytes": row.prediction.device_bytes,
                "host_bytes": row.prediction.host_bytes,
                "seconds": plan.seconds(row),
                "cost": plan.cost(row),
            }
            for row in plan.rows
        ],
        "left_out": left_out(),
        "recommended": plan.rows.index(chosen),
        "reason": reason,
        "toml": snippet(chosen),
    }


def _needed(rows: list[Candidate], params: float, swarm: UniformSwarm, as_json: bool) -> None:
    found = []
    for row in rows:

        def with_rate(bps: float, row: Candidate = row) -> float:
            at = replace(swarm, up_bps=bps, down_bps=bps)
            return predict(row.method, params, at).utilization

        found.append([bandwidth_for(with_rate, target) for target in TARGETS])
    if as_json:
        bps = dict(zip(map(_setting, rows), found, strict=True))
        plain = {"targets": TARGETS, "line_efficiency": swarm.line_efficiency, "bps": bps}
        print(json.dumps({**plain, "left_out": left_out()}))
        return
    table = by_target("bandwidth that each peer needs, up and down")
    for row, needed in zip(rows, found, strict=True):
        rates = ["latency" if bps is None else show_rate(bps) for bps in needed]
        table.add_row(_setting(row), *rates)
    console = wide_console()
    console.print(table)
    print(f"of which TCP gets {swarm.line_efficiency:.0%}; {show_seconds(swarm.rtt_s)} round trip")
    _print_left_out(console)
    if any(bps is None for needed in found for bps in needed):
        print("latency: round trips alone cost more than that, whatever the bandwidth")
