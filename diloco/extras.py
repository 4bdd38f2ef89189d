"""The packages that only some need: one clear line where something is asked for without its package.

Owns which extra of ours brings which packages. Imports none of them: whether one is there is looked up.
Whoever can do with less asks `missing`, and says what is left out.
"""

from __future__ import annotations

import importlib.util

from diloco.errors import MissingExtra

EXTRAS = {
    "train": ("torch", "safetensors"),
    "plot": ("matplotlib",),
    "hf": ("transformers", "accelerate", "peft"),
    "lightning": ("lightning",),
}
"""The packages of each extra, as pyproject.toml has them."""


def missing(extra: str) -> str | None:
    """What of an extra is not installed, and how to mend it; None if all of it is there."""
    found = [each for each in EXTRAS[extra] if importlib.util.find_spec(each) is None]
    if not found:
        return None
    are = "is" if len(found) == 1 else "are"
    return f"{' and '.join(found)} {are} not installed: pip install {' '.join(found)}, or diloco[{extra}]"


def require(extra: str, what: str) -> None:
    """Raise `MissingExtra` if something of ``extra`` is not installed, which ``what`` needs."""
    if (line := missing(extra)) is not None:
        raise MissingExtra(f"{what} cannot run here: {line}")
