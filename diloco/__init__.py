"""diloco: train one PyTorch model from many machines that are joined only by ordinary internet links.

This is the whole public face. Torch is imported when `attach` is first needed, so that a coordinator
starts at once; the simulator when `simulate` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diloco.api import host, join, solo, status
from diloco.errors import (
    DilocoError,
    EntryError,
    JoinError,
    LayoutError,
    MethodError,
    SettingsError,
    SwarmClosed,
    SwarmTimeout,
    UserError,
)
from diloco.settings import RunSettings, load_settings
from diloco.swarm import Swarm

if TYPE_CHECKING:
    from diloco.attaching import Outer, attach
    from diloco.simulation.running import simulate

__version__ = "0.1.0"

__all__ = [
    "DilocoError",
    "EntryError",
    "JoinError",
    "LayoutError",
    "MethodError",
    "Outer",
    "RunSettings",
    "SettingsError",
    "Swarm",
    "SwarmClosed",
    "SwarmTimeout",
    "UserError",
    "attach",
    "host",
    "join",
    "load_settings",
    "simulate",
    "solo",
    "status",
]


def __getattr__(name: str) -> Any:
    if name in ("attach", "Outer"):
        from diloco import attaching

        return getattr(attaching, name)
    if name == "simulate":
        from diloco.simulation.running import simulate

        return simulate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
