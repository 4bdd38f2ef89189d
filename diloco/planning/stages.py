"""What a model in stages costs by formula: how busy its replicas are, how many microbatches must be under
way, and the memory of one.

Owns the arithmetic of one line of equal replicas that are joined by access lines, and drained at the end of
every inner step. Needs no torch, and knows nothing of choosing (`advice`).

A test holds utilization against a model that moves every microbatch event by event, over lines that send in
the order of asking, and with room for all microbatches. Where a line is busy for at most 60 % of the time
that a replica computes, the two are the same. Where both are about equally busy (60 to 140 %) they get into
each other's way, which the formula does not know: it is up to 12 % too high. Where lines are the limit it is
right to 5 % for steps of 32 microbatches and more, and too low for shorter ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from diloco.methods.spec import Method
from diloco.planning.predict import memory

_WINDOW_FACTOR = 1.5
"""Over the microbatches that are under way if none ever waits, which is too few since some do."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """One microbatch at one of ``stages`` equal stages, in seconds. A middle replica's uplink carries both
    its activations and its gradients."""

    stages: int
    forward_s: float
    backward_s: float
    """With the forward that is run again, if it is."""
    latency_s: float
    """One way between neighbours."""
    activation_s: float
    """That a boundary's activation takes on an access line."""
    gradient_s: float
    """The same of a gradient."""
    step_s: float = 0.0
    """Of the optimizer, and what it waits for, in each inner step."""

    @property
    def compute_s(self) -> float:
        """t = forward and backward."""
        return self.forward_s + self.backward_s

    @property
    def line_s(self) -> float:
        """n: what the busiest line needs of a microbatch. Of two stages each sends one way only."""
        if self.stages == 1:
            return 0.0
        if self.stages == 2:
            return max(self.activation_s, self.gradient_s)
        return self.activation_s + self.gradient_s

    @property
    def period_s(self) -> float:
        """tau = max(t, n): between two microbatches, once all stages are at work."""
        return max(self.compute_s, self.line_s)

    @property
    def alone_s(self) -> float:
        """P = S t + (S - 1) (2 L + n'): one microbatch through all stages and back, alone; n' are both ways
        on a line."""
        hop_s = 2 * self.latency_s + self.activation_s + self.gradient_s
        return self.stages * self.compute_s + (self.stages - 1) * hop_s

    @property
    def window(self) -> int:
        """How many microbatches should be able to be under way: 1.5 P / tau. It costs less than 1 % where
        computing is clearly the limit, and up to a sixth where lines are as busy as replicas."""
        return math.ceil(_WINDOW_FACTOR * self.alone_s / self.period_s)

    def utilization(self, num_microbatches: int) -> float:
        """U = G t / ((G - 1) tau + P + o): the share of the time of an inner step of G microbatches in which
        a replica computes, with a window that is wide enough. Without distance and lines it is
        G / (G + S - 1), as of GPipe (arXiv 1811.06965) and 1F1B."""
        return num_microbatches * self.compute_s / self.inner_step_s(num_microbatches)

    def inner_step_s(self, num_microbatches: int) -> float:
        """Of so many microbatches, from the first forward to the end of the optimizer's step."""
        return (num_microbatches - 1) * self.period_s + self.alone_s + self.step_s

    def microbatches_for(self, utilization: float) -> int | None:
        """The fewest in an inner step with which a replica computes for such a share of the time; None if
        there is none, since its line cannot carry what it computes."""
        gained_s = self.compute_s - utilization * self.period_s
        if gained_s <= 0:
            return None
        return max(1, math.ceil(utilization * (self.alone_s - self.period_s + self.step_s) / gained_s))

    def utilization_split(self, num_microbatches: int) -> float:
        """At most, if backward is split into the gradient of the input, which goes down at once, and that of
        the weights, as long as a forward, which fills the waits (Zero Bubble, arXiv 2401.10241)."""
        first_s = self.compute_s - self.forward_s
        alone_s = self.alone_s - self.stages * self.forward_s
        last_s = alone_s + (num_microbatches - 1) * max(first_s, self.line_s) + self.forward_s
        busy_s = num_microbatches * self.compute_s
        return busy_s / (max(busy_s, last_s) + self.step_s)

    @property
    def utilization_undrained(self) -> float:
        """t / tau: at most, if replicas step with microbatches in flight and so with gradients up to
        ``stages`` steps old (PipeDream, arXiv 1806.03377)."""
        return self.compute_s / self.period_s


@dataclass(frozen=True, slots=True)
class StagedModel:
    """A model in ``stages`` of equally many parameters, and the replicas that train it on microbatches of
    ``tokens`` tokens, ``flops`` floating-point operations a second each."""

    num_parameters: float
    width: int
    """Values of a token that cross a boundary."""
    stages: int
    tokens: int
    flops: float
    recompute: bool = True

    @property
    def compute_s(self) -> float:
        """t: 2 operations per parameter and token forward, 4 backward, 2 more to run forward again."""
        return sum(self._forward_backward_s)

    @property
    def _forward_backward_s(self) -> tuple[float, float]:
        per_two = self.num_parameters / self.stages * self.tokens * 2 / self.flops
        return per_two, per_two * (3 if self.recompute else 2)

    def boundary_bytes(self, bytes_per_value: float) -> float:
        """Of one microbatch's activation or gradient."""
        return self.tokens * self.width * bytes_per_value

    def times(self, bytes_per_value: float, rate_bps: float, rtt_s: float, step_s: float = 0.0) -> StageTimes:
        """Over access lines of ``rate_bps`` bits per second each way, with ``rtt_s`` between neighbours."""
        line_s = 8 * self.boundary_bytes(bytes_per_value) / rate_bps
        forward_s, backward_s = self._forward_backward_s
        return StageTimes(self.stages, forward_s, backward_s, rtt_s / 2, line_s, line_s, step_s)

    def least_rate_bps(self, bytes_per_value: float) -> float:
        """The rate of the lines, in bits per second, at which a middle replica's line is as busy as the
        replica: 16 T d b / t. With less, replicas wait however many microbatches a step has. It falls with
        the width of layers (SWARM, arXiv 2301.11913, calls that the square-cube law)."""
        return 16 * self.boundary_bytes(bytes_per_value) / self.compute_s

    def memory(
        self,
        method: Method,
        replicas: int,
        window: int,
        kept_bytes_per_value: float,
        sent_bytes_per_value: float,
    ) -> tuple[float, float]:
        """Bytes on the device and on the host of a replica of a middle stage, one of ``replicas``: what a
        worker has of a model of the stage's size; on the device the inputs of a ``window`` of microbatches,
        on the host what it sent up of them, encoded, until its gradient is back. What one microbatch's
        forward and backward need besides is left out, and without recompute all that is kept of the
        others."""
        device, host = memory(method, self.num_parameters / self.stages, replicas)
        inputs = window * self.boundary_bytes(kept_bytes_per_value)
        return device + inputs, host + window * self.boundary_bytes(sent_bytes_per_value)
