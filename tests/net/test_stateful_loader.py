"""StatefulDataLoader of torchdata as a worker's data: who is killed in the middle of an epoch, and goes on
from the checkpoint that was written there, sees the same batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import diloco
from diloco.checkpoints.finding import find_checkpoint
from diloco.swarm import control
from peers.protocol.events import CheckpointRestored, CheckpointWritten

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata 0.11 under torch 2.13
    pytest.mark.filterwarnings("ignore:.*is multi-threaded, use of fork"),  # by the loader, as users do it
]
RUN = diloco.RunSettings.model_validate(
    {"run": {"rounds": 1000, "min_peers": 1, "failure_timeout_s": 2.0}, "method": {"sync_every": 4}}
)
EPOCH, SAVED_AT, GOES_ON = 8, 3, 12
"""Steps of an epoch, before a checkpoint is asked for in one, and after it: into the next epoch."""
Batches = list[list[float]]


def epochs(loader: StatefulDataLoader[tuple[Tensor]]) -> Iterator[Tensor]:
    while True:
        for (batch,) in loader:
            yield batch


def life(home: Path, num_workers: int, killed: Path | None = None) -> tuple[int, Batches, list[float]]:
    """At which step a life began, its batches, and what its loop drew beside them. ``killed`` becomes
    a copy of its folder as it was when a checkpoint in the middle of an epoch was on the disk: that is what
    SIGKILL leaves."""
    began, ends_at, batches, draws = 0, GOES_ON, [], []
    data = TensorDataset(torch.arange(32.0).reshape(32, 1))
    loader = StatefulDataLoader(data, batch_size=4, shuffle=True, num_workers=num_workers)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def on_event(event: object) -> None:
        nonlocal began, ends_at
        if isinstance(event, CheckpointRestored):
            assert event.step is not None
            began = event.step
        if isinstance(event, CheckpointWritten) and killed and not killed.exists():
            _, saved = find_checkpoint(home)
            if saved.manifest.own is not None and saved.manifest.own.step % EPOCH:
                shutil.copytree(home, killed)
                ends_at = len(batches) + GOES_ON

    with (
        diloco.host(RUN, listen="tcp://127.0.0.1:0", state=home) as swarm,
        diloco.attach(model, optimizer, swarm, on_event=on_event, keep={"data": loader}) as outer,
    ):
        for batch in outer.until_finished(epochs(loader)):
            batches.append(batch.flatten().tolist())
            draws.append(torch.rand(()).item())  # as dropout does
            optimizer.zero_grad()
            model(batch / 32).square().mean().backward()
            optimizer.step()
            if outer.step % EPOCH == SAVED_AT and killed and not killed.exists():
                control.save_now(swarm.ticket, home)
            if len(batches) >= ends_at and (killed is None or killed.exists()):
                outer.stop()
    return began, batches, draws


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_job_that_is_killed_in_the_middle_of_an_epoch_goes_on_with_the_same_batches(
    tmp_path: Path, num_workers: int
) -> None:
    torch.manual_seed(3)
    _, whole, drawn = life(tmp_path / "whole", num_workers, tmp_path / "killed")
    torch.manual_seed(4)
    began, rest, drawn_later = life(tmp_path / "killed", num_workers)
    assert began % EPOCH, "it is in the middle of an epoch"
    assert sorted(each for batch in whole[:EPOCH] for each in batch) == list(range(32)), (
        "an epoch is all data"
    )
    assert rest == whole[began : began + GOES_ON]
    assert drawn_later == drawn[began : began + GOES_ON]
