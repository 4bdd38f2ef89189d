"""Low-rank factors as sizes: what is compressed, what that is in all, and that it is what travels."""

from __future__ import annotations

import pytest
import torch

from diloco.compression.low_rank import LowRank
from diloco.methods.factors import rank_of, sides_of, values_kept, values_sent
from diloco.methods.presets import method
from diloco.models.gpt import GPT
from diloco.settings import Model

MODEL = Model()
GPT_SHAPES = [
    tuple(p.shape) for p in GPT(MODEL.layers, MODEL.heads, MODEL.width, MODEL.context, 0).parameters()
]
"""Of the built-in model, as `diloco host` makes it."""
_LAYER = [
    (2048, 2048),
    (256, 2048),
    (256, 2048),
    (2048, 2048),
    *[(5632, 2048)] * 2,
    (2048, 5632),
    (2048,),
    (2048,),
]
LLAMA_1B_SHAPES = [(32000, 2048), *_LAYER * 22, (2048,), (32000, 2048)]
"""Of a model of 1.1 billion parameters."""
INT4_BYTES = 34 / 64


def test_a_tensor_is_a_matrix_of_its_first_dimension_and_the_rest() -> None:
    assert [sides_of(shape) for shape in [(2, 3, 4), (5, 6), (7,), ()]] == [(2, 12), (5, 6), (1, 7), (1, 1)]


def test_factors_are_sent_only_where_they_are_smaller() -> None:
    assert rank_of(10, 20, 4) == 4
    assert rank_of(10, 20, 99) == 0, "10 columns of 30 are more than 200"
    assert rank_of(1, 20, 4) == 0
    assert rank_of(10, 1000, 4, rank_share=0.6) == 6
    assert rank_of(10, 10, 4, rank_share=0.5) == 0, "5 columns of 20 are as many as 100"
    assert rank_of(3, 500, 4, rank_share=0.2) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_both_exchanges_together_send_what_is_counted(share: float) -> None:
    shapes = [(24, 40), (7,), (30, 4, 5), (), (50, 8)]
    projection = LowRank(shapes, rank=3, seed=0, rank_share=share)
    state, total = projection.first_state(), 0
    for _ in range(2):
        y = projection.project(seeded(projection.num_elements), state, 0)
        total += len(y)
        state = projection.next_state(y, state, 0)
    assert total == values_sent(shapes, 3, share)
    header = 1 + len(projection.ranks(state))
    assert len(state) == header + values_kept(shapes, 3, share)


def seeded(n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("shapes", "expected"), [(GPT_SHAPES, 4.84), (LLAMA_1B_SHAPES, 4.57)])
def test_dilocox_compresses_real_shapes_as_its_paper_does(
    shapes: list[tuple[int, ...]], expected: float
) -> None:
    """Against 16 bits: 4.6 times, by the throughputs of the paper."""
    chosen = method("dilocox")
    whole = sum(rows * columns for rows, columns in map(sides_of, shapes))
    sent = values_sent(shapes, chosen.rank, chosen.rank_share) * INT4_BYTES
    assert 2 * whole / sent == pytest.approx(expected, abs=0.01)
