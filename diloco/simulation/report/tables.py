"""A simulated run as tables for a terminal. Names and reasons are shown as plain characters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from diloco.simulation.report.report import BUSY, PeerReport, RoundReport, SimulationReport
from diloco.simulation.report.stage_tables import stages_shown
from diloco.terminal import plain_table, printable
from diloco.units import show_bytes

_MAX_ROWS = 12
_PURPOSES = ("stream", "exchange", "early", "state", "control")
_SECONDS = (BUSY, ("wait", "bubble"), ("join",))


def render(report: SimulationReport) -> Group:
    """Everything that fits a screen: the summary, rounds, peers, recoveries, violations."""
    parts: list[RenderableType] = [
        _summary(report),
        *stages_shown(report),
        _rounds(report.rounds),
        _peers(report.peers),
    ]
    if report.roles:
        parts.append(_roles(report))
    if report.recoveries:
        parts.append(_recoveries(report))
    parts += [Text(printable(line), style="bold red") for line in report.violations]
    return Group(*parts)


def _roles(report: SimulationReport) -> Group:
    table = plain_table("peers with a role")
    for name in ("peer", "role", "what it did", "put out, because"):
        table.add_column(name)
    for each in report.roles:
        deeds = ", ".join(f"{deed} ({count})" for deed, count in each.deeds.items())
        table.add_row(printable(each.peer), each.role, printable(deeds) or "nothing", printable(each.put_out))
    share = report.honest_rate / report.honest_rate_alone if report.honest_rate_alone else 0.0
    text = (
        f"honest peers commit at {share:.2f} of the rate without these;"
        f" left out of a round {report.num_set_aside} times; {report.num_forged} forged means;"
        f" {'X12 does not hold' if any('X12' in line for line in report.violations) else 'X12 holds'}"
    )
    return Group(table, Text(text))


def clock(seconds: float) -> str:
    """h:mm:ss, or seconds with a digit below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _summary(report: SimulationReport) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    share = report.tokens_per_s / report.ideal_tokens_per_s if report.ideal_tokens_per_s else 0.0
    sent, received = _per_peer(report.peers, sent=True), _per_peer(report.peers, sent=False)
    rows = [
        ("scenario", f"{printable(report.scenario)}, seed {report.seed}, {report.mode}"),
        ("run", f"{report.method}, {report.num_parameters:,} parameters, {len(report.peers)} peers"),
        ("compute utilization", f"{report.utilization:.1%}"),
        (
            "tokens/s",
            f"{report.tokens_per_s:,.0f} of {report.ideal_tokens_per_s:,.0f} without a network ({share:.1%})",
        ),
        ("tokens", f"{report.tokens:,} trained, {report.tokens_applied:,} applied"),
        ("time", f"{clock(report.seconds)}, {len(report.rounds)} rounds; it ended with {report.ended}"),
        ("sent per peer", sent),
        ("received per peer", received),
    ]
    if report.losses:
        rows.append(
            ("training loss", f"{report.losses[0][2]:.4f} at first, {report.losses[-1][2]:.4f} at last")
        )
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _per_peer(peers: Sequence[PeerReport], *, sent: bool) -> str:
    parts = []
    for purpose in _PURPOSES:
        amounts = [(peer.sent if sent else peer.received).get(purpose, 0) for peer in peers]
        if any(amounts):
            parts.append(f"{purpose} {show_bytes(statistics.fmean(amounts))}")
    return ", ".join(parts) or "nothing"


def _rounds(rounds: Sequence[RoundReport]) -> RenderableType:
    if not rounds:
        return Text("no round was committed", style="bold red")
    table = plain_table("rounds")
    for name in ("round", "fragment", "members", "attempts", "began", "gather s", "exchange s", "land s"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = list(rounds) if len(rounds) <= _MAX_ROWS else [*rounds[:3], *rounds[-3:]]
    for position, each in enumerate(shown):
        if position == 3 and len(shown) < len(rounds):
            for name, pick in (("least", min), ("median", statistics.median), ("most", max)):
                table.add_row(name, "", *_picked(rounds, pick), style="dim")
        table.add_row(
            str(each.index),
            str(each.fragment),
            str(each.participants),
            str(each.attempts),
            clock(each.started_s),
            f"{each.gather_s:.2f}",
            f"{each.exchange_s:.2f}",
            f"{each.land_s:.2f}",
        )
    return table


def _picked(rounds: Sequence[RoundReport], pick: object) -> list[str]:
    assert callable(pick)
    members = pick([each.participants for each in rounds])
    attempts = pick([each.attempts for each in rounds])
    phases = [
        [each.gather_s for each in rounds],
        [each.exchange_s for each in rounds],
        [each.land_s for each in rounds],
    ]
    return [f"{members:g}", f"{attempts:g}", "", *(f"{pick(phase):.2f}" for phase in phases)]


def _peers(peers: Sequence[PeerReport]) -> Table:
    table = plain_table("peers")
    table.add_column("peer")
    for name in ("busy", "compute s", "wait s", "join s", "away s", "steps", "sent", "received"):
        table.add_column(name, justify="right", no_wrap=True)
    order = sorted(peers, key=lambda peer: -peer.utilization)
    middle = len(order) // 2
    some = [*order[:4], *order[middle - 2 : middle + 2], *order[-4:]]
    for peer in peers if len(peers) <= _MAX_ROWS + 4 else some:
        away = peer.seconds.get("frozen", 0.0) + peer.seconds.get("down", 0.0)
        table.add_row(
            Text(printable(peer.name)),
            f"{peer.utilization:.1%}",
            *(f"{sum(peer.seconds.get(w, 0.0) for w in what):,.0f}" for what in _SECONDS),
            f"{away:,.0f}",
            f"{peer.steps:,}",
            show_bytes(sum(peer.sent.values())),
            show_bytes(sum(peer.received.values())),
        )
    if len(peers) > _MAX_ROWS + 4:
        table.caption = f"{len(some)} of {len(peers)}: the busiest, those in the middle, the least busy"
    return table


def _recoveries(report: SimulationReport) -> Table:
    table = plain_table("what faults cost, in seconds")
    for name in ("at", "peer", "what"):
        table.add_column(name)
    for name in ("noticed", "next commit", "back in"):
        table.add_column(name, justify="right")
    for each in report.recoveries[:_MAX_ROWS]:
        times = (each.detect_s, each.recommit_s, each.rejoin_s)
        shown = ["" if value is None else f"{value:.1f}" for value in times]
        table.add_row(clock(each.at_s), Text(printable(each.peer)), Text(printable(each.what)), *shown)
    if len(report.recoveries) > _MAX_ROWS:
        table.caption = f"the first {_MAX_ROWS} of {len(report.recoveries)}"
    return table
