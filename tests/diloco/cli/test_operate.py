"""The owner's commands, as a person types them: one line, an exit code, and what a worker sees of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import diloco
from diloco.cli.app import app
from diloco.cli.operate import kick_command, revoke_command, stop_command
from diloco.errors import UserError

RUN = diloco.RunSettings.model_validate(
    {
        "run": {"rounds": 1000, "failure_timeout_s": 2.0, "min_peers": 1},
        "method": {"sync_every": 2, "codec": "fp32"},
    }
)
LOCAL = "tcp://127.0.0.1:0"


def attached(swarm: diloco.Swarm) -> tuple[nn.Module, torch.optim.Optimizer, diloco.Outer]:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, diloco.attach(model, optimizer, swarm, timeout_s=20.0)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()


def test_kick_says_who_is_out_and_that_worker_ends_with_the_reason(tmp_path: Path) -> None:
    home = tmp_path / "host"
    with (
        diloco.host(RUN, listen=LOCAL, state=home) as host,
        diloco.join(host.ticket, listen=LOCAL, name="ann") as stays,
        diloco.join(host.ticket, listen=LOCAL, name="bob") as goes,
    ):
        model, optimizer, outer = attached(stays)
        train(model, optimizer, 4)
        theirs = attached(goes)
        done = CliRunner().invoke(app, ["kick", "bob", host.ticket, "--state", str(home)])
        assert (done.exit_code, done.output) == (0, f"{goes.peer_name} is out of the run\n")
        with pytest.raises(diloco.EntryError, match="kicked: the host has put this worker out"):
            train(*theirs[:2], 1000)
        before = outer.round
        train(model, optimizer, 6)
        assert outer.round > before
        assert [each["name"] for each in host.status()["members"]] == ["ann"]


def test_stop_ends_the_run_for_all_workers_and_for_the_host(tmp_path: Path) -> None:
    run, ticket, home = tmp_path / "RUN.toml", tmp_path / "ticket", tmp_path / "host"
    run.write_text("[run]\nrounds = 1000\nmin_peers = 2\n[method]\nsync_every = 2\n")
    command = [sys.executable, "-m", "diloco.cli", "host", str(run), "--listen", LOCAL]
    host = subprocess.Popen(
        [*command, "--state", str(home), "--ticket-file", str(ticket)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert host.stdout is not None
        while "ticket in" not in host.stdout.readline():
            assert host.poll() is None
        with (
            diloco.join(f"@{ticket}", listen=LOCAL, name="ann") as one,
            diloco.join(f"@{ticket}", listen=LOCAL, name="bob") as two,
        ):
            outers = [attached(one), attached(two)]
            done = CliRunner().invoke(app, ["stop", f"@{ticket}", "--state", str(home)])
            assert (done.exit_code, done.output) == (0, "the run ends with 0 of 1000 rounds\n")
            for model, optimizer, outer in outers:
                train(model, optimizer, 4)
                assert outer.finished
        assert host.wait(30) == 0
        assert "stopped after 0 of 1000 rounds" in host.stdout.read()
    finally:
        host.kill()
        host.communicate()


def test_without_the_hosts_state_the_commands_say_so(tmp_path: Path) -> None:
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host") as host:
        for order in (
            lambda: stop_command(host.ticket, tmp_path),
            lambda: kick_command("x", host.ticket, tmp_path),
            lambda: revoke_command(host.ticket, tmp_path),
        ):
            with pytest.raises(UserError, match="name its folder"):
                order()


def test_a_ticket_is_made_shown_and_revoked_in_one_line_each(tmp_path: Path) -> None:
    home = ["--state", str(tmp_path / "host")]
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host"):
        made = CliRunner().invoke(app, ["ticket", "--uses", "1", "--hours", "2", *home])
        assert (made.exit_code, made.output.count("\n")) == (0, 1)
        word = made.output.strip()
        diloco.join(word, listen=None).close()
        with pytest.raises(diloco.JoinError, match="good for 1 worker:"):
            diloco.join(word, listen=None)
        shown = CliRunner().invoke(app, ["ticket", "show", word])
        assert shown.output.startswith("ticket to run ")
        revoked = CliRunner().invoke(app, ["ticket", "revoke", word, *home])
        assert (revoked.exit_code, revoked.output) == (
            0,
            "the ticket opens nothing any more; workers that came with it stay\n",
        )


def test_the_owner_has_workers_save_a_checkpoint_now(tmp_path: Path) -> None:
    home = tmp_path / "host"
    with (
        diloco.host(RUN, listen=LOCAL, state=home) as host,
        diloco.join(host.ticket, listen=LOCAL, name="ann", state=tmp_path / "ann") as swarm,
    ):
        model, optimizer, _ = attached(swarm)
        train(model, optimizer, 6)
        done = CliRunner().invoke(app, ["checkpoint", "now", host.ticket, "--state", str(home)])
        assert done.exit_code == 0, done.output
        assert done.output.startswith("asked to save commit ")
        assert "ann" in done.output
        saved = tmp_path / "ann" / "checkpoints" / swarm.run.hex()[:16]
        for _ in range(2000):
            train(model, optimizer, 1)
            if any(not path.name.startswith((".", "000000000000", "results")) for path in saved.iterdir()):
                return
    raise AssertionError("nothing was saved")
