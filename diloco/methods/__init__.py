"""What a method is: its fields, the named presets, its schedule and its cost. No torch."""

from __future__ import annotations

from diloco.methods.presets import PRESETS, method

__all__ = ["PRESETS", "method"]
