"""Costs: the formulas are the codecs' own sizes, and what a simulated run really sends."""

from __future__ import annotations

from collections import Counter

import pytest

from diloco.comparison.compare import Budget, compare
from diloco.compression.codecs import codec
from diloco.methods.cost import (
    WAYS_OF_A_ROUND,
    basis_values,
    cost_of,
    data_parallel_bytes,
    element_bytes,
    elements_sent,
    gossip_groups,
    mean_bytes,
)
from diloco.methods.factors import values_sent
from diloco.methods.presets import PRESETS, method
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.models.gpt import GPT
from peers.member.matching import lines, pairs

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


@pytest.mark.parametrize("num_members", [2, 5, 6, 8, 16, 17])
@pytest.mark.parametrize(("name", "size"), [("noloco", 2), ("moshpit", 2), ("moshpit", 3), ("moshpit", 4)])
def test_groups_are_those_that_members_find(name: str, size: int, num_members: int) -> None:
    chosen = method(name, group_size=size)
    members = [bytes([number]) * 32 for number in range(num_members)]

    def sizes(step: int) -> list[int]:
        if chosen.group == "pair":
            return sorted(map(len, pairs(members, 7, step)))
        return sorted(map(len, lines(members, 7, step, size)))

    cycle = [sorted(Counter(group_of).values()) for group_of in gossip_groups(chosen, num_members)]
    for step in range(6):
        assert cycle[step % len(cycle)] == sizes(step)


def test_lines_of_a_grid_that_is_not_full_send_less() -> None:
    full, lines_of_2 = (cost_of(method("moshpit"), 1e6, members).per_exchange for members in (16, 8))
    assert full == 3 / 4 * 2 * 2 * 4e6
    assert lines_of_2 == (3 / 4 + 1 / 2) / 2 * 2 * 2 * 4e6


def test_moments_are_sent_at_a_third_and_a_sixth_of_the_rate() -> None:
    parts, moments = cost_of(method("local_sgd", sync_every=64), 1e6, 8), cost_of(method("des_loc"), 1e6, 8)
    assert moments.per_exchange == parts.per_exchange
    assert moments.per_step == pytest.approx(parts.per_step * (1 + 1 / 3 + 1 / 6))


@pytest.mark.parametrize("name", [name for name, each in PRESETS.items() if not each.moments_every])
def test_an_outer_step_takes_all_of_its_exchanges_one_after_the_other(name: str) -> None:
    chosen = PRESETS[name]
    cost = cost_of(chosen, 1e9, 8)
    assert cost.per_outer_step == cost.exchanges * cost.per_exchange
    per_step = chosen.num_fragments * cost.per_outer_step / chosen.sync_every
    assert cost.per_step == pytest.approx(per_step)
    assert cost.ways == cost.exchanges * (2 if chosen.gossips else WAYS_OF_A_ROUND)


def test_a_random_mask_sends_no_indices() -> None:
    assert elements_sent(method("sparta"), 1e6) == 5000


def test_fragments_lower_the_peak_and_not_the_average() -> None:
    whole, parts = (cost_of(method("diloco", num_fragments=p), 1e9, 8) for p in (1, 8))
    assert parts.per_exchange == whole.per_exchange / 8
    assert parts.per_step == pytest.approx(whole.per_step)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_sends_less_than_data_parallel(name: str) -> None:
    assert 0 < cost_of(PRESETS[name], 1e9, 8).per_step < data_parallel_bytes(1e9, 8)


def test_an_outer_step_of_low_rank_is_two_exchanges_of_half_its_bytes() -> None:
    chosen = method("dilocox", sync_every=50)
    cost = cost_of(chosen, 1e9, 8)
    assert cost.per_step == pytest.approx(2 * cost.per_exchange / 50)
    assert elements_sent(chosen, 1e9) == pytest.approx(1e9 / 2 / 1.2, rel=0.01)


def test_bases_are_shared_state_of_low_rank_alone() -> None:
    assert basis_values(method("diloco"), 1e9) == 0
    # 0.6 w columns of 4 w for each of two of 12 w^2.
    assert basis_values(method("dilocox"), 1e9) == pytest.approx(1e9 * 2 * 0.6 * 4 / 12, rel=0.01)
    more = basis_values(method("dilocox", adapt="lgreco"), 1e9) - basis_values(method("dilocox"), 1e9)
    assert more == pytest.approx(1e9), "the sum of updates by which ranks are chosen"


@pytest.mark.parametrize("num_parameters", [1e6, 1e9, 1e11])
def test_dilocox_compresses_its_pseudo_gradients_four_to_five_times_as_its_paper_does(
    num_parameters: float,
) -> None:
    """Against 16 bits, both ways; see the preset for the paper's numbers."""
    compressed = cost_of(method("dilocox"), num_parameters, 2).per_step
    whole = cost_of(
        method("dilocox", projection="none", rank_share=0.0, adapt="none", codec="bf16"), num_parameters, 2
    )
    assert 4.2 < whole.per_step / compressed < 5.0


SIMULATED = Budget(
    workers=4, tokens=4 * 24 * 8 * 16, layers=2, heads=2, width=64, context=16, batch_size=8, sync_every=4
)


@pytest.mark.parametrize("name", ["local_sgd", "diloco", "noloco", "streaming:num_fragments=2"])
def test_a_simulated_run_sends_what_the_formula_says(name: str) -> None:
    """Within a few percent: headers and control messages weigh more in so small a model."""
    found = compare([name], SIMULATED)
    chosen = method(name.partition(":")[0], sync_every=4, **({"num_fragments": 2} if ":" in name else {}))
    formula = cost_of(chosen, found.parameters, 4).per_step * found.budget.steps
    if not chosen.gossips:
        # In one round of four, a chunk of each member but the checker: a quarter of the vector here, in which
        # a member owns one chunk. The owner's is in fp32.
        each = (2 * element_bytes(chosen.codec, chosen) + 4) * found.parameters / 4
        formula += each / 4 / 4 * found.budget.steps / chosen.sync_every
    assert found.results[0].bytes_per_worker == pytest.approx(formula, rel=0.12)


def test_a_simulated_run_of_low_rank_sends_two_exchanges_of_its_shapes_factors() -> None:
    budget = SIMULATED
    found = compare(["delayed:projection=low_rank,rank_share=0.6,codec=bf16"], budget)
    shapes = [
        tuple(p.shape) for p in GPT(budget.layers, budget.heads, budget.width, budget.context, 0).parameters()
    ]
    # To and from the owners of the other three quarters, 2 bytes each, in every outer step.
    formula = 2 * 3 / 4 * 2 * values_sent(shapes, 1, 0.6) * budget.steps / 4
    assert found.results[0].bytes_per_worker == pytest.approx(formula, rel=0.12)
