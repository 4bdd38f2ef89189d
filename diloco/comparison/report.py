"""A comparison as a table and as a picture. Computes nothing that is not in the results."""

from __future__ import annotations

import statistics
from pathlib import Path

from rich.table import Table

from diloco.comparison.compare import Comparison, RunResult


def progress_line(result: RunResult) -> str:
    """One run that has just ended."""
    return (
        f"{result.method}, seed {result.seed}: loss {result.loss:.4f},"
        f" {result.bytes_per_worker / 1e6:.2f} MB per worker, {result.seconds:.1f} s"
    )


def results_table(comparison: Comparison) -> Table:
    """One row per method: means over seeds."""
    budget = comparison.budget
    title = (
        f"{comparison.parameters:,} parameters, {budget.workers} workers, {budget.tokens:,} tokens,"
        f" {len(budget.seeds)} seed(s)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for column in ("loss", "spread", "one replica", "MB/worker", "exchanges", "waited s", "against first"):
        table.add_column(column, justify="right")
    first, _ = comparison.mean_loss(comparison.methods()[0])
    for method in comparison.methods():
        runs = comparison.of(method)
        loss, spread = comparison.mean_loss(method)
        table.add_row(
            method,
            f"{loss:.4f}",
            f"{spread:.4f}" if len(runs) > 1 else "",
            f"{statistics.fmean(r.replica_loss for r in runs):.4f}",
            f"{statistics.fmean(r.bytes_per_worker for r in runs) / 1e6:,.2f}",
            f"{statistics.fmean(r.exchanges for r in runs):.0f}",
            f"{statistics.fmean(r.waited_s for r in runs):.1f}",
            f"{100 * (loss / first - 1):+.2f} %",
        )
    return table


def draw(comparison: Comparison, path: Path) -> None:
    """Loss of the outer parameters against tokens and against bytes, the mean over seeds, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_tokens, by_bytes) = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True)
    for number, method in enumerate(comparison.methods()):
        style = ("-", "--", ":")[number // 10 % 3]
        runs = comparison.of(method)
        points = list(zip(*(run.curve for run in runs), strict=False))
        losses = [statistics.fmean(point[2] for point in each) for each in points]
        by_tokens.plot([each[0][0] / 1e6 for each in points], losses, style, label=method)
        sent = [statistics.fmean(point[1] for point in each) / 1e6 for each in points]
        if sent and sent[-1] > 0:
            by_bytes.plot(sent, losses, style, label=method)
        else:
            by_bytes.plot([], [], style)  # keeps colours equal
    by_tokens.set_xlabel("tokens of all workers, millions")
    by_tokens.set_ylabel("validation loss, nats per byte")
    by_bytes.set_xlabel("MB sent per worker")
    by_bytes.set_xscale("log")
    by_tokens.legend(fontsize=8)
    for axes in (by_tokens, by_bytes):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
