"""What a worker of the command line does between entering and leaving, in a swarm of one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import diloco
from diloco.cli.train import TrainingOutcome, best_device, checked_device, make_job, start_lines, train
from diloco.errors import DeviceFailed, SwarmClosed, UserError
from diloco.interrupts import Interrupts
from diloco.monitoring.event_log import EventLog
from diloco.recipe import Job
from diloco.settings import RunSettings
from peers.protocol.traces import RemovedTrace

SETTINGS = RunSettings.model_validate({"run": {"rounds": 3, "min_peers": 1}, "method": {"sync_every": 4}})

TOPK = {"codec": "topk", "error_feedback": "ef14"}


def job(steps: list[int], interrupt_at: int | None = None) -> Job:
    """One weight that is to become 3."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model.weight - 3.0).square().sum()
        loss.backward()
        optimizer.step()
        steps.append(len(steps) + 1)
        if len(steps) == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return loss.detach()

    def evaluate() -> float:
        return float((model.weight - 3.0).square().sum().detach())

    return Job(model, optimizer, step, iter(int, 1), 10, evaluate, lambda: "a sample")


def test_a_run_ends_with_its_rounds_a_saved_model_and_a_record(tmp_path: Path) -> None:
    steps: list[int] = []
    log, save = tmp_path / "w.jsonl", tmp_path / "model.safetensors"
    events_to = EventLog(log)
    with diloco.solo(SETTINGS) as swarm:
        outcome = train(swarm, job(steps), log=events_to, interrupts=Interrupts(), save=save)
    events_to.close()
    assert (outcome.rounds, outcome.steps) == (3, len(steps))
    assert len(steps) >= 12, "H steps for each round"
    assert outcome.tokens_by_fate["applied"] == 120
    assert outcome.loss < 9.0
    assert float((load_file(save)["weight"] - 3.0).square()) == pytest.approx(outcome.loss)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    (active,) = [each for each in events if each["event"] == "active"]
    assert (active["validation_loss"], active["parameters"]) == (9.0, 1)
    assert [each["index"] for each in events if each["event"] == "round"] == [1, 2, 3]
    assert (events[-1]["event"], events[-1]["sample"], events[-1]["steps"]) == ("end", "a sample", len(steps))


def test_a_recipe_follows_the_settings_over_what_its_optimizer_kept_of_them(tmp_path: Path) -> None:
    """A later start has the settings of then, and the optimizer's state of before."""
    home = tmp_path / "host"
    for rate in (0.1, 0.2):
        changes = {"train.weight_decay": rate, "run.rounds": round(30 * rate)}
        with diloco.host(SETTINGS, listen="tcp://127.0.0.1:0", state=home, changes=changes) as swarm:
            made = job([])

            def follow(settings: RunSettings, made: Job = made) -> None:
                made.optimizer.param_groups[0]["weight_decay"] = settings.train.weight_decay

            train(swarm, replace(made, follow=follow), log=EventLog(None), interrupts=Interrupts())
        assert made.optimizer.param_groups[0]["weight_decay"] == rate


def test_to_go_back_is_told_as_a_commit_and_not_as_a_round(tmp_path: Path) -> None:
    told = []
    for more in ({}, {"resume": 0, "changes": {"run.rounds": 4}}):
        with diloco.host(SETTINGS, listen="tcp://127.0.0.1:0", state=tmp_path, **more) as swarm:
            outcome = train(swarm, job([]), log=EventLog(None), interrupts=Interrupts())
            status = swarm.status()
        told.append((outcome.rounds, status["rounds"], status["commits"]))
    assert told == [(3, 3, 3), (4, 4, 5)]


def test_the_saved_model_has_frozen_parameters_only_in_full(tmp_path: Path) -> None:
    for full, names in ((False, {"weight"}), (True, {"weight", "base"})):
        made = job([])
        made.model.base = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        save = tmp_path / f"{full}.safetensors"
        with diloco.solo(SETTINGS) as swarm:
            train(swarm, made, log=EventLog(None), interrupts=Interrupts(), save=save, full=full)
        assert set(load_file(save)) == names


def test_an_interrupted_worker_ends_after_its_step_and_saves_what_it_holds(tmp_path: Path) -> None:
    steps: list[int] = []
    save = tmp_path / "model.safetensors"
    interrupts = Interrupts()
    before = signal.signal(signal.SIGINT, interrupts.handle)
    try:
        with diloco.solo(SETTINGS) as swarm, pytest.raises(KeyboardInterrupt):
            train(swarm, job(steps, 6), log=EventLog(None), interrupts=interrupts, save=save)
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps[-1] == 6
    assert load_file(save)["weight"].item() > 0.0


def test_a_worker_whose_network_thread_ends_by_an_error_saves_what_it_holds_and_says_so_once(
    tmp_path: Path,
) -> None:
    run = {"rounds": 1_000_000, "min_peers": 1}
    settings = RunSettings.model_validate({"run": run, "method": {"sync_every": 4, **TOPK}})
    save, log = tmp_path / "model.safetensors", EventLog(tmp_path / "w.jsonl")

    def break_state(now: float, node: object) -> None:
        node.tick, node.deadline = fail, lambda: 0.0  # type: ignore[attr-defined]

    def fail(now: float) -> None:
        raise AssertionError("two heads")

    steps: list[int] = []
    with diloco.solo(settings) as swarm:
        swarm.home = tmp_path
        broken = replace(job(steps), batches=breaking_at(5, lambda: swarm.call(break_state)))
        with pytest.raises(SwarmClosed, match="network thread has ended: two heads") as caught:
            train(swarm, broken, log=log, interrupts=Interrupts(), save=save)
    log.close()
    assert "\n" not in str(caught.value)
    assert load_file(save)["weight"].item() != 0.0
    (own,) = max((tmp_path / "checkpoints").glob("*/0*")).glob("own.safetensors")
    assert "the worker.own.0.residuals.0" in load_file(own)
    events = [json.loads(line)["event"] for line in (tmp_path / "w.jsonl").read_text().splitlines()]
    assert events.count("failed") == 1


def breaking_at(step: int, run: Callable[[], object]) -> Iterator[int]:
    """Batches without end; ``run`` is called before one of them."""
    for number in count():
        if number == step:
            run()
        yield number


def test_a_model_that_cannot_be_saved_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    steps: list[int] = []
    with diloco.solo(SETTINGS) as swarm, pytest.raises(UserError, match="there is no folder"):
        train(
            swarm,
            job(steps),
            log=EventLog(None),
            interrupts=Interrupts(),
            save=tmp_path / "none" / "m.safetensors",
        )
    assert steps == []


@pytest.mark.parametrize("device", ["teapot", "cuda:77"])
def test_a_device_that_is_not_there_is_one_line(device: str) -> None:
    def recipe(*arguments: object) -> Job:
        raise AssertionError("nothing is made for it")

    with diloco.solo(SETTINGS) as swarm, pytest.raises(UserError) as caught:
        make_job(recipe, swarm, None, device)
    assert f"device {device} cannot be used" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_gets_the_runs_settings_and_this_workers_name() -> None:
    given: list[object] = []

    def recipe(*arguments: object) -> Job:
        given.extend(arguments)
        return job([])

    with diloco.solo(SETTINGS) as swarm:
        make_job(recipe, swarm, Path("text"), "cpu")
        assert given == [swarm.settings, Path("text"), torch.device("cpu"), swarm.peer_name]


def test_an_outcome_is_one_line_that_leaves_out_fates_that_nothing_met() -> None:
    fates = {"applied": 1200, "late": 0, "rejected": 3, "superseded": 0}
    line = TrainingOutcome(3, 12, fates, 2_500_000, 0, 1.25, 0.5).line()
    assert line == (
        "3 rounds, 12 inner steps, tokens: 1,200 applied, 3 rejected; 2.5 MB sent, 1.2 s waited,"
        " validation loss 0.5000"
    )
    assert "none applied" in TrainingOutcome(0, 0, {"applied": 0}, 0, 0, 0.0, 0.5).line()


def test_a_device_that_fails_ends_the_worker_with_its_reason_and_the_run_hears_it(tmp_path: Path) -> None:
    def lose() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB")

    steps: list[int] = []
    save, log = tmp_path / "model.safetensors", EventLog(tmp_path / "w.jsonl")
    traces: list[object] = []
    with diloco.host(
        SETTINGS, listen="tcp://127.0.0.1:0", state=tmp_path / "host", on_trace=traces.append
    ) as swarm:
        broken = replace(job(steps), batches=breaking_at(5, lose))
        with pytest.raises(DeviceFailed) as caught:
            train(swarm, broken, log=log, interrupts=Interrupts(), save=save)
        assert swarm.status()["members"] == [], "nobody waits for it, and its process coordinates on"
    log.close()
    said = "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert str(caught.value) == f"the device failed, and this worker left the run: {said}"
    assert load_file(save)["weight"].item() != 0.0
    left = [each for each in traces if isinstance(each, RemovedTrace)]
    assert [each.reason for each in left] == [f"left: its device failed: {said}"]


@pytest.mark.parametrize(("there", "found"), [("cuda", "cuda"), ("mps", "mps"), ("xpu", "xpu"), ("", "cpu")])
def test_the_best_device_is_the_first_that_there_is(
    there: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there in ("cuda", "mps"))
    monkeypatch.setattr(torch.xpu, "is_available", lambda: there != "")
    assert best_device() == found


def test_what_is_about_to_train_is_said_with_its_device_threads_and_settings() -> None:
    assert checked_device("auto").type == best_device()
    with diloco.solo(SETTINGS) as swarm:
        run, where = start_lines(swarm, job([]))
    assert run == "run demo: 3 rounds of 4 inner steps, 1 workers or more; method diloco, int8"
    assert where.startswith(f"device cpu, {torch.get_num_threads()} thread")
    assert where.endswith("; 1 values to train")
