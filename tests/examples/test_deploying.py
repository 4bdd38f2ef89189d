"""The files in `examples/` by which a run is put on other machines: what their tools say of them, that each
command in them is one of ours, and that no ticket, root or closed port is in them. Two machines are run for
true.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from diloco.cli.app import app
from diloco.cli.usage import run_app
from diloco.errors import UserError
from diloco.interrupts import NOTICE_S

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = ("two_machines.sh", "slurm.sh")
UNITS = ("diloco-host.service", "diloco-worker.service")
FILES = (*SCRIPTS, *UNITS, "Dockerfile", "compose.yaml", "cloud-init.yaml")
TINY = """
[run]
rounds = 3
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


def commands_of(name: str) -> list[list[str]]:
    """The arguments of every call of diloco in a file."""
    text = re.sub(r"\\\n\s*", "", (EXAMPLES / name).read_text())
    if name == "compose.yaml":
        folded = re.findall(r"command: >-\n((?: {6}.*\n)+)", text)
        return [each.split() for each in folded]
    return [shlex.split(each) for each in re.findall(r"diloco ((?:init|host|join|ticket) [^\n&>;]+)", text)]


@pytest.mark.parametrize("name", [each for each in FILES if each != "Dockerfile"])
def test_each_command_in_it_has_flags_that_there_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands_of(name)
    assert found
    for words in found:
        assert run_app(app, [*words, "--help"]) == 0, words
        with pytest.raises(UserError, match="No such option"):
            run_app(app, [*words, "--no-such-flag", "--help"])
        assert not any(re.match("dlc1", each) for each in words)
        assert words[0] != "join" or words[1].startswith("@")
    capsys.readouterr()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_one_for_bash(name: str) -> None:
    done = subprocess.run(["bash", "-n", EXAMPLES / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["compose.yaml", "cloud-init.yaml"])
def test_what_is_yaml_can_be_read(name: str) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found = yaml.safe_load((EXAMPLES / name).read_text())
    if name == "cloud-init.yaml":
        assert found["write_files"][0]["path"] == "/etc/diloco/ticket"
        return
    for each in found["services"].values():
        assert [port.partition(":")[0] for port in each["ports"]] == ["7000", "7001"]
        assert (each["read_only"], each["cap_drop"]) == (True, ["ALL"])
        assert any(volume.endswith(":/state") for volume in each["volumes"])
        assert float(each["stop_grace_period"].rstrip("s")) > NOTICE_S


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    there = (EXAMPLES / name).read_text().replace("/opt/diloco/bin/diloco", str(shutil.which("true")))
    (tmp_path / name).write_text(there)
    command = ["systemd-analyze", "verify", tmp_path / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_has_no_root_and_is_not_started_again_where_a_person_has_to_mend_something(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert {"DynamicUser=yes", "Restart=on-failure", "RestartPreventExitStatus=2"} <= set(lines)
    (seconds,) = [float(each.partition("=")[2]) for each in lines if each.startswith("TimeoutStopSec")]
    assert seconds > NOTICE_S


def test_the_unit_that_cloud_init_writes_is_the_worker_s() -> None:
    unit = (EXAMPLES / "diloco-worker.service").read_text().splitlines()
    written = (EXAMPLES / "cloud-init.yaml").read_text().partition("      [Unit]\n")[2].partition("runcmd")[0]
    lines = [each.strip() for each in written.splitlines()]
    assert len(lines) > 10
    assert set(lines) <= set(unit)
    assert 'permissions: "0400"' in (EXAMPLES / "cloud-init.yaml").read_text()


def test_the_image_runs_as_nobody_special_and_opens_both_ports() -> None:
    lines = (EXAMPLES / "Dockerfile").read_text().splitlines()
    assert lines.index("USER 10001") < lines.index('ENTRYPOINT ["diloco"]')
    assert {"VOLUME /state", "EXPOSE 7000 7001", "STOPSIGNAL SIGTERM"} <= set(lines)


def on_path(folder: Path, **programs: str) -> dict[str, str]:
    """An environment in which these programs come first."""
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("code", "requeued"), [(130, "requeue 7_3\n"), (75, "requeue 7_3\n"), (2, ""), (0, "")]
)
def test_a_job_of_slurm_is_queued_again_where_that_can_help(code: int, requeued: str, tmp_path: Path) -> None:
    waits = 'trap "exit 130" TERM; echo began; while :; do sleep 0.01; done'
    env = on_path(tmp_path, scontrol=f'echo "$@" > {tmp_path}/told', diloco=f"exit {code}")
    if code == 130:
        env = on_path(tmp_path, diloco=waits)
    env |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
    job = subprocess.Popen(["bash", EXAMPLES / "slurm.sh"], env=env, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    if code == 130:
        assert job.stdout.readline() == "began\n"
        job.send_signal(signal.SIGTERM)
    assert job.wait(20) == code
    job.stdout.close()
    told = tmp_path / "told"
    assert (told.read_text() if told.exists() else "") == requeued


@pytest.mark.timeout(240)
def test_two_machines_train_to_the_end_and_no_process_prints_the_ticket(tmp_path: Path) -> None:
    env = on_path(tmp_path, diloco=f'exec "{sys.executable}" -m diloco "$@"')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env |= {"PUBLIC": "127.0.0.1", "PORT": str(port), "FOLDER": str(tmp_path), "OMP_NUM_THREADS": "1"}
    (tmp_path / "RUN.toml").write_text(TINY)
    script = ["bash", str(EXAMPLES / "two_machines.sh")]
    first = subprocess.Popen([*script, "host"], env=env, stdout=subprocess.PIPE, text=True)
    second = None
    try:
        assert first.stdout is not None
        while "ticket in ticket" not in first.stdout.readline():
            assert first.poll() is None
        second = subprocess.Popen([*script, "join"], env=env, stdout=subprocess.PIPE, text=True)
        said = second.communicate(timeout=200)[0]
        assert (second.returncode, first.wait(60)) == (0, 0), said
        ticket = (tmp_path / "ticket").read_text().strip()
        assert ticket not in said + first.stdout.read()
        assert (tmp_path / "model.safetensors").stat().st_size > 1000
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()
