"""An inner step of a model in stages from close by: a lane for each replica, and what it computes when.

Draws spans of a report as SVG; knows nothing of how they came about.
"""

from __future__ import annotations

from html import escape

from diloco.simulation.report.report import PeerReport, SimulationReport
from diloco.simulation.report.svg import LANE_HEIGHT

MAX_LANES = 64
_WIDTH = 1000.0
STYLE = """
:root{--forward:#93cfa8;--backward:#4a6fc5;--bubble:#e8dcc2}
@media(prefers-color-scheme:dark){:root{--forward:#86c79e;--backward:#6b8fe0;--bubble:#4a4436}}
.forward{fill:var(--forward);background:var(--forward)}.backward{fill:var(--backward);background:var(--backward)}
.bubble{fill:var(--bubble);background:var(--bubble)}
"""
"""Colours that pages of other models have no use for."""
WORK = {
    "forward": "forward",
    "backward": "backward",
    "compute": "both, at the last stage",
    "bubble": "waits for microbatches",
    "wait": "waits for a round",
    "join": "fetches the state",
    "frozen": "is stopped",
    "down": "is not there",
}


def step_drawn(report: SimulationReport) -> tuple[float, float] | None:
    """When the step that is drawn begins and ends: the second of some feeder, or its only one. None if there
    is none."""
    steps = report.microbatches.steps if report.microbatches is not None else []
    if not steps:
        return None
    mine = [(begin, end) for name, begin, end in steps if name == steps[0][0]]
    return mine[1] if len(mine) > 1 else mine[0]


def swimlanes(report: SimulationReport) -> str:
    """The drawing with its heading and legend; nothing of a model that is not cut."""
    found = step_drawn(report)
    if found is None:
        return ""
    begin, end = found
    lanes = lanes_of(report)
    num_lanes = sum(len(stage.peers) for stage in report.stages)
    scale = _WIDTH / max(end - begin, 1e-9)
    height = LANE_HEIGHT * len(lanes)
    drawn = "".join(_lane(peer, row, begin, end, scale) for row, (_, peer) in enumerate(lanes))
    names = "".join(
        f'<div title="{escape(peer.name)}">{stage}: {escape(peer.name)}</div>' for stage, peer in lanes
    )
    legend = "".join(f'<i class="{key}"></i>{text} ' for key, text in WORK.items())
    note = "" if len(lanes) == num_lanes else f"; {len(lanes)} of {num_lanes} replicas are drawn"
    return (
        f'<h2>An inner step</h2><p class="dim">{begin:,.1f} to {end:,.1f} s, by stage: {legend}{note}</p>'
        f'<div class="timeline"><div class="names">{names}</div><div class="lanes">'
        f'<svg viewBox="0 0 {_WIDTH:g} {height:g}" preserveAspectRatio="none" style="height:{height:g}px">'
        f"{drawn}</svg></div></div>"
    )


def lanes_of(report: SimulationReport) -> list[tuple[int, PeerReport]]:
    """Stages and their replicas, from the first stage on; the first of each if there are too many."""
    peers = {peer.name: peer for peer in report.peers}
    each = max(1, MAX_LANES // max(1, len(report.stages)))
    return [(stage.stage, peers[name]) for stage in report.stages for name in stage.peers[:each]]


def _lane(peer: PeerReport, row: int, begin: float, end: float, scale: float) -> str:
    top, tall = row * LANE_HEIGHT + 2, LANE_HEIGHT - 6
    shapes = []
    for span in peer.spans:
        if span.end_s <= begin or span.start_s >= end:
            continue
        x, until = max(span.start_s, begin) - begin, min(span.end_s, end) - begin
        title = f"{escape(peer.name)} {WORK[span.activity]}, {span.end_s - span.start_s:.3f} s"
        shapes.append(
            f'<rect class="{span.activity}" x="{x * scale:.2f}" y="{top:g}"'
            f' width="{max(0.1, (until - x) * scale - 0.4):.2f}" height="{tall:g}">'
            f"<title>{title}</title></rect>"
        )
    return "".join(shapes)
