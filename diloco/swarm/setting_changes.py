"""Changes of a run's settings: what differs, what a person gave, and the values as they are kept and sent.

Only what `diloco.settings.CHANGEABLE` lists may change. Pure; reads no file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from diloco.errors import SettingsError
from diloco.settings import CHANGEABLE, RunSettings, parse_settings

Changes = dict[str, tuple[Any, Any]]
"""By key: the values before and after."""


def values_of(settings: RunSettings) -> dict[str, Any]:
    """By key: the values of what may change."""
    return {key: value for key, value in _by_key(settings).items() if key in CHANGEABLE}


def with_values(settings: RunSettings, values: Mapping[str, Any]) -> RunSettings:
    """Settings with other values of what may change. Raises `SettingsError` for other keys, and for values
    that are none."""
    plain = settings.model_dump(exclude_none=True)
    for key, value in values.items():
        if key not in CHANGEABLE:
            raise SettingsError([f"{key} cannot change while a run goes on; {', '.join(CHANGEABLE)} can"])
        section, name = key.split(".")
        plain[section][name] = value
    return parse_settings(plain, "changed settings")


def pack_values(values: Mapping[str, Any]) -> bytes:
    """Canonical JSON."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def unpack_values(packed: bytes) -> dict[str, Any]:
    """What `pack_values` made. Raises `SettingsError` for anything else."""
    try:
        found = json.loads(packed.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"changed settings are not valid JSON: {error}"]) from None
    if not isinstance(found, dict):
        raise SettingsError(["changed settings are no table"])
    return found


def given_values(given: Iterable[str]) -> dict[str, Any]:
    """What a person gives as ``run.rounds=50``, by key. Raises `SettingsError`."""
    values: dict[str, Any] = {}
    for each in given:
        name, _, text = each.partition("=")
        key = name.strip()
        if text and key not in CHANGEABLE:
            raise SettingsError([f"--set {key}: only {', '.join(CHANGEABLE)} can change in a run"])
        try:
            read = tomllib.loads(f"value = {text}")
        except (ValueError, RecursionError):
            read = {}
        if list(read) != ["value"]:
            raise SettingsError([f"--set {each}: give it as --set run.rounds=50 or checkpoint.own=false"])
        values[key] = read["value"]
    return values


def changes_between(before: RunSettings, after: RunSettings) -> Changes:
    """What differs in its meaning, in the order of the file."""
    there = _by_key(after)
    return {key: (value, there[key]) for key, value in _by_key(before).items() if there[key] != value}


def told(changes: Changes) -> str:
    """Changes as a person reads them: ``run.rounds 30 -> 50``."""
    return ", ".join(f"{key} {_shown(before)} -> {_shown(after)}" for key, (before, after) in changes.items())


def _by_key(settings: RunSettings) -> dict[str, Any]:
    plain = settings.meaning()
    return {f"{section}.{key}": value for section, keys in plain.items() for key, value in keys.items()}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
