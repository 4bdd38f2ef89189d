"""`diloco plan` as people call it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from diloco.cli import plan
from diloco.cli.app import app
from diloco.cli.measured_host import measured_from
from diloco.errors import UserError
from diloco.methods.presets import PRESETS
from diloco.planning.predict import LINE_EFFICIENCY


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_plan_is_shown_with_a_reason_and_a_snippet() -> None:
    arguments = ("--params", "10B", "--layers", "48", "--up", "500Mbps", "--rtt", "60ms", "--step", "0.8s")
    result = call("plan", *arguments, "--tokens", "200B", "--price", "2.5/h")
    assert result.exit_code == 0, result.output
    assert "Take streaming" in result.output
    assert "[method]" in result.output
    plain = json.loads(call("plan", *arguments, "--tokens", "200B", "--price", "2.5/h", "--json").output)
    chosen = plain["rows"][plain["recommended"]]
    assert chosen["utilization"] >= 0.9
    assert chosen["cost"] == pytest.approx(chosen["seconds"] / 3600 * 2.5 * 8)


LINK = ("--params", "1B", "--up", "100Mbps", "--step", "1s")


def test_every_synchronous_method_has_a_row_and_others_a_reason() -> None:
    shown, plain = call("plan", *LINK).output, json.loads(call("plan", *LINK, "--json").output)
    needed = json.loads(call("plan", *LINK, "--utilization", "--json").output)
    rows = {row["preset"]: row for row in plain["rows"]}
    for name, each in PRESETS.items():
        if each.quorum:
            assert f"No row for {name}: its rounds do not wait for all" in shown
            assert set(plain["left_out"]) == set(needed["left_out"]) >= {name}
            continue
        assert any(line.strip().startswith(f"{name} H=") for line in shown.splitlines())
        assert any(setting.startswith(f"{name} H=") for setting in needed["bps"])
        assert 0 < rows[name]["utilization"] <= 1
        assert min(rows[name][key] for key in ("bytes_per_day", "device_bytes", "host_bytes")) > 0
    assert not set(rows) & set(plain["left_out"])
    assert max(map(len, shown.splitlines())) <= 110


def test_a_factor_says_what_tcp_gets_of_a_line() -> None:
    assert f"of which TCP gets {LINE_EFFICIENCY:.0%}" in call("plan", *LINK).output
    assert f"of which TCP gets {LINE_EFFICIENCY:.0%}" in call("plan", *LINK, "--utilization").output
    half = ("--line-efficiency", "0.5")
    assert "of which TCP gets 50%" in call("plan", *LINK, *half).output
    whole, halved = (
        json.loads(call("plan", *LINK, "--line-efficiency", share, "--utilization", "--json").output)["bps"]
        for share in ("1", "0.5")
    )
    assert halved["diloco H=100 int8"][0] == pytest.approx(2 * whole["diloco H=100 int8"][0], rel=0.03)


def test_a_rate_that_a_host_has_measured_is_what_tcp_got(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"up_bps": 1e8, "rtt_s": 0.05, "parameters": 1e9, "peers": 4, "step_s": 1.0}
    monkeypatch.setattr(plan, "measured_at", lambda ticket: found)
    assert "100 Mbit/s each way, of which TCP gets 100%" in call("plan", "--from-host", "ticket").output
    stated = call("plan", "--from-host", "ticket", "--up", "100Mbps").output
    assert f"of which TCP gets {LINE_EFFICIENCY:.0%}" in stated


def test_a_plan_warns_where_nothing_fits() -> None:
    result = call("plan", "--params", "70B", "--up", "20Mbps", "--step", "2s")
    assert "nothing reaches 90%" in result.output
    assert "of upload and download" in result.output
    assert "nothing in the upper part reaches 90%" in result.output


def test_bandwidths_needed_grow_with_the_target() -> None:
    arguments = ("--params", "10B", "--flops", "400T", "--tokens-per-step", "64k")
    plain = json.loads(call("plan", *arguments, "--utilization", "--json").output)
    for rates in plain["bps"].values():
        known = [rate for rate in rates if rate is not None]
        assert known == sorted(known)


def test_a_host_is_measured_by_what_its_members_did() -> None:
    member = {"active": True, "step": 100, "tokens": 100_000, "speed": 2000.0}
    status = {
        "members": [member, member, {**member, "active": False}],
        "codec": "int8",
        "elements": [1_000_000, 1_000_000],
        "recent": [[0, 2, 2.0], [1, 2, 2.0]],
    }
    found = measured_from(status)
    assert found["peers"] == 2
    assert found["parameters"] == 2e6
    assert found["step_s"] == pytest.approx(0.5)
    assert found["up_bps"] == pytest.approx(8 * 1_015_625 / 2.0)
    assert measured_from({"members": []}) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan",),
        ("plan", *LINK, "--tokens", "1B", "--tokens-per-step", "0"),
        ("plan", *LINK, "--tokens", "0"),
        ("plan", "--params", "10B", "--up", "fast", "--step", "1s"),
        ("plan", "--params", "10B", "--up", "1Gbps"),
        ("plan", "--params", "10B", "--up", "1Gbps", "--step", "1s", "--flops", "1T"),
        ("plan", "--params", "0", "--up", "1Gbps", "--step", "1s"),
        ("plan", "--paper", "fairy-tales"),
        ("plan", *LINK, "--line-efficiency", "0"),
        ("plan", *LINK, "--line-efficiency", "1.01"),
        ("plan", *LINK, "--line-efficiency", "nan"),
    ],
)
def test_nonsense_is_refused_without_a_traceback(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, UserError)
    assert len(str(result.exception).splitlines()) <= 2


def test_the_command_ends_with_2_and_one_line() -> None:
    command = [sys.executable, "-m", "diloco.cli", "plan", "--params", "many"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
