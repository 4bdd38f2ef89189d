"""What a member's events say: a name and fields for programs, one line for people.

Owns these names, fields and sentences; those of a host's traces are in `run_view`. Events that say nothing of
a run's story have none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from peers.protocol.events import (
    BecameActive,
    CheckpointFailed,
    CheckpointRestored,
    CheckpointWritten,
    ContributionEnded,
    CoordinatorBack,
    CoordinatorDiskFull,
    CoordinatorLost,
    EntryRefused,
    Fate,
    FellBehind,
    GotUnusable,
    HostIsBehind,
    IdentitySuperseded,
    KeptResultDamaged,
    ProgressLost,
    Restored,
    RoundCommitted,
    RunFinished,
    SettingsChanged,
    SwapFailed,
    Swapped,
)

_TEXTS: dict[type, str] = {
    BecameActive: "holds the shared state of commit {index}",
    FellBehind: "fetches the shared state: {reason}",
    GotUnusable: "cannot use what it fetched: {reason}",
    KeptResultDamaged: "a result on its disk is damaged, and comes from others",
    CheckpointWritten: "has {unit} {index} on its disk, {size_bytes} bytes in {seconds:.1f} s",
    CheckpointFailed: "has no checkpoint of {unit} {index}, and trains on: {reason}",
    CheckpointRestored: "goes on from its checkpoint of {unit} {index}",
    CoordinatorLost: "does not hear the host for {silent_s:.1f} s, and trains on",
    CoordinatorDiskFull: "hears that the host's disk is full, or fails, and trains on",
    CoordinatorBack: "hears the host again",
    HostIsBehind: "holds commit {ours}, and the host's journal ends at {index}",
    EntryRefused: "is refused: {detail}",
    IdentitySuperseded: "stops, since a newer process has its identity",
    ProgressLost: "gives up {tokens} tokens: {reason}",
    SwapFailed: "has no partner for outer step {step}: {reason}",
    RunFinished: "the run has all its {rounds} rounds",
}
_NAMES: dict[type, str] = {ProgressLost: "non_finite", GotUnusable: "unusable"}


@dataclass(frozen=True, slots=True)
class Told:
    """One event."""

    name: str
    text: str
    fields: dict[str, Any]


def told(event: object) -> Told | None:
    """What to write of an event; None if it is nothing of the run's story."""
    match event:
        case RoundCommitted():
            return _committed(event)
        case Restored():
            record = event.record
            text = "the last state was lost: goes on from the one that it holds"
            return Told("restored", text, {"index": record.index, "commit": record.hash().hex()})
        case Swapped():
            text = f"takes outer step {event.step} with {len(event.partners)} others"
            given = {"fragment": event.fragment, "step": event.step, "tokens": event.tokens}
            return Told("swapped", text, {**given, "partners": plain(event.partners)})
        case SettingsChanged():
            return Told("settings_changed", "takes settings that the host changed", {})
        case ContributionEnded():
            applied = event.fate == Fate.APPLIED  # the line of its commit says so
            text = "" if applied else f"{event.tokens} tokens are {event.fate.value}: {event.reason}"
            return Told(
                "fate", text, {"fate": event.fate.value, "tokens": event.tokens, "reason": event.reason}
            )
    if type(event) not in _TEXTS:
        return None
    found = {each.name: getattr(event, each.name) for each in fields(event)}  # type: ignore[arg-type]
    name = _NAMES.get(type(event)) or re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return Told(name, _TEXTS[type(event)].format_map(found), plain_fields(found))


def _committed(event: RoundCommitted) -> Told:
    record = event.record
    return Told(
        "round",
        f"commit {record.index} of {len(record.members)}, {event.seconds:.2f} s",
        {
            "index": record.index,
            "term": record.term,
            "serial": record.serial,
            "commit": record.hash().hex(),
            "result": record.result.hex(),
            "participants": len(record.members),
            "contributed": event.number is not None,
            "sync_seconds": round(event.seconds, 4),
        },
    )


def plain_fields(found: dict[str, Any]) -> dict[str, Any]:
    """For JSON, and beside the times that all lines have: how long something took is ``took_s``."""
    return {"took_s" if name == "seconds" else name: plain(value) for name, value in found.items()}


def plain(value: Any) -> Any:
    """For JSON: bytes as hexadecimal digits."""
    if isinstance(value, bytes):
        return value.hex()
    return [plain(each) for each in value] if isinstance(value, tuple) else value
