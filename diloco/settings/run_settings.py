"""Settings: everything that peers of one run must agree on, which is RUN.toml.

Owns the typed tree of all tables, what may change while a run goes on, the file with comments, and the bytes
and digest that a host sends to joiners. Unknown keys are refused with a suggestion. Refuses to know what a
machine decides for itself (device, data path, addresses). Needs no torch, so that a coordinator starts at
once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError, model_validator

from diloco.errors import SettingsError
from diloco.methods.spec import METHOD_FIELDS, Method
from diloco.settings.sections import (
    MAX_COMMITS_BETWEEN,
    Checkpoint,
    MethodSection,
    Model,
    Pipeline,
    Run,
    Section,
    Train,
)
from transport.limits import LIMITS

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
    "checkpoint.every": "a worker's own disk, which others only hear of",
    "checkpoint.copies": "the host alone says who writes what",
    "checkpoint.keep": "likewise",
    "checkpoint.results": "likewise",
    "checkpoint.own": "likewise",
}
"""Settings that may change while a run goes on, and why members need not have begun with the same. With all
others states, contributions or outer steps would differ between members; links with two timeouts would take
the living for dead."""


class RunSettings(Section):
    """One run. Equal settings have equal bytes; those that differ only in what may change have one digest."""

    run: Run = Run()
    method: MethodSection = MethodSection()
    model: Model = Model()
    pipeline: Pipeline = Pipeline()
    train: Train = Train()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="after")
    def _checkpoints_can_be(self) -> RunSettings:
        count, every = self.method.resolved().num_fragments, self.checkpoint.every
        most = max(1, MAX_COMMITS_BETWEEN // count)
        if every > most:
            raise ValueError(
                f"checkpoint.every = {every}: with {count} fragments {most} at most, or the host would forget"
                " commits that a checkpoint has to be followed by"
            )
        if self.checkpoint.copies and self.method.resolved().gossips:
            raise ValueError(
                f"checkpoint.copies = {self.checkpoint.copies}: with gossip each worker has a replica of its"
                " own, which nobody else could write"
            )
        return self

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
    """Settings, by section, without what may change, and without sections of which nothing is left."""
    fixed = {
        section: {key: value for key, value in keys.items() if f"{section}.{key}" not in CHANGEABLE}
        for section, keys in plain.items()
    }
    return {section: keys for section, keys in fixed.items() if keys}


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
