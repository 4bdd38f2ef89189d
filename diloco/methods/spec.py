"""A method as a composition: which parts it is made of, and which parts cannot work together.

Owns the fields, their bounds and reasons. Refuses to run anything: `loop` schedules, `outer` steps, `codecs`
encode. Needs no torch, so that a coordinator can check settings. The named compositions are in `methods`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from diloco.errors import MethodError
from diloco.methods.outer_optimizers import OUTER_OPTIMIZERS
from diloco.methods.ramps import Ramp, ramp_within, values
from diloco.methods.registry import name_in
from diloco.methods.wire_formats import TOP_K_CHUNK, WIRE_FORMATS
from transport.limits import LIMITS


class Method(BaseModel):
    """One method. Equal methods do the same. Raises `MethodError` for a combination that cannot work."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str
    paper: str = ""
    """Title and arXiv id."""

    # Schedule: when each fragment starts and lands.
    sync_every: int = Field(
        ge=1,
        le=10**6,
        description="Inner steps between exchanges of a fragment (H): more save traffic, too many let"
        " workers drift.",
    )
    delay: int = Field(
        default=0,
        ge=0,
        le=10**6,
        description="Inner steps that a result may take to come (tau) while training goes on; 0 waits for"
        " it.",
    )
    num_fragments: int = Field(
        default=1,
        ge=1,
        le=LIMITS.fragments,
        description="Parts of the model exchanged in rounds of their own; more lower the peaks of traffic.",
    )
    fragment_pattern: Literal["balanced", "sequential", "strided", "packed", "modules"] = Field(
        default="balanced",
        description="How tensors become fragments: balanced runs, sequential or strided layers, packed by"
        " size,"
        " or by fragment_modules.",
    )
    fragment_modules: tuple[str, ...] = Field(
        default=(),
        description="One entry of module names, separated by commas, per fragment; for the pattern modules.",
    )

    # Payload: what of the pseudo-gradient is sent.
    projection: Literal["none", "random_mask", "low_rank", "dct"] = Field(
        default="none",
        description="What is sent of a vector: all, a random subset (same seed, no indices), low-rank"
        " factors, or its DCT.",
    )
    mask_one_in: int = Field(
        default=200, ge=1, le=10**6, description="A random mask sends one of so many elements."
    )
    rank: int = Field(
        default=8, ge=1, le=4096, description="Rank of low-rank factors, the largest if it adapts."
    )
    rank_share: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Rank as a share of each matrix's shorter side, in the place of rank; 0 takes rank.",
    )
    adapt: Literal["none", "lgreco", "dilocox"] = Field(
        default="none",
        description="Who sets ranks: none keeps them; lgreco shares a budget among matrices; dilocox"
        " shrinks rank and H.",
    )

    # Codec, and what makes up for it.
    codec: Annotated[str, name_in(WIRE_FORMATS)] = Field(
        default="fp32", description=f"Numbers of a contribution: {', '.join(WIRE_FORMATS)}."
    )
    mean_codec: Annotated[str, name_in(WIRE_FORMATS, "same")] = Field(
        default="same",
        description="Numbers of the mean that comes back; same means that of contributions (topk: all that"
        " they kept).",
    )
    keep: int = Field(
        default=64,
        ge=1,
        le=TOP_K_CHUNK,
        description=f"Of each {TOP_K_CHUNK} elements, how many topk sends.",
    )
    value_bits: Literal[2, 4, 8, 16] = Field(default=8, description="Bits of a value that topk sends.")
    error_feedback: Literal["none", "ef14", "ef21", "econtrol"] = Field(
        default="none", description="How what compression dropped is sent later."
    )
    feedback_decay: float = Field(
        default=1.0, ge=0.0, le=1.0, description="What is left of ef14's residual each time (beta)."
    )
    feedback_share: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Share of what was sent that leaves ef14's residual, or econtrol's eta.",
    )

    # Group: who exchanges with whom.
    group: Literal["all", "pair", "grid"] = Field(
        default="all",
        description="Who exchanges: all members, random pairs, or lines of a random grid (gossip).",
    )
    group_size: int = Field(default=2, ge=2, le=64, description="Members of a line of the grid.")
    gamma: float = Field(
        default=1.0, ge=0.0, le=2.0, description="How strongly a gossip group pulls its members together."
    )
    quorum: int = Field(
        default=0,
        ge=0,
        le=LIMITS.members,
        description="Contributions that open a round; 0 waits for all (for the run's grace_s at most).",
    )
    quorum_grace_s: float = Field(
        default=0.0, ge=0.0, le=3600.0, description="Seconds that a round with a quorum waits for more."
    )
    weights: Literal["tokens", "equal", "tokens_rate"] = Field(
        default="tokens",
        description="Weight of a contribution: its tokens, all the same, or tokens times tokens per step.",
    )
    pace: Literal["same", "by_speed"] = Field(
        default="same",
        description="H of a worker: the same for all, or less for slow ones so that all return together.",
    )

    # Outer optimizer.
    outer: Annotated[str, name_in(OUTER_OPTIMIZERS)] = Field(
        default="nesterov",
        description="Outer optimizer, on the mean pseudo-gradient; sgd with lr 1 is averaging.",
    )
    outer_lr: Annotated[Ramp, ramp_within(0.0, 10.0, low_is_in=False, high_is_in=True)] = Field(
        default=0.7,
        description="Learning rate of the outer optimizer, or points of it over outer steps:"
        " [[0, 0.1], [20, 0.7]].",
    )
    outer_momentum: Annotated[Ramp, ramp_within(0.0, 1.0, low_is_in=True, high_is_in=False)] = Field(
        default=0.0,
        description="Outer momentum (adam: beta1), or points of it; below 1, or steps grow forever.",
    )
    outer_beta2: float = Field(default=0.95, ge=0.0, lt=1.0, description="Second decay of adam.")
    outer_epsilon: float = Field(
        default=0.1, gt=0.0, le=10.0, description="What adam adds to the denominator; large ones are stable."
    )
    outer_every: int = Field(
        default=1, ge=1, le=10**4, description="Contributions between two momentum steps of delayed_nesterov."
    )
    outer_clip: float = Field(
        default=0.0,
        ge=0.0,
        le=1e9,
        description="Largest magnitude of an element of the momentum; 0 for none.",
    )
    outer_penalty: float = Field(
        default=1.0, ge=1.0, le=1e6, description="What a stale pseudo-gradient is divided by (CO2's Lambda)."
    )

    # Merge, and the inner side.
    merge: Literal["replace", "mix", "carry", "eager"] = Field(
        default="replace",
        description="How a result meets local steps made since: replace them, mix, carry them on top, or"
        " eager.",
    )
    alpha: float = Field(default=0.5, ge=0.0, le=1.0, description="Share of local weights in the merge mix.")
    inner: Literal["adamw", "sgd", "muon"] = Field(
        default="adamw", description="Inner optimizer of the built-in recipe."
    )
    moments_every: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Average AdamW's moments too: every so many rounds, the second ones at"
        " half that rate; 0 keeps them local.",
    )
    buffers: Literal["mean", "local"] = Field(
        default="mean",
        description="Float buffers (BatchNorm's statistics): mean averages them once, after the last round;"
        " local: each its own, as with gossip.",
    )

    @field_validator("fragment_modules", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _can_work(self) -> Method:
        problem = next(_problems(self), None)
        if problem:
            raise ValueError(f"method {self.name}: {problem}")
        return self

    @property
    def gossips(self) -> bool:
        """Groups average without a commit, so that replicas stay slightly different."""
        return self.group != "all"

    @property
    def buffers_fragment(self) -> int:
        """Number of the fragment of a model's float buffers, if it has such and they are averaged."""
        return self.num_fragments + (2 if self.moments_every else 0)

    @property
    def tells_inner_lr(self) -> bool:
        """A contribution has one number more, its author's inner learning rate."""
        return OUTER_OPTIMIZERS[self.outer].follows_inner_lr

    @property
    def exchanges_per_step(self) -> int:
        """Exchanges of a fragment, one after the other, that make one outer step: low-rank factors are two,
        since the second is about the mean of the first."""
        return 2 if self.projection == "low_rank" else 1

    @property
    def offers_before_landing(self) -> bool:
        """A result lands at the very step of the next offer, and wipes out what that offers."""
        return self.delay == self.sync_every and self.merge != "carry"

    def replaced(self, **overrides: Any) -> Method:
        """This method with single parts replaced. Raises `MethodError`."""
        return make_method({**self.model_dump(), **overrides})


def make_method(fields: dict[str, Any]) -> Method:
    """A method of these fields. Raises `MethodError` with one line."""
    try:
        return Method(**fields)
    except ValidationError as error:
        raise MethodError(_first_line(error)) from None


METHOD_FIELDS = tuple(name for name in Method.model_fields if name not in ("name", "paper"))
"""What a preset can be overridden with, field by field."""


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    reason = str(first["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in first["loc"])
    return (
        reason
        if first["type"] == "value_error"
        else f"{where} = {first['input']!r}: {reason[:1].lower()}{reason[1:]}"
    )


def _problems(m: Method) -> Any:
    """Why this combination cannot work."""
    yield from _schedule_problems(m)
    yield from _compression_problems(m)
    yield from _group_problems(m)
    outer = OUTER_OPTIMIZERS[m.outer]
    momentum = max(values(m.outer_momentum))
    if outer.needs_momentum and momentum == 0.0:
        yield f'outer = "{m.outer}" needs an outer_momentum above 0: set outer = "sgd" for plain averaging'
    if "momentum" not in outer.options and momentum:
        yield (
            f'outer = "{m.outer}" has no momentum: set outer = "heavy_ball" or "nesterov", or'
            f" outer_momentum = 0"
        )
    if m.tells_inner_lr:
        yield from _inner_lr_problems(m)
    if m.outer_clip and "clip" not in outer.options:
        yield f'outer_clip clips the momentum, which outer = "{m.outer}" does not have'
    if m.outer == "adam" and isinstance(m.outer_momentum, tuple):
        yield 'outer = "adam" corrects its bias for one outer_momentum: give a number'
    returned = m.codec if m.mean_codec == "same" else m.mean_codec
    if m.moments_every and not {m.codec, returned} <= {"fp32", "bf16"}:
        yield "moments_every sends second moments, which only fp32 and bf16 keep: set codec and mean_codec"
    if m.moments_every and m.inner != "adamw":
        yield f'moments_every averages the moments of AdamW, but inner is "{m.inner}"'
    if m.moments_every and (m.delay or m.gossips or m.num_fragments > 1 or m.projection != "none"):
        yield "moments_every works with one fragment, without delay, projection and gossip"
    if m.buffers == "mean" and m.gossips:
        yield 'buffers = "mean" is a round of all, which gossip does not have: set buffers = "local"'


def _schedule_problems(m: Method) -> Any:
    if m.num_fragments > m.sync_every:
        yield (
            f"num_fragments is {m.num_fragments} but sync_every is {m.sync_every}: each fragment needs"
            " an inner step of its own to be exchanged at"
        )
    if m.delay > m.sync_every:
        yield (
            f"delay is {m.delay} but sync_every is {m.sync_every}: a fragment has one exchange in flight,"
            " so its result must land before the next"
        )
    if m.merge == "eager" and m.delay != m.sync_every:
        yield f'merge = "eager" overlaps a whole outer step: set delay = sync_every ({m.sync_every})'
    if m.merge == "eager" and m.outer == "delayed_nesterov":
        yield 'merge = "eager" takes outer steps of its own, which delayed_nesterov spreads over members'
    if m.merge == "mix" and m.alpha == 1.0:
        yield "alpha = 1 keeps local weights only: workers would never communicate"
    if (m.fragment_pattern == "modules") != bool(m.fragment_modules):
        yield 'fragment_pattern = "modules" and fragment_modules belong together'
    if m.fragment_modules and len(m.fragment_modules) != m.num_fragments:
        yield f"fragment_modules has {len(m.fragment_modules)} entries for num_fragments = {m.num_fragments}"


def _compression_problems(m: Method) -> Any:
    if m.adapt != "none" and m.projection != "low_rank":
        yield f'adapt = "{m.adapt}" adapts ranks: set projection = "low_rank"'
    if m.rank_share and m.projection != "low_rank":
        yield 'rank_share is a share of the sides of matrices: set projection = "low_rank"'
    if m.adapt == "dilocox" and m.error_feedback == "none":
        yield 'adapt = "dilocox" needs error_feedback: without it the rank only ever shrinks'
    if m.adapt == "dilocox" and m.num_fragments > 1:
        yield 'adapt = "dilocox" sets one H for the whole model: set num_fragments = 1'
    if m.projection == "random_mask" and (m.outer != "sgd" or m.merge == "eager" or m.delay == m.sync_every):
        yield (
            'projection = "random_mask" moves a few elements at a time, so momentum and whole outer steps'
            " of overlap make"
            ' no sense with it: set outer = "sgd" and delay below sync_every'
        )
    if m.error_feedback != "none" and m.projection == "random_mask":
        yield "a random mask drops nothing that error feedback could add: its elements come another time"
    if m.error_feedback in ("ef21", "econtrol") and m.feedback_decay != 1.0:
        yield f"feedback_decay belongs to ef14, not to {m.error_feedback}"
    returned = m.codec if m.mean_codec == "same" else m.mean_codec
    if m.error_feedback in ("ef21", "econtrol") and (m.weights != "equal" or returned != "fp32"):
        yield (
            f'error_feedback = "{m.error_feedback}" keeps a running mean, which unequal weights and a rounded'
            ' mean would spoil for good: set weights = "equal" and mean_codec = "fp32", or take "ef14"'
        )
    if m.projection == "low_rank" and not WIRE_FORMATS[m.codec].keeps_factors:
        yield (
            f'the factors of projection = "low_rank" do not survive codec = "{m.codec}": choose int4 or finer'
        )
    if m.mean_codec not in ("same", m.codec) and WIRE_FORMATS[m.mean_codec].drops_elements:
        yield f'mean_codec = "{m.mean_codec}" would drop most of a dense mean: choose another'


def _inner_lr_problems(m: Method) -> Any:
    if m.merge == "eager" or m.projection != "none" or m.gossips or m.moments_every:
        yield (
            f'outer = "{m.outer}" follows the inner learning rate, which works with rounds of whole vectors:'
            ' without eager, projection, gossip and moments; or set outer = "heavy_ball"'
        )
    formats = {m.codec, m.codec if m.mean_codec == "same" else m.mean_codec}
    if not all(WIRE_FORMATS[each].keeps_parameters for each in formats):
        yield (
            f'outer = "{m.outer}" sends the inner learning rate too, which codec = "{m.codec}" would spoil:'
            " choose fp32, fp16 or bf16"
        )


def _group_problems(m: Method) -> Any:
    if not m.gossips:
        return
    if m.outer not in ("sgd", "heavy_ball"):
        yield (
            f'group = "{m.group}" moves replicas by heavy ball (arXiv 2506.10911): set outer ='
            f' "heavy_ball" or "sgd"'
        )
    if m.delay or m.num_fragments > 1 or m.projection != "none" or m.error_feedback != "none" or m.quorum:
        yield (
            f'group = "{m.group}" works with one fragment, without delay, projection, error feedback and'
            f" quorum"
        )
    if m.weights != "equal":
        yield f'group = "{m.group}" averages its members plainly: set weights = "equal"'
    if not WIRE_FORMATS[m.codec].keeps_parameters:
        yield (
            f'group = "{m.group}" sends parameters too, which codec = "{m.codec}" would spoil: choose'
            f" fp32, fp16 or bf16"
        )
    momenta = values(m.outer_momentum)
    low, high = gamma_range(max(momenta))[0], gamma_range(min(momenta))[1]
    if m.group == "pair" and not low < m.gamma < high:
        yield (
            f"gamma is {m.gamma}: replicas stay together from {low:.2f} to {high:.2f} at this outer_momentum"
        )


def gamma_range(momentum: float) -> tuple[float, float]:
    """Where the variance of replicas stays bounded with pairs: alpha < gamma < sqrt(2 + alpha^2), NoLoCo
    (arXiv 2506.10911), equation 74 with n = 2."""
    return momentum, (2.0 + momentum**2) ** 0.5
