"""A worker that trains another stage than its folder has finds it empty, and the old one's beside it."""

from __future__ import annotations

from pathlib import Path

from torn_saves import FOLDER, RUN, make_replica

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.moved import set_aside
from diloco.checkpoints.shared import SharedState
from diloco.checkpoints.store import Store, runs_on
from peers.protocol.held import Held
from tests.diloco.checkpoints.keeper_kit import FIRST


def save(home: Path, stage: int) -> None:
    replica = make_replica()
    shared = SharedState.pin(replica, Held(FIRST, 3, (FIRST,), (replica.digest(0),)), (1,))
    Store(LocalDisk(home), FOLDER).write(
        FIRST,
        3,
        shared.contents,
        lambda files: shared.manifest(
            replica, files, run=RUN, settings="", own=None, previous=None, stage=(stage, 3)
        ),
    )


def test_what_is_of_another_stage_is_put_aside_and_what_is_of_this_one_stays(tmp_path: Path) -> None:
    assert set_aside(tmp_path, RUN, 2) is None, "there is nothing"
    save(tmp_path, 1)
    assert set_aside(tmp_path, RUN, 1) is None
    assert set_aside(tmp_path, RUN, 2) == tmp_path / f"{FOLDER}.stage-1"
    assert runs_on(LocalDisk(tmp_path)) == []
    save(tmp_path, 2)
    assert set_aside(tmp_path, RUN, 1) == tmp_path / f"{FOLDER}.stage-2"


def test_what_lay_aside_of_the_same_stage_makes_room(tmp_path: Path) -> None:
    for _ in range(2):
        save(tmp_path, 1)
        assert set_aside(tmp_path, RUN, 2) is not None
    assert len(list((tmp_path / f"{FOLDER}.stage-1").glob("0*"))) == 1
