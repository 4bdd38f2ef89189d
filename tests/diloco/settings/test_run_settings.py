"""Settings: RUN.toml comes back as it was written, and each mistake gets one helpful line."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diloco.errors import SettingsError
from diloco.methods.presets import PRESETS, method
from diloco.methods.spec import Method
from diloco.settings.run_settings import (
    CHANGEABLE,
    RunSettings,
    commented_toml,
    load_settings,
    parse_settings,
)


def refused(text: str, folder: Path) -> str:
    path = folder / "RUN.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    return str(caught.value)


def test_the_commented_file_loads_back_to_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "RUN.toml"
    path.write_text(commented_toml(), encoding="utf-8")
    assert load_settings(path) == RunSettings()


def test_the_commented_file_of_changed_settings_loads_back_to_them() -> None:
    changed = parse_settings(
        {"run": {"min_peers": 3}, "method": {"codec": "bf16"}, "train": {"inner_lr": 1e-5}}, ""
    )
    assert RunSettings.model_validate(tomllib.loads(commented_toml(changed))) == changed


def test_every_setting_is_described_in_the_file() -> None:
    tables = commented_toml().split("\n\n")
    for section, table in zip(RunSettings.model_fields, tables, strict=True):
        lines = table.splitlines()
        assert f"[{section}]" in lines
        fields = type(getattr(RunSettings(), section)).model_fields
        for key, field in fields.items():
            if section == "method" and not any(
                line.removeprefix("# ").startswith(f"{key} = ") for line in lines
            ):
                assert getattr(RunSettings().method.resolved(), key) == Method.model_fields[key].default
                continue
            where = next(i for i, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{key} = "))
            assert field.description
            assert lines[where - 1] == f"# {field.description}"


def test_values_that_the_preset_decides_are_shown_commented_out() -> None:
    assert "# outer_momentum = 0.9" in commented_toml().splitlines()
    assert 'codec = "bf16"' in commented_toml(parse_settings({"method": {"codec": "bf16"}}, "")).splitlines()


def test_the_method_section_overrides_its_preset() -> None:
    chosen = parse_settings({"method": {"preset": "local_sgd", "sync_every": 5}}, "")
    assert chosen.method.resolved() == method("local_sgd", sync_every=5)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[run]\nmin_peer = 3", "run.min_peer is no setting: did you mean min_peers?"),
        ("[rum]\n", "[rum] is no section: did you mean run?"),
        ("min_peers = 3", "[min_peers] is no section: it belongs under [run]"),
        ("[train]\nwidth = 64", "train.width is no setting: it belongs under [model]"),
        ("[run]\nzzz = 1", "run.zzz is no setting: [run] has name, min_peers, rounds"),
        ("[run]\nmin_peers = 0", "run.min_peers = 0: input should be greater than or equal to 1"),
        ("[run]\nmin_peers = 'two'", "run.min_peers = 'two': input should be a valid integer"),
        ("[run]\nmin_peers = true", "run.min_peers = True: input should be a valid integer"),
        ("[run]\ngrace_s = nan", "run.grace_s = nan: input should be a finite number"),
        ("run = 3", "[run] must be a section"),
        ("[method]\npreset = 'dilco'", "did you mean 'diloco'?"),
        (
            "[method]\nouter_momentum = 0.0",
            '[method] method diloco: outer = "nesterov" needs an outer_momentum above 0',
        ),
        ("[model]\nwidth = 100\nheads = 3", "[model] width is 100 and heads is 3: width must be a multiple"),
        ("[checkpoint]\nkeep = 0", "checkpoint.keep = 0: input should be greater than or equal to 1"),
        ("[checkpoint]\nkeep = 1001", "checkpoint.keep = 1001: input should be less than or equal to 1000"),
        ("[checkpoint]\nresults = 1", "checkpoint.results = 1: input should be a valid boolean"),
        ("[model]\nwaist = 16", "[model] a model with a waist has a head of its own: set tied = false"),
        (
            "[model]\nwaist = 128\ntied = false",
            "[model] waist is 128 and width is 128: choose a smaller waist, or 0",
        ),
        ("[pipeline]\nstages = 0", "pipeline.stages = 0: input should be greater than or equal to 1"),
        (
            "[pipeline]\nstages = 3\ncuts = [2]",
            "[pipeline] cuts = [2] make 2 stages and not 3: name the first layer of each stage but the first",
        ),
        (
            "[pipeline]\nstages = 3\ncuts = [2, 2]",
            "[pipeline] cuts = [2, 2] must rise from 1 on: each stage has a layer at least",
        ),
        (
            "[pipeline]\nstages = 2\ncuts = [0]",
            "[pipeline] cuts = [0] must rise from 1 on: each stage has a layer at least",
        ),
        (
            "[pipeline]\nsplit_backward = true",
            "[pipeline] split_backward = true keeps what recompute = true is there not to keep:"
            " turn one of them off",
        ),
        ("[pipeline]\nquota = 0", "pipeline.quota = 0: input should be greater than or equal to 1"),
        ("[pipeline]\nstages = 65", "pipeline.stages = 65: input should be less than or equal to 64"),
        (
            "[checkpoint]\nevery = 100\n[method]\npreset = 'streaming'\nnum_fragments = 4",
            "checkpoint.every = 100: with 4 fragments 64 at most, or the host would forget commits",
        ),
        ("[run", "is not valid TOML"),
    ],
)
def test_a_mistake_gets_one_line_that_names_key_value_and_remedy(
    text: str, line: str, tmp_path: Path
) -> None:
    message = refused(text, tmp_path)
    assert line in message
    assert "\n" not in message


def test_in_how_many_parts_the_model_is_cut_is_the_same_for_all_and_cannot_change() -> None:
    cut = parse_settings({"pipeline": {"stages": 4, "cuts": [1, 2, 5]}}, "")
    assert RunSettings.from_bytes(cut.to_bytes()).pipeline.cuts == (1, 2, 5)
    assert cut.digest() != RunSettings().digest()
    assert RunSettings.from_bytes(cut.to_bytes()).digest() == cut.digest()
    assert "pipeline.stages" not in CHANGEABLE


def test_what_is_kept_may_be_said_for_every_method() -> None:
    for name in PRESETS:
        chosen = parse_settings({"checkpoint": {"every": 2, "keep": 9}, "method": {"preset": name}}, "")
        assert chosen.digest() == parse_settings({"method": {"preset": name}}, "").digest()


def test_several_mistakes_get_one_line_each(tmp_path: Path) -> None:
    lines = refused("[run]\nmin_peers = 0\nrounds = 0\n[train]\ninner_lr = -1.0", tmp_path).splitlines()
    assert [line.split(": ")[1].split(" = ")[0] for line in lines] == [
        "run.min_peers",
        "run.rounds",
        "train.inner_lr",
    ]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist: `diloco init` writes one"):
        load_settings(tmp_path / "RUN.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path)
    (tmp_path / "RUN.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(tmp_path / "RUN.toml")


def test_equal_settings_have_equal_bytes_and_digest_however_they_were_written() -> None:
    spelt_out = parse_settings({"method": {"outer_lr": 0.7, "sync_every": 100}, "run": {"grace_s": 30}}, "")
    assert spelt_out.to_bytes() == RunSettings().to_bytes()
    assert spelt_out.digest() == RunSettings().digest()
    assert parse_settings({"run": {"seed": 1}}, "").digest() != RunSettings().digest()


def test_settings_survive_the_wire() -> None:
    sent = parse_settings({"method": {"preset": "local_sgd"}, "run": {"name": "x"}}, "")
    received = RunSettings.from_bytes(sent.to_bytes())
    assert received.digest() == sent.digest()
    assert received.method.resolved() == sent.method.resolved()
    assert received.to_bytes() == sent.to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * 60_000,
        b"x" * 70_000,
        b"NaN",
        b'{"run":{"grace_s":Infinity}}',
        b'{"run":{"seed":' + b"9" * 5000 + b"}}",
        b"[]",
        b'{"a":1}',
    ],
)
def test_rubbish_from_a_host_is_refused(data: bytes) -> None:
    with pytest.raises(SettingsError):
        RunSettings.from_bytes(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["min_peers", "name", "preset", "width", "heads", "inner_lr", "codec", "x"])
sections = st.dictionaries(keys, json_values, max_size=3) | json_values


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(["run", "method", "model", "train", "y"]), sections, max_size=3))
def test_any_json_is_settings_or_a_settings_error(plain: dict[str, Any]) -> None:
    problems: tuple[str, ...] = ()
    try:
        RunSettings.from_bytes(json.dumps(plain).encode("ascii"))
    except SettingsError as error:
        problems = error.problems
    assert all("\n" not in line for line in problems)


def test_settings_and_methods_need_no_torch() -> None:
    check = "import sys, diloco.settings, diloco.methods, diloco.errors; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[3], check=False).returncode
        == 0
    )


def test_with_gossip_there_are_no_copies_of_one_state() -> None:
    plain = {"checkpoint": {"copies": 2}, "method": {"preset": "noloco"}}
    with pytest.raises(SettingsError, match="with gossip each worker has a replica of its own"):
        parse_settings(plain, "RUN.toml")
    with pytest.raises(SettingsError, match="copies"):
        parse_settings({"checkpoint": {"copies": -1}}, "RUN.toml")
    assert parse_settings({"checkpoint": {"copies": 2}}, "RUN.toml").checkpoint.copies == 2
