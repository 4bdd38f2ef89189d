"""A simulated run as one self-contained HTML page: a timeline of every peer, plots and tables.

No library and nothing from elsewhere: SVG and CSS that work without JavaScript, and a few lines of it to
zoom. Every text that comes from a scenario is escaped. The same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from diloco.simulation.report.report import PeerReport, SimulationReport, Span
from diloco.simulation.report.stage_tables import COLUMNS, MORE_COLUMNS, microbatches_line, stage_row
from diloco.simulation.report.svg import LANE_HEIGHT, SCRIPT, STYLE, bars, curve, stacked, ticks
from diloco.simulation.report.swimlanes import STYLE as STAGE_STYLE
from diloco.simulation.report.swimlanes import swimlanes
from diloco.simulation.report.tables import clock
from diloco.units import show_bytes

MAX_LANES = 40
WIDTH = 1000.0
"""Units of the timeline's drawing; what is narrower than one of a thousandth of it is merged with what
follows."""
_NARROWEST = WIDTH / 2000
_PURPOSES = (("exchange", "early"), ("state",), ("control",))
"""Of bytes that are sent, those that are drawn together."""
_KINDS = ("exchanges", "states for joiners", "control")
_WITH_STREAMS = (("stream",), ("exchange", "early"), ("state", "control", "check"))
_ACTIVITIES = {
    "compute": "trains",
    "wait": "waits for the network",
    "join": "fetches the state",
    "frozen": "is stopped",
    "down": "is not there",
}
_OF_STAGES = {
    "compute": "trains forward and backward",
    "forward": "goes forward",
    "backward": "goes backward",
    "bubble": "waits for microbatches",
}


def _activities(report: SimulationReport) -> dict[str, str]:
    """By key, how it is told: of a model that is cut there are more."""
    return {**_OF_STAGES, **_ACTIVITIES, **_OF_STAGES} if report.stages else _ACTIVITIES


def render_page(report: SimulationReport) -> str:
    """The page."""
    parts = [
        _headline(report),
        _stages(report),
        swimlanes(report),
        _timeline(report),
        _plots(report),
        _recoveries(report),
        _peer_table(report),
        _marks(report),
    ]
    title = escape(f"{report.scenario}, seed {report.seed}")
    style = STYLE + STAGE_STYLE if report.stages else STYLE
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width">\n<style>{style}</style></head>\n'
        f"<body>\n{''.join(parts)}\n<script>{SCRIPT}</script></body></html>\n"
    )


def _headline(report: SimulationReport) -> str:
    share = report.tokens_per_s / report.ideal_tokens_per_s if report.ideal_tokens_per_s else 0.0
    sent = sum(sum(peer.sent.values()) for peer in report.peers) / max(1, len(report.peers))
    facts = [
        (f"{report.utilization:.1%}", "compute utilization"),
        (f"{report.tokens_per_s:,.0f}", f"tokens/s, {share:.1%} of what no network would cost"),
        (clock(report.seconds), f"{len(report.rounds)} rounds; {escape(report.ended)}"),
        (show_bytes(sent), "sent by a peer, on average"),
    ]
    cards = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for value, what in facts)
    run = f"{report.method}, {report.num_parameters:,} parameters, {len(report.peers)} peers, {report.mode}"
    broken = "".join(f'<p class="broken">{escape(line)}</p>' for line in report.violations)
    return (
        f"<h1>{escape(report.scenario)}</h1><p>{escape(report.about)}</p>"
        f'<p class="dim">{escape(run)}, seed {report.seed}</p>{broken}<div class="cards">{cards}</div>'
    )


# -- the timeline -----------------------------------------------------------------------------------


def lanes_of(report: SimulationReport) -> list[PeerReport]:
    """The peers that are drawn: all, or the most telling ones: those with faults first, then some from the
    busiest to the least busy."""
    peers = report.peers
    if len(peers) <= MAX_LANES:
        return list(peers)
    struck = {mark.peer for mark in report.marks if mark.injected}
    first = [peer for peer in peers if peer.name in struck][: MAX_LANES // 2]
    rest = sorted((peer for peer in peers if peer not in first), key=lambda peer: -peer.utilization)
    wanted = MAX_LANES - len(first)
    chosen = first + [rest[i * (len(rest) - 1) // max(1, wanted - 1)] for i in range(wanted)]
    return [peer for peer in peers if peer in chosen]


def _timeline(report: SimulationReport) -> str:
    lanes = lanes_of(report)
    scale = WIDTH / max(report.seconds, 1e-9)
    height = LANE_HEIGHT * len(lanes)
    told = _activities(report)
    drawn = "".join(_lane(peer, index, scale, told) for index, peer in enumerate(lanes))
    marks = "".join(_mark_line(report, scale, height, lanes))
    names = "".join(f'<div title="{escape(p.name)}">{escape(p.name)}</div>' for p in lanes)
    note = "" if len(lanes) == len(report.peers) else f"; {len(lanes)} of {len(report.peers)} peers are drawn"
    legend = "".join(f'<i class="{key}"></i>{text} ' for key, text in _activities(report).items())
    axis = "".join(
        f'<span style="left:{100 * at / max(report.seconds, 1e-9):.3f}%">{label}</span>'
        for at, label in ticks(0.0, report.seconds)
    )
    return (
        f'<h2>Timeline</h2><p class="dim">{legend}<i class="exchange"></i>exchanges'
        f" (wheel zooms, drag moves, double click shows all){note}</p>"
        f'<div class="timeline"><div class="names">{names}</div><div class="lanes">'
        f'<svg id="lanes" viewBox="0 0 {WIDTH:g} {height:g}" preserveAspectRatio="none"'
        f' style="height:{height:g}px" data-seconds="{report.seconds:.9g}">{drawn}{marks}</svg>'
        f'<div class="axis" id="axis">{axis}</div></div></div>'
    )


def _lane(peer: PeerReport, index: int, scale: float, told: Mapping[str, str]) -> str:
    top, tall = index * LANE_HEIGHT, LANE_HEIGHT - 9
    spans = "".join(
        f'<rect class="{activity}" x="{x:.2f}" y="{top + 2:g}" width="{width:.2f}" height="{tall:g}">'
        f"<title>{escape(peer.name)} {told[activity]}, {clock(start)} to {clock(end)}</title></rect>"
        for activity, x, width, start, end in merged(peer.spans, scale)
    )
    seen = -1.0
    bars_drawn = []
    for each in peer.exchanges:
        x, width = each.start_s * scale, max(0.3, (each.end_s - each.start_s) * scale)
        if x + width - seen < _NARROWEST:
            continue
        seen = x + width
        title = f"fragment {each.fragment}: {escape(each.outcome)}, {each.end_s - each.start_s:.2f} s"
        bars_drawn.append(
            f'<rect class="exchange {escape(each.outcome)}" x="{x:.2f}" y="{top + LANE_HEIGHT - 6:g}"'
            f' width="{width:.2f}" height="3"><title>{title}</title></rect>'
        )
    return spans + "".join(bars_drawn)


def merged(spans: Iterable[Span], scale: float) -> list[tuple[str, float, float, float, float]]:
    """Activity, position, width, and its times. What is too narrow to be seen becomes part of what is longest
    around it, so that a page of a long run stays small."""
    found: list[tuple[str, float, float, float, float]] = []
    held: list[Span] = []

    def flush() -> None:
        if held:
            longest = max(held, key=lambda span: span.end_s - span.start_s)
            start, end = held[0].start_s, held[-1].end_s
            found.append((longest.activity, start * scale, max(0.05, (end - start) * scale), start, end))
            held.clear()

    for span in spans:
        if held and span.start_s > held[-1].end_s:
            flush()  # it was away in between
        if (span.end_s - span.start_s) * scale >= _NARROWEST:
            flush()
        held.append(span)
        if (held[-1].end_s - held[0].start_s) * scale >= _NARROWEST:
            flush()
    flush()
    return found


def _mark_line(
    report: SimulationReport, scale: float, height: float, lanes: Sequence[PeerReport]
) -> Iterable[str]:
    rows = {peer.name: index for index, peer in enumerate(lanes)}
    for mark in report.marks[:400]:
        if mark.peer in rows:
            top, bottom = rows[mark.peer] * LANE_HEIGHT, (rows[mark.peer] + 1) * LANE_HEIGHT
        else:
            top, bottom = 0.0, height
        kind = "injected" if mark.injected else "noted"
        x = mark.at_s * scale
        yield (
            f'<line class="{kind}" x1="{x:.2f}" x2="{x:.2f}" y1="{top:g}" y2="{bottom:g}">'
            f"<title>{clock(mark.at_s)} {escape(mark.peer)}: {escape(mark.text)}</title></line>"
        )


def _stages(report: SimulationReport) -> str:
    if report.microbatches is None:
        return ""
    table = _table((*COLUMNS, *MORE_COLUMNS), [stage_row(each) for each in report.stages])
    return f"<h2>Stages</h2><p>{escape(microbatches_line(report.microbatches))}</p>{table}"


# -- plots and tables -------------------------------------------------------------------------------


def _plots(report: SimulationReport) -> str:
    order = sorted(report.peers, key=lambda peer: -peer.utilization)
    traffic = sorted(report.peers, key=lambda peer: -sum(peer.sent.values()))
    purposes, kinds = (_WITH_STREAMS if report.stages else _PURPOSES), _KINDS
    if report.stages:
        kinds = ("boundaries", "exchanges", "states, control")
    plots = [
        stacked(
            "Seconds per round",
            [(str(r.index), (r.gather_s, r.exchange_s, r.land_s)) for r in report.rounds],
            ("gathering members", "exchange", "landing"),
        ),
        bars("Utilization of peers, per cent", [(p.name, 100 * p.utilization) for p in order]),
        stacked(
            "Megabytes sent by peers",
            [
                (p.name, tuple(sum(p.sent.get(each, 0) for each in what) / 1e6 for what in purposes))
                for p in traffic
            ],
            kinds,
        ),
    ]
    if len(report.losses) > 1:
        points = [(float(tokens), loss) for _, tokens, loss in report.losses]
        plots.append(curve("Training loss against tokens", points))
    return f'<h2>Plots</h2><div class="plots">{"".join(plots)}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _recoveries(report: SimulationReport) -> str:
    if not report.recoveries:
        return ""
    rows = [
        (
            clock(each.at_s),
            each.peer,
            each.what,
            *("" if v is None else f"{v:.1f}" for v in (each.detect_s, each.recommit_s, each.rejoin_s)),
        )
        for each in report.recoveries
    ]
    head = ("at", "peer", "what", "noticed after s", "next commit after s", "back in after s")
    return f"<h2>What faults cost</h2>{_table(head, rows)}"


def _peer_table(report: SimulationReport) -> str:
    told = _activities(report)
    rows = [
        (
            peer.name,
            peer.region,
            f"{peer.utilization:.1%}",
            *(f"{peer.seconds.get(what, 0.0):,.1f}" for what in told),
            f"{peer.steps:,}",
            show_bytes(sum(peer.sent.values())),
            show_bytes(sum(peer.received.values())),
        )
        for peer in report.peers
    ]
    activities = [f"{text}, s" for text in told.values()]
    head = ("peer", "region", "busy", *activities, "steps", "sent", "received")
    return f"<details open><summary>Peers</summary>{_table(head, rows)}</details>"


def _marks(report: SimulationReport) -> str:
    rows = [(clock(mark.at_s), mark.peer, mark.text) for mark in report.marks]
    table = _table(("at", "peer", "what"), rows)
    return f"<details><summary>Everything that happened</summary>{table}</details>"
