"""`diloco host`: flags that do not go together, changes of settings, and a run that goes on."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import diloco
from diloco.cli import host, join
from diloco.cli.app import app
from diloco.cli.work import Work
from diloco.errors import CheckpointError, UserError
from diloco.interrupts import NOTICE_S
from diloco.settings import commented_toml, parse_settings
from diloco.swarm import control

LOCAL = ("--listen", "tcp://127.0.0.1:0")


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "RUN.toml"
    path.write_text(commented_toml(parse_settings({"run": {"rounds": 3, "failure_timeout_s": 0.5}}, "")))
    return path


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["host", *arguments])
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


def test_a_new_run_and_the_old_one_are_not_had_at_once(run_file: Path) -> None:
    for two in (("--fresh", "--adopt"), ("--from", "x", "--adopt"), ("--resume", "1", "--fresh")):
        assert "give one of them" in refused(str(run_file), *two)
    assert "--from needs --train" in refused(str(run_file), "--from", "x")


def test_a_run_is_not_put_aside_for_one_from_what_is_damaged(run_file: Path, tmp_path: Path) -> None:
    home, model, checkpoint = tmp_path / "home", tmp_path / "m.safetensors", tmp_path / "checkpoint"
    diloco.host(run_file, listen=LOCAL[1], state=home).close()
    model.write_bytes(b"rubbish")
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    for origin in (model, checkpoint):
        done = CliRunner().invoke(
            app, ["host", str(run_file), "--train", "--state", str(home), "--from", str(origin), *LOCAL]
        )
        assert isinstance(done.exception, CheckpointError), done.output
        assert origin.name in str(done.exception)
    assert not (home / "before").exists()


def test_a_run_is_not_put_aside_for_one_whose_model_has_another_shape(run_file: Path, tmp_path: Path) -> None:
    home, model = tmp_path / "home", tmp_path / "m.safetensors"
    diloco.host(run_file, listen=LOCAL[1], state=home).close()
    save_file({"embedding.weight": torch.zeros(3, 3)}, model)
    done = CliRunner().invoke(
        app, ["host", str(run_file), "--train", "--state", str(home), "--from", str(model), *LOCAL]
    )
    assert isinstance(done.exception, CheckpointError), done.output
    assert "embedding.weight has shape 3x3 in the model m.safetensors" in str(done.exception)
    assert not (home / "before").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(256, 128, dtype=torch.int32), "torch.int32"),
        (torch.full((256, 128), torch.nan), "not finite"),
    ],
)
def test_a_run_is_not_put_aside_for_one_whose_values_are_of_no_use(
    run_file: Path, tmp_path: Path, value: torch.Tensor, said: str
) -> None:
    home, model = tmp_path / "home", tmp_path / "m.safetensors"
    diloco.host(run_file, listen=LOCAL[1], state=home).close()
    save_file({"embedding.weight": value}, model)
    done = CliRunner().invoke(
        app, ["host", str(run_file), "--train", "--state", str(home), "--from", str(model), *LOCAL]
    )
    assert isinstance(done.exception, CheckpointError), done.output
    assert said in str(done.exception)
    assert not (home / "before").exists()


def test_what_is_set_is_checked_before_anything_is_touched(run_file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for given in ("run.rounds", "model.width=4", "run.rounds=0", "checkpoint.keep=0", "checkpoint.to=3"):
        assert given.partition("=")[0] in refused(str(run_file), "--state", str(home), "--set", given, *LOCAL)
    assert not home.exists()


def test_what_cannot_change_is_named_with_what_to_do(run_file: Path, tmp_path: Path) -> None:
    home = ("--state", str(tmp_path / "home"))
    diloco.host(run_file, listen=LOCAL[1], state=tmp_path / "home").close()
    run_file.write_text(run_file.read_text().replace("width = 128", "width = 64"))
    said = refused(str(run_file), *home, *LOCAL)
    assert "model.width 128 -> 64" in said
    assert "--fresh" in said


def test_flags_of_training_are_the_same_for_host_and_join() -> None:
    flags = set(Work.__dataclass_fields__)
    assert flags >= {"recipe", "data", "device", "save", "full", "threads", "events", "notice"}
    for command in (host.host_command, join.join_command):
        given = inspect.signature(command).parameters
        assert flags <= given.keys()
        assert "work" not in given
        assert given["notice"].default == NOTICE_S
        assert command.__doc__


def test_full_without_save_is_refused_before_anything_is_touched(run_file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "give --save FILE too" in refused(str(run_file), "--train", "--full", "--state", str(home), *LOCAL)
    assert not home.exists()


def test_a_run_that_is_over_says_how_it_goes_on(
    run_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    with diloco.host(run_file, listen=LOCAL[1], state=home) as swarm:
        control.stop(swarm.ticket, home)
    done = CliRunner().invoke(app, ["host", str(run_file), "--state", str(home), *LOCAL])
    assert done.exit_code == 0, done.output
    assert "the run is over, with 0 of 3 rounds: --set run.rounds=N (changes=) makes it longer" in caplog.text
    with diloco.host(run_file, listen=LOCAL[1], state=home, changes={"run.rounds": 9}) as swarm:
        assert not swarm.status()["stopped"]


def test_a_ticket_with_a_private_address_says_so_and_the_scheme_may_be_left_out(
    run_file: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with diloco.host(run_file, listen=LOCAL[1], state=home) as swarm:
        control.stop(swarm.ticket, home)
    private = ("--listen", "127.0.0.1:0", "--advertise", "192.168.1.5:7000")
    done = CliRunner().invoke(app, ["host", str(run_file), "--state", str(home), *private])
    assert "\n192.168.1.5 in the ticket can be reached from its own network alone. " in done.output
    assert done.output.splitlines()[-1] == "stopped after 0 of 3 rounds"


def test_a_run_that_has_its_rounds_says_how_many_and_a_shorter_one_how_many_more(tmp_path: Path) -> None:
    run, home = tmp_path / "RUN.toml", tmp_path / "home"
    plain = {"run": {"rounds": 2, "min_peers": 1, "failure_timeout_s": 0.5}, "method": {"sync_every": 1}}
    run.write_text(commented_toml(parse_settings(plain, "")))
    model = torch.nn.Linear(2, 2)
    with (
        diloco.host(run, listen=LOCAL[1], state=home) as swarm,
        diloco.attach(model, None, swarm, timeout_s=30.0) as outer,
    ):
        for _ in outer.until_finished(iter(int, 1)):
            outer.step_done()
    done = CliRunner().invoke(app, ["host", str(run), "--state", str(home), *LOCAL])
    assert done.output.splitlines()[-1] == "done: 2 rounds"
    shorter = ("--set", "run.rounds=1")
    done = CliRunner().invoke(app, ["host", str(run), "--state", str(home), *shorter, *LOCAL])
    assert done.output.splitlines()[-1] == "done: 2 rounds, 1 more than the 1 that are wanted now"
