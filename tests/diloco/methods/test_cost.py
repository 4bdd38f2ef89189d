"""Costs: the formulas are the codecs' own sizes, and what a simulated run really sends."""

from __future__ import annotations

import pytest

from diloco.comparison.compare import Budget, compare
from diloco.compression.codecs import codec
from diloco.methods.cost import cost_of, data_parallel_bytes, element_bytes, elements_sent, mean_bytes
from diloco.methods.presets import PRESETS, method
from diloco.methods.wire_formats import WIRE_FORMATS

LONG = 1 << 22


@pytest.mark.parametrize("name", [each for each in WIRE_FORMATS if each != "topk"])
def test_bytes_per_element_are_the_codecs_size(name: str) -> None:
    assert element_bytes(name, method("diloco")) * LONG == codec(name).size_bytes(LONG)


@pytest.mark.parametrize(("keep", "bits"), [(64, 2), (64, 8), (32, 16), (128, 4)])
@pytest.mark.parametrize("parts", [1, 4, 64])
def test_topk_costs_what_it_takes_for_contributions_and_means(keep: int, bits: int, parts: int) -> None:
    chosen = method("sparseloco", keep=keep, value_bits=bits)
    coder = codec("topk", keep=keep, value_bits=bits)
    assert element_bytes("topk", chosen) * LONG == coder.size_bytes(LONG)
    assert mean_bytes(chosen, parts) * LONG == coder.for_mean(parts).size_bytes(LONG)


def test_diloco_sends_what_intellect_1_saves() -> None:
    """H = 100 and a quarter of the bits: 400 times less than data-parallel (arXiv 2412.01152), but for the
    scales."""
    ratio = data_parallel_bytes(1e9, 8) / cost_of(method("diloco"), 1e9, 8).per_step
    assert ratio == pytest.approx(400, rel=0.02)


def test_a_pair_sends_its_pseudo_gradient_and_its_parameters_once() -> None:
    assert cost_of(method("noloco"), 1e6, 8).per_exchange == 2 * 4e6


def test_a_random_mask_sends_no_indices() -> None:
    assert elements_sent(method("sparta"), 1e6) == 5000


def test_fragments_lower_the_peak_and_not_the_average() -> None:
    whole, parts = (cost_of(method("diloco", num_fragments=p), 1e9, 8) for p in (1, 8))
    assert parts.per_exchange == whole.per_exchange / 8
    assert parts.per_step == pytest.approx(whole.per_step)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_sends_less_than_data_parallel(name: str) -> None:
    assert 0 < cost_of(PRESETS[name], 1e9, 8).per_step < data_parallel_bytes(1e9, 8)


@pytest.mark.parametrize("name", ["local_sgd", "diloco", "noloco", "streaming:num_fragments=2"])
def test_a_simulated_run_sends_what_the_formula_says(name: str) -> None:
    """Within a few percent: headers and control messages weigh more in so small a model."""
    budget = Budget(
        workers=4, tokens=4 * 24 * 8 * 16, layers=2, heads=2, width=64, context=16, batch_size=8, sync_every=4
    )
    found = compare([name], budget)
    chosen = method(name.partition(":")[0], sync_every=4, **({"num_fragments": 2} if ":" in name else {}))
    formula = cost_of(chosen, found.parameters, 4).per_step * found.budget.steps
    assert found.results[0].bytes_per_worker == pytest.approx(formula, rel=0.12)
