"""Shares of states on a disk: what there is, handed out as donors do, with frozen parameters of the model."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from torn_saves import FOLDER, make_replica, save

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.parts import Parts
from diloco.checkpoints.share_files import read_parts
from diloco.checkpoints.store import Store
from diloco.errors import CheckpointError
from diloco.outer.replica import TensorReplica
from transport.digests import digest_of, tree_digest


def shared(disk: LocalDisk, replica: TensorReplica, *fragments: int, index: int = 4) -> Store:
    store = Store(disk, FOLDER)
    save(store, replica, index, fragments=frozenset(fragments))
    return store


def pieces_of(parts: Parts, replica: TensorReplica, fragment: int) -> bytes:
    """All bytes of a fragment as a donor hands them out."""
    found = parts.find(fragment, replica.digest(fragment))
    assert found is not None
    pieces = [bytes(found.piece(index)) for index in range(len(found.digests))]  # type: ignore[arg-type]
    assert [digest_of(piece) for piece in pieces] == found.digests
    assert tree_digest(found.digests) == replica.digest(fragment)
    return b"".join(pieces)


def test_a_share_is_told_with_the_digests_of_all_fragments_and_handed_out(tmp_path: Path) -> None:
    replica = make_replica(fragments=3)
    store = shared(LocalDisk(tmp_path), replica, 0, 2)
    parts = read_parts(store.disk, store.newest(), replica)
    (part,) = parts.parts()
    assert part.fragments == {0, 2}
    assert part.held.digests == tuple(replica.digest(fragment) for fragment in range(3))
    for fragment in (0, 2):
        whole = b"".join(bytes(piece) for piece in replica.pin(fragment).pieces())
        assert pieces_of(parts, replica, fragment) == whole
    assert parts.find(1, replica.digest(1)) is None
    assert parts.find(0, replica.digest(1)) is None


def test_frozen_parameters_that_a_file_only_names_are_those_of_the_model(tmp_path: Path) -> None:
    replica = make_replica(fragments=2, frozen=True)
    store = shared(LocalDisk(tmp_path), replica, 1)
    parts = read_parts(store.disk, store.newest(), replica)
    whole = b"".join(bytes(piece) for piece in replica.pin(1).pieces())
    assert pieces_of(parts, replica, 1) == whole


def test_of_another_base_model_the_share_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = shared(LocalDisk(tmp_path), make_replica(fragments=2, frozen=True), 0, 1)
    other = make_replica(fragments=2, frozen=True, seed=5)
    with caplog.at_level(logging.WARNING):
        (part,) = read_parts(store.disk, store.newest(), other).parts()
    assert part.fragments == {0}
    assert "outer.001.safetensors is of another base model" in caplog.text


def test_a_damaged_file_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    replica = make_replica(fragments=3)
    store = shared(LocalDisk(tmp_path), replica, 0, 2)
    path = next((tmp_path / FOLDER).iterdir()) / "outer.002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with caplog.at_level(logging.WARNING):
        parts = read_parts(store.disk, store.newest(), replica)
    assert [part.fragments for part in parts.parts()] == [{0}]
    assert "outer.002.safetensors is damaged" in caplog.text


def test_what_went_from_the_disk_is_told_no_more_and_gives_nothing(tmp_path: Path) -> None:
    replica = make_replica(fragments=3)
    store = shared(LocalDisk(tmp_path), replica, 0)
    parts = read_parts(store.disk, store.newest(), replica)
    store.disk.remove(next(store.newest()).path)
    assert parts.parts() == []
    found = parts.find(0, replica.digest(0))
    assert found is not None
    assert found.piece(0) == b""


def test_a_share_alone_is_no_state_to_load_and_says_what_it_lacks(tmp_path: Path) -> None:
    store = shared(LocalDisk(tmp_path), make_replica(fragments=3), 0, 2)
    saved = next(store.newest())
    with pytest.raises(CheckpointError, match=r"holds fragments 0, 2 of 3: 1 are in other workers' folders"):
        saved.manifest.require_whole(saved.path)
