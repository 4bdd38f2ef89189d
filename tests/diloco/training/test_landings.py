"""Optimizers that keep copies of the parameters, as people have them: what lands stays, or the run stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diloco
from diloco.training.landings import Landings
from diloco.training.outer import Outer

EVERY = 40


@pytest.fixture
def swarm() -> Iterator[diloco.Swarm]:
    method = {"preset": "diloco", "sync_every": EVERY, "codec": "fp32"}
    run = diloco.RunSettings.model_validate({"run": {"rounds": 100}, "method": method})
    with diloco.solo(run) as made:
        yield made


class Plain(torch.optim.Optimizer):
    """SGD that steps the parameters themselves; those below differ in one thing each."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, group["lr"])

    def move(self, p: Tensor, lr: float) -> None:
        p.sub_(p.grad, alpha=lr)


class Masters(Plain):
    """fp32 masters under bf16 weights, in the optimizer's state."""

    def move(self, p: Tensor, lr: float) -> None:
        state = self.state[p]
        if not state:
            state["exp_avg"], state["master"] = torch.zeros_like(p), p.float()
        state["master"].sub_(p.grad.float(), alpha=lr)
        p.copy_(state["master"])


class HiddenMasters(Plain):
    """The same where nobody looks."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01) -> None:
        super().__init__(params, lr)
        self.masters: dict[Tensor, Tensor] = {}

    def move(self, p: Tensor, lr: float) -> None:
        master = self.masters.setdefault(p, p.detach().float())
        master.sub_(p.grad.float(), alpha=lr)
        p.copy_(master)

    def renew(self, model: nn.Module) -> None:
        self.masters = {p: p.detach().float().clone() for p in model.parameters()}


class ScheduleFree(Plain):
    """SGDScheduleFree of its authors' package in the mode in which one trains: the parameter is y, and
    z lies in the state."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            group["train_mode"] = True
        self.steps = 0

    def move(self, p: Tensor, lr: float) -> None:
        state = self.state[p]
        if "z" not in state:
            state["z"] = p.clone()
        self.steps += 1
        p.lerp_(state["z"], weight=1 / self.steps)
        p.add_(p.grad, alpha=lr * (0.9 * (1 - 1 / self.steps) - 1))
        state["z"].sub_(p.grad, alpha=lr)


class Lookahead(Plain):
    """Every five steps half the way back to slow weights, which lie in the state, or where nobody looks."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01, slow: dict[Tensor, Any] | None = None):
        super().__init__(params, lr)
        self.slow: Any = self.state if slow is None else slow
        self.steps = 0

    def move(self, p: Tensor, lr: float) -> None:
        held = self.slow.setdefault(p, {})
        slow = held.setdefault("slow_param", p.detach().clone())
        p.sub_(p.grad, alpha=lr)
        self.steps += p is self.param_groups[0]["params"][0]
        if self.steps % 5 == 0:
            slow.add_(p - slow, alpha=0.5)
            p.copy_(slow)


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).to(dtype)


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().float().reshape(-1) for p in model.parameters()])


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    """Gradients that point the same way all the time, with some noise."""
    for _ in range(num_steps):
        for p in model.parameters():
            p.grad = torch.ones_like(p) + 0.5 * torch.randn_like(p)
        optimizer.step()


def landed_distance(outer: Outer) -> float:
    """How far the model is from the outer parameters, in steps: of bf16 half a step is lost at once, and an
    outer step is more than ten."""
    theta = torch.cat([outer.replica.outer.outer_parameters(f) for f in range(outer.method.num_fragments)])
    return float((vector(outer.model) - theta).abs().mean()) / 0.01


@pytest.mark.parametrize("kind", [Plain, Masters, ScheduleFree, torch.optim.SGD])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_what_lands_stays_where_copies_are_known(
    swarm: diloco.Swarm, kind: type[torch.optim.Optimizer], dtype: torch.dtype
) -> None:
    model = net(dtype)
    optimizer = kind(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    outer = diloco.attach(model, optimizer, swarm)
    for _ in range(3):
        steps(model, optimizer, EVERY)
        assert landed_distance(outer) < 1.0
        steps(model, optimizer, 1)
        assert landed_distance(outer) < 2.5
        steps(model, optimizer, EVERY - 1)
        assert landed_distance(outer) < 1.0
    assert outer.round == 6


def test_a_master_keeps_what_landed_to_the_last_bit(swarm: diloco.Swarm) -> None:
    model = net(torch.bfloat16)
    with torch.no_grad():
        model[1].bias.zero_()  # as a new adapter: like a moment that has not begun
    optimizer = Masters(model.parameters())
    outer = diloco.attach(model, optimizer, swarm)
    model[1].bias.grad = None
    steps(model, optimizer, EVERY)
    masters = torch.cat([optimizer.state[p]["master"].reshape(-1) for p in model.parameters()])
    assert torch.equal(masters, outer.replica.outer.outer_parameters(0))
    assert not any(optimizer.state[p]["exp_avg"].any() for p in model.parameters())
    before = masters.clone()
    with outer.outer_parameters():
        pass
    masters = torch.cat([optimizer.state[p]["master"].reshape(-1) for p in model.parameters()])
    assert torch.equal(masters, before)


def test_what_masters_learned_is_sent_though_weights_show_nothing_of_it(swarm: diloco.Swarm) -> None:
    model = net(torch.bfloat16)
    optimizer = Masters(model.parameters(), lr=1e-7)
    outer = diloco.attach(model, optimizer, swarm)
    steps(model, optimizer, 1)
    began = vector(model)
    steps(model, optimizer, EVERY - 2)
    masters = torch.cat([optimizer.state[p]["master"].reshape(-1) for p in model.parameters()])
    assert float((vector(model) == began).float().mean()) > 0.9, "bf16 has no room for it"
    learned = outer.replica.outer.outer_parameters(0) - masters
    assert bool(learned.all())
    assert torch.equal(outer.replica.local.pseudo_gradient(0), learned)


def land(landings: Landings, tensor: Tensor, values: Tensor) -> None:
    places = [(slice(0, tensor.numel()), tensor)]
    landings.before_write(places)
    with torch.no_grad():
        tensor.copy_(values)
    landings.written(places, values.reshape(-1))


def test_an_optimizer_that_undoes_what_landed_is_named(swarm: diloco.Swarm) -> None:
    model = net(torch.bfloat16)
    optimizer = HiddenMasters(model.parameters())
    diloco.attach(model, optimizer, swarm)
    steps(model, optimizer, EVERY + 1)
    with pytest.raises(diloco.OptimizerUndoes, match="HiddenMasters undid what landed"):
        steps(model, optimizer, 1)


def test_slow_weights_of_lookahead_begin_anew_at_what_landed(swarm: diloco.Swarm) -> None:
    model = net()
    optimizer = Lookahead(model.parameters())
    outer = diloco.attach(model, optimizer, swarm)
    for _ in range(3):
        steps(model, optimizer, EVERY)
        assert landed_distance(outer) < 1.0
        steps(model, optimizer, 5)
        assert landed_distance(outer) < 6.0
        steps(model, optimizer, EVERY - 5)


def test_one_that_goes_back_some_steps_after_a_landing_is_named_too(swarm: diloco.Swarm) -> None:
    model = net()
    optimizer = Lookahead(model.parameters(), slow={})
    diloco.attach(model, optimizer, swarm)
    steps(model, optimizer, EVERY + 5)
    with pytest.raises(diloco.OptimizerUndoes, match="Lookahead undid what landed"):
        steps(model, optimizer, 1)


def test_a_loop_that_writes_its_own_copies_hears_of_it_too(swarm: diloco.Swarm) -> None:
    """Masters by hand, with an optimizer of torch that steps them."""
    model = net(torch.bfloat16)
    masters = [p.detach().float() for p in model.parameters()]
    optimizer = torch.optim.SGD(masters, lr=0.01)
    outer = diloco.attach(model, None, swarm)

    def step() -> None:
        for master in masters:
            master.grad = torch.ones_like(master)
        optimizer.step()
        with torch.no_grad():
            for master, p in zip(masters, model.parameters(), strict=True):
                p.copy_(master)
        outer.step_done()

    def loop() -> None:
        for _ in range(3 * EVERY):
            step()

    with pytest.raises(diloco.OptimizerUndoes, match="what steps the model"):
        loop()
    assert outer.round == 2, "without a gradient to look at it takes two landings"


def test_a_callback_renews_copies_and_the_run_goes_on(swarm: diloco.Swarm) -> None:
    model = net(torch.bfloat16)
    optimizer = HiddenMasters(model.parameters())
    outer = diloco.attach(model, optimizer, swarm)
    seen: list[nn.Module] = []
    outer.on_landing(optimizer.renew)
    outer.on_landing(seen.append)
    assert seen == [model], "called when it is given"
    steps(model, optimizer, 3 * EVERY)
    assert outer.round == 3
    assert seen == [model] * 4
    assert landed_distance(outer) < 1.0


class Valley(nn.Module):
    """A square bowl, in which one step of SGD with the right rate goes to the bottom from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((64,), 5.0))


def test_a_step_back_that_the_gradient_explains_is_no_fault(swarm: diloco.Swarm) -> None:
    model = Valley()
    optimizer = Plain(model.parameters(), lr=1.0)
    outer = diloco.attach(model, optimizer, swarm)
    for _ in range(3 * EVERY):
        optimizer.zero_grad()
        (model.w.square().sum() / 2).backward()
        optimizer.step()
    assert outer.round == 3


def test_a_landing_no_longer_than_a_step_says_nothing() -> None:
    model = net()
    optimizer = HiddenMasters(model.parameters())
    landings = Landings(model, [optimizer])
    tensor = model[0].weight
    for _ in range(3):
        steps(model, optimizer, 1)
        landings.stepped()
        land(landings, tensor, tensor.detach() + 0.01)
        for _ in range(2):
            steps(model, optimizer, 1)
            landings.stepped()
