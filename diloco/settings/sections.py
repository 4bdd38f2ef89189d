"""The tables of RUN.toml: each key with its limits, and the reason for it in a sentence.

Owns no file and no bytes: the tree that these tables make is `diloco.settings.run_settings`. Needs no torch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from diloco.errors import MethodError
from diloco.methods.presets import PRESETS, method
from diloco.methods.spec import METHOD_FIELDS, Method
from transport.limits import LIMITS

MAX_COMMITS_BETWEEN = LIMITS.history_records // 2
"""Commits between two checkpoints at the most: the coordinator knows twice as many, and who holds a
checkpoint must be sent all that follow it."""
MAX_KEPT = 1000
"""Checkpoints on one disk."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Run(Section):
    """Who takes part, and for how long."""

    name: str = Field(
        default="demo",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Name of the run: letters, digits, dot, dash and underscore; it names files and logs.",
    )
    min_peers: int = Field(
        default=2,
        ge=1,
        le=LIMITS.members,
        description="Fewest workers that commit a round; fewer wait, so that nobody trains alone unnoticed.",
    )
    rounds: int = Field(
        default=100,
        ge=1,
        le=10**9,
        description="Rounds until the run is done.",
    )
    failure_timeout_s: float = Field(
        default=10.0,
        ge=0.5,
        le=600.0,
        description="Seconds of silence until a peer counts as dead (a third more while its connection "
        "stands); all other timeouts derive from it.",
    )
    grace_s: float = Field(
        default=30.0,
        ge=0.0,
        le=86_400.0,
        description="Seconds that an open round waits for a live but slow worker, then goes on without.",
    )
    outlier_factor: float = Field(
        default=100.0,
        ge=0.0,
        le=1e9,
        description="A contribution with a norm this many times the others' median is refused; 0: never.",
    )
    max_influence: float = Field(
        default=12.0,
        ge=0.0,
        le=1e9,
        description="One of 4 workers or more moves a mean by this many times a median one's share at most;"
        " 0: any.",
    )
    lanes: int = Field(
        default=4,
        ge=1,
        le=16,
        description="Most bulk connections between two workers: one, and another while that helps.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Seed of the initial model and the data order; each worker draws other data from it.",
    )

    @field_validator("max_influence")
    @classmethod
    def _leaves_the_median_alone(cls, value: float) -> float:
        if 0.0 < value < 2.0:
            raise ValueError("less than 2 would cut workers that are like most others: take 2 or more, or 0")
        return value


class _MethodSection(Section):
    """How workers exchange. What is left out comes from the preset."""

    preset: str = Field(
        default="diloco",
        description=f"Method to start from: {', '.join(PRESETS)}; `diloco methods` describes them and all"
        f" parts.",
    )

    @field_validator("fragment_modules", mode="before", check_fields=False)
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _can_work(self) -> _MethodSection:
        try:
            self.resolved()
        except MethodError as error:
            raise ValueError(str(error)) from None
        return self

    def resolved(self) -> Method:
        """The preset with this section's overrides."""
        overrides = self.model_dump(exclude={"preset"}, exclude_none=True)
        return method(self.preset, **overrides)


def _optional(name: str) -> Any:
    field = Method.model_fields[name]
    bounded: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return (bounded | None, Field(default=None, description=field.description))


if TYPE_CHECKING:
    MethodSection = _MethodSection
else:  # every part of a method can be left out, and is described once: where methods are
    MethodSection = create_model(
        "MethodSection",
        __base__=_MethodSection,
        __doc__=_MethodSection.__doc__,
        **{name: _optional(name) for name in METHOD_FIELDS},
    )


class Model(Section):
    """Sizes of the built-in model, a byte-level decoder; a recipe of your own may ignore them."""

    layers: int = Field(default=4, ge=1, le=1000, description="Transformer blocks.")
    heads: int = Field(default=4, ge=1, le=1024, description="Attention heads; they divide the width.")
    width: int = Field(
        default=128,
        ge=8,
        le=65_536,
        description="Width of the residual stream, a multiple of 2 * heads; 4 layers of 128 are 0.8 M.",
    )
    context: int = Field(default=128, ge=8, le=1_048_576, description="Bytes that the model sees at once.")
    tied: bool = Field(
        default=True,
        description="The embedding and the head are one matrix; with pipeline.stages above 1 they cannot be.",
    )
    waist: int = Field(
        default=0,
        ge=0,
        le=65_536,
        description="Channels of the residual stream that are learned, and pass from stage to stage beside"
        " the bytes themselves; the others are fixed. 0: all of the width. Needs tied = false.",
    )
    lora: int = Field(
        default=0,
        ge=0,
        le=65_536,
        description="Of a model of transformers (--recipe hf:DIR): rank of LoRA adapters, which alone are"
        " trained; 0: all weights.",
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Model:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width is {self.width} and heads is {self.heads}: width must be a multiple of 2 * heads,"
                " since position is encoded in pairs of channels of each head"
            )
        if self.waist >= self.width:
            raise ValueError(f"waist is {self.waist} and width is {self.width}: choose a smaller waist, or 0")
        if self.waist and self.tied:
            raise ValueError("a model with a waist has a head of its own: set tied = false")
        return self


class Pipeline(Section):
    """Into how many parts the model is cut, each of which other workers train."""

    stages: int = Field(
        default=1,
        ge=1,
        le=LIMITS.stages,
        description="Parts of the model, each of which other workers train; 1: the model is whole.",
    )
    cuts: tuple[int, ...] = Field(
        default=(),
        description="First layer of each later stage, as `diloco cut` finds them; []: equal parameters.",
    )
    wiring: Literal["lines", "throughput", "random"] = Field(
        default="lines",
        description="How microbatches go through the stages: in lines, one replica of each stage; by"
        " throughput, shared out by the speeds of a stage's replicas; at random, all with all.",
    )
    microbatch: int = Field(
        default=4,
        ge=1,
        le=1_048_576,
        description="Sequences that go through the stages together.",
    )
    quota: int = Field(
        default=16,
        ge=1,
        le=65_536,
        description="Microbatches of an inner step, in the place of train.batch_size; but in lines, of a"
        " replica of mean speed.",
    )
    window: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Most microbatches of one feeder that have not ended; 0: the quota, 4096 at most.",
    )
    activations: Literal["fp32", "bf16", "int8", "int4", "int4_rotated"] = Field(
        default="int8",
        description="What passes up between two stages, as which numbers.",
    )
    gradients: Literal["", "fp32", "bf16", "int8", "int4", "int4_rotated"] = Field(
        default="",
        description="What passes down, as which numbers; empty: as activations.",
    )
    recompute: bool = Field(
        default=True,
        description="Keep a microbatch's input only, and run forward again before backward: less memory.",
    )

    split_backward: bool = Field(
        default=False,
        description="Compute weights' gradients when the stage below need not wait; not with recompute.",
    )

    @field_validator("cuts", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _cuts_make_stages(self) -> Pipeline:
        if self.cuts and len(self.cuts) != self.stages - 1:
            raise ValueError(
                f"cuts = {list(self.cuts)} make {len(self.cuts) + 1} stages and not {self.stages}: name the"
                " first layer of each stage but the first"
            )
        if any(after <= before for before, after in pairwise((0, *self.cuts))):
            raise ValueError(f"cuts = {list(self.cuts)} must rise from 1 on: each stage has a layer at least")
        if self.split_backward and self.recompute:
            raise ValueError(
                "split_backward = true keeps what recompute = true is there not to keep: turn one of them off"
            )
        return self


class Train(Section):
    """The inner optimizer, AdamW, and its batches; the same on every worker."""

    batch_size: int = Field(
        default=16, ge=1, le=1_048_576, description="Sequences per inner step and worker."
    )
    inner_lr: float = Field(
        default=2e-3,
        gt=0.0,
        le=10.0,
        description="Learning rate of the inner optimizer after warmup.",
    )
    warmup_steps: int = Field(
        default=100,
        ge=0,
        le=10**9,
        description="Inner steps over which the inner learning rate rises from 0, counted on each worker.",
    )
    decay_steps: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="Inner steps after which the learning rate has fallen, as a cosine, to a tenth; 0 keeps"
        " it.",
    )
    weight_decay: float = Field(
        default=0.1,
        ge=0.0,
        le=10.0,
        description="Decoupled weight decay, on matrices only.",
    )
    clip_norm: float = Field(
        default=1.0,
        gt=0.0,
        le=1e6,
        description="Largest gradient norm of a step; tames the steps right after an outer one.",
    )
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0, description="Decay of AdamW's mean of gradients.")
    beta2: float = Field(
        default=0.99, ge=0.0, lt=1.0, description="Decay of AdamW's mean of squared gradients."
    )


class Checkpoint(Section):
    """What each worker with a state directory keeps of the run on its own disk."""

    every: int = Field(
        default=1,
        ge=1,
        le=MAX_COMMITS_BETWEEN,
        description="Commits of each fragment between two checkpoints at the least; a worker that cannot keep"
        " up writes half as often.",
    )
    copies: int = Field(
        default=0,
        ge=0,
        le=LIMITS.members,
        description="Workers that write each fragment of a checkpoint, for states too large for every disk;"
        " 0: every worker writes all of it.",
    )
    keep: int = Field(
        default=3,
        ge=1,
        le=MAX_KEPT,
        description="Newest checkpoints that stay; with 1 there is no older one to load if it is damaged.",
    )
    results: bool = Field(
        default=True,
        description="Keep the results of rounds since; without, commits since the last checkpoint are lost"
        " when all workers die.",
    )
    own: bool = Field(
        default=True,
        description="Keep what is the worker's own: live parameters, inner optimizer, place in the data;"
        " without, a restart begins these anew.",
    )
