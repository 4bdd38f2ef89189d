"""`diloco join`: where it keeps what is the worker's, and what a second worker on one machine is told."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import diloco
from diloco.cli import join
from diloco.cli.app import app
from diloco.cli.work import Work
from diloco.errors import RecipeError, UserError
from diloco.settings import parse_settings
from diloco.swarm.worker_home import worker_home
from transport.errors import TransportError

LOCAL = "tcp://127.0.0.1:0"
RUN = parse_settings({"run": {"name": "joining", "rounds": 3}}, "")
Worker = tuple[diloco.Swarm, Path]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[diloco.Swarm]:
    monkeypatch.setattr(join, "worker_home", partial(worker_home, state=tmp_path / "state"))
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host") as swarm:
        yield swarm


def joined(
    monkeypatch: pytest.MonkeyPatch,
    host: diloco.Swarm,
    *flags: str,
    meanwhile: Any = None,
    moves: list[int] | None = None,
) -> Any:
    """What the command printed, and the swarm that it trained in, last where it ``moves`` to other stages."""
    seen: list[diloco.Swarm] = []

    def train(work: Work, swarm: diloco.Swarm, interrupts: object, log: object, **more: Any) -> object:
        assert more["moves"] == (swarm.home is not None)
        seen.append(swarm)
        if meanwhile is not None:
            meanwhile()
        return SimpleNamespace(line=lambda: "trained", moves_to=moves.pop() if moves else None)

    with monkeypatch.context() as patched:
        patched.setattr(Work, "train", train)
        done = CliRunner().invoke(app, ["join", host.ticket, "--listen", LOCAL, *flags])
    if done.exception is not None:
        raise done.exception
    return done.output, seen[-1]


def test_the_same_command_again_is_the_same_worker(
    host: diloco.Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, first = joined(monkeypatch, host, "--name", "ann")
    home = tmp_path / "state" / f"joining-{first.run.hex()[:8]}" / "ann"
    assert f"it keeps its state in {home}" in said
    assert joined(monkeypatch, host, "--name", "ann")[1].peer_name == first.peer_name
    other = joined(monkeypatch, host, "--name", "bob")[1]
    assert other.home == home.parent / "bob"
    assert other.peer_name != first.peer_name


def test_a_worker_that_is_to_move_joins_anew_as_itself(
    host: diloco.Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, last = joined(monkeypatch, host, "--name", "ann", moves=[2, 1])
    assert said.count(f"joined run joining as {last.peer_name}") == said.count("trained") == 3


def test_without_state_nothing_is_kept(
    host: diloco.Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, first = joined(monkeypatch, host, "--no-state")
    assert "state in" not in said
    assert first.home is None
    assert not (tmp_path / "state").exists()
    with pytest.raises(UserError, match="give one of them"):
        joined(monkeypatch, host, "--no-state", "--state", str(tmp_path / "mine"))


def test_a_second_worker_with_the_same_command_is_told_which_name_to_give(
    host: diloco.Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again() -> None:
        with pytest.raises(UserError, match=r"in use by the worker with process .*: --name ann-2$"):
            joined(monkeypatch, host, "--name", "ann")
        joined(monkeypatch, host, "--name", "ann-2")

    joined(monkeypatch, host, "--name", "ann", meanwhile=again)


def test_a_folder_that_was_named_and_is_in_use_needs_another_one(
    host: diloco.Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ("--state", str(tmp_path / "mine"))

    def again() -> None:
        with pytest.raises(UserError, match=r"or name another folder \(--state\)"):
            joined(monkeypatch, host, *named)

    joined(monkeypatch, host, *named, meanwhile=again)


def test_it_says_where_bulk_lanes_are_opened(host: diloco.Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    said, swarm = joined(monkeypatch, host, "--no-state", "--bulk-port", "0", "--max-upload", "8Mbit/s")
    assert f"\nbulk lanes at port {swarm.bulk_port}\n" in said
    assert swarm.bulk_port != host.bulk_port
    said, swarm = joined(monkeypatch, host, "--no-state", "--no-listen")
    assert swarm.bulk_port is None
    assert "\nbulk lanes are dialled from here" in said


def test_what_cannot_be_of_bulk_is_refused_in_one_line(
    host: diloco.Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flags, line in (
        (("--no-listen", "--bulk-port", "7"), "give one of them"),
        (("--max-upload", "900kbit/s"), "900 kbit/s is too slow: who sends less than 1 Mbit/s is left out"),
        (("--max-upload", "0Mbit/s"), "too slow"),
        (("--max-upload", "20"), "not a rate"),
    ):
        with pytest.raises(UserError, match=line):
            joined(monkeypatch, host, "--no-state", *flags)
    taken = ("--no-state", "--bulk-port", str(host.bulk_port))
    with pytest.raises(TransportError, match=f"cannot listen for bulk on 127.0.0.1:{host.bulk_port}"):
        joined(monkeypatch, host, *taken)


def test_a_recipe_that_cannot_be_called_is_refused_before_anything_listens(tmp_path: Path) -> None:
    recipe, run = tmp_path / "mine.py", tmp_path / "RUN.toml"
    recipe.write_text("def make(settings): ...")
    run.write_text("")
    host = ["host", str(run), "--train", "--state", str(tmp_path / "state"), "--recipe", f"{recipe}:make"]
    for given in (["join", "dlcx", "--recipe", f"{recipe}:make"], host):
        done = CliRunner().invoke(app, given)
        assert isinstance(done.exception, RecipeError)
        assert "is to be called with" in str(done.exception)
    assert not (tmp_path / "state").exists()
