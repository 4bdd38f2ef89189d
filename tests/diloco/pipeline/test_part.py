"""One part: what it refuses, what it keeps, and that forward run again is the same forward."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diloco.errors import BoundaryError, PipelineError
from diloco.models.layered import cross_entropy_sum
from diloco.pipeline import part as part_module
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.microbatch import MicrobatchId, random_seed
from diloco.pipeline.part import RunningPart
from tests.diloco.pipeline.kit import loss_sum

EDGE = Boundary((4, 3))
ID, OTHER = MicrobatchId(b"", 0, 6), MicrobatchId(b"", 0, 7)
FIRST, MIDDLE, LAST = (Part(stage, 3, (1, 2)) for stage in range(3))


def squares(output: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return (output - targets).square().sum(), len(targets)


def first(model: nn.Module, **kwargs: Any) -> RunningPart:
    return RunningPart(FIRST, model, gives=EDGE, nominal_tokens=4, **kwargs)


def middle(model: nn.Module, **kwargs: Any) -> RunningPart:
    return RunningPart(MIDDLE, model, takes=EDGE, gives=EDGE, nominal_tokens=4, **kwargs)


def last(model: nn.Module, loss: Any = squares) -> RunningPart:
    return RunningPart(LAST, model, takes=EDGE, loss=loss, nominal_tokens=8)


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("recompute", [True, False])
def test_a_middle_part_hands_on_values_and_gradients(recompute: bool) -> None:
    model, x, above = nn.Linear(3, 3), torch.randn(4, 3), torch.randn(4, 3)
    part = middle(model, recompute=recompute)
    given = part.forward(ID, x)
    assert not given.requires_grad
    assert torch.equal(given, model(x).detach())
    assert part.num_held == 1
    below = part.backward(ID, above)
    assert below is not None
    assert torch.equal(below, above @ model.weight.detach())
    weight_grad, bias_grad = grads(model)
    torch.testing.assert_close(weight_grad, above.T @ x)
    torch.testing.assert_close(bias_grad, above.sum(0))
    assert part.num_held == 0
    assert x.grad is None
    assert not x.requires_grad


def test_the_first_part_has_no_gradient_to_hand_down() -> None:
    part = first(nn.Embedding(5, 3))
    part.forward(ID, torch.tensor([0, 1, 2, 3]))
    assert part.backward(ID, torch.ones(4, 3)) is None


@pytest.mark.parametrize(("recompute", "times"), [(True, 2), (False, 1)])
def test_with_recompute_a_graph_lives_in_backward_only(recompute: bool, times: int) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    forwards: list[object] = []
    model.register_forward_hook(lambda *_: forwards.append(_))
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    part = middle(model, recompute=recompute)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        part.forward(ID, torch.randn(4, 3))
    assert bool(kept) is not recompute
    part.backward(ID, torch.ones(4, 3))
    assert len(forwards) == times


def test_dropout_of_the_second_forward_is_that_of_the_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    x, above = torch.randn(4, 3), torch.ones(4, 3)
    found = []
    for recompute in (True, False):
        part = middle(model, recompute=recompute, seed=9)
        given, other = part.forward(ID, x), part.forward(OTHER, x)
        assert not torch.equal(given == 0, other == 0), "each microbatch draws its own"
        torch.rand(5)  # the process draws something in between
        model.zero_grad()
        found.append((given, part.backward(ID, above), *grads(model)))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_dropout_that_is_seeded_by_the_attempt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = count()
    monkeypatch.setattr(part_module, "random_seed", lambda *names: random_seed(*names) ^ next(attempts))
    with pytest.raises(AssertionError):
        test_dropout_of_the_second_forward_is_that_of_the_first()


def test_the_last_part_divides_by_the_tokens_of_a_step() -> None:
    model, x, targets = nn.Linear(3, 3), torch.randn(4, 3), torch.randn(4, 3)
    found = last(model).forward_backward(ID, x, targets)
    error = (model(x) - targets).detach()
    assert found.tokens == 4
    assert found.loss_sum == pytest.approx(float(error.square().sum()), rel=1e-6)
    torch.testing.assert_close(grads(model)[0], 2 * error.T @ x / 8)
    torch.testing.assert_close(found.gradient, 2 * error @ model.weight.detach() / 8)


@pytest.mark.parametrize(("tokens", "factor"), [(8, None), (6, 8 / 6), (16, 0.5)])
def test_what_was_added_up_becomes_the_mean_of_what_was_counted(tokens: int, factor: float | None) -> None:
    model = nn.Linear(3, 3)
    part = last(model)
    part.forward_backward(ID, torch.randn(4, 3), torch.randn(4, 3))
    before = grads(model)
    part.weigh(tokens)
    for old, new in zip(before, grads(model), strict=True):
        assert torch.equal(new, old if factor is None else old * factor)


def test_of_no_tokens_no_gradient_is_left() -> None:
    model = nn.Linear(3, 3)
    part = last(model)
    part.forward_backward(ID, torch.randn(4, 3), torch.randn(4, 3))
    part.weigh(0)
    assert grads(model) == []


def test_what_is_added_is_added_as_a_whole_or_not_at_all() -> None:
    model, plain = nn.Linear(3, 3), nn.Linear(3, 3)
    plain.load_state_dict(model.state_dict())
    part, x, targets = last(model), torch.randn(2, 4, 3), torch.randn(4, 3)
    for each in x:
        with part.adding():
            part.forward_backward(ID, each, targets)
        (squares(plain(each), targets)[0] / 8).backward()
    with suppress(BoundaryError), part.adding():
        part.forward_backward(OTHER, x[0], targets)
        raise BoundaryError("its gradient is too large for the format")
    for one, two in zip(grads(model), grads(plain), strict=True):
        assert torch.equal(one, two)


def test_a_parameter_that_nothing_used_has_no_gradient_to_weigh() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "other": nn.Linear(3, 3)})
    model.forward = lambda x: model["used"](x)  # type: ignore[assignment]
    part = last(model)
    part.forward_backward(ID, torch.randn(4, 3), torch.randn(4, 3))
    part.weigh(6)
    assert len(grads(model)) == 2


# -- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_before_it_is_counted(bad: float) -> None:
    model = nn.Linear(3, 3)
    part, wrong = middle(model), torch.zeros(4, 3)
    wrong[1, 2] = bad
    with pytest.raises(BoundaryError, match="the input of microbatch 6 that stage 1 got has 1 of 12 values"):
        part.forward(ID, wrong)
    part.forward(ID, torch.zeros(4, 3))
    with pytest.raises(BoundaryError, match="the gradient of microbatch 6 that stage 1 got has 1 of 12"):
        part.backward(ID, wrong)
    with pytest.raises(BoundaryError, match=r"the loss of microbatch 6 is (nan|-?inf) over 4 tokens"):
        last(model, lambda o, t: (o.sum() * bad, 4)).forward_backward(ID, torch.ones(4, 3), torch.zeros(4))
    assert grads(model) == []


def test_a_part_says_what_it_made_that_is_not_finite() -> None:
    class Explodes(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 0

    with pytest.raises(BoundaryError, match="what stage 1 made of microbatch 6 has 12 of 12 values"):
        middle(Explodes(3, 3)).forward(ID, torch.ones(4, 3))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.zeros(4, 2), r"got is \[4, 2\] float32, and the boundary is \[4, 3\] float32"),
        (torch.zeros(4, 3).half(), r"got is \[4, 3\] float16"),
    ],
)
def test_another_size_or_dtype_is_refused(x: Tensor, text: str) -> None:
    part = middle(nn.Linear(3, 3))
    with pytest.raises(BoundaryError, match=text):
        part.forward(ID, x)
    part.forward(ID, torch.zeros(4, 3))
    with pytest.raises(BoundaryError, match=text):
        part.backward(ID, x)
    assert part.backward(ID, torch.zeros(4, 3)) is not None, "nothing was lost by that"


class Two(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Blind(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight.sum().expand(4, 3)


def test_a_part_must_give_one_tensor_of_the_boundary_and_use_its_input() -> None:
    with pytest.raises(BoundaryError, match="what stage 0 made of microbatch 6 is of type tuple, not one"):
        first(Two(3, 3)).forward(ID, torch.zeros(4, 3))
    with pytest.raises(BoundaryError, match=r"what stage 0 made of microbatch 6 is \[4, 2\] float32"):
        first(nn.Linear(3, 2)).forward(ID, torch.zeros(4, 3))
    blind = middle(Blind(3, 3))
    blind.forward(ID, torch.zeros(4, 3))
    with pytest.raises(PipelineError, match="stage 1 does not use its input"):
        blind.backward(ID, torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda output, targets: (output, 4), "the loss must be a tensor of one element"),
        (lambda output, targets: (3.0, 4), "the loss must be a tensor of one element"),
        (lambda output, targets: (output.sum(), 0), "over 0 tokens"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss: Any, text: str) -> None:
    model = nn.Linear(3, 3)
    with pytest.raises(BoundaryError, match=text):
        last(model, loss).forward_backward(ID, torch.ones(4, 3), torch.zeros(4))
    assert grads(model) == []


@pytest.mark.parametrize(("loss", "text"), [(cross_entropy_sum, "of 3 classes"), (loss_sum, "out of bounds")])
@pytest.mark.parametrize("target", [3, (1 << 31) - 1, -2])
def test_targets_that_are_no_class_are_refused(loss: Any, text: str, target: int) -> None:
    """Those of a feeder, whose word ends nobody."""
    model = nn.Linear(3, 3)
    part, x, targets = last(model, loss), torch.ones(1, 4, 3), torch.tensor([[0, 1, target, 2]])
    part.takes = Boundary((1, 4, 3))
    with pytest.raises(BoundaryError, match=f"there is no loss of microbatch 6: .*{text}"):
        part.forward_backward(ID, x, targets)
    with pytest.raises(BoundaryError, match=f"there is no loss of microbatch 6: .*{text}"):
        part.evaluate_loss(ID, x, targets)
    assert grads(model) == []
    assert part.forward_backward(ID, x, targets.clamp(0, 2)).tokens == 4


def test_a_loss_of_one_token_is_one() -> None:
    found = last(nn.Linear(3, 3), lambda output, targets: (output.sum(), 1))
    assert found.forward_backward(ID, torch.ones(4, 3), torch.zeros(4)).tokens == 1


def test_statistics_that_forward_keeps_are_refused_with_recompute_only() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(PipelineError, match=r"forward changes the buffer 1\.running_mean"):
        middle(model).forward(ID, torch.randn(4, 3))
    middle(model, recompute=False).forward(ID, torch.randn(4, 3))
    model.eval()
    middle(model).forward(ID, torch.randn(4, 3))


@pytest.mark.parametrize(
    ("part", "kwargs", "text"),
    [
        (FIRST, {}, "stage 0 of 3 needs a boundary to the stage above"),
        (FIRST, {"gives": EDGE, "takes": EDGE}, "stage 0 of 3 has no boundary to the stage below: give None"),
        (MIDDLE, {"gives": EDGE}, "stage 1 of 3 needs a boundary to the stage below"),
        (MIDDLE, {"gives": EDGE, "takes": EDGE, "loss": squares}, "stage 1 of 3 has no loss: give None"),
        (LAST, {"takes": EDGE}, "stage 2 of 3 needs a loss"),
        (LAST, {"takes": EDGE, "gives": EDGE, "loss": squares}, "has no boundary to the stage above"),
    ],
)
def test_boundaries_and_loss_stand_where_they_belong(part: Part, kwargs: Any, text: str) -> None:
    with pytest.raises(PipelineError, match=text):
        RunningPart(part, nn.Linear(3, 3), nominal_tokens=4, **kwargs)


def test_a_part_without_a_trainable_parameter_is_refused() -> None:
    for model in (nn.Tanh(), nn.Linear(3, 3).requires_grad_(False)):
        with pytest.raises(PipelineError, match="stage 1 has no trainable parameter: choose other cuts"):
            middle(model)
