"""`diloco plan` of a model in stages, as people call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from diloco.cli.app import app
from diloco.cli.stage_plan import parse_memory
from diloco.errors import UserError
from diloco.settings import parse_settings

SIZE = ("--params", "107B", "--layers", "80", "--width", "10496", "--up", "1Gbps", "--rtt", "60ms")
BIG = (*SIZE, "--peers", "40", "--flops", "160T", "--mfu", "1", "--memory")


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


def shown(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_cut_is_shown_with_all_that_it_costs() -> None:
    text = shown(*BIG, "120G", "--tokens", "2T", "--price", "2/h")
    for part in (
        "Take 20 stages of 4 layers",
        "wiring = lines: 2",
        "A replica computes 90.0% of the time: 291 microbatches",
        "Bubble: 10.0%. 1F1B and GPipe have the same on these links, and 6.1% without distance",
        "zero bubble",
        "asynchronous steps 0.0%, with gradients up to 20 steps old",
        "over boundaries",
        "in exchanges",
        "and cost",
        "When not to: where one site has 20 such peers on fast lines, cut the model inside it",
        "[pipeline] stages = 20",
    ):
        assert part in text
    assert "Warning" not in text
    assert max(map(len, call(*BIG, "120G").output.splitlines())) <= 110


def test_single_replicas_are_warned_of() -> None:
    text = shown(*BIG, "92G")
    assert "Warning: 14 stages have one replica only" in text
    assert "54 peers would be two of each, and so would" in text
    assert "wiring = throughput, for 13 stages have a replica more" in text


def test_slow_lines_are_warned_of_with_the_rate_they_lack() -> None:
    text = shown(*SIZE[:-4], "--up", "100Mbps", *BIG[len(SIZE) :], "200G")
    assert "Warning: not busy for 90%. No step does, for lines are busier than replicas below" in text


def test_json_has_the_same_for_programs() -> None:
    plain = json.loads(call(*BIG, "120G", "--tokens", "2T", "--json").output)
    row = plain["rows"][plain["recommended"]]
    assert (row["stages"], row["lines"], row["activations"], row["microbatches"]) == (20, 2, "int8", 291)
    assert row["utilization"] == pytest.approx(0.9, abs=0.001)
    assert row["seconds"] == pytest.approx(2e12 / row["tokens_per_s"])
    assert row["cost"] is None


def test_the_snippet_is_a_run_that_can_be() -> None:
    import tomllib

    plain = json.loads(call(*BIG, "120G", "--json").output)
    settings = parse_settings(tomllib.loads(plain["toml"]), "RUN.toml")
    assert (settings.pipeline.stages, settings.pipeline.quota) == (20, 291)
    assert settings.pipeline.activations == "int8"


def test_a_model_that_fits_a_peer_is_planned_whole() -> None:
    result = call(*SIZE[2:], "--params", "1B", "--flops", "160T", "--memory", "80G")
    assert result.exit_code == 0
    assert "A peer of 80 GB holds this model: do not cut it." in result.output
    assert "busy" in result.output


RUN = """
[model]
layers = 10
width = 512
heads = 8
context = 512
tied = false
[pipeline]
stages = 3
cuts = [4, 8]
microbatch = 4
quota = 32
activations = "int4_rotated"
"""


def test_a_run_file_says_the_model_its_cuts_and_its_steps(tmp_path: Path) -> None:
    run = tmp_path / "RUN.toml"
    run.write_text(RUN)
    links = (str(run), "--peers", "6", "--up", "1Gbps", "--rtt", "20ms", "--flops", "20T")
    plain = json.loads(call(*links, "--json").output)
    row = plain["rows"][plain["recommended"]]
    assert (row["stages"], row["cuts"], row["lines"], row["microbatches"]) == (3, [4, 8], 2, 32)
    assert [each["activations"] for each in plain["rows"]] == ["int4_rotated"]
    assert "Take 3 stages of 4 layers" in shown(*links)
    error = call(*links, "--params", "1B").exception
    assert "says how large the model and its steps are" in str(error)
    error = call(*links, "--memory", "10MB").exception
    assert "3 stages take" in str(error)


def test_a_run_file_of_a_whole_model_is_planned_whole(tmp_path: Path) -> None:
    run = tmp_path / "RUN.toml"
    run.write_text(RUN.partition("[pipeline]")[0])
    text = shown(str(run), "--up", "100Mbps", "--flops", "20T")
    assert "31,895,296 parameters" in text
    assert "does not exist" in str(call(str(tmp_path / "NONE.toml"), "--up", "1Gbps").exception)


def test_memory_as_people_type_it() -> None:
    assert parse_memory("80G") == parse_memory("80GB") == 80e9
    assert parse_memory("24GiB") == parse_memory("24Gi") == 24 * 2**30


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((*BIG, "16G"), "no more than 64 stages are possible"),
        ((*BIG, "much"), "is not a size"),
        ((*BIG, "0G"), "--memory must be above 0"),
        ((*BIG, "120G", "--stages", "81"), "81 stages"),
        ((*BIG, "120G", "--stages", "1"), "--stages 1 is the whole model"),
        ((*BIG, "120G", "--stages", "41"), "there are 40 peers"),
        ((*BIG, "120G", "--microbatch", "0"), "--microbatch must be above 0"),
        ((*BIG, "120G", "--utilization"), "--utilization is of whole models"),
        ((*BIG, "120G", "--step", "1s"), "say --flops 300T, and not --step"),
        ((*SIZE, "--flops", "160T"), "say both --width 10496"),
        ((*SIZE, "--memory", "80G"), "say --flops 300T"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: tuple[str, ...], why: str) -> None:
    error = call(*arguments).exception
    assert isinstance(error, UserError)
    assert why in str(error)
    assert len(str(error).splitlines()) == 1
