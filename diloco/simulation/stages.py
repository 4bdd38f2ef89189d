"""What the stages of a simulated model are: how large, how long a microbatch takes, what crosses a boundary.

Pure arithmetic from a scenario: the layers of the model are all alike, a stage's microbatch takes as long as
its share of the parameters, and what is encoded has the bytes that `methods.wire_formats` counts. Draws
nothing, and knows no peers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diloco.methods.wire_formats import row_bytes
from diloco.pipeline.cuts import Part
from diloco.simulation.scenario import Scenario
from peers.protocol.placing import Wiring
from transport.limits import Limits

_TARGET_BYTES = 4
"""Of a token, from the feeder to the last stage."""
_MAX_WINDOW = 4096
_PATIENCE_TIMEOUTS = 2
"""As `diloco.pipeline.staging` has it."""


@dataclass(frozen=True, slots=True)
class StageShape:
    """One stage, and what a replica of it does with a microbatch."""

    stage: int
    stages: int
    num_parameters: int
    num_layers: int
    weight: float
    """Its parameters over those of a stage of mean size: so many times as long a microbatch takes."""
    forward_share: float
    """Of a microbatch's time, forward takes so much, and as much the gradients of weights, if split."""
    split_backward: bool
    recompute: bool
    quota: int
    window: int
    tokens: int
    """Of a microbatch."""
    activation_bytes: int
    gradient_bytes: int
    grace_s: float
    patience_s: float
    wiring: Wiring
    seed: int

    @property
    def is_last(self) -> bool:
        return self.stage == self.stages - 1

    @property
    def targets_bytes(self) -> int:
        return _TARGET_BYTES * self.tokens

    @property
    def stream_bytes(self) -> int:
        """That one microbatch takes on all boundaries and ways, its targets included."""
        return (self.stages - 1) * (self.activation_bytes + self.gradient_bytes) + self.targets_bytes


def shapes_of(scenario: Scenario) -> list[StageShape]:
    """Every stage of a model that is cut; none of one that is not."""
    settings, model = scenario.settings(), scenario.timed_model()
    pipeline = settings.pipeline
    if pipeline.stages == 1 or model is None or model.width is None:
        return []
    sizes = [model.parameters / model.num_layers(pipeline.stages)] * model.num_layers(pipeline.stages)
    layers = Part(0, pipeline.stages, pipeline.cuts).all_layers([max(1, round(size)) for size in sizes])
    tokens = pipeline.microbatch * model.context
    gradients = pipeline.gradients or pipeline.activations
    timeout_s = settings.run.failure_timeout_s
    return [
        StageShape(
            stage=stage,
            stages=pipeline.stages,
            num_parameters=round(sum(sizes[layer] for layer in mine)),
            num_layers=len(mine),
            weight=len(mine) * pipeline.stages / len(sizes),
            forward_share=2 / scenario.flops_per_parameter,
            split_backward=pipeline.split_backward,
            recompute=pipeline.recompute,
            quota=pipeline.quota,
            window=pipeline.window or min(pipeline.quota, _MAX_WINDOW),
            tokens=tokens,
            activation_bytes=tokens * row_bytes(pipeline.activations, model.width),
            gradient_bytes=tokens * row_bytes(gradients, model.width),
            grace_s=timeout_s,
            patience_s=_PATIENCE_TIMEOUTS * timeout_s,
            wiring=Wiring(pipeline.wiring),
            seed=settings.run.seed,
        )
        for stage, mine in enumerate(layers)
    ]


def with_streams(limits: Limits, shape: StageShape) -> Limits:
    """Bounds with which a boundary is one frame: simulated lines carry a stream's bytes as they come, so
    smaller pieces would cost events and change next to nothing. As much is kept for who has not acknowledged
    it as the other end grants."""
    largest = max(limits.payload_bytes, shape.activation_bytes, shape.gradient_bytes, shape.targets_bytes)
    window = max(limits.stream_window_bytes, 4 * largest)
    return replace(limits, payload_bytes=largest, stream_window_bytes=window)
