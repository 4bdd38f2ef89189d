"""A worker's folder: the same for the same run and name, whatever the name, and another one for another."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from diloco.swarm.state_lock import StateLock
from diloco.swarm.worker_home import folder_name, free_name, worker_home

RUN = b"\xab" * 16


def never() -> str:
    raise AssertionError("the host need not be asked")


def test_the_host_is_asked_for_the_runs_name_once_on_a_machine(tmp_path: Path) -> None:
    first = worker_home(RUN, "ann", lambda: "demo", tmp_path)
    assert first == tmp_path / "demo-abababab" / "ann"
    first.mkdir(parents=True)
    assert worker_home(RUN, "ann", never, tmp_path) == first
    assert worker_home(RUN, "bob", never, tmp_path) == first.parent / "bob"
    assert worker_home(b"\xcd" * 16, "ann", lambda: "demo", tmp_path) == tmp_path / "demo-cdcdcdcd" / "ann"


@given(st.lists(st.text(max_size=64), min_size=2, max_size=2, unique=True))
def test_different_names_have_different_folders_that_stay_where_they_belong(names: list[str]) -> None:
    one, two = map(folder_name, names)
    assert one != two
    for each in (one, two):
        assert Path("a", each).parent == Path("a")
        assert not each.startswith(".")
        assert len(each.encode()) < 255
        assert each.isprintable()


def test_ordinary_names_are_folders_as_they_are() -> None:
    assert [folder_name(each) for each in ("ann", "host-2.local", "A_1")] == ["ann", "host-2.local", "A_1"]
    assert folder_name("..").startswith("__-")


def test_another_worker_gets_a_name_that_no_running_one_has(tmp_path: Path) -> None:
    home = tmp_path / "ann"
    assert free_name(home, "ann") == "ann-2"
    second = StateLock(tmp_path / "ann-2", "worker")
    assert free_name(home, "ann") == "ann-3"
    second.release()
    assert free_name(home, "ann") == "ann-2", "it ended, and may be started again"
