"""The demo of stages: two replicas of each of four stages as processes of this machine train one model.

Starts `diloco join` as anyone would, over encrypted loopback links; midway kills a replica of a middle stage
and lets a fresh worker join, which the host gives that stage. At the end it puts the saved parts together,
evaluates them, and trains the same model for as many steps in this process, whole, to compare.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

import diloco
from diloco.checkpoints.sharded import INDEX
from diloco.cli.demo import Workers, empty_folder
from diloco.monitoring.run_view import RunView, Screen
from diloco.settings import RunSettings

REPLICAS = 2
DEMO_STAGES = RunSettings.model_validate(
    {
        "run": {"name": "demo", "min_peers": 1, "rounds": 10, "failure_timeout_s": 4.0, "grace_s": 20.0},
        "method": {"preset": "diloco", "sync_every": 8},
        "model": {"layers": 6, "heads": 4, "width": 96, "context": 96, "tied": False},
        "pipeline": {"stages": 4, "microbatch": 4, "quota": 4},
        "train": {"warmup_steps": 20, "inner_lr": 3e-3},
    }
)
_START_S = 180.0
_END_S = 90.0


def run_stage_demo(rounds: int | None, out: Path) -> int:
    """Run it all; the exit code."""
    settings = DEMO_STAGES
    if rounds is not None:
        settings = settings.model_copy(update={"run": settings.run.model_copy(update={"rounds": rounds})})
    stages = settings.pipeline.stages
    empty_folder(out)
    began = time.monotonic()
    view = RunView(f"diloco demo: {stages} stages x {REPLICAS} replicas on this machine", settings.run.rounds)
    view.stages = stages
    screen = Screen(view, Console())
    swarm = diloco.host(settings, listen="tcp://127.0.0.1:0", state=out / "host", on_trace=screen.on_trace)
    with swarm, Workers(out, out / "ticket") as workers:
        with open(os.open(out / "ticket", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(swarm.ticket)
        for index in range(stages * REPLICAS):
            workers.start(f"w{index}", out / "model")
        with screen:
            failed = _watch(swarm, screen, workers, settings, out)
    if failed:
        for name in failed:
            print(f"{name} ended with an error:\n{workers.last_words(name)}", file=sys.stderr)
        return 1
    print(f"done in {time.monotonic() - began:.0f} s")
    print(f"microbatches     {_fates(out)}")
    return _compare(settings, out)


def _watch(
    swarm: diloco.Swarm, screen: Screen, workers: Workers, settings: RunSettings, out: Path
) -> list[str]:
    """Until all workers ended; those that failed."""
    total, midway = settings.pipeline.stages * REPLICAS, settings.run.rounds // 2
    killed = False
    done_at: float | None = None
    while not workers.all_ended():
        time.sleep(0.2)
        status = swarm.status()
        if not status["over"] and (failed := workers.failed()):
            return failed
        if not killed and min(each["rounds"] for each in status["stages"]) >= midway:
            killed = True
            victim = _middle_replica(status)
            workers.kill(victim["name"])
            workers.start(f"w{total}", out / "model")
            screen.note(f"SIGKILL to {victim['name']}, of stage {victim['stage']}; w{total} starts")
        if status["over"]:
            done_at = done_at or time.monotonic()
            if time.monotonic() - done_at > _END_S:
                return [name for name, process in workers.running.items() if process.poll() is None]
    return workers.failed()


def _middle_replica(status: dict[str, Any]) -> dict[str, Any]:
    """Of a stage that is neither fed nor has the loss."""
    last = len(status["stages"]) - 1
    found: dict[str, Any] = next(each for each in status["members"] if 0 < each["stage"] < last)
    return found


def _fates(out: Path) -> str:
    """Of all microbatches, as their feeders tell at their end."""
    lines = [line for path in out.glob("w*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    ends = [json.loads(line) for line in lines if '"event": "end"' in line]
    fed = [each for each in ends if each["stage"] == 0]
    counts = {how: sum(each[how] for each in fed) for how in ("settled", "partial", "lost")}
    return ", ".join(f"{count:,} {how}" for how, count in counts.items())


def _compare(settings: RunSettings, out: Path) -> int:
    """The loss of what the stages trained, and of as many steps of whole workers in this process."""
    if not (out / "model" / INDEX).exists():
        print(f"{out / 'model'} lacks the file of a stage", file=sys.stderr)
        return 1
    from diloco.cli.whole_run import loss_of_saved, train_whole

    loss, first = loss_of_saved(settings, out / "model")
    began = time.monotonic()
    whole = train_whole(settings, REPLICAS)
    print(f"validation loss  {loss:.4f} (untrained {first:.4f})")
    print(f"in one process   {whole:.4f}, the same run with whole workers ({time.monotonic() - began:.0f} s)")
    print(f"model            {out / 'model' / INDEX}")
    result = {"loss": loss, "untrained": first, "whole": whole}
    (out / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    return 0
