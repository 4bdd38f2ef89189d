"""A scenario: peers, links, a run and what happens to them, as a TOML file has it.

Owns the typed tree, its units and its refusals. What a run is made of ([run], [method], [train], and [model]
of a trained scenario) is as in RUN.toml. Draws nothing and runs nothing: `topology` makes peers and routes of
it, `faults` its faults.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from diloco.errors import SettingsError, UserError
from diloco.settings import RunSettings, parse_settings
from diloco.units import parse_count, parse_rate, parse_seconds
from transport.limits import LIMITS

MAX_PEERS = 4096
_FLOPS_PER_PARAMETER = 6
"""Of training, per token: two forward, four backward."""


def _quantity(parse: Callable[[str], float]) -> Any:
    def read(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return float(parse(value))
            except UserError as error:
                raise ValueError(str(error)) from None
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return BeforeValidator(read)


Seconds = Annotated[float, _quantity(parse_seconds), Field(ge=0.0, le=1e9)]
Rate = Annotated[float, _quantity(parse_rate), Field(gt=0.0, le=1e15)]
"""Bits per second."""
Number = Annotated[float, _quantity(parse_count), Field(gt=0.0, le=1e18)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Name = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9._-]+$")]


RoleName = Literal["liar", "equivocator", "sybil", "flapper", "dripper", "rubbish", "mute"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LinkEnd(_Section):
    """How one peer is joined to the network."""

    up: Rate = Field(default=1e9, description="Upload rate.")
    down: Rate | None = Field(default=None, description="Download rate; that of the upload if left out.")
    latency: Seconds = Field(default=0.01, description="One way, to the middle of the network.")
    jitter: float = Field(default=0.1, ge=0.0, le=10.0, description="Extra latency, up to this share of it.")
    loss: Share = Field(default=0.0, description="Share of packets that are lost.")
    region: Name | None = Field(default=None, description="Where it is, for [matrix] and [[links]].")


class Group(LinkEnd):
    """Peers that are alike."""

    name: Name
    count: int = Field(default=1, ge=1, le=MAX_PEERS, description="How many: NAME-1, NAME-2, ...")
    step: Seconds | None = Field(
        default=None,
        description="Seconds of an inner step; with [pipeline], of a microbatch at a stage of mean size.",
    )
    stage: int | None = Field(
        default=None, ge=0, le=LIMITS.stages, description="They ask for this one; else they take any."
    )
    memory: Number | None = Field(default=None, description="Bytes that a stage may take, which they say.")
    flops: Number | None = Field(
        default=None, description="Or its floating-point operations per second, for 6 N T of a step."
    )
    mfu: float = Field(default=0.4, gt=0.0, le=1.0, description="Share of flops that training reaches.")
    tokens_per_step: Number | None = Field(
        default=None, description="Of these peers; that of [model] if left out."
    )
    spread: float = Field(
        default=0.0, ge=0.0, le=2.0, description="Log-normal spread of speed between these peers."
    )
    step_jitter: float = Field(
        default=0.0, ge=0.0, le=2.0, description="Log-normal spread from step to step."
    )
    drift: float = Field(default=0.0, ge=0.0, le=2.0, description="How far the speed wanders in an hour.")
    role: RoleName | None = Field(default=None, description="Means harm: it lies, floods or flaps.")
    joins_at: Seconds | Literal["event"] = Field(
        default=0.0, description='When it comes; "event": only by a join event.'
    )

    @property
    def names(self) -> list[str]:
        return [self.name] if self.count == 1 else [f"{self.name}-{i + 1}" for i in range(self.count)]


class TimedModel(_Section):
    """A model that has a size only."""

    parameters: Number
    tokens_per_step: Number = 1024.0
    layers: int | None = Field(default=None, ge=1, le=10_000, description="For fragments of whole layers.")
    width: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Values of a token that cross a boundary of stages."
    )
    context: int = Field(
        default=1024, ge=1, le=1_048_576, description="Tokens of a sequence, of which microbatches are made."
    )

    def num_layers(self, stages: int) -> int:
        """All alike; as many as stages if that is not said."""
        return self.layers or stages


class LinkSpec(_Section):
    """What joins two regions, or the peers within one: latency, a shared line, loss."""

    between: tuple[Name, Name]
    rtt: Seconds = 0.0
    rate: Rate | None = Field(default=None, description="Shared by all who use it, each way.")
    jitter: float = Field(default=0.1, ge=0.0, le=10.0)
    loss: Share = 0.0


class Matrix(_Section):
    """Round trips between regions, as a square table."""

    regions: tuple[Name, ...]
    rtt: tuple[tuple[Seconds, ...], ...]
    rate: tuple[tuple[Rate, ...], ...] | None = None

    @model_validator(mode="after")
    def _is_square(self) -> Matrix:
        size = len(self.regions)
        for name, table in (("rtt", self.rtt), ("rate", self.rate or self.rtt)):
            if len(table) != size or any(len(row) != size for row in table):
                raise ValueError(f"{name} must have {size} rows of {size}, one for each of regions")
        return self

    def links(self) -> list[LinkSpec]:
        """The same as single links. Above the diagonal counts; below it is the way back."""
        found = []
        for i, one in enumerate(self.regions):
            for j, two in enumerate(self.regions[i:], i):
                rate = self.rate[i][j] if self.rate else None
                found.append(LinkSpec(between=(one, two), rtt=self.rtt[i][j], rate=rate))
        return found


class Event(_Section):
    """Something that happens: at a time, at a round, or at random with a rate."""

    do: Literal["crash", "restart", "freeze", "join", "leave", "partition", "degrade", "cut", "slow"]
    peers: Name | tuple[Name, ...] = Field(
        default="any", description='Names of peers, groups or regions, "host", or "any" for one at random.'
    )
    at: Seconds | None = None
    round: int | None = Field(default=None, ge=0, description="Once so many rounds are committed.")
    after: Seconds = Field(default=0.0, description="So long after that round.")
    every: Seconds | None = Field(default=None, gt=0.0, description="At random, so far apart on average.")
    until: Seconds | None = Field(default=None, description="No more of `every` from then on.")
    lasts: Seconds | None = Field(
        default=None, alias="for", gt=0.0, description="Then it is undone: restarted, thawed, healed."
    )
    factor: float = Field(
        default=10.0, gt=0.0, le=1e6, description="How much slower a degraded link, or a slow peer, is."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Event:
        if sum(each is not None for each in (self.at, self.round, self.every)) != 1:
            raise ValueError("say when it happens, by one of at, round and every")
        if self.lasts is not None and self.do in ("restart", "join", "leave"):
            raise ValueError(f"`for` has no meaning with {self.do}")
        if self.lasts is None and self.do in ("freeze", "partition", "cut"):
            raise ValueError(f"say with `for` how long the {self.do} lasts")
        if self.until is not None and self.every is None:
            raise ValueError("`until` belongs to every")
        if self.after and self.round is None:
            raise ValueError("`after` belongs to round")
        if self.do == "cut" and len(self.names) < 2:
            raise ValueError("a cut is between two of peers, groups and regions: name both")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return (self.peers,) if isinstance(self.peers, str) else self.peers


class Scenario(_Section):
    """Everything of one simulated run but the random draws, which follow from the seed."""

    name: str = Field(min_length=1, max_length=80)
    about: str = Field(default="", max_length=2000, description="What one learns from it.")
    mode: Literal["timed", "vectors", "trained"] = "timed"
    seed: int = Field(default=0, ge=0, lt=2**63)
    end: Seconds | None = Field(
        default=None, gt=0.0, description="When it ends, if the run is not finished before."
    )
    run: dict[str, Any] = Field(default_factory=dict)
    method: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    pipeline: dict[str, Any] = Field(default_factory=dict)
    host: LinkEnd = LinkEnd()
    peers: tuple[Group, ...] = Field(min_length=1)
    matrix: Matrix | None = None
    links: tuple[LinkSpec, ...] = ()
    events: tuple[Event, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        names = self.peer_names
        if len(set(names)) < len(names) or "host" in names or "any" in names:
            raise ValueError('names of peers must differ, and "host" and "any" are taken')
        if len(names) > MAX_PEERS:
            raise ValueError(f"{len(names)} peers: at most {MAX_PEERS} can be simulated")
        self._check_regions()
        for event in self.events:
            for name in event.names:
                self.who(name)
        if all(group.role is not None for group in self.peers):
            raise ValueError("every peer has a role: who would be honest?")
        settings, model = self.settings(), self.timed_model()
        method = settings.method.resolved()
        if self.mode == "vectors" and (method.gossips or method.delay):
            raise ValueError("vectors are averaged in rounds that are waited for: neither gossip nor a delay")
        for group in self.peers:
            if model is not None and group.step is None and group.flops is None:
                raise ValueError(f"peers {group.name}: say how long a step takes, by step or flops")
            if model is None and group.step is None:
                raise ValueError(f"peers {group.name}: a trained scenario needs step, the seconds of a step")
        if settings.pipeline.stages > 1:
            self._check_stages(settings, model)
        if settings.run.min_peers > len(names):
            raise ValueError(f"run.min_peers is {settings.run.min_peers} and there are {len(names)} peers")
        return self

    def _check_stages(self, settings: RunSettings, model: TimedModel | None) -> None:
        stages = settings.pipeline.stages
        if model is None or self.mode != "timed":
            raise ValueError(f"a model in {stages} stages is simulated in time alone: mode is {self.mode!r}")
        if model.width is None:
            raise ValueError("model.width is missing: how many values of a token cross a boundary")
        if model.num_layers(stages) < stages:
            raise ValueError(f"{stages} stages of {model.layers} layers: a stage has a layer at least")
        if any(group.role for group in self.peers):
            raise ValueError("peers with a role are simulated with whole models only")
        for group in self.peers:
            if group.stage is not None and group.stage >= stages:
                raise ValueError(f"peers {group.name}: stage {group.stage} of {stages}, numbered from 0")
        named = {group.stage for group in self.peers} - {None}
        free = sum(group.count for group in self.peers if group.stage is None)
        if stages - len(named) > free:
            raise ValueError(f"{stages} stages and too few peers for one of each: {len(self.peer_names)}")

    def _check_regions(self) -> None:
        known = {end.region for end in (self.host, *self.peers)} | set(
            self.matrix.regions if self.matrix else ()
        )
        for link in self.links:
            for region in link.between:
                if region not in known:
                    raise ValueError(f"links between {link.between}: no peer is in region {region}")
        if self.matrix:
            for end in (self.host, *self.peers):
                if end.region is not None and end.region not in self.matrix.regions:
                    raise ValueError(f"region {end.region} is not in the matrix")

    def honest(self) -> Scenario | None:
        """The same without peers that have a role; None if none has one."""
        peers = tuple(group for group in self.peers if group.role is None)
        return self.model_copy(update={"peers": peers}) if len(peers) < len(self.peers) else None

    @property
    def peer_names(self) -> list[str]:
        return [name for group in self.peers for name in group.names]

    def who(self, name: str) -> list[str]:
        """The peers that a name of an event means: a peer, a group, a region, the host; nobody for "any".
        Raises ValueError."""
        if name in ("host", "any"):
            return [name] if name == "host" else []
        groups = [group for group in self.peers if name in (group.name, group.region)]
        found = [peer for group in groups for peer in group.names]
        if not found and name in self.peer_names:
            found = [name]
        if not found:
            raise ValueError(f"an event names {name}, which is no peer, group or region")
        return found

    def timed_model(self) -> TimedModel | None:
        """The model of a timed scenario, and of one of vectors."""
        if self.mode == "trained":
            return None
        try:
            return TimedModel.model_validate(self.model)
        except ValidationError as error:
            raise ValueError(_explain(error.errors()[0], ("model",))) from None

    def settings(self) -> RunSettings:
        """The run's settings, with the scenario's seed. Raises ValueError."""
        run = {"name": "simulated", "rounds": 20, **self.run, "seed": self.seed}
        plain: dict[str, Any] = {"run": run, "method": self.method, "train": self.train}
        if self.mode == "trained":
            plain["model"] = self.model
        if self.pipeline:
            plain["pipeline"] = self.pipeline
        try:
            return parse_settings(plain, self.name)
        except SettingsError as error:
            raise ValueError(str(error)) from None

    def step_s(self, group: Group) -> float:
        """Seconds of an inner step of such a peer, before spread; with stages, of a microbatch at one of mean
        size."""
        model = self.timed_model()
        if group.step is not None or model is None or group.flops is None:
            assert group.step is not None, "validated"
            return group.step
        tokens = group.tokens_per_step or model.tokens_per_step
        parameters, pipeline = model.parameters, self.settings().pipeline
        if pipeline.stages > 1:
            parameters, tokens = parameters / pipeline.stages, pipeline.microbatch * model.context
        return self.flops_per_parameter * parameters * tokens / (group.flops * group.mfu)

    @property
    def flops_per_parameter(self) -> int:
        """Of training, per token: two forward, four backward, and two more to run forward again."""
        pipeline = self.settings().pipeline
        return _FLOPS_PER_PARAMETER + (2 if pipeline.stages > 1 and pipeline.recompute else 0)

    @property
    def works_per_step(self) -> int:
        """So many times `step_s` an inner step takes without a network: as many as it has microbatches, and
        to fill the pipeline."""
        pipeline = self.settings().pipeline
        return pipeline.quota + pipeline.stages if pipeline.stages > 1 else 1


def load_scenario(path: Path, overrides: Sequence[str] = ()) -> Scenario:
    """Read a SCENARIO.toml. ``overrides`` replace single settings: ``method.preset=noloco``,
    ``peers.0.count=4``. Raises `SettingsError` with one line per problem."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from None
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"{path} is not valid TOML: {error}"]) from None
    for each in overrides:
        _override(plain, each)
    return parse_scenario(plain, str(path))


def _override(plain: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not last:
        raise SettingsError([f"{text!r} replaces nothing: write it like method.sync_every=50"])
    at: Any = plain
    try:
        for part in path:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[int(last) if isinstance(at, list) else last] = _toml_value(value)
    except (ValueError, IndexError, TypeError, AttributeError):
        raise SettingsError([f"{text!r}: there is no {key.strip()} to replace"]) from None


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a word without quotes


def parse_scenario(plain: Any, where: str = "scenario") -> Scenario:
    """A scenario from plain dicts; ``where`` is named in errors. Raises `SettingsError`."""
    try:
        return Scenario.model_validate(plain)
    except ValidationError as error:
        raise SettingsError([f"{where}: {_explain(each)}" for each in error.errors()]) from None


_SECTIONS: dict[str, type[BaseModel]] = {
    "model": TimedModel,
    "host": LinkEnd,
    "peers": Group,
    "matrix": Matrix,
    "links": LinkSpec,
    "events": Event,
}


def _explain(error: Mapping[str, Any], under: tuple[str, ...] = ()) -> str:
    """One line for one pydantic error: the key, its value and what is allowed."""
    path = [*under, *map(str, error["loc"])]
    key, reason = ".".join(path), str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        section = _SECTIONS.get(path[0], Scenario) if len(path) > 1 else Scenario
        allowed = [field.alias or name for name, field in section.model_fields.items()]
        near = difflib.get_close_matches(path[-1], allowed, n=1)
        return f"{key} is no setting: " + (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed)}"
        )
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":
        return f"{key}: {reason}" if key else reason
    return f"{key} = {str(error['input'])[:60]!r}: {reason[:1].lower()}{reason[1:]}"
