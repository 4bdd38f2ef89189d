"""Stages in threads, each with a swarm of its own, and a member between them that loses nothing: a line.

The member is played by hand: it hands on what a stage says to its neighbours, in order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

import torch

import diloco
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cutting import cut
from diloco.pipeline.serving import Stage
from diloco.pipeline.staging import part_of, stage
from diloco.settings import RunSettings
from peers.protocol.stage_work import (
    Cause,
    Counted,
    Drain,
    Drained,
    Evaluated,
    EvaluationEnded,
    Feed,
    ForwardDone,
    GradientArrived,
    How,
    InputArrived,
    MayFeed,
    MicrobatchEnded,
    MicrobatchId,
    StageCommand,
    StageEvent,
    StreamOpened,
)
from tests.diloco.pipeline.kit import POSITIONS, SEQUENCES, WIDTH, Batch, adamw, built, layers, loss_sum

FEEDER = b"f" * 32
_POLL_S = 0.002


def settings_of(cuts: tuple[int, ...], quota: int, **pipeline: Any) -> RunSettings:
    return RunSettings.model_validate(
        {
            "run": {"rounds": 1000, "grace_s": 0.2},
            "method": {"preset": "diloco", "sync_every": 1000},
            "pipeline": {
                "stages": len(cuts) + 1,
                "cuts": list(cuts),
                "microbatch": SEQUENCES,
                "quota": quota,
                "activations": "fp32",
                **pipeline,
            },
        }
    )


class Member:
    """One stage's seam: its own swarm for the outer loop, the line for microbatches."""

    def __init__(self, swarm: diloco.Swarm, line: PlayedLine, number: int) -> None:
        self.swarm, self.line, self.number = swarm, line, number
        self.key = FEEDER
        self.events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.said: list[object] = []
        self.others: list[object] = []
        """Commands about anything but microbatches."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.swarm, name)

    def command(self, command: Any) -> bool:
        if isinstance(command, StageCommand):
            self.said.append(command)
            return self.line.take(self.number, command)
        self.others.append(command)
        return self.swarm.command(command)

    def post(self, command: Any) -> None:
        self.command(command)

    def next_event(self, timeout_s: float) -> object | None:
        left_s = timeout_s
        while True:
            with suppress(queue.Empty):
                return self.events.get_nowait()
            event = self.swarm.next_event(0.0)
            if isinstance(event, StageEvent):
                continue  # of its own member, in whose place this one is
            if event is not None or left_s <= 0:
                return event
            with suppress(queue.Empty):
                return self.events.get(timeout=_POLL_S)
            left_s -= _POLL_S


class PlayedLine:
    """All stages of one model, ready to run; leave it by `with`."""

    def __init__(
        self,
        cuts: tuple[int, ...],
        quota: int,
        *,
        num_blocks: int = 4,
        dropout: float = 0.0,
        window: int = 64,
        only: int | None = None,
        **pipeline: Any,
    ) -> None:
        """With ``only`` there is but that stage."""
        self.settings = settings_of(cuts, quota, **pipeline)
        self.window = window
        self.targets: dict[MicrobatchId, Any] = {}
        self.evaluates: set[MicrobatchId] = set()
        self.members: list[Member] = []
        self.stages: list[Stage] = []
        self._undone = ExitStack()
        for number in range(len(cuts) + 1) if only is None else [only]:
            self._add(number, num_blocks, dropout)
        for each in self.members:
            each.events.put(StreamOpened(0, void=False))
        if not only:
            self.tell(0, MayFeed(window))

    def _add(self, number: int, num_blocks: int, dropout: float) -> None:
        swarm = self._undone.enter_context(diloco.solo(self.settings))
        assert swarm.ask_stage(number) == number
        member = Member(swarm, self, number)
        self.members.append(member)
        part = part_of(self.settings, number)
        model = cut(built(layers(num_blocks, dropout)), part)
        made = stage(
            model,
            adamw(model.parameters()),
            member,  # type: ignore[arg-type]
            part=part,
            boundary=part.ends(Boundary((SEQUENCES, POSITIONS, WIDTH))),
            loss=loss_sum if part.is_last else None,
        )
        self.stages.append(made)

    def tell(self, number: int, event: object) -> None:
        self.members[number].events.put(event)

    def take(self, number: int, command: StageCommand) -> bool:
        """What a stage's thread says to its member."""
        last = len(self.members) - 1
        match command:
            case Feed():
                fed = MicrobatchId(FEEDER, 0, command.number)
                self.targets[fed] = command.targets
                if command.evaluates:
                    self.evaluates.add(fed)
            case ForwardDone():
                name = command.microbatch
                targets = self.targets.get(name) if number + 1 == last else None
                up = InputArrived(name, command.payload, targets, name in self.evaluates)
                self.tell(number + 1, up)
            case Evaluated():
                ended = EvaluationEnded(command.microbatch, command.loss_sum, command.tokens)
                self.tell(0, ended)
                self.tell(0, MayFeed(command.microbatch.number + 1 + self.window))
            case Counted() if number:
                assert command.payload is not None
                self.tell(number - 1, GradientArrived(command.microbatch, command.payload, command.tokens))
            case Counted():
                self.tell(0, MicrobatchEnded(command.microbatch, How.SETTLED, 0, Cause.NONE))
                self.tell(0, MayFeed(command.microbatch.number + 1 + self.window))
            case Drain():
                self.tell(number, Drained())
        return True

    def run(self, batches: Iterable[Batch], steps: int) -> list[float]:
        """All stages, each in a thread, until stage 0 has taken its steps; the losses of the last."""
        losses: list[float] = []
        failed: list[BaseException] = []

        def serve(number: int, made: Stage) -> None:
            try:
                for count, step in enumerate(made.run(batches if number == 0 else None), 1):
                    losses.extend([] if step.loss is None else [step.loss])
                    if count == steps:
                        return
            except BaseException as error:
                failed.append(error)
                for each in self.stages:
                    each.outer.stop()

        threads = [threading.Thread(target=serve, args=each) for each in enumerate(self.stages)]
        torch.set_num_threads(1)
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        if failed:
            raise failed[0]
        assert not any(each.is_alive() for each in threads), "a stage waits for ever"
        return losses

    def parameters(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for each in self.stages:
            found |= each.part.model.state_dict()
        return found

    def __enter__(self) -> PlayedLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undone.close()
