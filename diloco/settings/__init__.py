"""What peers of one run must agree on: RUN.toml, its tables, its bytes and its digest."""

from diloco.settings.run_settings import (
    CHANGEABLE,
    RunSettings,
    commented_toml,
    load_settings,
    parse_settings,
)
from diloco.settings.sections import Checkpoint, Model, Train

__all__ = [
    "CHANGEABLE",
    "Checkpoint",
    "Model",
    "RunSettings",
    "Train",
    "commented_toml",
    "load_settings",
    "parse_settings",
]
