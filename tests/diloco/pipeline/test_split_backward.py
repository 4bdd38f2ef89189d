"""Backward in two is backward in one: equal bits, whatever order the rest is done in between."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diloco.errors import PipelineError
from diloco.models.gpt import GPTSizes
from diloco.models.layered import cross_entropy_sum, gpt_layers
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.cutting import cut
from diloco.pipeline.in_process import Down, Line, LocalStage, Up
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart
from diloco.pipeline.split_backward import Left, WeightWork
from diloco.pipeline.stage_loop import Backward, Forward, StageLoop, Step, Weights
from tests.diloco.pipeline.kit import (
    POSITIONS,
    SEQUENCES,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Batch,
    adamw,
    batches,
    built,
    layers,
    line_of,
    loss_sum,
    parameters_of,
    same_bits,
    sgd,
)

CUTS, QUOTA = (1, 2, 4), 4


def m(number: int) -> MicrobatchId:
    return MicrobatchId(b"", 0, number)


@pytest.mark.parametrize("window", [1, 32])
@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 4), (1, 2, 3, 4, 5)], ids=str)
def test_split_is_unsplit_with_dropout_and_clipping_and_targets_left_out(
    cuts: tuple[int, ...], window: int
) -> None:
    model, data = built(layers(dropout=0.3)), batches(10, ragged=True)
    found = []
    for split in (True, False):
        line, stages = line_of(
            *(model, cuts, QUOTA),
            window=window,
            recompute=False,
            split_backward=split,
            clip_norms=[0.05] * (len(cuts) + 1),
        )
        steps = []
        for step in line.run(data):
            assert [stage.part.num_held for stage in stages] == [0] * len(stages)
            steps.append(step)
        found.append((steps, parameters_of(stages)))
    assert [step.microbatches for step in found[0][0]] == [4, 4, 2]
    assert found[0][0] == found[1][0]
    assert same_bits(found[0][1], found[1][1])


def test_the_built_in_model_in_bf16_has_equal_bits_too() -> None:
    sizes, found = GPTSizes(layers=2, heads=2, width=16, context=8), []
    generator = torch.Generator().manual_seed(0)
    data = [tuple(torch.randint(256, (2, 2, 8), generator=generator)) for _ in range(4)]
    for dtype in (torch.float32, torch.bfloat16):
        for split in (True, False):
            stages = []
            for number in range(2):
                part = Part(number, 2, (2,))
                takes, gives = part.ends(Boundary((2, 8, 16), dtype))
                running = RunningPart(
                    part,
                    cut(gpt_layers(sizes), part).to(dtype),
                    takes=takes,
                    gives=gives,
                    loss=cross_entropy_sum if part.is_last else None,
                    nominal_tokens=32,
                    recompute=False,
                    split_backward=split,
                )
                stages.append(LocalStage(running, sgd(running.model.parameters()), quota=2))
            losses = [step.loss for step in Line(stages).run(data)]
            found.append((losses, parameters_of(stages)))
    for one, two in (found[:2], found[2:]):
        assert one[0] == two[0]
        assert same_bits(one[1], two[1])


class Twice(nn.Module):
    """One linear layer three times, another whose weight is an embedding's too, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.again = nn.Linear(WIDTH, WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for _ in range(3):
            x = torch.tanh(self.again(x))
        logits: Tensor = self.head(self.frozen(x)[:, :, :])
        return logits


def test_weights_that_are_used_twice_within_a_stage_have_equal_bits() -> None:
    found = []
    for split in (True, False):
        torch.manual_seed(0)
        running = RunningPart(
            *(Part(0, 1), Twice()),
            loss=loss_sum,
            nominal_tokens=2 * TOKENS,
            recompute=False,
            split_backward=split,
        )
        stage = LocalStage(running, adamw(running.model.parameters()), quota=2)
        losses = [step.loss for step in Line([stage]).run(batches(6))]
        found.append((losses, {k: v.clone() for k, v in running.model.state_dict().items()}))
    assert found[0][0] == found[1][0]
    assert same_bits(found[0][1], found[1][1])


def in_any_order(stages: list[LocalStage], data: list[Batch], rng: random.Random) -> None:
    """One inner step in which stages act when the dice say so."""
    targets = {m(number): each for number, (_, each) in enumerate(data)}
    for number, (x, _) in enumerate(data):
        stages[0].take(m(number), x)
    to_come = len(stages)
    while to_come:
        index = rng.randrange(len(stages))
        match came := stages[index].act(0.0):
            case Up():
                is_last = index + 2 == len(stages)
                given = targets[came.microbatch] if is_last else None
                stages[index + 1].take(came.microbatch, came.activation, given)
            case Down() if index:
                assert came.gradient is not None
                stages[index - 1].take_gradient(came.microbatch, came.gradient, came.tokens)
            case Step():
                to_come -= 1


def test_who_acts_when_changes_no_bit() -> None:
    model, data = built(layers(dropout=0.2)), batches(QUOTA)
    line, plain = line_of(model, CUTS, QUOTA)
    assert len(list(line.run(data))) == 1
    for seed in range(4):
        _, stages = line_of(model, CUTS, QUOTA, split_backward=True)
        in_any_order(stages, data, random.Random(seed))
        assert same_bits(parameters_of(stages), parameters_of(plain))


def test_the_gradient_goes_down_before_the_weights_have_theirs() -> None:
    part = Part(1, 3)
    edge = Boundary((SEQUENCES, WIDTH))
    model = nn.Linear(WIDTH, WIDTH, bias=False)
    running = RunningPart(
        part, model, takes=edge, gives=edge, nominal_tokens=8, recompute=False, split_backward=True
    )
    x, gradient = torch.randn(2, *edge.shape)
    running.forward(m(0), x)
    below = running.backward(m(0), gradient)
    assert below is not None
    assert torch.equal(below, gradient @ model.weight)
    assert model.weight.grad is None
    assert running.num_held == 1
    running.weight_backward(m(0))
    assert model.weight.grad is not None
    assert torch.equal(model.weight.grad, gradient.t() @ x)
    assert running.num_held == 0


def test_recompute_is_refused_beside_it() -> None:
    with pytest.raises(
        PipelineError, match=r"split_backward = true keeps activations .* turn one of them off"
    ):
        RunningPart(Part(0, 1), Twice(), loss=loss_sum, nominal_tokens=1, split_backward=True)


def test_layers_under_autocast_stay_whole() -> None:
    model = nn.Linear(WIDTH, WIDTH)
    work = WeightWork(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(3, WIDTH)).float().sum().backward()
    assert model.weight.grad is not None
    assert work.take() == []


# -- what a stage does next ---------------------------------------------------------------------------


def test_weights_come_last_in_the_order_of_backwards_and_count() -> None:
    loop = StageLoop(3, is_last=False, grace_s=10.0, split_backward=True)
    done: list[object] = []

    def do(tokens: int = 0) -> None:
        work = loop.next_work(0.0)
        done.append(work)
        if work is not None:
            loop.done(work, tokens)

    for number in (0, 1):
        loop.input_arrived(m(number))
        do()
    loop.gradient_arrived(m(1))
    loop.input_arrived(m(2))
    do(tokens=5)
    do()
    do()
    assert not loop.drained
    loop.gradient_arrived(m(0))
    do(tokens=6)
    do()
    loop.gradient_arrived(m(2))
    do(tokens=7)
    do()
    do()
    do()
    assert done == [
        *(Forward(m(0)), Forward(m(1)), Backward(m(1)), Forward(m(2)), Weights(m(1))),
        *(Backward(m(0)), Weights(m(0)), Backward(m(2)), Weights(m(2))),
        *(Step((m(1), m(0), m(2)), 18), None),
    ]
    assert loop.drained


def test_a_step_that_ends_early_has_all_its_weights() -> None:
    loop = StageLoop(2, is_last=True, grace_s=10.0, split_backward=True)
    loop.input_arrived(m(0))
    work = loop.next_work(0.0)
    assert work == Forward(m(0))
    loop.done(work, 4)
    assert loop.ends_early_at_s is None
    work = loop.next_work(99.0)
    assert work == Weights(m(0))
    loop.done(work)
    assert loop.next_work(99.5) is None, "until then it computed"
    assert loop.ends_early_at_s == 109.5
    assert loop.next_work(109.5) == Step((m(0),), 4)


# -- planted bugs -------------------------------------------------------------------------------------


class Reversed(RunningPart):
    """Does the weights' work of the youngest microbatch first."""

    def __init__(self, *arguments: object, **others: object) -> None:
        super().__init__(*arguments, **others)  # type: ignore[arg-type]
        self.waiting: list[MicrobatchId] = []

    def weight_backward(self, microbatch: MicrobatchId) -> None:
        self.waiting.append(microbatch)
        if len(self.waiting) == QUOTA:
            for each in reversed(self.waiting):
                super().weight_backward(each)
            self.waiting.clear()


class Forgets(RunningPart):
    """Leaves out the work of one microbatch."""

    def weight_backward(self, microbatch: MicrobatchId) -> None:
        if microbatch.number != 1:
            super().weight_backward(microbatch)


@pytest.mark.parametrize("bug", [Reversed, Forgets])
def test_another_order_and_work_left_out_are_seen_in_the_bits(bug: Callable[..., RunningPart]) -> None:
    model, data = built(layers()), batches(2 * QUOTA)
    found = []
    for make in (RunningPart, bug):
        running = make(
            *(Part(0, 1), nn.Sequential(*built(layers()))),
            loss=loss_sum,
            nominal_tokens=QUOTA * TOKENS,
            recompute=False,
            split_backward=True,
        )
        running.model.load_state_dict(nn.Sequential(*model).state_dict())
        stage = LocalStage(running, sgd(running.model.parameters()), quota=QUOTA)
        assert len(list(Line([stage]).run(data))) == 2
        found.append({k: v.clone() for k, v in running.model.state_dict().items()})
    assert not same_bits(found[0], found[1])


def test_what_is_left_names_the_weight_and_both_tensors() -> None:
    model = nn.Linear(2, 3)
    work = WeightWork(model)
    x = torch.randn(POSITIONS, 2)
    model(x).sum().backward()
    (left,) = work.take()
    assert left.weight is model.weight
    assert torch.equal(left.x, x)
    assert torch.equal(left.gradient, torch.ones(POSITIONS, 3))
    assert work.take() == []
    WeightWork.add([left, Left(model.weight, x, left.gradient)])
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, 2 * torch.ones(3, POSITIONS) @ x)
