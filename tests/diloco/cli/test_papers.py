"""`diloco plan --paper` prints every size with its counts, and the one rule that they come from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from diloco.cli.app import app
from diloco.cli.papers import print_paper
from diloco.cli.staged_papers import STAGED
from diloco.errors import UserError

SIZES = {
    "streaming": {"1B": 23, "10B": 23, "100B": 22},
    "scaling-laws": {"10B": 17, "405B": 20, "671B": 16},
}
FACTOR = {"streaming": 1.19, "scaling-laws": 1.34}


def printed(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["plan", "--paper", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("paper", SIZES)
def test_every_size_is_printed_with_its_counts_and_the_rule(paper: str) -> None:
    shown = printed(paper)
    for size, exact in SIZES[paper].items():
        part = shown.partition(f"{size} parameters, ")[2]
        counts = next(line for line in part.splitlines() if "exact" in line)
        assert counts.strip() == f"{exact} of 25 entries are exact, 25 within a notch"
    assert f"every step takes {FACTOR[paper]} times as long as printed" in shown
    assert f"All sizes: {sum(SIZES[paper].values())} of 75 entries are exact, 75 within a notch" in shown
    assert max(map(len, shown.splitlines())) <= 110


def test_what_the_grid_does_not_reach_is_shown_as_above_it() -> None:
    assert "(>1000)" in printed("scaling-laws")
    rows = json.loads(printed("scaling-laws", "--json"))["sizes"]["671B"]["rows"]
    assert rows["data-parallel"][-1] == {"ours": 1000.0, "published": None, "notches": -1}


@pytest.mark.parametrize("paper", SIZES)
def test_json_has_the_same_for_programs(paper: str) -> None:
    plain = json.loads(printed(paper, "--json"))
    assert {name: size["exact"] for name, size in plain["sizes"].items()} == SIZES[paper]
    assert (plain["within_a_notch"], plain["entries"]) == (75, 75)
    assert plain["step_factor"] == FACTOR[paper]


def test_intellect_1_is_printed() -> None:
    assert "83.0" in printed("intellect-1")
    assert [row["published"] for row in json.loads(printed("intellect-1", "--json"))] == [95.7, 85.6, 83.0]


def test_a_paper_that_is_not_known_is_refused_with_the_names() -> None:
    with pytest.raises(UserError, match="choose from streaming, scaling-laws, intellect-1, swarm, dilocox"):
        print_paper("fairy-tales", as_json=False)


def test_swarm_is_printed_with_what_is_assumed_and_what_a_window_makes_of_it() -> None:
    shown = " ".join(printed("swarm").split())
    assert "base 3.29 ms 15 ms 18 (18) 11.6 (11.8) 4.82 (4.88) 2.78 (2.78) 1.51 (1.53)" in shown
    assert "one microbatch in flight, of which nothing overlaps" in shown
    assert "latency leaves the table, bandwidth stays" in shown
    plain = json.loads(printed("swarm", "--json"))
    assert plain["base"]["published"] == [18.0, 11.8, 4.88, 2.78, 1.53]
    assert plain["GPT-3"]["with_window"] == pytest.approx([100.0] * 5)


def test_dilocox_is_printed_with_what_is_assumed_and_what_the_number_measures() -> None:
    shown = " ".join(printed("dilocox").split())
    assert "Assumed, for neither is published: B = 32,768 tokens" in shown
    assert "all-reduce in each step 9.55 10.4 B / (A + x)" in shown
    assert "speedup 391 357" in shown
    assert "4.8% of the peak of 160 A800" in shown
    plain = json.loads(printed("dilocox", "--json"))
    assert plain["published"]["speedup"] == 357
    assert plain["ours"]["speedup"] == pytest.approx(390.6, abs=0.1)
    for paper in STAGED:
        assert max(map(len, printed(paper).splitlines())) <= 110
