"""A comparison's table and picture say what its results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from diloco.comparison.compare import Budget, Comparison, RunResult
from diloco.comparison.report import draw, progress_line, results_table


def result(method: str, seed: int, loss: float, sent: float = 2e6) -> RunResult:
    curve = [(1000, sent / 2, loss + 1.0), (2000, sent, loss)]
    return RunResult(method, seed, loss, loss + 0.5, sent, 12, 3.0, 0.0, 7.0, curve)


def comparison(*results: RunResult) -> Comparison:
    seeds = tuple(sorted({each.seed for each in results}))
    return Comparison(Budget(seeds=seeds), 1234, list(results))


def rows(of: Comparison) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in results_table(of).columns), strict=True)]


def test_a_row_is_means_over_seeds_against_the_first_method() -> None:
    found = rows(
        comparison(
            result("diloco", 0, 2.0),
            result("diloco", 1, 3.0),
            result("noloco", 0, 2.0, 4e6),
            result("noloco", 1, 2.0, 4e6),
        )
    )
    assert found[0] == ["diloco", "2.5000", "0.7071", "3.0000", "2.00", "12", "3.0", "+0.00 %"]
    assert found[1][0] == "noloco"
    assert (found[1][4], found[1][-1]) == ("4.00", "-20.00 %")


def test_one_seed_has_no_spread() -> None:
    assert rows(comparison(result("diloco", 0, 2.0)))[0][2] == ""


def test_the_title_says_what_every_run_got() -> None:
    title = str(results_table(comparison(result("diloco", 0, 2.0))).title)
    assert "1,234 parameters, 4 workers, 2,000,000 tokens, 1 seed(s)" in title


def test_a_run_that_has_just_ended_is_one_line() -> None:
    assert progress_line(result("diloco", 3, 2.0)) == "diloco, seed 3: loss 2.0000, 2.00 MB per worker, 7.0 s"


@pytest.mark.parametrize("sent", [2e6, 0.0])
def test_the_picture_is_a_png_also_for_one_who_sends_nothing(sent: float, tmp_path: Path) -> None:
    draw(comparison(result("diloco", 0, 2.0), result("single", 0, 2.5, sent)), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
