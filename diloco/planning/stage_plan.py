"""How to cut a model that no peer can hold: how many stages, microbatches and replicas, and what it costs.

Pure decisions over the formula of `stages` and the predictions of `predict`. All peers are alike. The fewest
stages whose largest fits a peer are taken; of the codecs the one that loses least and fills the pipeline with
steps of a bearable size; for the exchange of each stage what `advice` recommends for the share of the line
that boundaries leave. The optimizer's own step is left out of times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from diloco.errors import UserError
from diloco.methods.cost import element_bytes, state_vectors
from diloco.methods.presets import PRESETS
from diloco.pipeline.cuts import Part
from diloco.planning.advice import GOOD, Candidate, ranked, recommended
from diloco.planning.predict import UniformSwarm
from diloco.planning.stages import StagedModel, StageTimes
from transport.limits import LIMITS

CODECS = ("bf16", "int8", "int4")
"""Of boundaries, from what loses least."""
MAX_STEP_TOKENS = 2**21
"""Of a line's inner step: more than large models want fills the pipeline, and is no help."""
LEAST_REPLICAS = 2
"""Of a stage: the last one takes the stage's state with it."""
MICROBATCH_TOKENS = 4096
_KEPT_BYTES = 4.0
"""Of a value of an input that waits for its backward: what came is kept as it was decoded."""
_TOKEN_BYTES = 4
"""Of a target, from the feeder to the last stage."""
_VOCABULARY = 256
"""Of the built-in model: bytes."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, the peers that shall train it, and what is settled already."""

    sizes: tuple[float, ...]
    """Parameters of each layer: the cut is between them."""
    width: int
    """Values of a token that cross a boundary."""
    peers: int
    rate_bps: float
    """Bits per second that exchanges get, each way."""
    rtt_s: float
    flops: float
    """Floating-point operations per second that a peer reaches."""
    memory_bytes: float
    """Of a peer's device."""
    microbatch_tokens: int = MICROBATCH_TOKENS
    stages: int | None = None
    cuts: tuple[int, ...] = ()
    """First layers of the later ones; none: equally many layers."""
    recompute: bool = True
    codecs: tuple[str, ...] = CODECS
    """Of boundaries, from what loses least."""
    step_tokens: float | None = None
    """Of a line's inner step; None: what fills the pipeline."""

    @property
    def num_parameters(self) -> float:
        return sum(self.sizes)

    @property
    def num_layers(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A cut, and what it gives. Of one stage it is a model that a peer can hold."""

    wanted: Wanted
    codec: str
    stages: int
    num_microbatches: int
    """G, in an inner step of a line."""
    times: StageTimes
    """Of the largest stage."""
    model: StagedModel
    """With all stages as large as the largest."""
    exchange: Candidate
    """Of a stage's replicas."""

    @property
    def lines(self) -> int:
        """Replicas that every stage has."""
        return self.wanted.peers // self.stages

    @property
    def with_one_more(self) -> int:
        """Stages that have a replica more than others."""
        return self.wanted.peers % self.stages

    @property
    def layers(self) -> list[range]:
        return _layers(self.wanted, self.stages)

    @property
    def cuts(self) -> list[int]:
        return [layers.start for layers in self.layers[1:]]

    @property
    def stage_parameters(self) -> float:
        """Of the largest stage."""
        return self.model.num_parameters / self.stages

    @property
    def window(self) -> int:
        """Microbatches of a feeder that are under way: of a step that is drained never more than it has."""
        return min(self.times.window, self.num_microbatches)

    @property
    def step_s(self) -> float:
        return self.times.inner_step_s(self.num_microbatches)

    @property
    def utilization(self) -> float:
        """U, of a replica of the largest stage, exchanges apart."""
        return self.times.utilization(self.num_microbatches)

    @property
    def mean_utilization(self) -> float:
        """Of all replicas of a line, and with what they wait for exchanges."""
        smaller = self.wanted.num_parameters / self.model.num_parameters
        return self.utilization * smaller * self.exchange.prediction.utilization

    @property
    def tokens_per_s(self) -> float:
        """Of the run."""
        tokens = self.num_microbatches * self.wanted.microbatch_tokens
        return self.lines * tokens / self.step_s * self.exchange.prediction.utilization

    @property
    def memory(self) -> tuple[float, float]:
        """Bytes on the device and on the host of a replica of the largest stage."""
        at_least = max(LEAST_REPLICAS, self.lines)
        kept, sent = _KEPT_BYTES, wire_bytes(self.codec)
        return self.model.memory(self.exchange.method, at_least, self.window, kept, sent)

    @property
    def boundary_bytes_per_step(self) -> float:
        """That a middle replica sends: activations up, gradients down. Of two stages each sends one way."""
        ways = min(2, self.stages - 1)
        return ways * self.num_microbatches * self.model.boundary_bytes(wire_bytes(self.codec))

    @property
    def exchange_bytes_per_step(self) -> float:
        """That a replica sends to those of its stage, on average over steps."""
        return self.exchange.prediction.bytes_per_period / self.exchange.method.sync_every

    @property
    def bytes_per_day(self) -> dict[str, float]:
        """That a replica sends, by purpose; a feeder sends targets beside."""
        steps = DAY_S / self.step_s * self.exchange.prediction.utilization
        targets = self.num_microbatches * self.wanted.microbatch_tokens * _TOKEN_BYTES
        each = {
            "boundaries": self.boundary_bytes_per_step,
            "exchanges": self.exchange_bytes_per_step,
            "targets": targets if self.stages > 1 else 0.0,
        }
        return {purpose: steps * size for purpose, size in each.items()}

    @property
    def joiner_bytes(self) -> float:
        """That a replica fetches when it comes: the outer state of the largest stage, in fp32."""
        return 4 * self.stage_parameters * state_vectors(self.exchange.method)


def wire_bytes(codec: str) -> float:
    """Bytes per value of a boundary."""
    return element_bytes(codec.removesuffix("_rotated"), PRESETS["diloco"])


def decoder_sizes(blocks: int, heads: int, width: int) -> tuple[float, ...]:
    """Parameters of each layer of the built-in model when it is cut: embedding, blocks, head. A test holds
    them to the model."""
    inside = 32 * math.ceil(width * 8 / 3 / 32)
    block = 4 * width**2 + 3 * width * inside + 2 * width + 2 * (width // heads)
    return (_VOCABULARY * width, *[block] * blocks, (_VOCABULARY + 1) * width)


def plans(wanted: Wanted) -> list[StagePlan]:
    """For each codec the fewest stages of which each fits a peer. Raises `UserError` if none do, and if peers
    are too few for one replica of each."""
    return [_fitting(wanted, codec) for codec in wanted.codecs]


def best(rows: list[StagePlan]) -> StagePlan:
    """The one that loses least of those that are busy enough; else the busiest."""
    return next((row for row in rows if row.utilization >= GOOD), max(rows, key=lambda row: row.utilization))


def memory_for_two(row: StagePlan) -> float:
    """Bytes of device memory with which the peers there are would be two replicas of each of fewer stages;
    infinite if no memory is enough."""
    wanted, stages = row.wanted, row.wanted.peers // LEAST_REPLICAS
    if stages < 2:
        return math.inf
    return _planned(replace(wanted, memory_bytes=0.0), row.codec, min(stages, wanted.num_layers)).memory[0]


def _fitting(wanted: Wanted, codec: str) -> StagePlan:
    most = min(wanted.num_layers, LIMITS.stages)
    for stages in range(1, most + 1) if wanted.stages is None else (wanted.stages,):
        if 16 * _largest(wanted, stages) > wanted.memory_bytes:
            continue
        row = _planned(wanted, codec, stages)
        if row.memory[0] > wanted.memory_bytes:
            continue
        if row.stages > wanted.peers:
            raise UserError(
                f"the model takes {stages} stages of {_gigabytes(wanted.memory_bytes)}, one peer each at"
                f" least, and there are {wanted.peers} peers: say more --peers or more --memory"
            )
        return row
    stages = wanted.stages or most
    needed = _planned(wanted, codec, stages).memory[0]
    raise UserError(
        f"{stages} stages take {_gigabytes(needed)} of each peer with {codec} boundaries and --memory is"
        f" {_gigabytes(wanted.memory_bytes)}"
        + (
            ""
            if wanted.stages
            else f": no more than {most} stages are possible of {wanted.num_layers} layers"
        )
    )


def _planned(wanted: Wanted, codec: str, stages: int) -> StagePlan:
    """What so many stages give, whether they fit or not."""
    largest = _largest(wanted, stages)
    tokens, flops, recompute = wanted.microbatch_tokens, wanted.flops, wanted.recompute
    model = StagedModel(stages * largest, wanted.width, stages, tokens, flops, recompute)
    times = model.times(wire_bytes(codec), wanted.rate_bps, wanted.rtt_s)
    count = _microbatches(wanted, times)
    step_s = times.inner_step_s(count)
    left = wanted.rate_bps * (1 - count * times.line_s / step_s)
    replicas = max(LEAST_REPLICAS, wanted.peers // stages)
    swarm = UniformSwarm(replicas, left, left, wanted.rtt_s, step_s)
    rows = ranked(largest, max(map(len, _layers(wanted, stages))), swarm)
    window = min(times.window, count)

    def device_bytes(row: Candidate) -> float:
        return model.memory(row.method, replicas, window, _KEPT_BYTES, wire_bytes(codec))[0]

    fitting = [row for row in rows if device_bytes(row) <= wanted.memory_bytes]
    chosen, _ = recommended(fitting or [min(rows, key=device_bytes)])
    return StagePlan(wanted, codec, stages, count, times, model, chosen)


def _microbatches(wanted: Wanted, times: StageTimes) -> int:
    """Of an inner step: so many that replicas are busy enough, or as many as are bearable."""
    if wanted.step_tokens is not None:
        return max(1, round(wanted.step_tokens / wanted.microbatch_tokens))
    most = max(1, MAX_STEP_TOKENS // wanted.microbatch_tokens)
    return min(times.microbatches_for(GOOD) or most, most)


def _layers(wanted: Wanted, stages: int) -> list[range]:
    cuts = wanted.cuts if stages == wanted.stages else ()
    return Part(0, stages, cuts).all_layers([round(size) for size in wanted.sizes])


def _largest(wanted: Wanted, stages: int) -> float:
    """Parameters of the largest stage."""
    return max(sum(wanted.sizes[layer] for layer in layers) for layers in _layers(wanted, stages))


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.0f} GB"
