"""`diloco plan`: what a run will do on links that one describes, before anything is rented."""

from __future__ import annotations

import json
import socket
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diloco.cli.methods import codec_text
from diloco.cli.papers import by_target, print_paper
from diloco.cli.usage import finite
from diloco.errors import UserError
from diloco.methods.cost import element_bytes
from diloco.methods.presets import PRESETS
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
from peers.admission.ticket import read_ticket

_FLOPS_PER_PARAMETER = 6


def plan_command(
    params: Annotated[str | None, typer.Option(help="Parameters of the model: 10B, 350M.")] = None,
    layers: Annotated[int, typer.Option(min=1, max=10_000, help="Its layers.")] = 24,
    peers: Annotated[int | None, typer.Option(min=2, max=4096, help="Workers. [default: 8]")] = None,
    up: Annotated[str | None, typer.Option(help="Upload of each peer: 500Mbps, 1Gbit/s, 10MB/s.")] = None,
    down: Annotated[str | None, typer.Option(help="Download, if it differs from the upload.")] = None,
    line_efficiency: Annotated[
        float | None,
        typer.Option(
            help=f"Share of these rates that TCP really gets. [default: {LINE_EFFICIENCY}; 1 for a rate that"
            " --from-host has measured]",
        ),
    ] = None,
    rtt: Annotated[str | None, typer.Option(help="Round trip between any two. [default: 60ms]")] = None,
    step: Annotated[str | None, typer.Option(help="Seconds of an inner step: 0.8s, 300ms.")] = None,
    flops: Annotated[str | None, typer.Option(help="Or peak FLOP/s of a peer: 300T, 8P.")] = None,
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1.0, callback=finite, help="Share of --flops that is reached.")
    ] = 0.4,
    tokens_per_step: Annotated[str, typer.Option(help="Tokens of a peer's inner step.")] = "16k",
    tokens: Annotated[str | None, typer.Option(help="Token budget of the run: 200B.")] = None,
    price: Annotated[str | None, typer.Option(help="Of a peer: 2.5/h.")] = None,
    from_host: Annotated[
        str | None,
        typer.Option(metavar="TICKET", help="Take model, peers, speed and round trip from a running host."),
    ] = None,
    utilization: Annotated[
        bool, typer.Option("--utilization", help="The bandwidth that each method needs, for 50 to 99 %.")
    ] = False,
    paper: Annotated[
        str | None, typer.Option(help="A paper's table, reproduced: streaming, scaling-laws, intellect-1.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Methods and settings for a model on given links: busy time, traffic, memory, days and cost."""
    if paper is not None:
        print_paper(paper, as_json)
        return
    measured = measured_at(from_host) if from_host is not None else {}
    count = parse_count(params) if params is not None else measured.get("parameters")
    up_bps = parse_rate(up) if up is not None else measured.get("up_bps", 1e9 if utilization else None)
    if from_host is not None and count is None:
        raise UserError("the host knows no model yet: wait until workers train, or say --params and --up")
    if count is None or up_bps is None:
        raise UserError(
            "say at least how large the model is and how fast a peer uploads:"
            " diloco plan --params 10B --up 500Mbps --step 0.8s"
        )
    per_step = _positive(parse_count(tokens_per_step), "--tokens-per-step")
    if line_efficiency is None:  # what exchanges did is what TCP gets
        line_efficiency = 1.0 if up is None and "up_bps" in measured else LINE_EFFICIENCY
    swarm = UniformSwarm(
        peers=peers or measured.get("peers", 8),
        up_bps=_positive(up_bps, "--up"),
        down_bps=_positive(parse_rate(down) if down is not None else up_bps, "--down"),
        rtt_s=parse_seconds(rtt) if rtt is not None else measured.get("rtt_s", 0.06),
        step_s=_step_s(step, flops, mfu, count, per_step, measured),
        line_efficiency=_share(line_efficiency, "--line-efficiency"),
    )
    rows = candidates(_positive(count, "--params"), layers, swarm)
    if utilization:
        _needed(rows, count, swarm, as_json)
        return
    budget = _positive(parse_count(tokens), "--tokens") if tokens is not None else None
    per_hour = parse_price(price) if price is not None else None
    plan = _Plan(rows, count, swarm, per_step, budget, per_hour)
    if as_json:
        print(json.dumps(_plain(plan), indent=1))
        return
    _print_plan(plan)


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise UserError(f"{name} must be above 0")
    return value


def _share(value: float, name: str) -> float:
    if not 0 < value <= 1:
        raise UserError(f"{name} is {value:g}: it must be above 0 and at most 1")
    return value


def _step_s(
    step: str | None, flops: str | None, mfu: float, params: float, tokens: float, measured: dict[str, Any]
) -> float:
    if step is not None and flops is not None:
        raise UserError("--step and --flops say the same: give one of them")
    if step is not None:
        return _positive(parse_seconds(step), "--step")
    if flops is not None:
        return _FLOPS_PER_PARAMETER * params * tokens / (_positive(parse_count(flops), "--flops") * mfu)
    if "step_s" in measured:
        found: float = measured["step_s"]
        return found
    raise UserError("say how long an inner step takes, by --step 0.8s or --flops 300T")


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


def _print_plan(plan: _Plan) -> None:
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


# -- a running host -----------------------------------------------------------------------------------


def measured_at(ticket: str) -> dict[str, Any]:
    """What a host's status tells of its run, and the round trip to it; said in a line on stderr."""
    from diloco.swarm.handshake import status

    found = measured_from(status(ticket))
    found["rtt_s"] = _round_trip_s(ticket)
    told = [f"{show_seconds(found['rtt_s'])} round trip to the host"]
    if "peers" in found:
        told.append(
            f"{found['peers']} active peers, {found['parameters']:,.0f} values in a round of all fragments"
        )
    if "step_s" in found:
        told.append(f"{show_seconds(found['step_s'])} a step")
    if "up_bps" in found:
        told.append(f"exchanges at {show_rate(found['up_bps'])} (what links did, not what they can)")
    print(f"measured: {', '.join(told)}", file=sys.stderr)
    return found


def measured_from(status: dict[str, Any]) -> dict[str, Any]:
    """Peers, values exchanged, seconds of a step and the rate of exchanges, as far as a status has them."""
    active = [member for member in status["members"] if member["active"]]
    found: dict[str, Any] = {}
    if active and status.get("elements"):
        found |= {"peers": max(2, len(active)), "parameters": float(sum(status["elements"]))}
    paces = [m["tokens"] / m["step"] / m["speed"] for m in active if m["step"] and m.get("speed")]
    if paces:
        found["step_s"] = statistics.median(paces)
    codec = status.get("codec", "")
    if codec and codec != "topk":
        each = element_bytes(codec, PRESETS["diloco"])
        rates = [
            8 * 2 * (members - 1) / members * status["elements"][fragment] * each / seconds
            for fragment, members, seconds in status.get("recent", [])
            if members > 1 and seconds > 0
        ]
        if rates:
            found["up_bps"] = statistics.median(rates)
    return found


def _round_trip_s(ticket: str) -> float:
    """A TCP handshake takes one round trip: the median of several."""
    host, port = read_ticket(ticket, time.time()).addresses[0].removeprefix("tcp://").rsplit(":", 1)
    times = []
    for _ in range(5):
        began = time.monotonic()
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=10.0):
                times.append(time.monotonic() - began)
        except OSError as error:
            raise UserError(f"{host}:{port} cannot be reached: {error.strerror or error}") from None
    return statistics.median(times)
