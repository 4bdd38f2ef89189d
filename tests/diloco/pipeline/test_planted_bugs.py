"""Mistakes that stages could make, planted: the comparison with a plain loop notices each of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from diloco.pipeline.in_process import LocalStage
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart
from diloco.pipeline.stage_loop import Forward, StageLoop, Step, Work
from tests.diloco.pipeline.kit import Plain, batches, built, layers, line_of, parameters_of, same_bits

CUTS, QUOTA, SEED = (1, 2, 4), 4, 3


class Hasty(StageLoop):
    """Steps while the last of a step's microbatches is in flight."""

    def _choose(self, now: float) -> Work | None:
        in_flight, counted = len(self._in_flight), len(self._counted)
        if in_flight == 1 and counted == self.quota - 1:
            return Step(tuple(self._counted), self._tokens)
        return super()._choose(now)


class Backwards(StageLoop):
    """Takes the youngest first."""

    def _choose(self, now: float) -> Work | None:
        work = super()._choose(now)
        return Forward(max(self._waiting)) if isinstance(work, Forward) else work


class Early(StageLoop):
    """Counts what has only gone forward."""

    def done(self, work: Work, tokens: int = 0) -> None:
        super().done(work, tokens)
        if isinstance(work, Forward) and work.microbatch in self._in_flight:
            self._count(work.microbatch, tokens)


class Unlimited(StageLoop):
    """Begins whatever comes, in a step that has its quota."""

    def _choose(self, now: float) -> Work | None:
        quota, self.quota = self.quota, self.quota + 2
        try:
            return super()._choose(now)
        finally:
            self.quota = quota


class Unweighed(RunningPart):
    """Divides by the nominal tokens, whatever was counted."""

    def weigh(self, tokens: int) -> None:
        pass


class WeighedByMicrobatches(RunningPart):
    """Takes every microbatch for as much as any other."""

    def weigh(self, tokens: int) -> None:
        super().weigh(self.nominal_tokens * QUOTA // (QUOTA + 1))


class DrawsAnew(RunningPart):
    """Runs forward again with other random numbers."""

    runs = 0

    def _run(self, microbatch: MicrobatchId, x: Tensor) -> Tensor:
        self.runs += 1
        return super()._run(MicrobatchId(microbatch.feeder, self.runs, microbatch.number), x)


class TakesTheNewestInput(RunningPart):
    """Runs forward again on another microbatch's input."""

    def backward(self, microbatch: MicrobatchId, gradient: Tensor) -> Tensor | None:
        self._held[microbatch].x = self._held[max(self._held)].x
        return super().backward(microbatch, gradient)


def loop_of(kind: type[StageLoop]) -> Callable[[LocalStage], None]:
    def plant(stage: LocalStage) -> None:
        stage.loop = kind(QUOTA, is_last=stage.part.part.is_last, grace_s=1.0)

    return plant


def part_of(kind: type[RunningPart]) -> Callable[[LocalStage], None]:
    def plant(stage: LocalStage) -> None:
        stage.part.__class__ = kind

    return plant


BUGS = {
    **{kind.__name__: loop_of(kind) for kind in (Hasty, Backwards, Early, Unlimited)},
    **{
        kind.__name__: part_of(kind)
        for kind in (Unweighed, WeighedByMicrobatches, DrawsAnew, TakesTheNewestInput)
    },
}


def is_noticed(plants: dict[int, Callable[[LocalStage], None]]) -> bool:
    """Whether the run ends by an assertion, or by other bits than the plain loop has."""
    model, data = built(layers(dropout=0.3)), batches(3 * QUOTA, ragged=True)
    line, stages = line_of(model, CUTS, QUOTA, seed=SEED, window=QUOTA + 2)
    for index, plant in plants.items():
        plant(stages[index])
    plain = Plain(model, QUOTA, cuts=CUTS, seed=SEED)
    for at in range(0, len(data), QUOTA):
        plain.step(data[at : at + QUOTA])
    try:
        list(line.run(data))
    except (AssertionError, KeyError):
        return True
    return not same_bits(parameters_of(stages), plain.model.state_dict())


@pytest.mark.parametrize("name", BUGS)
def test_every_planted_bug_is_noticed(name: str) -> None:
    # Of the youngest and the oldest there are only where many wait, in front of the first stage.
    assert is_noticed({0 if name == "Backwards" else 1: BUGS[name]})


def test_nothing_is_noticed_where_nothing_is_wrong() -> None:
    assert not is_noticed({})
