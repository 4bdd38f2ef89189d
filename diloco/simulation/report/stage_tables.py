"""What a report says of stages, as tables for a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from diloco.simulation.report.report import Microbatches, SimulationReport, StageReport
from diloco.terminal import plain_table
from diloco.units import show_bytes

_MAX_ROWS = 24
COLUMNS = (
    "stage",
    "replicas",
    "parameters",
    "busy",
    "forward s",
    "backward s",
    "bubble s",
    "wait s",
    "join s",
)
MORE_COLUMNS = ("away s", "steps", "short", "counted", "partial", "rounds", "boundaries", "exchanges")


def stage_row(stage: StageReport) -> list[str]:
    """One stage's facts, as `COLUMNS` and `MORE_COLUMNS` name them. Forward and backward of the last stage
    are one."""
    seconds = stage.seconds.get
    both = seconds("compute", 0.0)
    away = seconds("frozen", 0.0) + seconds("down", 0.0)
    exchanged = stage.sent.get("exchange", 0) + stage.sent.get("early", 0)
    return [
        str(stage.stage),
        str(len(stage.peers)),
        f"{stage.num_parameters:,}",
        f"{stage.utilization:.1%}",
        f"{seconds('forward', 0.0):,.0f}" if not both else "",
        f"{both or seconds('backward', 0.0):,.0f}",
        *(f"{seconds(what, 0.0):,.0f}" for what in ("bubble", "wait", "join")),
        f"{away:,.0f}",
        f"{stage.steps:,}",
        f"{stage.short_steps:,}",
        f"{stage.counted:,}",
        f"{stage.partial:,}",
        f"{stage.rounds:,}",
        show_bytes(stage.sent.get("stream", 0)),
        show_bytes(exchanged),
    ]


def microbatches_line(found: Microbatches) -> str:
    """What became of those that were fed."""
    open_ = found.fed - found.settled - found.partial - found.lost
    causes = ", ".join(f"{cause} {count:,}" for cause, count in found.by_cause.items())
    return (
        f"{found.fed:,} microbatches of {found.tokens:,} tokens were fed: {found.settled:,} settled,"
        f" {found.partial:,} partial, {found.lost:,} lost{f' ({causes})' if causes else ''}, {open_:,} under"
        f" way at the end; one takes {show_bytes(found.stream_bytes)} over all boundaries, and waited for"
        f" other bulk at most {1000 * found.behind_bulk_s:.0f} ms"
    )


def stages_shown(report: SimulationReport) -> list[RenderableType]:
    """The table of stages and a line about microbatches; nothing of a model that is not cut."""
    if report.microbatches is None:
        return []
    table = plain_table("stages: seconds of all replicas together")
    for name in (*COLUMNS, *MORE_COLUMNS):
        table.add_column(name, justify="right", no_wrap=True)
    stages = report.stages
    some = stages if len(stages) <= _MAX_ROWS else [*stages[: _MAX_ROWS // 2], *stages[-_MAX_ROWS // 2 :]]
    for stage in some:
        table.add_row(*stage_row(stage))
    if len(some) < len(stages):
        table.caption = f"{len(some)} of {len(stages)} stages: the first and the last ones"
    return [table, Text(microbatches_line(report.microbatches))]
