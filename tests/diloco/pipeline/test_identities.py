"""Parts that are run by their loops are the whole model's plain training loop, bit for bit.

Parameters, optimizer state and losses are compared for equality, never for nearness.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from itertools import combinations, islice

import pytest
import torch
from torch import Tensor, nn

from diloco.models.gpt import Block
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.cutting import clip_share, cut
from diloco.pipeline.in_process import Down, Line, LocalStage, Up
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart
from diloco.pipeline.stage_loop import Step
from tests.diloco.pipeline.kit import (
    POSITIONS,
    TOKENS,
    WIDTH,
    Batch,
    Optimizer,
    Plain,
    adamw,
    batches,
    built,
    clip_each,
    layers,
    line_of,
    loss_sum,
    parameters_of,
    same_bits,
    sgd,
)

NUM_LAYERS = len(layers())
ALL_CUTS = [cuts for count in range(NUM_LAYERS) for cuts in combinations(range(1, NUM_LAYERS), count)]


def optimizer_bits(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    states = [optimizer.state[each] for each in parameters]
    return [state[name] for state in states for name in sorted(state) if isinstance(state[name], Tensor)]


def require_equal(plain: Plain, stages: Sequence[LocalStage], losses: list[float]) -> None:
    assert same_bits(parameters_of(stages), plain.model.state_dict())
    assert losses == plain.losses
    whole = optimizer_bits(list(plain.model.parameters()), plain.optimizer)
    parts = [
        each
        for stage in stages
        for each in optimizer_bits(list(stage.part.model.parameters()), stage.optimizer)
    ]
    assert len(whole) == len(parts) > 0
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def steps_of(data: list[Batch], quota: int) -> list[list[Batch]]:
    return [data[at : at + quota] for at in range(0, len(data), quota)]


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("cuts", ALL_CUTS, ids=str)
def test_every_partition_of_the_layers_is_the_whole_model(cuts: tuple[int, ...], recompute: bool) -> None:
    model, data = built(layers()), batches(6)
    line, stages = line_of(model, cuts, 3, recompute=recompute)
    losses = [step.loss for step in line.run(data)]
    plain = Plain(model, 3)
    for step in steps_of(data, 3):
        plain.step(step)
    require_equal(plain, stages, losses)


@pytest.mark.parametrize("make_optimizer", [adamw, sgd])
@pytest.mark.parametrize("window", [1, 2, 32])
@pytest.mark.parametrize("recompute", [True, False])
def test_dropout_and_windows_change_no_bit(make_optimizer: Optimizer, window: int, recompute: bool) -> None:
    cuts = (1, 2, 4)
    model, data = built(layers(dropout=0.4)), batches(12)
    line, stages = line_of(
        *(model, cuts, 4), make_optimizer=make_optimizer, window=window, recompute=recompute, seed=11
    )
    losses = [step.loss for step in line.run(data)]
    plain = Plain(model, 4, make_optimizer, cuts=cuts, seed=11)
    for step in steps_of(data, 4):
        plain.step(step)
    require_equal(plain, stages, losses)


def test_dropout_is_that_of_the_run_and_of_the_line() -> None:
    model, data = built(layers(dropout=0.4)), batches(4)
    ways = [(1, b"a"), (1, b"a"), (2, b"a"), (1, b"b")]
    found = []
    for seed, feeder in ways:
        line, stages = line_of(model, (3,), 4, seed=seed, feeder=feeder)
        assert len(list(line.run(data))) == 1
        found.append(parameters_of(stages))
    assert same_bits(found[0], found[1])
    assert not same_bits(found[0], found[2])
    assert not same_bits(found[0], found[3])


def test_the_random_numbers_of_the_process_are_not_touched() -> None:
    line, _ = line_of(built(layers(dropout=0.4)), (2, 4), 2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert len(list(line.run(batches(4)))) == 2
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cuts", [(), (2,), (1, 3, 5)], ids=str)
def test_targets_that_are_left_out_weigh_nothing_and_a_short_last_step_is_a_mean_too(
    cuts: tuple[int, ...],
) -> None:
    model, data = built(layers()), batches(7, ragged=True)
    line, stages = line_of(model, cuts, 3)
    steps = list(line.run(data))
    plain = Plain(model, 3)
    for step in steps_of(data, 3):
        plain.step(step)
    require_equal(plain, stages, [step.loss for step in steps])
    assert [step.microbatches for step in steps] == [3, 3, 1]
    assert [step.tokens for step in steps] == [
        sum(int((targets >= 0).sum()) for _, targets in step) for step in steps_of(data, 3)
    ]


def test_the_weights_of_microbatches_are_their_tokens() -> None:
    """By one graph over the whole step: nearness is all that another order of sums allows."""
    model, data = built(layers()), batches(3, ragged=True)
    line, stages = line_of(model, (2, 4), 3, make_optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    assert len(list(line.run(data))) == 1
    whole = nn.Sequential(*built(layers()))
    x, targets = (torch.cat(each) for each in zip(*data, strict=True))
    summed, tokens = loss_sum(whole(x), targets)
    (summed / tokens).backward()
    moved = parameters_of(stages)
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(moved[name], (parameter - parameter.grad).detach(), rtol=1e-5, atol=1e-6)


def test_a_line_goes_on_with_more_batches_where_it_ended() -> None:
    model, data = built(layers()), batches(8)
    line, stages = line_of(model, (2,), 4)
    source = iter(data)
    first = next(line.run(source))
    assert first.microbatches == 4
    assert len(list(islice(source, 4))) == 4, "no more are drawn than the step takes"
    assert all(stage.part.num_held == 0 for stage in stages)
    losses = [first.loss, *(step.loss for step in line.run(data[4:]))]
    plain = Plain(model, 4)
    for step in steps_of(data, 4):
        plain.step(step)
    require_equal(plain, stages, losses)


# -- clipping -----------------------------------------------------------------------------------------


def test_each_stage_clips_by_itself_to_its_share_of_the_bound() -> None:
    cuts, clip_norm = (1, 3), 0.05
    makers, model, data = layers(), built(layers()), batches(9)
    bounds = [clip_norm * clip_share(makers, Part(stage, 3, cuts)) for stage in range(3)]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in model]
    shares = [sum(sizes[0:1]), sum(sizes[1:3]), sum(sizes[3:6])]
    assert bounds == pytest.approx([clip_norm * (share / sum(sizes)) ** 0.5 for share in shares])
    assert sum(bound**2 for bound in bounds) == pytest.approx(clip_norm**2), "together they are the whole's"
    line, stages = line_of(model, cuts, 3, clip_norms=bounds)
    losses = [step.loss for step in line.run(data)]
    plain = Plain(model, 3, clip=clip_each(bounds, cuts))
    unclipped = Plain(model, 3)
    for step in steps_of(data, 3):
        plain.step(step)
        unclipped.step(step)
    require_equal(plain, stages, losses)
    assert not same_bits(unclipped.model.state_dict(), plain.model.state_dict())


# -- other orders -------------------------------------------------------------------------------------


def run_in_any_order(stages: Sequence[LocalStage], data: list[Batch], rng: random.Random) -> None:
    """All is fed at once, stages act when the dice say so, and what they hand on comes as late, in order
    between any two of them."""
    last = len(stages) - 1
    targets_of = {}
    for number, (x, targets) in enumerate(data):
        microbatch = MicrobatchId(b"", 0, number)
        targets_of[microbatch] = targets
        stages[0].take(microbatch, x)
    ways: dict[tuple[int, int], list[Up | Down]] = {}
    num_steps = 0
    while num_steps < len(stages) * len(data) // stages[0].loop.quota:
        index = rng.randrange(len(stages))
        came = stages[index].act(0.0)
        if isinstance(came, Step):
            num_steps += 1
        elif came is not None:
            ways.setdefault((index, index + (1 if isinstance(came, Up) else -1)), []).append(came)
        for (_, to), waiting in ways.items():
            if to >= 0 and waiting and rng.random() < 0.3:
                came = waiting.pop(0)
                if isinstance(came, Up):
                    targets = targets_of[came.microbatch] if to == last else None
                    stages[to].take(came.microbatch, came.activation, targets)
                else:
                    assert came.gradient is not None
                    stages[to].take_gradient(came.microbatch, came.gradient, came.tokens)


@pytest.mark.parametrize("seed", range(8))
def test_who_acts_when_and_how_long_tensors_travel_changes_no_bit(seed: int) -> None:
    cuts = (1, 2, 4)
    model, data = built(layers(dropout=0.2)), batches(12)
    _, stages = line_of(model, cuts, 4, seed=3, recompute=seed % 2 == 0)
    run_in_any_order(stages, data, random.Random(seed))
    plain = Plain(model, 4, cuts=cuts, seed=3)
    for step in steps_of(data, 4):
        plain.step(step)
    require_equal(plain, stages, plain.losses)


def test_another_order_of_counting_is_seen_in_the_bits() -> None:
    """Else the comparisons above would prove nothing about it."""
    model, data = built(layers()), batches(6)
    one, two = Plain(model, 6), Plain(model, 6)
    one.step(data)
    two.step(data[::-1])
    assert not same_bits(one.model.state_dict(), two.model.state_dict())


# -- low precision ------------------------------------------------------------------------------------


def test_a_part_that_computes_in_bf16_hands_on_bf16() -> None:
    model = [layer.bfloat16() for layer in built(layers())]
    edge = Boundary((3, 5, 8), torch.bfloat16)
    data = batches(6)
    stages = []
    for number in range(3):
        part = Part(number, 3, (2, 4))
        takes, gives = part.ends(edge)
        running = RunningPart(
            part,
            cut(copy.deepcopy(model), part),
            takes=takes,
            gives=gives,
            loss=loss_sum if part.is_last else None,
            nominal_tokens=3 * TOKENS,
        )
        stages.append(LocalStage(running, adamw(running.model.parameters()), quota=3))
    losses = [step.loss for step in Line(stages).run(data)]
    plain = Plain(model, 3)
    for step in steps_of(data, 3):
        plain.step(step)
    require_equal(plain, stages, losses)


# -- the built-in model's layers ----------------------------------------------------------------------


class Layer(Block):
    """A block of the built-in model with its own rotary positions."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 2)
        angles = torch.outer(torch.arange(float(POSITIONS)), torch.tensor([1.0, 0.01])).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = super().forward(x, self.cos, self.sin)
        return y


@pytest.mark.parametrize("recompute", [True, False])
def test_blocks_of_the_built_in_model_in_four_stages(recompute: bool) -> None:
    ends = layers(0)
    model, data = built([ends[0], *[Layer] * 4, ends[1]]), batches(8)
    line, stages = line_of(model, (1, 3, 5), 4, recompute=recompute)
    losses = [step.loss for step in line.run(data)]
    plain = Plain(model, 4)
    for step in steps_of(data, 4):
        plain.step(step)
    require_equal(plain, stages, losses)
