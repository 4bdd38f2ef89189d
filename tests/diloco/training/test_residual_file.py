"""A worker's own state over restarts: what is kept, when it ceases to be true, and what a bad file says."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diloco.errors import StateError, UserError
from diloco.training.residual_file import ResidualFile
from peers.protocol.events import RoundCommitted
from peers.protocol.record import GENESIS, Record
from tests.diloco.outer.test_local_state import Worker, normal
from transport.collectives.reducer import NumpyReducer

TOPK = {"codec": "topk", "topk_percent": 5.0, "error_feedback": "ef14"}


def trained(**overrides: Any) -> Worker:
    """One whose first contribution is in the model, so that something is left over."""
    worker = Worker("sparseloco", torch.zeros(4096), **overrides)
    worker.model.train_by(normal(4096, 1))
    sent = worker.offer()
    worker.apply(sent.clone(), 1.0)
    worker.land()
    return worker


class Outer:
    """As much of `diloco.training.attach.Outer` as a `ResidualFile` asks."""

    def __init__(self, worker: Worker) -> None:
        self.local = worker.replica.local

    def state_dict(self) -> dict[str, Tensor]:
        return self.local.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.local.load_state_dict(state)


def committed(number: int | None, tokens: int = 8) -> RoundCommitted:
    record = Record(GENESIS, 1, 0, 0, 7, 1, (b"k" * 32,), (1.0,), b"r" * 32)
    return RoundCommitted(record, NumpyReducer(1), number, tokens, 1.0, 0.1, 0)


def residual_file_of(path: Path, worker: Worker) -> ResidualFile:
    residual_file = ResidualFile(path)
    residual_file.begin(Outer(worker))  # type: ignore[arg-type]
    return residual_file


def test_a_worker_that_begins_anew_sends_what_it_dropped_before() -> None:
    before = trained()
    state = before.replica.local.state_dict()
    residual = state["0.residual.0"]
    assert residual.count_nonzero() > 0
    after = trained()
    after.replica.local.loaded(0)  # as a joiner is
    assert after.replica.local.state_dict()["0.residual.0"].count_nonzero() == 0
    after.replica.local.load_state_dict(state)
    before.model.train_by(normal(4096, 2))
    after.model.train_by(normal(4096, 2))
    assert torch.equal(before.offer(), after.offer())


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    worker = trained()
    good = worker.replica.local.state_dict()
    late = {**good, "0.count": good["0.count"] + 1}
    short = {**good, "0.residual.0": good["0.residual.0"][1:]}
    endless = {**good, "0.residual.0": good["0.residual.0"] / 0}
    for bad in ({}, late, short, endless, {**good, "more": torch.zeros(1)}):
        with pytest.raises(StateError):
            worker.replica.local.load_state_dict(bad)
    assert torch.equal(worker.replica.local.state_dict()["0.residual.0"], good["0.residual.0"])


def test_without_error_feedback_there_is_nothing_to_keep(tmp_path: Path) -> None:
    worker = Worker("diloco", torch.zeros(64))
    assert worker.replica.local.state_dict() == {}
    residual_file_of(tmp_path / "own", worker).write()
    assert not list(tmp_path.iterdir())


def test_each_commit_of_its_own_writes_the_file_or_removes_what_is_not_true_any_more(tmp_path: Path) -> None:
    path, worker = tmp_path / "own", trained()
    residual_file = residual_file_of(path, worker)
    residual_file.swarm_event(committed(None))
    assert not path.exists()  # nothing of it was in that round
    residual_file.swarm_event(committed(1))
    assert path.stat().st_mode & 0o777 == 0o600
    assert torch.equal(load_file(path)["0.residual.0"], worker.replica.local.state_dict()["0.residual.0"])
    residual_file.swarm_event(committed(2))  # too soon to write again
    assert not path.exists()
    residual_file.write()
    again = trained()
    again.replica.local.loaded(0)
    residual_file_of(path, again)
    assert torch.equal(
        again.replica.local.state_dict()["0.residual.0"], worker.replica.local.state_dict()["0.residual.0"]
    )
    assert [each.name for each in tmp_path.iterdir()] == ["own"]


def test_the_first_of_two_exchanges_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    worker, path = trained(), tmp_path / "residuals"
    residual_file = residual_file_of(path, worker)
    residual_file.swarm_event(committed(1))
    held = path.read_bytes()
    residual_file.swarm_event(committed(2, tokens=0))  # a write so soon would take too much of the time
    assert path.read_bytes() == held


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own"
    if content is None:
        save_file({"0.count": torch.tensor(0)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"own cannot be used: .*; remove it"):
        residual_file_of(path, trained())


def test_a_disk_that_takes_nothing_costs_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    residual_file = residual_file_of(tmp_path / "missing" / "own", trained())
    for _ in range(3):
        residual_file.write()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "training goes on" in said
    assert not os.path.exists(tmp_path / "missing")


def test_a_disk_that_is_full_leaves_no_residuals_that_were_sent_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    residual_file = residual_file_of(tmp_path / "own", trained())
    residual_file.write()
    assert (tmp_path / "own").exists()

    def full(path: Path, write: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("diloco.training.residual_file.replace_private", full)
    residual_file.write()
    assert not (tmp_path / "own").exists()
