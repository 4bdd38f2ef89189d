"""A worker that ends and starts again trains on as if it had not, bit for bit (DU4): on a host of its own."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diloco
from diloco.recipe import gpt
from diloco.training.outer import Outer
from peers.protocol.events import CheckpointRestored, RoundCommitted

pytestmark = pytest.mark.timeout(120)
ROUNDS, EVERY = 6, 4
STOPS_AT = 13
"""In the middle of a round, with no offer on its way, as at every odd step."""


def settings(preset: str, **method: Any) -> diloco.RunSettings:
    return diloco.RunSettings.model_validate(
        {
            "run": {"rounds": ROUNDS, "min_peers": 1, "failure_timeout_s": 2.0},
            "method": {"preset": preset, "sync_every": EVERY, **method},
            "model": {"layers": 1, "heads": 1, "width": 16, "context": 16},
            "train": {"batch_size": 2},
        }
    )


class Noise:
    """Batches from a generator of their own, with a state dict."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(1)

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.randn(4, 3, generator=self._generator)

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])


class Scaler:
    """Scales the loss, and the more the longer nothing overflowed: as torch.amp's, which needs a GPU."""

    def __init__(self) -> None:
        self.scale, self._steps = 4.0, 0

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        (loss * self.scale).backward()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.div_(self.scale)
        optimizer.step()
        self._steps += 1
        if self._steps % 5 == 0:
            self.scale *= 1.5

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "steps": self._steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale, self._steps = state["scale"], int(state["steps"])


def digest(outer: Outer, *tensors: Tensor) -> str:
    """Of the shared state, and of all that is the worker's own."""
    found = hashlib.sha256()
    for fragment in range(outer.replica.num_fragments):
        found.update(outer.replica.digest(fragment))
    for tensor in [*outer.model.parameters(), *outer.model.buffers(), *tensors]:
        found.update(tensor.detach().float().numpy().tobytes())
    return found.hexdigest()


def plain_loop(swarm: diloco.Swarm, stops_at: int, on_event: Callable[[object], None]) -> tuple[Any, ...]:
    """A loop of one's own: dropout, batch norm, AdamW, a schedule, a scaler, data with a position."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.7)
    data, scaler = Noise(), Scaler()
    outer = diloco.attach(
        model,
        optimizer,
        swarm,
        timeout_s=60.0,
        on_event=on_event,
        keep={"schedule": schedule, "data": data, "scaler": scaler},
    )
    for batch in outer.until_finished(data):
        optimizer.zero_grad()
        scaler.step(optimizer, model(batch).square().mean())
        schedule.step()
        if outer.step == stops_at:
            outer.stop()
    moments = [each["exp_avg_sq"] for each in optimizer.state.values()]
    return outer.step, outer.tokens_by_fate, schedule.get_last_lr(), scaler.scale, digest(outer, *moments)


def built_in_loop(swarm: diloco.Swarm, stops_at: int, on_event: Callable[[object], None]) -> tuple[Any, ...]:
    """That of `diloco join`."""
    text = Path(__file__)
    job = gpt(swarm.settings, text, torch.device("cpu"), "alone")
    outer = diloco.attach(job.model, job.optimizer, swarm, timeout_s=60.0, on_event=on_event, keep=job.kept())
    loss = 0.0
    for batch in outer.until_finished(job.batches):
        loss = float(job.step(batch))
        if outer.step == stops_at:
            outer.stop()
    return outer.step, outer.tokens_by_fate, loss, digest(outer)


def lives(
    folder: Path,
    run: diloco.RunSettings,
    loop: Callable[[diloco.Swarm, int, Callable[[object], None]], tuple[Any, ...]],
    stops: list[int],
) -> tuple[Any, ...]:
    """What the last of some lives comes to, each of which ends at a step."""
    restored: list[object] = []
    for number, stops_at in enumerate([*stops, -1]):
        torch.manual_seed(7 if number == 0 else 1000 + number)
        with diloco.host(run, listen="tcp://127.0.0.1:0", state=folder) as swarm:
            outcome = loop(swarm, stops_at, restored.append)
    found = [each.step for each in restored if isinstance(each, CheckpointRestored)]
    assert found == stops, "each later life went on where the one before ended"
    return outcome


METHODS = {
    "diloco": settings("diloco"),
    "int4 with error feedback": settings("diloco", codec="int4", error_feedback="ef14"),
    "streaming": settings("streaming", num_fragments=2, delay=1),
    "eager": settings("eager"),
    "gossip": settings("noloco"),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_plain_loop_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    run = METHODS[name]
    whole = lives(tmp_path / "whole", run, plain_loop, [])
    assert lives(tmp_path / "parts", run, plain_loop, [STOPS_AT, STOPS_AT + 6]) == whole
    assert whole[0] >= ROUNDS * EVERY


def test_the_built_in_recipe_goes_on_bit_for_bit(tmp_path: Path) -> None:
    run = METHODS["diloco"]
    whole = lives(tmp_path / "whole", run, built_in_loop, [])
    assert lives(tmp_path / "parts", run, built_in_loop, [STOPS_AT]) == whole


def short_life(home: Path, stops_at: int) -> tuple[dict[int, bytes], dict[str, int]]:
    """What each record led to, and the fates of the worker's tokens."""
    states: dict[int, bytes] = {}
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = METHODS["int4 with error feedback"]
    with diloco.host(run, listen="tcp://127.0.0.1:0", state=home) as swarm:

        def on_event(event: object) -> None:
            if isinstance(event, RoundCommitted):
                states[event.record.index] = outer.replica.digest(0)

        outer = diloco.Outer(model, optimizer, swarm, 1, on_event)
        outer.enter(60.0)
        for batch in outer.until_finished(Noise()):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            if outer.step == stops_at:
                outer.stop()
        return states, outer.tokens_by_fate


def test_what_a_later_record_counts_is_not_sent_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after SIGKILL: the newest checkpoint is older than the last record, which counts what it holds."""
    home = tmp_path / "home"
    short_life(home, stops_at=6)
    (folder,) = (home / "checkpoints").iterdir()
    newest = max(folder.glob("0*"))
    shutil.copytree(newest, tmp_path / newest.name)
    before, _ = short_life(home, stops_at=10)
    for each in folder.glob("0*"):
        shutil.rmtree(each)
    shutil.copytree(tmp_path / newest.name, newest)
    after, fates = short_life(home, stops_at=8)
    assert before.keys() == {2}
    assert after == before, "record 2 came from the disk, and led to the same state"
    assert fates["superseded"] == 2, "steps 5 and 6 are in record 2"
    assert "record 2 counts what this worker sent before it ended" in caplog.text


def test_a_start_of_a_run_that_is_over_trains_nothing_and_writes_nothing(tmp_path: Path) -> None:
    run = METHODS["int4 with error feedback"]
    found = []
    for _ in range(2):
        with diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path) as swarm:
            steps, *_ = plain_loop(swarm, -1, lambda event: None)
        found.append((steps, sorted(path.name for path in tmp_path.glob("checkpoints/*/0*"))))
    assert found[0] == found[1]
