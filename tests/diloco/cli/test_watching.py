"""A worker's view is built, fed and ended with its training; a host that does not answer harms nothing."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from rich.console import Console

import diloco
from diloco.cli.watching import BesideHost, own_training, rounds_wanted, watched
from diloco.monitoring.run_view import RunView, Screen
from diloco.settings import RunSettings
from peers.coordinator.status import RunStatus
from peers.protocol.events import SettingsChanged
from transport.errors import KnockTimeout

SETTINGS = RunSettings.model_validate({"run": {"name": "mine", "rounds": 3, "min_peers": 1}})


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, height=24)


def shown(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_view_is_of_the_run_and_of_this_worker_and_follows_its_settings() -> None:
    console = terminal()
    with diloco.solo(SETTINGS) as swarm, watched(swarm, "cpu, 1 thread", None, console) as screen:
        screen.stepped(7, 2.0, 50.0, 0.0)
        assert screen.view.rounds_wanted == 3
        swarm.settings = SETTINGS.model_copy(update={"run": SETTINGS.run.model_copy(update={"rounds": 9})})
        screen.event(SettingsChanged(b""))
        assert screen.view.rounds_wanted == 9
    assert f"run mine   {swarm.peer_name}   " in shown(console)
    assert screen.view.name == swarm.name, "which others may have too"
    assert "step 7, loss 2.000, 50 tokens/s; cpu, 1 thread" in shown(console)


def test_the_host_is_asked_who_is_slow_and_silence_leaves_the_view_as_it_is(tmp_path: Path) -> None:
    asked = threading.Event()
    with diloco.host(SETTINGS, listen="tcp://127.0.0.1:0", state=tmp_path) as swarm:
        status = RunStatus.from_plain(swarm.status())

        def answers() -> RunStatus:
            asked.set()
            return status

        def is_silent() -> RunStatus:
            asked.set()
            raise KnockTimeout("no reply")

        for ask in (answers, is_silent):
            asked.clear()
            with watched(swarm, "cpu", ask, terminal()) as screen:
                assert asked.wait(20.0)
                assert screen.view.slow_text() == ""


def test_a_worker_counts_commits_and_with_gossip_its_own_outer_steps() -> None:
    streaming, gossip = (
        SETTINGS.model_copy(update={"method": SETTINGS.method.model_copy(update={"preset": preset})})
        for preset in ("streaming", "noloco")
    )
    assert rounds_wanted(streaming) == 3 * streaming.method.resolved().num_fragments
    assert rounds_wanted(gossip) == 3


def test_a_host_that_trains_shows_its_own_training_beside_the_run() -> None:
    console = terminal()
    with diloco.solo(SETTINGS) as swarm, Screen(RunView("run mine", 3), console) as screen:
        beside = BesideHost(screen, own_training(swarm, "cpu, 1 thread"))
        beside.event(object())
        beside.stepped(5, 1.5, 20.0, 0.0)
    assert "step 5, loss 1.500, 20 tokens/s; cpu, 1 thread" in shown(console)
