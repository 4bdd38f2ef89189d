"""The command line: one clear line for mistakes, no torch where none is needed, a whole small run."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diloco.cli.app import main
from diloco.settings import load_settings
from diloco.swarm.entry import host
from diloco.swarm.handshake import ask_status
from peers.admission.ticket import Ticket
from transport.keys import random_pair

TINY = """
[run]
rounds = 3
failure_timeout_s = 3.0
[method]
sync_every = 2
[model]
layers = 1
heads = 1
width = 16
context = 16
[train]
batch_size = 2
"""


def diloco(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diloco", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("join", "nonsense"), "this is no ticket"),
        (("status", "@/nowhere/ticket"), "/nowhere/ticket"),
        (("host", "missing.toml"), "missing.toml does not exist"),
        (("ticket", "show", "dlc1aaaa"), "ticket"),
        (("join",), "diloco: Missing argument 'TICKET' ("),
        (("host", "RUN.toml", "--resume", "-1"), "'--resume': "),
        (("host", "RUN.toml", "--rezume", "1"), "No such option: --rezume"),
        (("jion", "@ticket"), "No such command 'jion'"),
    ],
)
def test_a_mistake_gets_one_clear_line_and_exit_code_2(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    done = diloco(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_where_nobody_answers_another_exit_code_says_that_it_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = Ticket(bytes(16), random_pair().public, bytes(16), 1 << 31, ("tcp://127.0.0.1:1",))
    monkeypatch.setattr(sys, "argv", ["diloco", "status", ticket.encode()])
    monkeypatch.setattr("diloco.cli.app.ask_status", lambda word: ask_status(word, 0.1))
    monkeypatch.setattr("diloco.cli.app.end_at_once", lambda: None)  # it takes the signals of this process
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 75
    assert "no reply from tcp://127.0.0.1:1" in capsys.readouterr().err


def test_a_folder_in_the_place_of_a_file_gets_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "RUN.toml").write_text(TINY)
    host(load_settings(tmp_path / "RUN.toml"), listen="tcp://127.0.0.1:0", state=str(tmp_path / "s")).close()
    (journal,) = (tmp_path / "s").glob("journal-*")
    journal.unlink()
    journal.mkdir()
    done = diloco("host", "RUN.toml", "--state", "s", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"diloco: s/{journal.name} cannot be used: Is a directory\n"


def test_every_wrong_key_of_a_run_file_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    run = tmp_path / "RUN.toml"
    run.write_text("[run]\nround = 5\nmin_peers = 0\n")
    done = diloco("host", str(run), cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert any("round" in line and "rounds" in line for line in lines)
    assert any("min_peers" in line and "1" in line for line in lines)


def test_init_writes_a_file_that_host_accepts_and_never_overwrites(tmp_path: Path) -> None:
    assert diloco("init", cwd=tmp_path).returncode == 0
    again = diloco("init", cwd=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_host_that_does_not_train_never_imports_torch() -> None:
    program = "import sys, diloco.cli, diloco; diloco.solo; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_a_host_and_two_workers_train_a_tiny_run_to_its_end(tmp_path: Path) -> None:
    run, ticket = tmp_path / "RUN.toml", tmp_path / "ticket"
    run.write_text(TINY)
    text = tmp_path / "text"
    text.mkdir()
    for name in "abcdefgh":
        (text / f"{name}.txt").write_text(f"the quick brown fox {name} jumps over the lazy dog. " * 40)
    cli = [sys.executable, "-m", "diloco.cli"]
    listen = ["--listen", "tcp://127.0.0.1:0"]
    host = subprocess.Popen(
        [*cli, "host", str(run), *listen, "--state", str(tmp_path / "host"), "--ticket-file", str(ticket)],
        stdout=subprocess.PIPE,
        text=True,
    )
    workers = []
    try:
        assert host.stdout is not None
        while "ticket in" not in host.stdout.readline():
            assert host.poll() is None
        assert stat.S_IMODE(os.stat(ticket).st_mode) == 0o600
        for index in range(2):
            save = ["--save", str(tmp_path / "model.safetensors")] if index == 0 else []
            named = ["--name", f"w{index}", "--no-state"]
            command = [*cli, "join", f"@{ticket}", *named, *listen, "--data", str(text), *save]
            workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        told = [worker.communicate(timeout=90)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0]
        assert all("3 rounds" in each for each in told)
        assert host.wait(20) == 0
        assert (tmp_path / "model.safetensors").stat().st_size > 1000
    finally:
        for process in (host, *workers):
            process.kill()
            process.communicate()


def test_a_tiny_demo_with_a_kill_ends_with_its_results(tmp_path: Path) -> None:
    run, out = tmp_path / "RUN.toml", tmp_path / "out"
    run.write_text(TINY.replace("sync_every = 2", "sync_every = 30"))
    command = ("demo", "--workers", "3", "--rounds", "4", "--run", str(run), "--out", str(out), "--kill")
    done = diloco(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validation loss" in done.stdout
    assert "per-step data-parallel" in done.stdout
    assert (out / "loss.png").exists()
    assert (out / "model.safetensors").exists()
    assert (out / "w3.jsonl").exists(), "the fresh worker"
    assert diloco("demo", "--out", str(tmp_path)).returncode == 2, "a folder of somebody else is left alone"


def test_ctrl_c_ends_a_host_in_order(tmp_path: Path) -> None:
    run = tmp_path / "RUN.toml"
    run.write_text(TINY)
    command = [sys.executable, "-m", "diloco.cli", "host", str(run), "--listen", "tcp://127.0.0.1:0"]
    host = subprocess.Popen(
        [*command, "--state", str(tmp_path / "host")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert host.stdout is not None
    while not host.stdout.readline().startswith("dlc1"):
        assert host.poll() is None
    host.send_signal(signal.SIGINT)
    _, said = host.communicate(timeout=20)
    assert host.returncode == 130
    assert "workers train on by themselves" in said
    assert "the same command goes on with the run" in said
    assert "Traceback" not in said


DIVERGES = """
import itertools, pathlib, time
import torch
from diloco.recipe import Job

other_trains = pathlib.Path(__file__).with_name("other_trains")

def recipe(settings, data, device, salt):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def step(number):
        at_host = salt.startswith("host")
        spoilt = at_host and other_trains.exists()
        time.sleep(0.02 if spoilt or not at_host else 0.5)
        if number == 3 and not at_host:
            other_trains.touch()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, float("nan") if spoilt else 0.1)
        optimizer.step()
        return torch.tensor(float("nan") if spoilt else 0.5)

    return Job(model, optimizer, step, itertools.count(1), 10, lambda: 0.5, lambda: "")
"""


@pytest.mark.timeout(150)
def test_a_worker_that_diverges_ends_with_one_line_and_a_host_goes_on_for_the_others(tmp_path: Path) -> None:
    run, ticket, recipe = tmp_path / "RUN.toml", tmp_path / "ticket", tmp_path / "mine.py"
    run.write_text("[run]\nrounds = 60\nmin_peers = 1\nfailure_timeout_s = 3.0\n[method]\nsync_every = 2\n")
    recipe.write_text(DIVERGES)
    cli = [sys.executable, "-m", "diloco.cli"]
    listen = ["--listen", "tcp://127.0.0.1:0", "--recipe", f"{recipe}:recipe"]
    state = ["--state", str(tmp_path / "host"), "--ticket-file", str(ticket), "--train"]
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*cli, "host", str(run), *listen, *state], **piped)]
    host = processes[0]
    try:
        assert host.stdout is not None
        while "ticket in" not in host.stdout.readline():
            assert host.poll() is None
        processes.append(subprocess.Popen([*cli, "join", f"@{ticket}", *listen, "--no-state"], **piped))
        (worker_said, worker_erred), (host_said, host_erred) = (
            process.communicate(timeout=60) for process in reversed(processes)
        )
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1].returncode == 0, worker_erred
    assert "60 rounds" in worker_said
    assert host.returncode == 2
    assert "gave up what it trained, as it was not finite (5 times so far)" in host_said
    assert "this host trains no longer, and goes on for the others" in host_said
    assert "Traceback" not in host_erred
    last = host_erred.splitlines()[-1]
    assert last.startswith("diloco: 8 of the pseudo-gradient's 8 values are not finite, for the 5th time")
    assert host_erred.count("what led to it is given up") == 5
