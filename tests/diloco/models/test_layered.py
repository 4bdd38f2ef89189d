"""The built-in model as layers: what `GPT` is, with a head of its own, whoever builds which layer."""

from __future__ import annotations

import pytest
import torch

from diloco.models.gpt import GPT, GPTSizes
from diloco.models.layered import LayeredGPT, cross_entropy_sum, gpt_layers

SIZES = GPTSizes(layers=2, heads=2, width=16, context=12)


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(seed))


def test_with_equal_weights_it_computes_what_the_tied_model_computes() -> None:
    tied, layered = GPT(2, 2, 16, 12), LayeredGPT(SIZES)
    ends = {"0.weight": "embedding.weight", "3.norm.weight": "norm.weight", "3.head.weight": "head.weight"}
    theirs = tied.state_dict()
    given = {
        name: theirs[ends.get(name) or f"blocks.{int(name[0]) - 1}{name[1:]}"]
        for name in layered.state_dict()
    }
    layered.load_state_dict(given)
    assert torch.equal(layered(tokens()), tied(tokens()))
    assert torch.equal(layered.loss(tokens(), tokens(1)), tied.loss(tokens(), tokens(1)))
    assert layered.generate(b"ab", 15, seed=1) == tied.generate(b"ab", 15, seed=1)
    summed, count = cross_entropy_sum(layered(tokens()), tokens(1))
    assert summed.item() / count == pytest.approx(tied.loss(tokens(), tokens(1)).item(), rel=1e-6)


def test_a_layer_that_is_built_alone_has_the_whole_models_values() -> None:
    whole = LayeredGPT(SIZES, seed=3).state_dict()
    torch.manual_seed(5)
    alone = gpt_layers(SIZES, seed=3)[2]().state_dict()
    assert all(torch.equal(each, whole[f"2.{name}"]) for name, each in alone.items())
    assert not torch.equal(whole["0.weight"], whole["3.head.weight"])
    assert not torch.equal(whole["1.attention.qkv.weight"], whole["2.attention.qkv.weight"])
    other = LayeredGPT(SIZES, seed=4).state_dict()
    assert not torch.equal(whole["0.weight"], other["0.weight"])


def test_layers_are_counted_without_memory() -> None:
    with torch.device("meta"):
        made = [make() for make in gpt_layers(SIZES)]
    whole = LayeredGPT(SIZES)
    assert [sum(p.numel() for p in each.parameters()) for each in made] == [
        sum(p.numel() for p in each.parameters()) for each in whole
    ]
