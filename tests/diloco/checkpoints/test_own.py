"""What is a worker's own, as a file: a copy of one moment, taken up by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torn_saves import FOLDER, RUN, held_by, make_replica

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.manifest import OwnEntry
from diloco.checkpoints.own import OwnState
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.store import Content, Saved, Store
from diloco.errors import CheckpointError, StateError


class Holder:
    """Has a state dict, and takes one."""

    def __init__(self, state: Any, refuses: bool = False) -> None:
        self.state = state
        self._refuses = refuses

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        if self._refuses:
            raise KeyError("momentum")
        self.state = state


def written(folder: Path, content: Content) -> Saved:
    made = make_replica()
    shared = SharedState.pin(made, held_by(made, 4), (1,))
    own = OwnEntry(step=1, tokens=2)
    return Store(LocalDisk(folder), FOLDER).write(
        shared.held.head,
        4,
        [*shared.contents, content],
        lambda files: shared.manifest(made, files, run=RUN, settings="", own=own, previous=None),
    )


def test_what_is_taken_up_is_the_copy_of_the_moment_at_which_it_was_taken(tmp_path: Path) -> None:
    tensor = torch.arange(5.0)
    content = OwnState({"a": Holder({"t": tensor, "n": 3}), "b": Holder([1, (2,)])}).take()
    tensor.add_(100)
    saved = written(tmp_path, content)
    a, b = Holder(None), Holder(None)
    OwnState({"a": a, "b": b}).take_up(LocalDisk(tmp_path), saved)
    assert torch.equal(a.state["t"], torch.arange(5.0))
    assert (a.state["n"], b.state) == (3, [1, (2,)])


def test_what_cannot_be_kept_is_refused_by_its_place_beforehand() -> None:
    with pytest.raises(StateError, match=r"^keep\['x'\]\.f is builtins\.set"):
        OwnState({"keep['x']": Holder({"f": set()})}).check()


def test_what_is_missing_does_not_fit_or_is_not_asked_for_is_said_and_the_rest_is_taken_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = written(tmp_path, OwnState({"a": Holder(1), "b": Holder(2), "c": Holder(3)}).take())
    sources = {"a": Holder(0), "b": Holder(0, refuses=True), "d": Holder(0)}
    with caplog.at_level(logging.WARNING, "diloco"):
        OwnState(sources).take_up(LocalDisk(tmp_path), saved)
    assert [each.state for each in sources.values()] == [1, 0, 0]
    assert "b does not take what was kept of it, and begins anew: 'momentum'" in caplog.text
    assert "the checkpoint does not keep d: it begins anew" in caplog.text
    assert "the checkpoint keeps c, which is not asked for here" in caplog.text


def test_a_damaged_file_is_refused_before_anything_changes(tmp_path: Path) -> None:
    saved = written(tmp_path, OwnState({"a": Holder({"t": torch.ones(99)})}).take())
    path = tmp_path / saved.path / "own.safetensors"
    whole = path.read_bytes()
    a = Holder("before")
    for at in range(0, len(whole), 13):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"own\.safetensors is damaged"):
            OwnState({"a": a}).take_up(LocalDisk(tmp_path), saved)
    assert a.state == "before"
