"""The built-in model: causal, seeded, of the size that is promised, and able to learn."""

from __future__ import annotations

import pytest
import torch

from diloco.models.gpt import GPT
from diloco.settings import RunSettings


def small(seed: int = 0) -> GPT:
    return GPT(layers=2, heads=2, width=16, context=12, seed=seed)


def tokens(batch: int = 2, length: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_the_default_model_has_about_0_8_million_parameters() -> None:
    sizes = RunSettings().model
    model = GPT(sizes.layers, sizes.heads, sizes.width, sizes.context)
    assert 0.75e6 < sum(p.numel() for p in model.parameters()) < 0.9e6


def test_a_position_sees_nothing_of_what_follows() -> None:
    model, x = small(), tokens()
    changed = x.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 256
    assert torch.allclose(model(x)[:, :7], model(changed)[:, :7], atol=1e-6)
    assert not torch.allclose(model(x)[:, 7:], model(changed)[:, 7:], atol=1e-6)


def test_order_matters() -> None:
    model = small()
    x = torch.tensor([[1, 2, 3, 4]])
    swapped = torch.tensor([[2, 1, 3, 4]])
    assert not torch.allclose(model(x)[:, -1], model(swapped)[:, -1], atol=1e-6)


def test_the_seed_decides_the_weights_and_global_randomness_stays_untouched() -> None:
    torch.manual_seed(5)
    first = small(seed=3).state_dict()
    torch.manual_seed(6)
    second = small(seed=3).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(small(seed=4).embedding.weight, first["embedding.weight"])


def test_an_untrained_model_is_about_as_good_as_chance() -> None:
    loss = small().loss(tokens(), tokens(seed=1))
    assert abs(loss.item() - 5.545) < 0.1


def test_it_learns_a_short_text_by_heart() -> None:
    model = small()
    x = tokens(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(x[:, :-1], x[:, 1:]).backward()
        optimizer.step()
    assert model.loss(x[:, :-1], x[:, 1:]).item() < 0.1
    assert model.generate(bytes(x[0, :4].tolist()), 8, temperature=0) == bytes(x[0, 4:].tolist())


def test_sampling_is_seeded_and_may_run_past_the_context() -> None:
    model = small()
    sample = model.generate(b"ab", 20, temperature=1.0, seed=1)
    assert len(sample) == 20
    assert sample == model.generate(b"ab", 20, temperature=1.0, seed=1)
    assert sample != model.generate(b"ab", 20, temperature=1.0, seed=2)


def test_an_empty_prompt_and_a_width_without_room_for_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        small().generate(b"", 1)
    with pytest.raises(ValueError, match="multiple"):
        GPT(layers=1, heads=3, width=16, context=4)


def test_it_runs_in_bf16() -> None:
    assert small().bfloat16()(tokens()).dtype == torch.bfloat16
