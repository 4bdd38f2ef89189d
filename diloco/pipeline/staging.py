"""`diloco.stage`: a part and its optimizer attached to a swarm, ready to be served with microbatches.

Owns what is put together, and the refusal of a part that is not the run's. What it does is `serving`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from diloco.checkpoints.own import Stateful
from diloco.errors import PipelineError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.boundary_codecs import BoundaryCodec
from diloco.pipeline.cuts import Part
from diloco.pipeline.part import Loss, RunningPart
from diloco.pipeline.serving import Stage
from diloco.pipeline.stage_loop import StageLoop
from diloco.pipeline.targets import targets_bytes
from diloco.settings import RunSettings
from diloco.swarm.swarm import Swarm
from diloco.training.fitting import require_stepped
from diloco.training.outer import Outer
from diloco.training.stepping import optimizers_of
from peers.protocol.placing import Wiring
from peers.routing.state import MAX_KEPT, StreamTerms
from transport.limits import LIMITS


def stage(
    part_model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    swarm: Swarm,
    *,
    part: Part,
    boundary: tuple[Boundary | None, Boundary | None],
    loss: Loss | None = None,
    apply: Callable[[], object] | None = None,
    targets_shape: tuple[int, ...] | None = None,
    timeout_s: float = 600.0,
    on_event: Callable[[object], None] | None = None,
    keep: Mapping[str, Stateful] | None = None,
) -> Stage:
    """Bring one stage's module to the swarm's state and train it there: `Stage.run` takes microbatches at
    stage 0 and nothing at the others. ``part`` is what `part_of` says for the stage that
    `Swarm.ask_stage` was told; ``boundary`` is what lies below and above (`Part.ends`), and the last stage
    has the ``loss``. An inner step is of ``[pipeline] quota`` microbatches; ``apply`` steps by the gradients
    that are there, where that is more than the steps of the optimizers. Targets are integers, by default one
    for each row of a boundary.

    The rest is as for `attach`, and so is what is raised; `PipelineError` for a part that is not the run's or
    cannot be trained."""
    settings = swarm.settings
    _require_of(part, settings)
    known = boundary[0] or boundary[1]
    if targets_shape is None:
        targets_shape = known.shape[:-1] if known is not None else ()
    running = _running(part, part_model, boundary, loss, settings, targets_shape)
    optimizers = optimizers_of(optimizer)
    require_stepped(part_model, optimizers)
    below, above = _codec(boundary[0], settings), _codec(boundary[1], settings)
    events = _Events(on_event)
    outer = Outer(
        part_model,
        optimizers,
        swarm,
        None,
        events.hear,
        keep,
        stage=part.stage,
        stream=_terms(part, settings, below, above, targets_shape),
        edges=(str(boundary[0] or ""), str(boundary[1] or "")),
    )
    outer.detach()  # the stage says itself when a step is over, and of how many tokens
    outer.enter(timeout_s)
    made = Stage(
        outer,
        swarm,
        running,
        _loop(part, settings),
        takes=below,
        gives=above,
        targets_shape=targets_shape,
        apply=apply or (lambda: [each.step() for each in optimizers]),
    )
    events.hand_over(made)
    return made


class _Events:
    """What `Outer` hears from the swarm: what is about microbatches goes to the stage, once there is one."""

    def __init__(self, on_event: Callable[[object], None] | None) -> None:
        self._on_event = on_event
        self._early: list[object] = []
        self._stage: Stage | None = None

    def hear(self, event: object) -> None:
        """One event."""
        if self._stage is None:
            self._early.append(event)
        if (self._stage is None or not self._stage.hear_in_hook(event)) and self._on_event is not None:
            self._on_event(event)

    def hand_over(self, made: Stage) -> None:
        """There is one: it is told what came before."""
        for event in self._early:
            made.hear_in_hook(event)
        self._early.clear()
        self._stage = made


def part_of(settings: RunSettings, stage: int) -> Part:
    """The part of a run's model that a stage is."""
    return Part(stage, settings.pipeline.stages, settings.pipeline.cuts)


def _running(
    part: Part,
    model: nn.Module,
    boundary: tuple[Boundary | None, Boundary | None],
    loss: Loss | None,
    settings: RunSettings,
    targets_shape: tuple[int, ...],
) -> RunningPart:
    pipeline = settings.pipeline
    return RunningPart(
        part,
        model,
        takes=boundary[0],
        gives=boundary[1],
        loss=loss,
        nominal_tokens=pipeline.quota * math.prod(targets_shape),
        seed=settings.run.seed,
        recompute=pipeline.recompute,
        split_backward=pipeline.split_backward,
    )


def _loop(part: Part, settings: RunSettings) -> StageLoop:
    return StageLoop(
        settings.pipeline.quota,
        is_last=part.is_last,
        grace_s=settings.run.failure_timeout_s,
        split_backward=settings.pipeline.split_backward,
        ends_early=Wiring(settings.pipeline.wiring) is not Wiring.LINES,
    )


def _require_of(part: Part, settings: RunSettings) -> None:
    if part != part_of(settings, part.stage):
        wanted = settings.pipeline
        raise PipelineError(
            f"the part is stage {part.stage} of {part.stages} with cuts {list(part.cuts)}, and the run has"
            f" {wanted.stages} stages with cuts {list(wanted.cuts)}: build it from part_of(swarm.settings, N)"
        )


def _codec(boundary: Boundary | None, settings: RunSettings) -> BoundaryCodec | None:
    if boundary is None:
        return None
    formats = settings.pipeline
    return BoundaryCodec(
        boundary, formats.activations, formats.gradients or formats.activations, seed=settings.run.seed
    )


def _terms(
    part: Part,
    settings: RunSettings,
    below: BoundaryCodec | None,
    above: BoundaryCodec | None,
    targets_shape: tuple[int, ...],
) -> StreamTerms:
    pipeline = settings.pipeline
    return StreamTerms(
        stage=part.stage,
        stages=part.stages,
        input_bytes=below.activation_bytes if below else 0,
        output_bytes=above.gradient_bytes if above else 0,  # what comes back
        targets_bytes=targets_bytes(targets_shape),
        window=pipeline.window or min(pipeline.quota, MAX_KEPT),
        piece_bytes=LIMITS.payload_bytes,
        patience_s=2 * settings.run.failure_timeout_s,
        wiring=Wiring(pipeline.wiring),
        seed=settings.run.seed,
        quota=pipeline.quota,
    )
