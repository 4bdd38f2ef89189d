"""The run that a host's state directory is about: with which settings it began, what was changed since.

`run.json` keeps the settings of the beginning; changes are in the journal, where they are decisions like
any other. A later start compares: what may change is changed, what may not is refused by name. Shell code,
but for `settle`, which is pure.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diloco.errors import SettingsError, UserError
from diloco.settings import CHANGEABLE, RunSettings, parse_settings
from diloco.swarm.origin_file import OriginFile
from diloco.swarm.setting_changes import (
    Changes,
    changes_between,
    pack_values,
    told,
    unpack_values,
    values_of,
    with_values,
)
from peers.admission.identity import replace_private
from peers.coordinator.journal import SettingsChanged

FORMAT = 1
HOSTED, JOINED = "run.json", "joined.json"
"""Of a host's folder, and of a worker's: one that somebody gives to both keeps both."""
BEFORE = "before"
"""Where the files of earlier runs are, each in a folder of its own."""
FRESH_OR_FROM = (
    "begin a new run (--fresh, or --from CHECKPOINT with its state; the files of this one are kept)"
)
_OF_A_RUN = (
    "identity",
    "incarnation",
    HOSTED,
    "address",
    "journal-*",
    "invite-*",
    "residuals-*",
    "checkpoints",
)
"""What `put_aside` takes along; whatever else a person keeps there stays."""


@dataclass(frozen=True, slots=True)
class KeptRun:
    """Which run a folder is about."""

    run: bytes
    settings: RunSettings
    """As the run began; of a worker's folder as they were when it joined last."""
    origin: OriginFile | None = None
    """Where its first state comes from, if that is an earlier one."""


def begun_with(home: Path, new: KeptRun) -> KeptRun:
    """How the run in a host's ``home`` began: as ``new``, if there is none yet. Raises `UserError` for a file
    that is damaged, of a later version, or about another identity's run."""
    found = kept_run(home)
    if found is None:
        keep_run(home, new)
        return new
    if found.run != new.run:
        raise UserError(
            f"{home / HOSTED} is about a run of another identity than {home / 'identity'}: put that file "
            f"back, or {FRESH_OR_FROM}"
        )
    return found


def keep_run(home: Path, kept: KeptRun, name: str = HOSTED) -> None:
    """Write down which run this folder is about. Raises `UserError`."""
    path = home / name
    plain: dict[str, Any] = {
        "format": FORMAT,
        "run": kept.run.hex(),
        "settings": json.loads(kept.settings.to_bytes()),
    }
    if kept.origin is not None:
        plain["from"] = {"path": str(kept.origin.path), "digest": kept.origin.digest.hex()}
    text = json.dumps(plain, indent=1, sort_keys=True) + "\n"
    try:
        replace_private(path, lambda aside: aside.write_text(text, "utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def kept_run(home: Path, name: str = HOSTED) -> KeptRun | None:
    """The run that this folder is about, if any. Raises `UserError` as `begun_with`."""
    path = home / name
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        found = None
    return _read(path, found)


def _read(path: Path, found: Any) -> KeptRun:
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{path} has format {found['format']}, this program reads {FORMAT}: install the version that "
            "wrote it"
        )
    try:
        run, start = bytes.fromhex(found["run"]), found.get("from")
        origin = OriginFile(Path(start["path"]), bytes.fromhex(start["digest"])) if start else None
        return KeptRun(run, parse_settings(found["settings"], str(path)), origin)
    except (AttributeError, TypeError, KeyError, ValueError):
        otherwise = FRESH_OR_FROM if path.name == HOSTED else "delete it, and ask for a ticket that is good"
        raise UserError(f"{path} is damaged: put a copy back, or {otherwise}") from None


def settle(
    began: RunSettings, entries: list[Any], read: RunSettings, given: Mapping[str, Any]
) -> tuple[RunSettings, SettingsChanged | None, Changes]:
    """The run's settings from now on, the entry to be journaled if anything is other than before, and what
    changes.

    ``read`` is the owner's file. What it says is a change only where the file itself has changed since it was
    read last, so that what was ``given`` at an earlier start stays. Raises `SettingsError`, which names what
    cannot change."""
    fixed = {key: each for key, each in changes_between(began, read).items() if key not in CHANGEABLE}
    if fixed:
        what = f"the run goes on as it began, and this cannot change: {told(fixed)}"
        elsewhere = "for another run beside it take another run.name, or folder (--state)"
        raise SettingsError([f"{what}; put it back, or {FRESH_OR_FROM}; {elsewhere}"])
    last = next((each for each in reversed(entries) if isinstance(each, SettingsChanged)), None)
    now = values_of(began) | (unpack_values(last.values) if last else {})
    before = values_of(began) | (unpack_values(last.read) if last else {})
    in_file = values_of(read)
    wanted = now | {key: value for key, value in in_file.items() if value != before[key]} | dict(given)
    old, new = with_values(began, now), with_values(began, wanted)
    changes = changes_between(old, new)
    if "run.min_peers" in changes and new.method.resolved().gossips:
        raise SettingsError(
            [f"run.min_peers cannot change with gossip, where each worker minds it: {told(changes)}"]
        )
    if not changes and in_file == before:
        return new, None, changes
    entry = SettingsChanged(
        pack_values(values_of(new)), pack_values(in_file), new.run.rounds > old.run.rounds
    )
    return new, entry, changes


def put_aside(home: Path, now: float) -> Path | None:
    """Move a run's files to a folder of their own inside ``home``, for a new run to begin there at the same
    address; None if there are none. ``now`` is in unix seconds. Raises `UserError`."""
    found = [path for pattern in _OF_A_RUN for path in home.glob(pattern)]
    if not found or found == [home / "address"]:
        return None
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    names = (name, *(f"{name}-{number}" for number in range(2, 100)))
    aside = next(path for each in names if not (path := home / BEFORE / each).exists())
    try:
        aside.mkdir(parents=True, mode=0o700)
        for path in found:
            path.rename(aside / path.name)
        if (aside / "address").exists():
            shutil.copyfile(aside / "address", home / "address")
    except OSError as error:
        raise UserError(f"{error.filename} cannot be put aside in {aside}: {error.strerror}") from None
    return aside
