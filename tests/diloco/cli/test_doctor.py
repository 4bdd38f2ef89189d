"""`diloco doctor` and `--kernels`: what runs is said, and what cannot be had is one clear line."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from typer.testing import CliRunner

from diloco.cli.app import app
from diloco.cli.doctor import doctor_command
from diloco.cli.work import Work
from diloco.compression.kernels import running, use
from diloco.compression.kernels.library import LIBRARY, load
from diloco.errors import UserError
from transport.sockets.aes_hardware import has_fast_aes


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    use("auto")


def test_the_doctor_says_versions_threads_and_what_codecs_run_by() -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    versions, threads, bulk, codecs = done.output.splitlines()
    assert versions.startswith("diloco ")
    assert threads.startswith("torch ")
    assert " 1 threads" not in threads
    assert re.search(r": \d+ threads?, ", threads)
    assert bulk == "bulk: sealed (AES-256-GCM)" if has_fast_aes() else bulk.startswith("bulk: over CURVE")
    assert codecs == f"codecs: {running()}"


@pytest.mark.parametrize(("count", "told"), [(1, ": 1 thread, "), (3, ": 3 threads, ")])
def test_one_thread_is_no_threads(
    count: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    doctor_command()
    assert told in capsys.readouterr().out


def test_the_doctor_tries_what_it_is_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    doctor_command("torch")
    assert capsys.readouterr().out.endswith("codecs: torch, as chosen\n")
    if load(LIBRARY)[0] is None:
        with pytest.raises(UserError, match="there are no compiled kernels"):
            doctor_command("compiled")
    else:
        doctor_command("compiled")
        assert "codecs: compiled kernels (" in capsys.readouterr().out


def test_a_worker_that_is_told_to_go_by_torch_does_and_an_unknown_way_is_refused_at_once() -> None:
    def work(kernels: str) -> Work:
        return Work(kernels=kernels)

    work("torch")
    assert running() == "torch, as chosen"
    with pytest.raises(UserError, match="'quick' are unknown"):
        work("quick")
