"""diloco: train one PyTorch model from many machines that are joined only by ordinary internet links.

This is the whole public face. Torch is imported when `attach` is first needed, so that a coordinator
starts at once and need not have it (`MissingExtra` says what brings it); the simulator when `simulate` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diloco.errors import (
    DilocoError,
    EntryError,
    JoinError,
    LayoutError,
    MethodError,
    MissingExtra,
    OptimizerUndoes,
    PipelineError,
    SettingsError,
    SiteBroken,
    SwarmClosed,
    SwarmTimeout,
    TrainingDiverged,
    UserError,
)
from diloco.extras import EXTRAS, require
from diloco.settings import RunSettings, load_settings
from diloco.swarm.entry import host, join, solo
from diloco.swarm.handshake import status
from diloco.swarm.swarm import Swarm

if TYPE_CHECKING:
    from diloco.pipeline.cuts import Part
    from diloco.pipeline.cutting import cut
    from diloco.pipeline.serving import Stage
    from diloco.pipeline.staging import stage
    from diloco.simulation.runner import simulate
    from diloco.training.attach import attach
    from diloco.training.outer import Outer

__version__ = "0.1.0"

__all__ = [
    "DilocoError",
    "EntryError",
    "JoinError",
    "LayoutError",
    "MethodError",
    "MissingExtra",
    "OptimizerUndoes",
    "Outer",
    "Part",
    "PipelineError",
    "RunSettings",
    "SettingsError",
    "SiteBroken",
    "Stage",
    "Swarm",
    "SwarmClosed",
    "SwarmTimeout",
    "TrainingDiverged",
    "UserError",
    "attach",
    "cut",
    "host",
    "join",
    "load_settings",
    "simulate",
    "solo",
    "stage",
    "status",
]


def __getattr__(name: str) -> Any:
    try:
        return _imported(name)
    except ModuleNotFoundError as error:
        if error.name in EXTRAS["train"]:
            require("train", f"diloco.{name}")
        raise


def _imported(name: str) -> Any:
    if name == "attach":
        from diloco.training.attach import attach

        return attach
    if name == "Outer":
        from diloco.training.outer import Outer

        return Outer
    if name == "cut":
        from diloco.pipeline.cutting import cut

        return cut
    if name == "Stage":
        from diloco.pipeline.serving import Stage

        return Stage
    if name == "stage":
        from diloco.pipeline.staging import stage

        return stage
    if name == "Part":
        from diloco.pipeline.cuts import Part

        return Part
    if name == "simulate":
        from diloco.simulation.runner import simulate

        return simulate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
