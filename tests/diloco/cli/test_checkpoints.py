"""`diloco checkpoint list|verify` and `diloco export` on folders as workers leave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import typer
from safetensors.torch import load_file
from torn_saves import FOLDER, RUN, held_by, make_replica, save
from typer.testing import CliRunner

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.store import Saved, Store
from diloco.cli.app import app
from diloco.cli.checkpoints import verify_command
from diloco.errors import CheckpointError
from peers.coordinator.journal import CommitWritten
from peers.coordinator.journal_scan import framed
from peers.protocol.record import Record
from transport.frames import pack


@pytest.fixture
def home(tmp_path: Path) -> Path:
    store = Store(LocalDisk(tmp_path), FOLDER)
    for index in (2, 4):
        save(store, make_replica(), index)
    return tmp_path


def run(*arguments: object) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(outcome.exception, CheckpointError):
        return 2, str(outcome.exception)
    return outcome.exit_code, outcome.output


def test_list_shows_the_newest_first_and_what_is_not_whole(home: Path) -> None:
    code, output = run("checkpoint", "list", home)
    assert code == 0
    assert output.index("000000000004-") < output.index("000000000002-")
    (min((home / FOLDER).iterdir()) / "outer.000.safetensors").unlink()
    _, output = run("checkpoint", "list", home)
    assert "not whole: " in output
    assert "000000000002-" in output


def test_verify_says_how_many_are_right_and_exits_with_1_for_a_file_that_is_not(home: Path) -> None:
    assert run("checkpoint", "verify", home) == (0, "2 checkpoints as they were written\n")
    path = max((home / FOLDER).iterdir()) / "outer.000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    code, output = run("checkpoint", "verify", home)
    assert code == 1
    assert "outer.000.safetensors is damaged" in output
    assert "1 checkpoint as they were written" in output
    code, output = run("checkpoint", "verify", path.parent)
    assert (code, output.count("is damaged")) == (1, 1)


def test_verify_ends_with_1_where_a_checkpoint_is_missing_a_file(home: Path) -> None:
    (max((home / FOLDER).iterdir()) / "outer.000.safetensors").unlink()
    with pytest.raises(typer.Exit) as ended:
        verify_command(home)
    assert ended.value.exit_code == 1


def test_a_checkpoint_that_its_worker_removes_meanwhile_is_no_fault(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(disk: LocalDisk, saved: Saved) -> list[str]:
        if saved.manifest.index == 4:
            return []
        disk.remove(saved.path)
        return [f"{saved.path} cannot be read"]

    monkeypatch.setattr("diloco.checkpoints.verifying.faults_of", removed)
    assert run("checkpoint", "verify", home) == (0, "1 checkpoint as they were written\n")


def test_verify_compares_with_the_journal_beside(home: Path) -> None:
    record = Record(b"p" * 32, 2, 0, 1, 1, 4, (b"m" * 32,), (1.0,), b"r" * 32)
    (home / f"journal-{FOLDER.rpartition('/')[2]}").write_bytes(framed(pack(CommitWritten.of(record))))
    code, output = run("checkpoint", "verify", home)
    assert code == 1
    assert output.count("is of a record that the journal does not have") == 2
    store = Store(LocalDisk(home), FOLDER)
    made = make_replica()
    held = replace(held_by(made, 2), head=record.hash())
    shared = SharedState.pin(made, held, (1,) * made.num_fragments)
    store.write(
        held.head,
        2,
        shared.contents,
        lambda files: shared.manifest(made, files, run=RUN, settings="{}", own=None, previous=None),
    )
    code, output = run("checkpoint", "verify", home)
    assert output.count("is of a record that the journal does not have") == 2, "the third one it has"
    assert "1 checkpoint as they were written" in output


def test_export_writes_the_newest(home: Path) -> None:
    code, output = run("export", home, "-o", home / "made" / "of" / "m.safetensors")
    assert code == 0
    assert "5 tensors" in output
    assert "of commit 4 (" in output
    assert len(load_file(home / "made" / "of" / "m.safetensors")) == 5


def test_export_names_a_newer_checkpoint_that_is_not_whole(tmp_path: Path) -> None:
    store = Store(LocalDisk(tmp_path), FOLDER)
    save(store, make_replica(), 4)
    newer = tmp_path / save(store, make_replica(), 8).path / "outer.000.safetensors"
    newer.write_bytes(newer.read_bytes()[:-1])
    code, output = run("export", tmp_path, "-o", tmp_path / "m.safetensors")
    assert (code, "of commit 4 (" in output) == (0, True)
    assert "diloco: a newer one is passed over: checkpoints/" in output


def test_export_leaves_frozen_parameters_to_the_base_model_and_says_so(tmp_path: Path) -> None:
    save(Store(LocalDisk(tmp_path), FOLDER), make_replica(frozen=True), 4)
    assert run("checkpoint", "verify", tmp_path) == (0, "1 checkpoint as they were written\n")
    code, output = run("export", tmp_path, "-o", tmp_path / "m.safetensors")
    assert code == 0
    assert "without 1 frozen parameters, 1.weight say: --full writes them too" in output
    code, output = run("export", tmp_path, "-o", tmp_path / "f.safetensors", "--full")
    assert (code, "--like FOLDER" in output) == (2, True)
    assert "\n" not in output.strip()


def test_what_cannot_be_read_or_written_is_one_line(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for arguments in (
        ("checkpoint", "list", tmp_path / "none"),
        ("checkpoint", "verify", tmp_path / "none"),
        ("export", tmp_path / "none", "-o", tmp_path / "m"),
        ("export", home, "-o", tmp_path / "file" / "m"),
    ):
        code, output = run(*arguments)
        assert code == 2, arguments
        assert "\n" not in output.strip()
    path = max((home / FOLDER).iterdir()) / "outer.000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    code, output = run("export", path.parent, "-o", tmp_path / "m")
    assert (code, "it is not exported" in output) == (2, True)


def test_shares_are_listed_refused_and_put_together(tmp_path: Path) -> None:
    for name, fragments in (("ann", {0, 2}), ("bob", {1})):
        store = Store(LocalDisk(tmp_path / name), FOLDER)
        save(store, make_replica(fragments=3), 4, fragments=frozenset(fragments))
    ann, bob, whole = tmp_path / "ann", tmp_path / "bob", tmp_path / "whole"
    assert "0, 2 of 3" in run("checkpoint", "list", ann)[1]
    code, output = run("checkpoint", "verify", bob)
    assert code == 0
    assert "is a share: fragments 1 of 3\n1 checkpoint as they were written" in output
    code, output = run("export", ann, "-o", tmp_path / "model.safetensors")
    assert code == 2
    assert "holds fragments 0, 2 of 3: 1 are in other workers' folders of the same commit" in output
    assert run("checkpoint", "gather", ann, "-o", whole)[0] == 2
    assert run("checkpoint", "gather", ann, bob, "-o", whole)[0] == 0
    assert run("export", whole, "-o", tmp_path / "model.safetensors")[0] == 0
    names = {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"}
    assert set(load_file(tmp_path / "model.safetensors")) == names
