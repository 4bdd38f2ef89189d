"""`attach` in a swarm of one: what the hook counts, what a loop without a hook does, what it may ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import diloco
from diloco.loop.session import Terms, WorkerSession
from diloco.outer.replica import TensorReplica
from diloco.training.attach import attach
from diloco.training.outer import Outer
from peers.protocol.commands import Offer
from peers.protocol.events import BecameActive, KeptResultDamaged, ProgressLost, RoundCommitted, StateFetched
from peers.protocol.record import GENESIS

EVERY = 4
ROUNDS = 3


@pytest.fixture
def swarm() -> Iterator[diloco.Swarm]:
    with diloco.solo(settings()) as made:
        yield made


def settings(**run: Any) -> diloco.RunSettings:
    method = {"preset": "diloco", "sync_every": EVERY, "codec": "fp32"}
    return diloco.RunSettings.model_validate({"run": {"rounds": ROUNDS, **run}, "method": method})


def worker(swarm: diloco.Swarm, **how: Any) -> tuple[nn.Linear, torch.optim.SGD, Outer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, attach(model, optimizer, swarm, timeout_s=30.0, **how)


def learn(model: nn.Module) -> None:
    """An inner step that no optimizer of torch takes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.01)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()


def test_every_step_of_the_optimizer_is_an_inner_step_until_the_run_is_finished(swarm: diloco.Swarm) -> None:
    model, optimizer, outer = worker(swarm, tokens_per_step=10)
    for _ in outer.until_finished(range(1000)):
        step(model, optimizer)
    assert outer.finished
    assert outer.round == ROUNDS
    assert outer.tokens == 10 * outer.step
    assert outer.tokens_by_fate["applied"] == 10 * EVERY * ROUNDS
    done = outer.step
    step(model, optimizer)
    assert outer.step == done, "a finished run counts no more"


def test_what_comes_with_the_result_that_is_waited_for_is_taken_before_the_next_step(
    swarm: diloco.Swarm,
) -> None:
    """The end comes as soon as the last commit is confirmed."""
    model, optimizer, outer = worker(swarm)
    for _ in range(EVERY * ROUNDS):
        assert not outer.finished
        step(model, optimizer)
    assert outer.finished


def test_a_loop_without_a_hook_contributes_through_step_done(swarm: diloco.Swarm) -> None:
    model = nn.Linear(3, 2)
    outer = attach(model, None, swarm, tokens_per_step=10)
    before = outer.replica.outer.outer_parameters(0).clone()
    tokens = 0
    for number in count(1):
        if outer.finished:
            break
        assert number < 1000
        learn(model)
        outer.step_done(number)
        tokens += number
    assert outer.round == ROUNDS
    assert outer.tokens == tokens
    assert outer.step == number - 1
    assert 0 < outer.tokens_by_fate["applied"] <= tokens
    assert not torch.equal(outer.replica.outer.outer_parameters(0), before)


def test_step_done_counts_tokens_per_step_unless_told_otherwise(swarm: diloco.Swarm) -> None:
    outer = attach(nn.Linear(3, 2), None, swarm, tokens_per_step=10)
    outer.step_done()
    assert (outer.step, outer.tokens) == (1, 10)
    outer.step_done(3)
    assert (outer.step, outer.tokens) == (2, 13)
    for wrong in (0, -1, 1.5, True, 2**40 + 1, 2**63):
        with pytest.raises(diloco.UserError, match="whole number"):
            outer.step_done(wrong)
    assert outer.step == 2


def test_after_detach_only_step_done_counts(swarm: diloco.Swarm) -> None:
    model, optimizer, outer = worker(swarm)
    outer.detach()
    step(model, optimizer)
    assert outer.step == 0
    outer.step_done()
    assert outer.step == 1


def test_the_callback_is_told_of_every_event_once_the_session_has_taken_it(swarm: diloco.Swarm) -> None:
    seen: list[object] = []
    rounds: list[int] = []

    def on_event(event: object) -> None:
        seen.append(event)
        if isinstance(event, RoundCommitted):
            rounds.append(outer.round)

    model, optimizer, outer = worker(swarm, on_event=on_event)
    assert any(isinstance(event, BecameActive) for event in seen)
    for _ in outer.until_finished(range(1000)):
        step(model, optimizer)
    assert rounds == [1, 2, 3]
    assert outer.pseudo_grad_norm > 0


def test_that_a_result_on_the_disk_is_damaged_is_said_once(
    swarm: diloco.Swarm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer, _ = worker(swarm)
    damaged = [KeptResultDamaged(b"\x01" * 32), KeptResultDamaged(b"\x02" * 32)]
    heard = swarm.next_event
    monkeypatch.setattr(swarm, "next_event", lambda wait: damaged.pop(0) if damaged else heard(wait))
    step(model, optimizer)
    (line,) = caplog.messages
    assert "results/*-0101010101010101, is damaged" in line
    assert not damaged


def test_lag_is_what_was_trained_and_not_offered(swarm: diloco.Swarm) -> None:
    model, optimizer, outer = worker(swarm)
    lags = []
    for _ in range(EVERY - 1):
        step(model, optimizer)
        lags.append(outer.lag)
    assert lags == [1, 2, 3]


def test_stop_ends_the_batches_after_the_step_at_hand(swarm: diloco.Swarm) -> None:
    model, optimizer, outer = worker(swarm)
    for number in outer.until_finished(range(1000)):
        step(model, optimizer)
        if number == 1:
            outer.stop()
    assert outer.step == 2


def test_the_swarm_is_told_how_training_goes(swarm: diloco.Swarm) -> None:
    model, optimizer, outer = worker(swarm, tokens_per_step=10)
    outer.log(loss=2.5)
    step(model, optimizer)
    assert outer.loss == 2.5
    (member,) = swarm.status()["members"]
    assert (member["step"], member["tokens"], member["loss"]) == (1, 10, 2.5)


def test_a_context_ends_with_the_hook(swarm: diloco.Swarm) -> None:
    model, optimizer, outer = worker(swarm)
    with outer:
        step(model, optimizer)
    step(model, optimizer)
    assert outer.step == 1
    assert outer.waited_s >= 0.0
    assert outer.tokens_per_second > 0.0
    assert outer.num_parameters == 8


def test_tokens_per_step_that_no_host_would_take_are_refused_before_anything_is_sent(
    swarm: diloco.Swarm,
) -> None:
    for wrong in (0, 2.0, 2**63):
        with pytest.raises(diloco.UserError, match="whole number"):
            worker(swarm, tokens_per_step=wrong)
    assert swarm.status()["members"] == []


def test_without_an_optimizer_step_done_is_all_that_counts(swarm: diloco.Swarm) -> None:
    model = nn.Linear(3, 2)
    outer = attach(model, None, swarm, timeout_s=30.0)
    while not outer.finished:
        learn(model)
        outer.step_done(5)
    assert (outer.round, outer.tokens) == (ROUNDS, 5 * outer.step)
    outer.detach()


def test_a_method_that_averages_moments_needs_the_optimizer() -> None:
    run = diloco.RunSettings.model_validate({"method": {"preset": "des_loc"}})
    with diloco.solo(run) as swarm, pytest.raises(diloco.LayoutError, match="optimizer"):
        attach(nn.Linear(3, 2), None, swarm, timeout_s=30.0)


def test_an_offer_after_a_new_state_weighs_the_steps_that_are_in_it(swarm: diloco.Swarm) -> None:
    """The state comes when a step was taken that it wipes out."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    replica = TensorReplica.of(model, swarm.settings.method.resolved())
    session = WorkerSession(Terms.of(swarm.settings), replica, now=0.0)
    session.event(0.0, BecameActive(GENESIS, 0))
    with replica.outer.reading(0) as view:
        state = bytearray(view.read(0, replica.state_size(0)))
    learn(model)
    session.stepped(10, 1.0)
    session.event(0.0, StateFetched(0, GENESIS, state))
    offers = session.due(0.0)
    while not offers:
        learn(model)
        session.stepped(10, 1.0)
        offers = session.due(0.0)
    (offer,) = offers
    assert isinstance(offer, Offer)
    steps_in_it = offer.norm / (0.01 * replica.num_elements(0) ** 0.5)
    assert offer.tokens == 10 * round(steps_in_it) == 10 * EVERY


def spoil(model: nn.Module, optimizer: torch.optim.Optimizer, gradient: float = torch.nan) -> None:
    """A step of the optimizer that nothing survives."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


def adamw_worker(
    swarm: diloco.Swarm, seen: list[object], with_optimizer: bool = True
) -> tuple[nn.Linear, torch.optim.AdamW, Outer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    known = optimizer if with_optimizer else None
    return model, optimizer, attach(model, known, swarm, tokens_per_step=10, on_event=seen.append)


def test_after_one_nan_gradient_a_worker_trains_on_and_its_progress_counts(
    swarm: diloco.Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    """AdamW's moments would stay NaN for ever."""
    seen: list[object] = []
    model, optimizer, outer = adamw_worker(swarm, seen)
    for number in outer.until_finished(range(1000)):
        (spoil if number == EVERY + 2 else step)(model, optimizer)
    assert outer.round == ROUNDS
    assert (outer.tokens_by_fate["applied"], outer.tokens_by_fate["non_finite"]) == (
        10 * EVERY * ROUNDS,
        10 * EVERY,
    )
    (lost,) = [each for each in seen if isinstance(each, ProgressLost)]
    assert (lost.tokens, lost.in_a_row) == (10 * EVERY, 1)
    assert "4 tensors of the inner optimizer's state" in lost.mended[0]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("diloco", "WARNING")
    assert "8 of the pseudo-gradient's 8 values are not finite" in record.getMessage()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_loop_whose_optimizer_is_not_known_is_told_that_its_state_was_not_looked_at(
    swarm: diloco.Swarm,
) -> None:
    seen: list[object] = []
    model, optimizer, outer = adamw_worker(swarm, seen, with_optimizer=False)
    spoil(model, optimizer)
    for _ in range(EVERY):
        outer.step_done()
    (lost,) = [each for each in seen if isinstance(each, ProgressLost)]
    assert lost.mended[0].endswith("could not be looked at: parameters weight, bias")


def test_a_worker_whose_gradients_stay_nan_stops_with_a_clear_error_and_leaves(swarm: diloco.Swarm) -> None:
    seen: list[object] = []
    model, optimizer, outer = adamw_worker(swarm, seen)
    step(model, optimizer)
    for _ in range(5 * EVERY - 2):
        spoil(model, optimizer)
    with pytest.raises(diloco.TrainingDiverged, match="5th time in a row: this worker has left the run"):
        spoil(model, optimizer)
    assert outer.step == 5 * EVERY
    assert outer.tokens_by_fate == dict.fromkeys(outer.tokens_by_fate, 0) | {"non_finite": outer.tokens}
    assert swarm.status()["members"] == []
    with pytest.raises(diloco.TrainingDiverged):
        step(model, optimizer)


def test_values_that_the_codec_cannot_hold_are_given_up_and_do_not_end_the_network_thread() -> None:
    seen: list[object] = []
    method = {"preset": "diloco", "sync_every": EVERY, "codec": "fp16"}
    run = diloco.RunSettings.model_validate({"run": {"rounds": ROUNDS}, "method": method})
    with diloco.solo(run) as swarm:
        model, optimizer, outer = worker(swarm, on_event=seen.append)
        for number in outer.until_finished(range(1000)):
            spoil(model, optimizer, 1e6 if number == 2 else 0.1)
    assert outer.round == ROUNDS
    (lost,) = [each for each in seen if isinstance(each, ProgressLost)]
    assert "8 of 8 values are not finite, or too large for torch.float16" in lost.reason


@pytest.mark.parametrize(
    "method",
    [
        {"preset": "streaming", "num_fragments": 2, "fragment_pattern": "balanced", "delay": 2},
        {"preset": "streaming", "num_fragments": 2, "fragment_pattern": "balanced", "delay": EVERY},
        {"preset": "eager", "delay": EVERY},
        {"preset": "des_loc", "moments_every": 2},
        {"preset": "noloco"},
    ],
    ids=["streaming", "overlapped", "eager", "des_loc", "noloco"],
)
def test_every_kind_of_method_gets_over_a_nan_and_stops_where_it_stays(method: dict[str, Any]) -> None:
    run = {"run": {"rounds": 1000, "min_peers": 1}, "method": {"sync_every": EVERY, **method}}
    with diloco.solo(diloco.RunSettings.model_validate(run)) as swarm:
        seen: list[object] = []
        model, optimizer, outer = adamw_worker(swarm, seen)
        for number in range(10 * EVERY):
            backward(model, optimizer, torch.nan if number == EVERY + 2 else 1.0)
        assert any(isinstance(each, ProgressLost) for each in seen)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        before = outer.tokens_by_fate
        assert before["applied"] > before["non_finite"] > 0
        with pytest.raises(diloco.TrainingDiverged):
            train_until_it_stops(model, optimizer, 20 * EVERY)
        assert outer.tokens_by_fate["applied"] <= before["applied"] + 10 * 2 * EVERY


def backward(model: nn.Module, optimizer: torch.optim.Optimizer, factor: float) -> None:
    """A step whose gradients are not finite once a parameter is not."""
    optimizer.zero_grad()
    (factor * model(torch.ones(4, 3)).square().mean()).backward()
    optimizer.step()


def train_until_it_stops(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    for _ in range(num_steps):
        spoil(model, optimizer)


def own_loop(ending: str) -> subprocess.CompletedProcess[str]:
    """A script of a user's own, which gets a signal in the midst of its seventh step."""
    program = f"""
import os, signal, torch, diloco
settings = diloco.RunSettings.model_validate(
    {{"run": {{"rounds": 1000}}, "method": {{"preset": "local_sgd", "sync_every": 4}}}}
)
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
steps = 0
with diloco.solo(settings) as swarm, diloco.attach(model, optimizer, swarm) as outer:
    {ending}
    try:
        with notice:
            while True:
                for each in model.parameters():
                    each.grad = torch.ones_like(each)
                if outer.step == 6:
                    os.kill(os.getpid(), signal.SIGTERM)
                optimizer.step()
    finally:
        print(outer.step, swarm.failed, flush=True)
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)


def test_with_a_notice_sigterm_ends_a_script_behind_the_step_at_hand_and_in_order() -> None:
    done = own_loop("notice = outer.notice(30)")
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "7 False\n")
    assert "Traceback" not in done.stderr


def test_without_a_notice_signals_do_what_they_did_before() -> None:
    done = own_loop("import contextlib; notice = contextlib.nullcontext()")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_ctrl_c_within_a_notice_ends_the_batches_too(swarm: diloco.Swarm) -> None:
    model, optimizer, outer = worker(swarm)
    handler = signal.getsignal(signal.SIGINT)
    seen: list[int] = []

    def loop() -> None:
        for batch in outer.until_finished(range(1000)):
            seen.append(batch)
            if batch == 2:
                os.kill(os.getpid(), signal.SIGINT)
                continue  # no step follows, whose end would raise
            step(model, optimizer)

    with pytest.raises(KeyboardInterrupt), outer.notice():
        loop()
    assert seen == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_run_begins_with_an_earlier_state_that_its_host_brings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.safetensors"
    weight = torch.arange(6.0).reshape(2, 3)
    save_file({"weight": weight, "bias": torch.tensor([7.0, 8.0])}, path)
    how = {"listen": "tcp://127.0.0.1:0", "state": tmp_path / "host"}
    for begin_from in (path, None):  # the second start goes on with the run
        with diloco.host(settings(min_peers=1), **how, begin_from=begin_from) as made:
            model, optimizer, outer = worker(made)
            with outer.outer_parameters():
                assert torch.equal(model.weight, weight) == (begin_from is not None)
            for _ in range(EVERY):
                step(model, optimizer)
            assert outer.round == (1 if begin_from else 2)
    assert caplog.text.count("kept: 2 tensors of 8 values") == 1
