"""Settings: everything that peers of one run must agree on, which is RUN.toml.

Owns the typed tree, its limits and reasons, its file with comments, and the bytes and digest that a host
sends to joiners. Unknown keys are refused with a suggestion. Refuses to know what a machine decides for
itself (device, data path, addresses). Needs no torch, so that a coordinator starts at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from diloco.errors import MethodError, SettingsError
from diloco.methods.presets import PRESETS, method
from diloco.methods.spec import METHOD_FIELDS, Method
from transport.limits import LIMITS

VOCABULARY = 256
"""The built-in model reads bytes."""
CHANGEABLE = {
    "run.min_peers": "the host alone opens rounds",
    "run.rounds": "the host says when a run is over",
    "run.grace_s": "the host alone waits for stragglers; workers learn it for their own patience",
    "run.outlier_factor": "the host alone refuses outliers",
    "run.max_influence": "the host alone bounds weights",
    "train.inner_lr": "a worker's own step, which others never see",
    "train.warmup_steps": "likewise",
    "train.decay_steps": "likewise",
    "train.weight_decay": "likewise",
    "train.clip_norm": "likewise",
}
"""Settings that may change while a run goes on, and why members need not have begun with the same. With all
others states, contributions or outer steps would differ between members; links with two timeouts would take
the living for dead."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Run(_Section):
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
        description="Seconds of silence until a peer counts as dead; all other timeouts derive from it.",
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


class _MethodSection(_Section):
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


class Model(_Section):
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

    @model_validator(mode="after")
    def _heads_fit(self) -> Model:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width is {self.width} and heads is {self.heads}: width must be a multiple of 2 * heads,"
                " since position is encoded in pairs of channels of each head"
            )
        return self


class Train(_Section):
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


class RunSettings(_Section):
    """One run. Equal settings have equal bytes; those that differ only in what may change have one digest."""

    run: Run = Run()
    method: MethodSection = MethodSection()
    model: Model = Model()
    train: Train = Train()

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, ASCII. The method is spelt out, so that a joiner whose
        presets differ does what the host does."""
        plain = self.meaning()
        plain["method"]["preset"] = self.method.preset
        return _canonical(plain)

    def meaning(self) -> dict[str, dict[str, Any]]:
        """By section and key, the method by its parts: the preset is but a name for them."""
        plain = self.model_dump()
        plain["method"] = {key: getattr(self.method.resolved(), key) for key in METHOD_FIELDS}
        return plain

    @classmethod
    def from_bytes(cls, data: bytes) -> RunSettings:
        """Settings that a host sent. Raises `SettingsError` for anything else."""
        if len(data) > LIMITS.settings_bytes:
            raise SettingsError(
                [f"settings take {len(data)} bytes: at most {LIMITS.settings_bytes} are allowed"]
            )
        try:
            plain = json.loads(data.decode("ascii"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise SettingsError([f"settings are not valid JSON: {error}"]) from None
        return parse_settings(plain, "settings")

    def digest(self) -> bytes:
        """SHA-256 of what cannot change while a run goes on (all but `CHANGEABLE`): peers of one run compare
        it."""
        return hashlib.sha256(_canonical(_fixed_part(self.meaning()))).digest()


def load_settings(path: Path) -> RunSettings:
    """Read a RUN.toml. Raises `SettingsError` with one line per problem."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError([f"{path} does not exist: `diloco init` writes one"]) from None
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from None
    except (ValueError, RecursionError) as error:  # also TOMLDecodeError and UnicodeDecodeError
        raise SettingsError([f"{path} is not valid TOML: {error}"]) from None
    return parse_settings(plain, str(path))


def parse_settings(plain: Any, where: str) -> RunSettings:
    """Settings from plain dicts; ``where`` is named in errors. Raises `SettingsError`."""
    try:
        return RunSettings.model_validate(plain)
    except ValidationError as error:
        raise SettingsError([f"{where}: {_explain(each)}" for each in error.errors()]) from None


def commented_toml(settings: RunSettings | None = None) -> str:
    """A RUN.toml with every key, its reason and its value; what the preset decides is commented out."""
    settings = RunSettings() if settings is None else settings
    return "\n\n".join("\n".join(_section_lines(name, settings)) for name in RunSettings.model_fields) + "\n"


def _section_lines(name: str, settings: RunSettings) -> Iterator[str]:
    section = getattr(settings, name)
    resolved = settings.method.resolved()
    yield f"# {type(section).__doc__}"
    yield f"[{name}]"
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if value is None and not _telling(resolved, key):
            continue
        yield f"# {field.description}"
        yield f"{key} = {_toml(value)}" if value is not None else f"# {key} = {_toml(getattr(resolved, key))}"


def _telling(chosen: Method, part: str) -> bool:
    """Whether a part that the preset decides is worth a line: it is not as in most methods."""
    return (
        part in ("sync_every", "codec", "delay") or getattr(chosen, part) != Method.model_fields[part].default
    )


def _toml(value: object) -> str:
    # JSON writes these types as TOML does, but for floats like 1e-05, which both read.
    return json.dumps(value)


def _fixed_part(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings, by section, without what may change."""
    return {
        section: {key: value for key, value in keys.items() if f"{section}.{key}" not in CHANGEABLE}
        for section, keys in plain.items()
    }


def _canonical(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _explain(error: Mapping[str, Any]) -> str:
    """One line for one pydantic error: the key, its value and what is allowed."""
    path = [str(each) for each in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return _explain_unknown(path)
    reason = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"[{key}] {reason}" if key else reason
    if error["type"] == "model_type":
        return f"[{key}] must be a section" if key else "the settings must be sections"
    return f"{key} = {_short(error['input'])}: {reason[:1].lower()}{reason[1:]}"


def _explain_unknown(path: list[str]) -> str:
    sections = {name: list(_section_class(name).model_fields) for name in RunSettings.model_fields}
    if len(path) == 1:
        choices = list(sections)
        what, allowed = f"[{path[0]}] is no section", f"sections are {', '.join(choices)}"
        owners = [name for name, keys in sections.items() if path[0] in keys]
    else:
        choices = sections[path[0]]
        what, allowed = f"{'.'.join(path)} is no setting", f"[{path[0]}] has {', '.join(choices)}"
        owners = [name for name, keys in sections.items() if path[-1] in keys]
    if owners:
        return f"{what}: it belongs under [{owners[0]}]"
    near = difflib.get_close_matches(path[-1], choices, n=1)
    return f"{what}: did you mean {near[0]}?" if near else f"{what}: {allowed}"


def _section_class(name: str) -> type[BaseModel]:
    annotation = RunSettings.model_fields[name].annotation
    assert isinstance(annotation, type)
    return annotation


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
