"""ModelTensors: a layout's vectors are the live tensors of a model, and frozen ones are bytes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diloco.errors import LayoutError
from diloco.outer.layout import Layout
from diloco.outer.model_tensors import MOMENTS, ModelTensors, with_moments
from tests.diloco.outer.kit import flat, make, normal


def test_gathering_what_was_scattered_gives_it_back() -> None:
    model = make()
    tensors = ModelTensors.of(Layout.of(model), model)
    values = normal(83, 1)
    tensors.scatter(0, values)
    assert torch.equal(flat(model), values)
    assert torch.equal(tensors.gather(0, torch.empty(83)), values)


def test_a_layout_of_another_model_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"0\.weight"):
        ModelTensors.of(Layout.of(make(12)), make(11))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_frozen_parameters_are_bytes_of_the_last_fragment_only(dtype: torch.dtype) -> None:
    def frozen(values: list[float]) -> nn.Module:
        model = make()
        for name, value in zip(("extra", "more"), values, strict=True):
            setattr(model, name, nn.Parameter(torch.tensor([value, 3.0]).to(dtype), requires_grad=False))
        return model

    here, there = frozen([1.0, 2.0]), frozen([7.0, 8.0])
    mine, yours = (ModelTensors.of(Layout.of(model, num_fragments=2), model) for model in (here, there))
    assert mine.frozen_bytes(0) == []
    data = b"".join(mine.frozen_bytes(1))
    assert (mine.frozen_size(0), mine.frozen_size(1)) == (0, len(data)) == (0, 4 * dtype.itemsize)
    mine.load_frozen(1, memoryview(data))
    assert not mine.has_other_frozen, "the same bytes are its own ones"
    before = yours.frozen_digests.by_name()
    yours.load_frozen(1, memoryview(data))
    assert yours.has_other_frozen
    assert yours.frozen_digests.by_name() == mine.frozen_digests.by_name() != before
    assert yours.digest_of("more") == mine.frozen_digests.by_name()["more"]
    assert torch.equal(there.extra, here.extra)
    assert torch.equal(there.more, here.more)


def test_the_moments_of_adamw_are_fragments_two_and_three_and_live() -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters())
    layout = Layout.of(model)
    tensors = ModelTensors.of(layout, model, optimizer)
    assert tensors.layout == with_moments(layout)
    assert [tensors.layout.fragments[f][0].name for f in (1, 2)] == [f"{which}/0.weight" for which in MOMENTS]
    tensors.scatter(2, torch.full((83,), 3.0))
    assert bool((optimizer.state[model[1].bias]["exp_avg_sq"] == 3.0).all())


def test_moments_of_another_optimizer_or_of_other_parameters_are_refused() -> None:
    model = make()
    with pytest.raises(LayoutError, match="the inner optimizer is SGD"):
        ModelTensors.of(Layout.of(model), model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(LayoutError, match="not among those that the inner optimizer moves"):
        ModelTensors.of(Layout.of(model), model, torch.optim.AdamW(model[0].parameters()))


def test_vectors_beside_a_model_on_the_cpu_are_in_ordinary_memory() -> None:
    model = make()
    assert not ModelTensors.of(Layout.of(model), model).device.pinned


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_vectors_beside_a_model_on_an_accelerator_are_in_pinned_memory() -> None:
    model = make().cuda()
    assert ModelTensors.of(Layout.of(model), model).device.empty(3).is_pinned()
