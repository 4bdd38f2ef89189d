"""Comparisons: every method trains, equally long, and twice the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from diloco.comparison.compare import BASELINES, Budget, compare, parse_method
from diloco.comparison.report import draw, progress_line, results_table
from diloco.errors import DilocoError, UserError
from diloco.methods.presets import PRESETS

TINY = Budget(
    workers=2,
    tokens=2 * 12 * 4 * 16,
    layers=2,
    heads=2,
    width=16,
    context=16,
    batch_size=4,
    sync_every=4,
    points=3,
)
FEW_LAYERS = {"streaming": "streaming:num_fragments=2", "decoupled": "decoupled:num_fragments=2"}


@pytest.mark.parametrize("name", [*BASELINES, *PRESETS])
def test_every_method_trains_and_ends(name: str) -> None:
    if name == "muloco" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    found = compare([FEW_LAYERS.get(name, name)], TINY)
    (result,) = found.results
    assert math.isfinite(result.loss)
    assert result.loss < 6.0
    assert result.exchanges > 0
    assert (result.bytes_per_worker > 0) == (name != "single")


def test_the_same_comparison_gives_the_same_numbers() -> None:
    first, second = (compare(["diloco", "noloco", "sparseloco"], TINY) for _ in range(2))
    for a, b in zip(first.results, second.results, strict=True):
        assert (a.loss, a.curve, a.bytes_per_worker, a.variance) == (
            b.loss,
            b.curve,
            b.bytes_per_worker,
            b.variance,
        )


def test_all_methods_get_the_same_tokens_in_whole_rounds() -> None:
    found = compare(["data_parallel", "single", "diloco", "local_sgd:sync_every=3"], TINY)
    assert found.budget.steps % 12 == 0
    assert {result.curve[-1][0] for result in found.results} == {found.budget.tokens}


def test_diloco_with_h_1_that_averages_sgd_is_data_parallel_sgd() -> None:
    """One round per step of plain SGD: the mean of the parameters is a step along the mean of the gradients,
    unless a gradient is clipped."""
    parts = "outer=sgd,outer_lr=1.0,outer_momentum=0.0,codec=fp32,inner=sgd,inner_lr=0.01"
    often = compare([f"diloco:sync_every=1,{parts}"], TINY).results[0]
    start = compare(
        [f"diloco:sync_every=1,{parts},inner_lr=1e-9".replace("inner_lr=0.01,", "")], TINY
    ).results[0]
    assert often.loss < start.loss


def test_eager_and_delayed_wait_for_nothing_and_diloco_is_measured_where_it_is_equal() -> None:
    found = compare(["diloco", "eager"], TINY)
    assert found.of("eager")[0].waited_s == 0.0
    assert found.of("diloco")[0].loss == pytest.approx(found.of("diloco")[0].replica_loss)


def test_replicas_of_gossip_differ_and_those_of_rounds_do_not() -> None:
    found = compare(["noloco", "diloco"], Budget(**{**_plain(TINY), "workers": 4}))
    assert found.of("noloco")[0].variance > 0
    assert found.of("diloco")[0].variance == 0


def _plain(budget: Budget) -> dict[str, object]:
    return {name: getattr(budget, name) for name in budget.__dataclass_fields__}


def test_overrides_are_read() -> None:
    assert parse_method("streaming:delay=5,codec=fp4,alpha=0.25") == (
        "streaming",
        {"delay": 5, "codec": "fp4", "alpha": 0.25},
    )
    assert parse_method("diloco:outer_lr=0:0.1/20:0.7,sync_every=5") == (
        "diloco",
        {"outer_lr": ((0, 0.1), (20, 0.7)), "sync_every": 5},
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dilocco", "unknown"),
        ("diloco:delay", "part=value"),
        ("diloco:codec=int9", "input should be"),
        ("diloco:x=1", "x"),
        ("diloco:outer_lr=5:0.1/3:0.7", "rise"),
        ("diloco:outer_lr=5:", "number"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(DilocoError, match=reason) as error:
        compare([text], TINY)
    assert "\n" not in str(error.value)
    assert issubclass(UserError, DilocoError)


def test_the_report_has_a_row_per_method_and_a_picture(tmp_path: Path) -> None:
    found = compare(["single", "diloco"], Budget(**{**_plain(TINY), "seeds": (0, 1)}))  # type: ignore[arg-type]
    assert results_table(found).row_count == 2
    assert "diloco, seed" in progress_line(found.results[-1])
    mean, spread = found.mean_loss("diloco")
    assert spread > 0
    assert found.to_plain()["results"][0]["method"] == "single"
    pytest.importorskip("matplotlib")
    draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert mean > 0


def test_streaming_with_one_fragment_no_delay_and_no_mixing_is_diloco() -> None:
    plain = "num_fragments=1,fragment_pattern=balanced,delay=0,merge=replace,outer_lr=0.7,codec=int8"
    found = compare(["diloco", f"streaming:{plain}"], TINY)
    assert found.results[0].loss == found.results[1].loss


def test_slowmo_without_momentum_is_local_sgd() -> None:
    found = compare(["local_sgd", "slowmo:outer=sgd,outer_momentum=0.0"], TINY)
    assert found.results[0].loss == found.results[1].loss
