"""The model with a waist: a full one that is projected after each step; few channels leave a layer."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from diloco.models.gpt import VOCABULARY, GPTSizes
from diloco.models.layered import BlockLayer, Head, LayeredGPT, cross_entropy_sum, gpt_layers
from diloco.models.waist import FIXED_STD, WaistBlock, apart, fixed_channels, join

WIDTH, WAIST = 16, 6
SIZES = GPTSizes(layers=2, heads=2, width=WIDTH, context=12, waist=WAIST)


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(seed))


class Projected(nn.Sequential):
    """The full model, whose writing matrices are put back into the first channels after each step."""

    def __init__(self, like: LayeredGPT) -> None:
        full = GPTSizes(2, 2, WIDTH, 12)
        super().__init__(nn.Embedding(VOCABULARY, WIDTH), BlockLayer(full), BlockLayer(full), Head(WIDTH))
        mine, theirs = self.state_dict(), like.state_dict()
        theirs["0.weight"] = torch.cat((theirs.pop("0.learned.weight"), self.fixed()), 1)
        for name, each in theirs.items():
            mine[name] = (
                nn.functional.pad(each, (0, 0, 0, len(mine[name]) - len(each))) if each.dim() > 1 else each
            )
        self.load_state_dict(mine)

    @staticmethod
    def fixed() -> Tensor:
        return fixed_channels(0, WIDTH - WAIST)

    @torch.no_grad()
    def project(self) -> None:
        self[0].weight[:, WAIST:] = self.fixed()
        for block in list(self)[1:3]:
            block.attention.out.weight[WAIST:] = 0.0
            block.feed.down.weight[WAIST:] = 0.0


def test_it_is_the_full_model_whose_writes_are_projected_after_each_step() -> None:
    waist = LayeredGPT(SIZES)
    full = Projected(waist)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.5, momentum=0.9) for each in (waist, full)]
    for step in range(4):
        losses = []
        for model, optimizer in zip((waist, full), optimizers, strict=True):
            optimizer.zero_grad()
            loss = cross_entropy_sum(model(tokens(step)), tokens(step + 1))[0] / 24
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        full.project()
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    theirs = full.state_dict()
    torch.testing.assert_close(waist.state_dict()["0.learned.weight"], theirs["0.weight"][:, :WAIST])
    for name in ("1.attention.out.weight", "2.feed.down.weight"):
        torch.testing.assert_close(waist.state_dict()[name], theirs[name][:WAIST])
    for name in ("1.attention.qkv.weight", "2.feed.gate_up.weight", "3.head.weight", "3.norm.weight"):
        torch.testing.assert_close(waist.state_dict()[name], theirs[name])


def test_what_a_layer_hands_on_are_the_waist_and_the_tokens() -> None:
    x = tokens()
    for layer in list(LayeredGPT(SIZES))[:-1]:
        x = layer(x)
        assert x.shape == (2, 12, WAIST + 1)
        assert torch.equal(apart(x)[1], tokens())
    assert torch.equal(join(*apart(x)), x)


def test_no_gradient_goes_to_tokens() -> None:
    x = LayeredGPT(SIZES)[0](tokens()).detach().requires_grad_()
    gpt_layers(SIZES)[1]()(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad[..., :-1].all()
    assert not x.grad[..., -1].any()


def test_fixed_channels_are_the_same_bits_everywhere_and_no_part_of_the_state() -> None:
    fixed = fixed_channels(3, 10)
    assert fixed.shape == (256, 10)
    assert hashlib.sha256(fixed.numpy().tobytes()).hexdigest()[:16] == "9a97bafd93c6e710"
    assert fixed.std().item() == pytest.approx(FIXED_STD, rel=0.05)
    assert not torch.equal(fixed, fixed_channels(4, 10))
    blocks = [each for each in LayeredGPT(SIZES) if isinstance(each, WaistBlock)]
    assert all(torch.equal(one.fixed, other.fixed) for one, other in pairwise(blocks))
    assert not [name for name in LayeredGPT(SIZES).state_dict() if "fixed" in name]


def test_layers_are_built_alone_and_counted_without_memory() -> None:
    whole = LayeredGPT(SIZES, seed=3)
    alone = gpt_layers(SIZES, seed=3)[2]().state_dict()
    assert all(torch.equal(each, whole.state_dict()[f"2.{name}"]) for name, each in alone.items())
    with torch.device("meta"):
        made = [make() for make in gpt_layers(SIZES)]
    counts = [sum(p.numel() for p in each.parameters()) for each in made]
    assert counts == [sum(p.numel() for p in each.parameters()) for each in whole]


def test_it_learns_and_makes_text() -> None:
    model = LayeredGPT(SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    text = torch.arange(24).view(2, 12) % 7
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.loss(text[:, :-1], text[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert len(model.generate(b"ab", 5)) == 5


def test_a_waist_as_wide_as_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="a waist of 16 channels is not within a width of 16"):
        gpt_layers(GPTSizes(2, 2, 16, 12, waist=16))
