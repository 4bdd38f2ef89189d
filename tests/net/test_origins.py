"""A run that began from an earlier state, and whose workers lost what they had: it is not begun anew once
something is built on that state, and until then its host brings the same state again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import diloco

LOCAL = "tcp://127.0.0.1:0"
RUN = diloco.RunSettings.model_validate(
    {
        "run": {"rounds": 50, "min_peers": 2, "failure_timeout_s": 0.5},
        "method": {"sync_every": 2, "codec": "fp32"},
    }
)
ALONE = RUN.model_copy(update={"run": RUN.run.model_copy(update={"min_peers": 1})})


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.full((2, 3), 7.0), "bias": torch.full((2,), 7.0)}, path)
    return path


@contextmanager
def training(
    run: diloco.RunSettings, home: Path, origin: Path | None, seed: int, timeout_s: float = 20.0
) -> Iterator[tuple[diloco.Outer, torch.optim.Optimizer]]:
    """A host with a worker of its own, whose model is drawn anew at each start."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        diloco.host(run, listen=LOCAL, state=home, begin_from=origin) as swarm,
        diloco.attach(model, optimizer, swarm, timeout_s=timeout_s) as outer,
    ):
        yield outer, optimizer


def lose_checkpoints(home: Path) -> None:
    """Each is damaged: its manifest has another checksum."""
    manifests = list((home / "checkpoints").glob("*/0*/manifest.json"))
    assert manifests
    for path in manifests:
        path.write_text(path.read_text().replace('"sha256": "', '"sha256": "x', 1))


def weights(outer: diloco.Outer) -> list[float]:
    return outer.replica.outer.outer_parameters(0).unique().tolist()


def test_a_first_state_that_is_lost_before_anything_is_built_on_it_is_brought_again(
    tmp_path: Path, origin: Path
) -> None:
    home = tmp_path / "home"
    with training(RUN, home, origin, seed=1) as (outer, _):
        assert weights(outer) == [7.0]
    lose_checkpoints(home)
    for begin_from in (origin, None):
        with training(RUN, home, begin_from, seed=2) as (outer, _):
            assert weights(outer) == [7.0], "and not what the model was drawn with"
        shutil.rmtree(home / "checkpoints")


def test_a_run_that_has_commits_waits_for_who_holds_them_and_is_not_begun_anew(
    tmp_path: Path, origin: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    with training(ALONE, home, origin, seed=1) as (outer, optimizer):
        while outer.round < 3:
            for parameter in outer.model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    lose_checkpoints(home)
    with pytest.raises(diloco.SwarmTimeout), training(ALONE, home, origin, seed=2, timeout_s=2.0) as _:
        raise AssertionError("it has no state")
    assert "there is no older one: this worker enters without, and fetches the run's state" in caplog.text
    with diloco.host(ALONE, listen=LOCAL, state=home) as again:
        assert again.status()["rounds"] == 3
