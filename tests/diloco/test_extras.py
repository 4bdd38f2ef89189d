"""What goes without torch, safetensors, matplotlib and what only POSIX has, and what is said where something
does not.

All of it in one process in which there is none of these."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import diloco
from diloco.errors import MissingExtra, UserError
from diloco.extras import EXTRAS, missing, require

ROOT = Path(__file__).parents[2]
BARE = """
import contextlib, io, json, sys
from without_posix import take_away
take_away()
for each in ("torch", "safetensors", "matplotlib"):
    sys.modules[each] = None
import diloco
from diloco.cli.app import app
from diloco.cli.usage import run_app
told = {}
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            code = run_app(app, words)
        except diloco.DilocoError as error:
            code = str(error)
    told[" ".join(words)] = code, said.getvalue()
for name in diloco.__all__:
    try:
        getattr(diloco, name)
    except ImportError as error:
        told[name] = str(error), ""
json.dump(told, sys.stdout)
"""
NEEDS = {
    "join dlc1": "diloco join",
    "host RUN.toml --train": "diloco host --train",
    "host RUN.toml --kernels compiled": "--kernels compiled",
    "demo": "diloco demo",
    "compare diloco": "diloco compare",
    "checkpoint verify .": "diloco checkpoint verify",
    "checkpoint gather a b -o c": "diloco checkpoint gather",
    "checkpoint plan a RUN.toml": "diloco checkpoint plan",
    "cut RUN.toml": "diloco cut",
    "export . -o model.safetensors": "diloco export",
    "simulate trained.toml": 'a scenario of mode "trained"',
    "attach": "diloco.attach",
    "Outer": "diloco.Outer",
    "cut": "diloco.cut",
}
"""What cannot go on without torch, and by which name it says so."""
GOES = {
    "--help": "Commands:",
    "init RUN.toml": "wrote RUN.toml",
    "methods": "streaming",
    "plan --params 1B --layers 24 --peers 4 --up 100Mbps --rtt 50ms --step 1s": "codec = ",
    "simulate timed.toml": "rounds",
    "doctor": "trains nothing, but hosts, plans and simulates: torch and safetensors are not installed: ",
}
SCENARIO = """
name = "small"
mode = "timed"
peers = [{ name = "spot", count = 2, step = "1s" }]
run = { rounds = 2 }
method = { sync_every = 10 }
model = { parameters = "1M", tokens_per_step = "1k" }
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bare")
    (folder / "timed.toml").write_text(SCENARIO)
    trained = SCENARIO.replace('"timed"', '"trained"').partition("model")[0]
    (folder / "trained.toml").write_text(trained)
    commands = [each.split() for each in (*GOES, *NEEDS) if each not in diloco.__all__]
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}", "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", GOES)
def test_what_trains_nothing_goes_without_torch_and_posix(command: str, told: dict[str, Any]) -> None:
    code, said = told[command]
    assert code == 0
    assert GOES[command] in said


def test_what_needs_torch_says_so_in_one_line_with_what_to_install(told: dict[str, Any]) -> None:
    line = "torch and safetensors are not installed: pip install torch safetensors, or diloco[train]"
    asked = {name: told[name][0] for name in NEEDS}
    assert asked == {name: f"{what} cannot run here: {line}" for name, what in NEEDS.items()}


def test_no_name_of_the_package_fails_by_another_error_without_torch(told: dict[str, Any]) -> None:
    names = set(told) & set(diloco.__all__)
    assert {told[name][0].partition(":")[0] for name in names} == {
        f"diloco.{n} cannot run here" for n in names
    }
    assert not names & {"host", "join", "status", "simulate", "Swarm", "load_settings"}


def test_what_is_installed_is_not_missing_and_what_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing("train") is None
    require("train", "this")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert missing("plot") == "matplotlib is not installed: pip install matplotlib, or diloco[plot]"
    with pytest.raises(ImportError) as caught:
        require("plot", "a picture")
    assert isinstance(caught.value, MissingExtra)
    assert isinstance(caught.value, UserError)


def test_an_integration_says_what_brings_the_package_that_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra, name in (("hf", "transformers"), ("hf", "peft"), ("lightning", "lightning")):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"diloco.integrations.{name}", raising=False)
        with pytest.raises(MissingExtra, match=rf"diloco\.integrations\.{name} cannot run here.*\[{extra}\]"):
            importlib.import_module(f"diloco.integrations.{name}")


def test_the_extras_are_those_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = project["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        assert sorted(each.partition(">")[0] for each in offered[extra]) == sorted(packages)
    assert not {"torch", "matplotlib"} & {each.partition(">")[0] for each in project["dependencies"]}
    assert f"diloco[{','.join(EXTRAS)}]" in offered["test"]
