"""Results on the disk: found as they were kept, gone once every checkpoint has them in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.shelf import Shelf
from tests.diloco.checkpoints.kit import FullDisk
from transport.digests import digest_of, tree_digest
from transport.effects import KeepResult, Payload


def result(serial: int, *chunks: bytes) -> KeepResult:
    payloads: list[Payload] = list(chunks)
    digests = [digest_of(chunk) for chunk in payloads]
    return KeepResult(serial, tree_digest(digests), digests, payloads)


def shelf(tmp_path: Path) -> Shelf:
    return Shelf(LocalDisk(tmp_path), "checkpoints/run")


def test_a_result_is_found_chunk_by_chunk_also_by_a_later_process(tmp_path: Path) -> None:
    kept = result(5, b"one", b"", b"three" * 1000)
    shelf(tmp_path).keep(kept)
    for later in (shelf(tmp_path), shelf(tmp_path)):
        found = later.find(kept.result)
        assert found is not None
        assert found.digests == kept.digests
        assert [bytes(chunk) for chunk in found.chunks] == kept.chunks  # type: ignore[arg-type]


def test_another_result_is_not_found(tmp_path: Path) -> None:
    kept = shelf(tmp_path)
    kept.keep(result(5, b"one"))
    assert kept.find(result(5, b"two").result) is None
    assert Shelf(LocalDisk(tmp_path), "checkpoints/other").find(result(5, b"one").result) is None


def test_a_file_that_is_torn_is_not_found(tmp_path: Path) -> None:
    kept = result(5, b"first", b"second")
    shelf(tmp_path).keep(kept)
    (path,) = (tmp_path / "checkpoints/run/results").iterdir()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert shelf(tmp_path).find(kept.result) is None
    path.write_bytes(b"\xff" * len(whole))
    assert shelf(tmp_path).find(kept.result) is None
    path.unlink()
    assert shelf(tmp_path).find(kept.result) is None


def test_what_every_checkpoint_has_in_it_goes_and_what_is_later_stays(tmp_path: Path) -> None:
    kept = [result(serial, bytes([serial])) for serial in (3, 4, 5, 6)]
    first = shelf(tmp_path)
    for each in kept:
        first.keep(each)
    later = shelf(tmp_path)
    later.prune(4)
    assert len(later) == 2
    assert [later.find(each.result) is not None for each in kept] == [False, False, True, True]
    assert len(list((tmp_path / "checkpoints/run/results").iterdir())) == 2


def test_of_a_result_for_which_there_is_no_room_nothing_stays(tmp_path: Path) -> None:
    kept = Shelf(FullDisk(tmp_path, room=50), "checkpoints/run")
    kept.keep(result(1, b"x" * 30))
    assert kept.leads_on_from(0)
    with pytest.raises(OSError, match="No space left"):
        kept.keep(result(2, b"y" * 10, b"y" * 100))
    assert not kept.leads_on_from(1)
    assert kept.find(result(2, b"y" * 10, b"y" * 100).result) is None
    assert len(list((tmp_path / "checkpoints/run/results").iterdir())) == 1


def test_serials_of_later_terms_are_in_order_too(tmp_path: Path) -> None:
    """A term is in the upper half of a serial, so that they grow long."""
    kept = shelf(tmp_path)
    old, new = result((1 << 32) + 7, b"old"), result((2000 << 32) + 1, b"new")
    kept.keep(old)
    kept.keep(new)
    again = shelf(tmp_path)
    again.prune((1999 << 32) + 99)
    assert again.find(old.result) is None
    assert again.find(new.result) is not None


def test_after_one_is_missing_it_leads_on_only_from_a_checkpoint_that_has_that_round_in_it(
    tmp_path: Path,
) -> None:
    disk = FullDisk(tmp_path, room=0)
    kept = Shelf(disk, "checkpoints/run")
    for serial in (7, 5):
        with pytest.raises(OSError, match="No space left"):
            kept.keep(result(serial, b"x"))
    disk.room = 1 << 20
    kept.keep(result(8, b"y"))
    assert [kept.leads_on_from(floor) for floor in (0, 5, 6, 7, 8)] == [False, False, False, True, True]


def test_where_none_are_wanted_none_are_written_and_it_leads_on_from_nowhere(tmp_path: Path) -> None:
    kept = Shelf(LocalDisk(tmp_path), "checkpoints/run", keeps=False)
    kept.keep(result(4, b"x"))
    assert len(kept) == 0
    assert not (tmp_path / "checkpoints").exists()
    assert not kept.leads_on_from(4)
    kept.keeps = True
    kept.keep(result(5, b"y"))
    assert [kept.leads_on_from(floor) for floor in (3, 4)] == [False, True]
