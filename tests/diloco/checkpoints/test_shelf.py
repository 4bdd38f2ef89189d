"""Results on the disk: found as they were kept, gone once every checkpoint has them in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.shelf import Shelf
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.record import Record
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


# -- records ----------------------------------------------------------------------------------------


def commit(index: int, parent: bytes, goes_back_to: bytes | None = None) -> Record:
    """A record of that index, which may undo others."""
    if goes_back_to is not None:
        return Record(parent, index, ALL_FRAGMENTS, 1, 100 + index, 0, (), (), goes_back_to)
    return Record(parent, index, 0, 1, 100 + index, 4, (b"m" * 32,), (1.0,), b"r" * 32)


def test_records_lead_on_one_after_the_other_also_for_a_later_process(tmp_path: Path) -> None:
    first = commit(8, b"p" * 32)
    second = commit(9, first.hash())
    third = commit(10, second.hash())
    kept = shelf(tmp_path)
    for each in (third, first, second, first):
        kept.note(each)
    for found in (kept, shelf(tmp_path)):
        assert found.records_after(b"p" * 32) == (first, second, third)
        assert found.records_after(second.hash()) == (third,)
        assert found.records_after(b"x" * 32) == ()
        assert found.records_after(b"p" * 32, first.serial) == (), "it was asked for later ones"
        assert found.records_after(first.hash(), first.serial) == (second, third)
    assert len(kept) == 0, "they are no results"


def test_where_records_were_undone_those_lead_on_that_stand(tmp_path: Path) -> None:
    first = commit(8, b"p" * 32)
    undone = commit(9, first.hash())
    back = commit(10, undone.hash(), goes_back_to=first.hash())
    after = commit(11, back.hash())
    kept = shelf(tmp_path)
    for each in (first, undone, back, after):
        kept.note(each)
    assert kept.records_after(b"p" * 32) == (first, back, after)
    assert kept.records_after(undone.hash()) == ()


def test_of_two_that_follow_one_commit_the_later_decision_stands(tmp_path: Path) -> None:
    """A host without its journal went on from the commit before the last, with a record of its index."""
    first = commit(8, b"p" * 32)
    given_up = commit(9, first.hash())
    back = replace(commit(9, first.hash(), goes_back_to=first.hash()), serial=(1 << 32) + 1)
    for order in ([given_up, back], [back, given_up]):
        kept = Shelf(LocalDisk(tmp_path / order[0].hash().hex()[:4]), "checkpoints/run")
        for each in (first, *order):
            kept.note(each)
        assert kept.records_after(b"p" * 32) == (first, back)


def test_a_torn_record_ends_the_way_and_old_ones_go_with_their_results(tmp_path: Path) -> None:
    first = commit(8, b"p" * 32)
    second = commit(9, first.hash())
    kept = shelf(tmp_path)
    kept.note(first)
    kept.note(second)
    paths = sorted((tmp_path / "checkpoints/run/results").iterdir())
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-3])
    assert shelf(tmp_path).records_after(b"p" * 32) == (first,)
    paths[1].write_bytes(whole)
    later = shelf(tmp_path)
    later.prune(first.serial)
    assert later.records_after(b"p" * 32) == ()
    assert list((tmp_path / "checkpoints/run/results").iterdir()) == [paths[1]]


def test_a_disk_that_takes_no_record_costs_that_record_alone(tmp_path: Path) -> None:
    first = commit(8, b"p" * 32)
    full = FullDisk(tmp_path, room=0)
    kept = Shelf(full, "checkpoints/run")
    kept.note(first)
    assert kept.records_after(b"p" * 32) == ()
    full.room = 1 << 20
    kept.note(first)
    assert kept.records_after(b"p" * 32) == (first,)
    unwanted = Shelf(LocalDisk(tmp_path), "checkpoints/other", keeps=False)
    unwanted.note(first)
    assert unwanted.records_after(b"p" * 32) == ()
