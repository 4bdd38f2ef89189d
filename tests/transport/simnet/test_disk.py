"""The simulated disk: what a crash leaves is what was synced, and of the rest no more than a beginning."""

from __future__ import annotations

import random

import pytest

from transport.disk import Disk
from transport.simnet.disk import Killed, SimDisk

OLD, NEW = b"old" * 50, b"new" * 70


def disk(seed: int = 1, room_bytes: int = 1 << 20) -> SimDisk:
    return SimDisk(random.Random(seed), room_bytes)


def held(found: SimDisk, path: str) -> bytes | None:
    try:
        return found.read(path)
    except FileNotFoundError:
        return None


def test_files_are_read_listed_renamed_and_removed() -> None:
    made: Disk = disk()
    made.write("a/b/one", [b"12", memoryview(b"345")])
    made.write("a/two", [b"x"])
    assert (made.read("a/b/one"), made.read("a/b/one", 1, 2), made.size("a/b/one")) == (b"12345", b"23", 5)
    assert (made.list("a"), made.list(""), made.list("none")) == (["b", "two"], ["a"], [])
    made.rename("a/b", "a/c")
    assert (made.read("a/c/one"), made.list("a")) == (b"12345", ["c", "two"])
    made.rename("a/two", "three")
    made.remove("a/c")
    made.remove("a/c")
    assert (made.list("a"), made.read("three")) == ([], b"x")
    for missing in (made.read, made.size, made.sync_dir):
        with pytest.raises(FileNotFoundError):
            missing("a/c/one")


def test_what_is_written_again_takes_the_place_of_what_was_there() -> None:
    made = disk()
    made.write("f", [OLD])
    made.write("f", [NEW])
    assert made.read("f") == NEW


def test_a_full_disk_takes_what_fits_and_says_so() -> None:
    made = disk(room_bytes=100)
    with pytest.raises(OSError, match="No space left"):
        made.write("f", [b"x" * 60, b"y" * 60])
    assert (made.size("f"), made.free_bytes()) == (100, 0)
    made.remove("f")
    assert made.free_bytes() == 100


def test_what_was_synced_with_its_name_survives_every_loss_of_power() -> None:
    for seed in range(50):
        made = disk(seed)
        made.write("a/f", [OLD])
        made.sync_dir("a")
        made.sync_dir("")
        made.write("a/g", [NEW], sync=False)
        made.lose_power()
        assert held(made, "a/f") == OLD
        assert (held(made, "a/g") or b"") == NEW[: len(held(made, "a/g") or b"")]


def outcomes(sync: bool, names: bool) -> set[int]:
    """Sizes that are left of a file over many losses of power; -1 if it is not there."""
    found = set()
    for seed in range(80):
        made = disk(seed)
        made.write("f", [NEW], sync=sync)
        if names:
            made.sync_dir("")
        made.lose_power()
        left = held(made, "f")
        found.add(-1 if left is None else len(left))
        assert left is None or NEW.startswith(left)
    return found


def test_bytes_that_were_not_synced_are_torn_anywhere_and_names_may_be_gone() -> None:
    assert outcomes(sync=True, names=True) == {len(NEW)}
    assert outcomes(sync=True, names=False) == {-1, len(NEW)}
    torn = outcomes(sync=False, names=True)
    assert -1 not in torn
    assert len(torn) > 20


def test_a_rename_is_whole_or_not_there_and_never_takes_both_names_away() -> None:
    seen = set()
    for seed in range(40):
        made = disk(seed)
        made.write("new", [NEW])
        made.write("now", [OLD])
        made.sync_dir("")
        made.rename("new", "now")
        made.lose_power()
        seen.add((held(made, "new"), held(made, "now")))
    assert seen == {(NEW, OLD), (None, NEW)}


def test_a_folder_that_is_renamed_takes_along_what_is_sure_in_it_alone() -> None:
    for seed in range(40):
        made = disk(seed)
        made.write("p/sure", [OLD])
        made.sync_dir("p")
        made.write("p/unsure", [NEW], sync=False)
        made.rename("p", "q")
        made.sync_dir("")
        made.lose_power()
        assert held(made, "q/sure") == OLD
        assert made.list("p") == []


def test_a_removal_that_is_not_sure_may_be_undone() -> None:
    seen = set()
    for seed in range(40):
        made = disk(seed)
        made.write("f", [OLD])
        made.sync_dir("")
        made.remove("f")
        made.lose_power()
        seen.add(held(made, "f"))
    assert seen == {None, OLD}


def test_a_disk_that_lies_may_lose_what_it_said_was_sure() -> None:
    seen = set()
    for seed in range(80):
        made = disk(seed)
        made.write("f", [OLD])
        made.sync_dir("")
        made.lose_power(lie=True)
        seen.add(held(made, "f"))
    assert None in seen
    assert len(seen) > 10


@pytest.mark.parametrize("kill_in", [0, 1, 2, 40, 150, 151, 152, 153])
def test_a_process_may_die_at_any_byte_and_what_it_wrote_before_is_there(kill_in: int) -> None:
    made = disk()
    made.write("before", [NEW], sync=False)
    made.kill_in = kill_in
    try:
        made.write("f", [OLD[:75], OLD[75:]], sync=False)
        made.rename("f", "g")
        made.remove("before")
    except Killed:
        assert kill_in < 153
    else:
        assert kill_in >= 153
    assert made.kill_in is None or made.kill_in == 0
    left = held(made, "g") or held(made, "f") or b""
    assert OLD.startswith(left)
    assert (held(made, "g") is None) is (kill_in < 152)
    assert (held(made, "before") is None) is (kill_in >= 153)


def test_a_copy_has_the_same_files_and_a_life_of_its_own() -> None:
    made = disk()
    made.write("a/f", [OLD])
    copied = made.copy(random.Random(2))
    made.write("a/f", [NEW])
    copied.lose_power()
    assert copied.read("a/f") == OLD
