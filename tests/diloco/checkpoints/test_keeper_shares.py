"""A worker's share of a checkpoint: of the commit that the host named, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from torn_saves import make_replica

from diloco.checkpoints.local_disk import LocalDisk
from diloco.settings import Checkpoint
from peers.protocol.commands import BeginSave, ConfirmSaved
from peers.protocol.events import ShareWanted
from peers.protocol.shares import share_of
from tests.diloco.checkpoints.keeper_kit import Worker

ME = b"m" * 32
"""The only member of every record in the kit."""
TERMS = Checkpoint(copies=1, keep=1)


def worker(tmp_path: Path, me: bytes = ME, fragments: int = 1) -> Worker:
    return Worker(LocalDisk(tmp_path), make_replica(fragments=fragments), wanted=TERMS, me=me)


def on_disk(tmp_path: Path) -> list[tuple[int, list[int]]]:
    from diloco.checkpoints.finding import stores_in

    return [
        (each.manifest.index, sorted(each.manifest.here))
        for _, store in stores_in(tmp_path)
        for each in store.newest()
    ]


def test_nothing_is_written_until_the_host_names_a_commit(tmp_path: Path) -> None:
    each = worker(tmp_path)
    for _ in range(3):
        each.commit()
    each.settle()
    assert each.commands == []
    each.hear(ShareWanted(4, 1, 0), [])
    each.commit()
    each.commit()
    each.settle()
    assert on_disk(tmp_path) == [(4, [0])]
    assert isinstance(each.commands[0], BeginSave)
    assert isinstance(each.commands[1], ConfirmSaved)
    assert (each.commands[1].held.index, each.commands[1].fragments) == (4, None)


def test_one_that_is_not_in_the_record_writes_what_is_its_own_and_says_what_it_has(tmp_path: Path) -> None:
    each = worker(tmp_path, me=b"x" * 32)
    each.hear(ShareWanted(1, 1, 0), [])
    record = each.commit()
    each.settle()
    assert share_of(record.hash(), b"x" * 32, record.members, 1, 1) == frozenset()
    assert on_disk(tmp_path) == [(1, [])]
    assert isinstance(each.commands[-1], ConfirmSaved)
    assert each.commands[-1].fragments == frozenset()


def test_older_ones_go_only_once_a_newer_one_is_covered(tmp_path: Path) -> None:
    each = worker(tmp_path, me=b"x" * 32)
    covered = {2: 0, 4: 2, 6: 2, 8: 6}
    left = []
    for index in range(1, 9):
        if index in covered:
            each.hear(ShareWanted(index, 1, covered[index]), [])
        each.commit()
        each.settle()
        left.append([at for at, _ in on_disk(tmp_path)])
    assert left[1::2] == [[2], [4, 2], [6, 2], [8, 6]], "4 was given up"


def test_who_comes_back_with_a_share_takes_up_its_own_and_tells_of_the_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    each = worker(tmp_path, me=b"x" * 32)
    each.hear(ShareWanted(2, 1, 0), [])
    each.commit()
    each.commit()
    each.settle()
    again = worker(tmp_path, me=b"x" * 32)
    assert again.held is None
    assert again.own.taken == 8
    assert [(part.held.index, part.fragments) for part in again.keeper.parts.parts()] == [(2, frozenset())]
    assert "shares of the run's state, fragments none of commit 2" in caplog.text


def test_who_leaves_writes_what_is_its_own_alone(tmp_path: Path) -> None:
    each = worker(tmp_path)
    each.commit()
    each.close()
    assert on_disk(tmp_path) == [(1, [])]
    assert not any(isinstance(command, ConfirmSaved) for command in each.commands)


def test_a_share_that_was_pinned_is_written_before_it_leaves(tmp_path: Path) -> None:
    each = worker(tmp_path)
    each.keeper.hear(each.now, ShareWanted(1, 1, 0), [])
    between, each.keeper.between_steps = each.keeper.between_steps, lambda now: None  # type: ignore[method-assign]
    each.commit()
    each.keeper.between_steps = between  # type: ignore[method-assign]
    each.close()
    assert (1, [0]) in on_disk(tmp_path)
