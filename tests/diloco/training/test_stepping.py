"""When an inner step is over, in loops as people write them: several optimizers, gradient scalers, packed
batches, wrapped optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import diloco
from diloco.training.attach import attach
from diloco.training.stepping import optimizers_of

EVERY = 2
ROUNDS = 3


@pytest.fixture
def swarm() -> Iterator[diloco.Swarm]:
    method = {"preset": "diloco", "sync_every": EVERY, "codec": "fp32"}
    run = diloco.RunSettings.model_validate({"run": {"rounds": ROUNDS}, "method": method})
    with diloco.solo(run) as made:
        yield made


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def split(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for matrices, AdamW for the rest, as people do."""
    matrices = [each for each in model.parameters() if each.dim() == 2]
    rest = [each for each in model.parameters() if each.dim() < 2]
    return torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(rest, lr=0.01)


def learn(model: nn.Module) -> None:
    model(torch.ones(5, 3)).square().mean().backward()


def test_a_step_is_over_when_the_last_of_several_optimizers_has_stepped(swarm: diloco.Swarm) -> None:
    model = net()
    muon, adamw = split(model)
    outer = diloco.attach(model, [muon, adamw], swarm, tokens_per_step=10)
    for number in range(1, EVERY * ROUNDS + 1):
        learn(model)
        muon.step()
        assert outer.step == number - 1
        adamw.step()
        assert outer.step == number
        muon.zero_grad()
        adamw.zero_grad()
    assert outer.finished
    assert outer.tokens_by_fate["applied"] == 10 * EVERY * ROUNDS


def test_the_last_to_step_is_found_where_it_is_not_the_last_that_was_given(swarm: diloco.Swarm) -> None:
    model = net()
    muon, adamw = split(model)
    outer = diloco.attach(model, [adamw, muon], swarm)
    for number in range(4):
        learn(model)
        muon.step()
        assert number == 0 or outer.step == number, "the first step alone is taken for over too early"
        adamw.step()
        assert outer.step == number + 1
        model.zero_grad()


def test_an_optimizer_that_steps_now_and_then_ends_no_step(swarm: diloco.Swarm) -> None:
    model = net()
    rare, always = split(model)
    outer = diloco.attach(model, [rare, always], swarm)
    for number in range(4):
        learn(model)
        if number % 2:
            rare.step()
        always.step()
        model.zero_grad()
        assert outer.step == number + 1


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_step_that_a_gradient_scaler_skips_counts_nothing_and_the_run_ends(
    swarm: diloco.Swarm, fused: bool
) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    outer = diloco.attach(model, optimizer, swarm, tokens_per_step=10)
    done = skipped = 0
    while not outer.finished:
        assert done <= EVERY * ROUNDS
        optimizer.zero_grad()
        overflows = (done + skipped) % 3 == 0
        scaler.scale(model(torch.ones(5, 3)).mean() * (torch.inf if overflows else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        skipped, done = skipped + overflows, done + (not overflows)
        assert outer.step == done
    assert skipped
    assert outer.tokens_by_fate["applied"] == outer.tokens == 10 * EVERY * ROUNDS


def test_a_skipped_optimizer_leaves_the_others_in_their_order(swarm: diloco.Swarm) -> None:
    """Of the two, the scaler skips the first alone, and then the last alone."""
    model = net()
    muon, adamw = split(model)
    outer = diloco.attach(model, [muon, adamw], swarm)
    ends = []
    for skip in (None, muon, None, adamw, None):
        learn(model)
        for each in (muon, adamw):
            if each is not skip:
                each.step()
        ends.append(outer.step)
        model.zero_grad()
    assert ends == [1, 2, 3, 3, 4]


def test_tokens_may_be_told_for_each_step(swarm: diloco.Swarm) -> None:
    """Packed batches: what a step had is known once it was taken."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    outer = diloco.attach(model, optimizer, swarm, tokens_per_step=None)
    told = []
    for number in range(6):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(5, 3)).mean() * (torch.inf if number == 1 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        outer.step_done(tokens=100 + number)
        if number != 1:
            told.append(100 + number)
        assert (outer.step, outer.tokens) == (len(told), sum(told))
    with pytest.raises(diloco.UserError, match="how many tokens"):
        outer.step_done()


@pytest.mark.parametrize("rare", [0, 1])
def test_a_step_that_is_told_counts_whichever_optimizer_took_it(swarm: diloco.Swarm, rare: int) -> None:
    """As where two models play against each other, and one of them steps now and then."""
    model = net()
    both = split(model)
    outer = diloco.attach(model, list(both), swarm, tokens_per_step=None)
    for number in range(EVERY * ROUNDS):
        learn(model)
        both[1 - rare].step()
        if number % 2:
            both[rare].step()
        model.zero_grad()
        outer.step_done(tokens=10)
        assert outer.step == number + 1
    assert outer.finished
    assert outer.tokens_by_fate["applied"] == 10 * EVERY * ROUNDS


def test_a_loop_that_tells_of_no_step_hears_of_it_after_a_hundred(swarm: diloco.Swarm) -> None:
    model = net()
    both = split(model)
    diloco.attach(model, list(both), swarm, tokens_per_step=None)
    learn(model)
    for _ in range(100):
        for each in both:
            each.step()
    with pytest.raises(diloco.UserError, match="100 steps of the optimizer, and no outer"):
        both[0].step()


def test_tokens_of_the_next_step_may_be_set_before_it(swarm: diloco.Swarm) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = diloco.attach(model, optimizer, swarm)
    for tokens in (7, 9):
        learn(model)
        outer.tokens_per_step = tokens
        optimizer.step()
    assert outer.tokens == 16
    with pytest.raises(diloco.UserError, match="whole number"):
        outer.tokens_per_step = 0


def test_a_step_that_the_hook_counts_is_not_counted_twice(swarm: diloco.Swarm) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = diloco.attach(model, optimizer, swarm)
    optimizer.step()
    with pytest.raises(diloco.UserError, match="tokens_per_step=None"):
        outer.step_done(100)
    outer.detach()
    outer.step_done(100)
    assert outer.tokens == 101


def test_a_loop_that_forgets_to_tell_its_tokens_hears_of_it(swarm: diloco.Swarm) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    diloco.attach(model, optimizer, swarm, tokens_per_step=None)

    def loop() -> None:
        for _ in range(200):
            optimizer.step()

    with pytest.raises(diloco.UserError, match=r"no outer.step_done\(tokens\) after them"):
        loop()


class AcceleratedOptimizer(torch.optim.Optimizer):
    """As accelerate's: it has no hooks of its own, and steps what it holds."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> None:
        self.optimizer.step()


AcceleratedOptimizer.__module__ = "accelerate.optimizer"


def test_what_accelerate_wraps_is_hooked_inside(swarm: diloco.Swarm) -> None:
    model = net()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = AcceleratedOptimizer(inner)
    outer = diloco.attach(model, wrapped, swarm)
    learn(model)
    wrapped.step()
    assert outer.step == 1


def test_what_cannot_be_hooked_is_refused_with_the_remedy(swarm: diloco.Swarm) -> None:
    class Steps:
        def step(self) -> None: ...

    for wrong in (Steps(), [torch.optim.SGD(net().parameters()), "adamw"]):
        with pytest.raises(diloco.UserError, match=r"or None and call outer\.step_done"):
            attach(net(), wrong, swarm)  # type: ignore[arg-type]
    with pytest.raises(diloco.UserError, match="empty list"):
        attach(net(), [], swarm)


def test_an_optimizer_that_is_given_twice_is_hooked_once() -> None:
    optimizer = torch.optim.SGD(net().parameters(), lr=0.1)
    assert optimizers_of([optimizer, optimizer]) == [optimizer]
    assert optimizers_of(None) == []
