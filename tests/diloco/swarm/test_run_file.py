"""The run of a state directory goes on with changed settings, or is refused by name, or is put aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diloco.errors import SettingsError, UserError
from diloco.settings import RunSettings, parse_settings
from diloco.swarm.origin_file import OriginFile
from diloco.swarm.run_file import KeptRun, begun_with, put_aside, settle
from diloco.swarm.setting_changes import unpack_values, with_values
from peers.coordinator.journal import RunStopped

RUN = RunSettings()
ID = b"r" * 16


def file_with(**run: Any) -> RunSettings:
    return parse_settings({"run": run}, "")


def test_a_run_keeps_the_settings_of_its_beginning(tmp_path: Path) -> None:
    origin = OriginFile(tmp_path / "model.safetensors", b"d" * 32)
    assert begun_with(tmp_path, KeptRun(ID, RUN, origin)).settings == RUN
    later = begun_with(tmp_path, KeptRun(ID, file_with(rounds=7, seed=3)))
    assert later.settings.to_bytes() == RUN.to_bytes()
    assert later.origin == origin
    assert (tmp_path / "run.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"format": 9}, "has format 9, this program reads 1: install the version that wrote it"),
        ({"run": "00" * 16}, "another identity than .*identity: put that file back, or .*--fresh"),
        ({"settings": {"run": {"rounds": 0}}}, r"run\.rounds = 0"),
        ({"from": {"path": 3}}, "is damaged: put a copy back"),
        (None, "is damaged: put a copy back, or begin a new run"),
    ],
)
def test_a_run_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any] | None, refused: str
) -> None:
    begun_with(tmp_path, KeptRun(ID, RUN))
    path = tmp_path / "run.json"
    path.write_text("[" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=refused) as caught:
        begun_with(tmp_path, KeptRun(ID, RUN))
    assert "\n" not in str(caught.value)


def test_a_later_file_changes_what_may_change_and_is_refused_by_name_for_the_rest() -> None:
    settings, entry, changes = settle(RUN, [], file_with(rounds=50), {})
    assert (settings.run.rounds, changes) == (50, {"run.rounds": (100, 50)})
    assert entry is not None
    assert (unpack_values(entry.values)["run.rounds"], entry.goes_on) == (50, False)
    assert settle(RUN, [entry], file_with(rounds=50), {}) == (settings, None, {})
    other = parse_settings({"run": {"rounds": 50, "seed": 4}, "model": {"width": 256}}, "")
    with pytest.raises(SettingsError, match=r"seed 0 -> 4, model\.width 128 -> 256; put it back") as caught:
        settle(RUN, [entry], other, {})
    assert "run.rounds" not in str(caught.value)
    for way_out in ("--fresh", "--from", "run.name", "--state"):
        assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_given_once_stays_until_the_file_itself_says_otherwise() -> None:
    settings, entry, _ = settle(RUN, [], RUN, {"run.rounds": 200})
    assert settings.run.rounds == 200
    assert entry is not None
    assert settle(RUN, [entry], RUN, {}) == (settings, None, {}), "the same file asks for nothing"
    edited, then, changes = settle(RUN, [entry], file_with(rounds=150), {})
    assert (edited.run.rounds, changes) == (150, {"run.rounds": (200, 150)})
    same, noted, nothing = settle(RUN, [entry], file_with(rounds=200), {})
    assert (same, nothing) == (settings, {}), "the file says now what was given"
    assert noted is not None, "and that is remembered: an older file would be a change"
    assert then is not None
    assert settle(RUN, [entry, noted], RUN, {})[2] == {"run.rounds": (200, 100)}


def test_more_rounds_let_a_run_that_was_stopped_go_on() -> None:
    _, longer, _ = settle(RUN, [RunStopped(30)], file_with(rounds=101), {})
    _, slower, _ = settle(RUN, [RunStopped(30)], RUN, {"train.inner_lr": 1e-4})
    assert longer is not None
    assert slower is not None
    assert (longer.goes_on, slower.goes_on) == (True, False)


def test_the_fewest_workers_do_not_change_where_each_worker_minds_them() -> None:
    gossip = parse_settings({"method": {"preset": "noloco"}}, "")
    assert settle(RUN, [], RUN, {"run.min_peers": 1})[0].run.min_peers == 1
    with pytest.raises(SettingsError, match=r"run\.min_peers cannot change with gossip"):
        settle(gossip, [], gossip, {"run.min_peers": 1})
    assert settle(gossip, [], gossip, {"run.rounds": 7})[0] == with_values(gossip, {"run.rounds": 7})


def test_an_old_run_is_kept_aside_and_what_is_not_of_it_stays(tmp_path: Path) -> None:
    assert put_aside(tmp_path, 0.0) is None
    for name in ("identity", "run.json", "journal-12", "address", "RUN.toml", "state.lock"):
        (tmp_path / name).write_text(name)
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    aside = put_aside(tmp_path, 0.0)
    assert aside == tmp_path / "before" / "19700101-000000"
    here = {path.name for path in tmp_path.iterdir()}
    assert here == {"RUN.toml", "state.lock", "address", "before"}, "a new run begins at the same address"
    assert {path.name for path in aside.iterdir()} == {
        "identity",
        "run.json",
        "journal-12",
        "address",
        "checkpoints",
    }
    assert put_aside(tmp_path, 0.0) is None, "nothing but the address is left"
    (tmp_path / "identity").write_text("new")
    assert put_aside(tmp_path, 0.0) == tmp_path / "before" / "19700101-000000-2", "at the same second"
