"""A model is cut into the fewest stages that fit, and what they cost is the formula's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diloco.errors import UserError
from diloco.planning.stage_plan import (
    CODECS,
    MAX_STEP_TOKENS,
    StagePlan,
    Wanted,
    best,
    decoder_sizes,
    memory_for_two,
    plans,
    wire_bytes,
)
from diloco.planning.stages import StagedModel

BIG = Wanted(
    sizes=(107e9 / 80,) * 80,
    width=10496,
    peers=40,
    rate_bps=1e9,
    rtt_s=0.06,
    flops=160e12,
    memory_bytes=112e9,
)


def planned(**changes: object) -> StagePlan:
    return best(plans(replace(BIG, **changes)))  # type: ignore[arg-type]


def test_a_hundred_billion_take_twenty_stages_of_two_replicas() -> None:
    row = planned()
    assert (row.stages, row.lines, row.with_one_more, row.codec) == (20, 2, 0, "int8")
    assert row.cuts == list(range(4, 80, 4))
    formula = StagedModel(107e9, 10496, 20, 4096, 160e12).times(wire_bytes("int8"), 1e9, 0.06)
    assert row.utilization == formula.utilization(row.num_microbatches) >= 0.9
    assert formula.utilization(row.num_microbatches - 1) < 0.9
    assert row.window == formula.window


def test_all_rows_fit_and_one_stage_less_does_not() -> None:
    for row in plans(BIG):
        assert row.memory[0] <= BIG.memory_bytes
        with pytest.raises(UserError, match=f"{row.stages - 1} stages take .* --memory is 112 GB"):
            plans(replace(BIG, stages=row.stages - 1))


def test_stages_are_whole_layers_and_the_largest_must_fit() -> None:
    """80 layers in 27 stages are 3 layers and once 2: 26 stages, of which some have 4, take more."""
    row = planned(memory_bytes=92e9)
    assert [len(layers) for layers in row.layers].count(3) == 26
    assert row.stages == 27
    assert row.stage_parameters == pytest.approx(107e9 * 3 / 80)
    assert row.mean_utilization < row.utilization * 80 / 81 + 1e-9


def test_too_few_peers_for_two_replicas_are_told_with_what_memory_they_were_enough() -> None:
    row = planned(memory_bytes=92e9)
    assert (row.lines, row.with_one_more) == (1, 13)
    enough = planned(memory_bytes=memory_for_two(row))
    assert enough.lines == 2
    assert planned(memory_bytes=0.99 * memory_for_two(row)).lines == 1
    with pytest.raises(UserError, match="one peer each at least, and there are 26 peers"):
        planned(memory_bytes=92e9, peers=26)


def test_the_codec_that_loses_least_of_those_that_are_busy_enough() -> None:
    assert planned(rate_bps=1e10).codec == "bf16"
    assert planned(rate_bps=1e9).codec == "int8"
    slow = planned(rate_bps=1e8)
    assert (slow.codec, slow.num_microbatches) == ("int4", MAX_STEP_TOKENS // 4096)
    assert slow.utilization < 0.9
    assert [row.codec for row in plans(BIG)] == list(CODECS)


def test_a_step_that_is_said_is_kept() -> None:
    row = planned(step_tokens=64 * 4096)
    assert row.num_microbatches == 64
    assert row.codec == "int4"
    assert row.utilization == pytest.approx(0.71, abs=0.005)


def test_what_fits_a_peer_is_one_stage_and_has_no_boundary() -> None:
    row = planned(sizes=(1e9,))
    assert row.stages == 1
    assert row.boundary_bytes_per_step == row.bytes_per_day["targets"] == 0


def test_bytes_of_a_day_are_those_of_steps_and_leave_room_on_the_line() -> None:
    row = planned()
    step = 2 * row.num_microbatches * 4096 * 10496 * wire_bytes("int8")
    assert row.boundary_bytes_per_step == pytest.approx(step)
    assert row.bytes_per_day["boundaries"] == pytest.approx(step * 86_400 / row.step_s, rel=0.05)
    assert row.boundary_bytes_per_step > 30 * row.exchange_bytes_per_step
    assert sum(row.bytes_per_day.values()) * 8 / 86_400 < BIG.rate_bps
    two = planned(stages=2, memory_bytes=1e12, sizes=(50e9, 50e9))
    assert two.boundary_bytes_per_step == two.num_microbatches * 4096 * 10496 * wire_bytes(two.codec)


def test_cuts_that_are_said_are_kept() -> None:
    row = planned(stages=3, cuts=(10, 50), memory_bytes=1e13)
    assert [len(layers) for layers in row.layers] == [10, 40, 30]
    assert row.stage_parameters == pytest.approx(107e9 / 2)


def test_without_running_forward_again_a_microbatch_takes_three_quarters() -> None:
    kept = planned(recompute=False)
    assert kept.times.compute_s == pytest.approx(0.75 * planned().times.compute_s)


def test_sizes_of_the_built_in_model_are_its_own() -> None:
    from diloco.models.gpt import GPTSizes
    from diloco.models.layered import gpt_layers

    built = [layer() for layer in gpt_layers(GPTSizes(3, 4, 96, 32))]
    assert decoder_sizes(3, 4, 96) == tuple(sum(p.numel() for p in each.parameters()) for each in built)


def test_no_stages_are_enough() -> None:
    with pytest.raises(UserError, match="no more than 64 stages are possible of 80 layers"):
        planned(memory_bytes=20e9, peers=4096)
    with pytest.raises(UserError, match="no more than 2 stages are possible of 2 layers"):
        planned(sizes=(50e9, 50e9))
