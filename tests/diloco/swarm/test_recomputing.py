"""A host's threads for disputed steps: what is told is answered, and everything else is passed on."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diloco.outer.replica import TensorReplica
from diloco.settings import RunSettings
from diloco.swarm import recomputing
from diloco.swarm.recomputing import RecomputeThreads, memory_bytes, recompute_bytes
from peers.protocol.events import Computed, RecomputeWanted, RunFinished
from tests.diloco.outer.kit import make
from transport.errors import DriverStopped

METHOD = RunSettings.model_validate({"method": {"preset": "diloco", "codec": "fp32"}}).method.resolved()


class Answers:
    """A driver whose calls are carried out at once, and a coordinator that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, Computed | None, str]] = []
        self.done = threading.Event()
        self.recomputer = SimpleNamespace(take_answer=lambda *told: self.told.append(told))
        self.coordinator = SimpleNamespace(recomputer=self.recomputer)
        self.thread: threading.Thread | None = None

    def call(self, run: Any) -> None:
        self.thread = threading.current_thread()
        run(None, 0.0)
        self.done.set()


def threads_of(answers: Answers, passed: list[object]) -> RecomputeThreads:
    found = RecomputeThreads(answers, METHOD, passed.append)  # type: ignore[arg-type]
    found.driver = answers  # type: ignore[assignment]
    return found


def wanted(former: bytearray, layout: str) -> RecomputeWanted:
    model = make()
    replica = TensorReplica.of(model, METHOD)
    chunk = bytes(4 * replica.num_elements(0))
    return RecomputeWanted(b"v" * 32, 0, layout.encode(), former, [chunk], replica.num_elements(0), 1)


def test_a_step_is_computed_in_another_thread_and_everything_else_is_passed_on() -> None:
    answers, passed = Answers(), list[object]()
    threads = threads_of(answers, passed)
    threads.hear(RunFinished(3))
    assert passed == [RunFinished(3)]
    replica = TensorReplica.of(make(), METHOD)
    with replica.outer.reading(0) as view:
        former = bytearray(view.read(0, view.size_bytes))
    threads.hear(wanted(former, replica.layout.manifest().text))
    assert answers.done.wait(60.0)
    before = replica.check(0)
    replica.outer.step(0, torch.zeros(replica.num_elements(0)))
    assert answers.told == [(b"v" * 32, Computed(before, replica.check(0), replica.digest(0)), "")]
    assert answers.thread is not threading.current_thread()
    assert passed == [RunFinished(3)]


def test_what_cannot_be_computed_is_answered_too() -> None:
    answers = Answers()
    threads_of(answers, []).hear(wanted(bytearray(10), "no layout"))
    assert answers.done.wait(60.0)
    ((_, found, reason),) = answers.told
    assert found is None
    assert "StateError" in reason


def test_an_answer_that_comes_when_the_process_has_left_the_run_is_no_error() -> None:
    asked, failed = threading.Event(), list[object]()

    def stopped(run: Any) -> None:
        asked.set()
        raise DriverStopped("the transport is not running")

    threads = threads_of(Answers(), [])
    threads.driver = SimpleNamespace(call=stopped)  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading, "excepthook", failed.append)
        threads.hear(wanted(bytearray(10), ""))
        assert asked.wait(60.0)
        for thread in threading.enumerate():
            if thread.name == "diloco-recompute":
                thread.join(60.0)
    assert failed == []


def test_a_host_computes_if_it_has_torch_and_members_share_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < recompute_bytes(METHOD) <= memory_bytes() // 4
    gossip = RunSettings.model_validate({"method": {"preset": "noloco"}}).method.resolved()
    assert recompute_bytes(gossip) == 0
    monkeypatch.setattr(recomputing.importlib.util, "find_spec", lambda name: None)
    assert recompute_bytes(METHOD) == 0


def test_a_container_may_have_less_memory_than_its_machine(tmp_path: Path) -> None:
    limited, unlimited = tmp_path / "limited", tmp_path / "unlimited"
    limited.write_text("123456\n")
    unlimited.write_text("max\n")
    assert memory_bytes((str(limited),)) == 123456
    assert memory_bytes((str(unlimited), str(tmp_path / "none"))) == memory_bytes(())
