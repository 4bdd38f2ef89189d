"""Methods: each a composition of parts, and the table of the named ones.

Owns what a method is made of, the presets, and why a combination cannot work. Refuses to run anything:
`outer` steps, `codecs` encode. Needs no torch, so that a coordinator can check settings.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from diloco.errors import MethodError
from transport.limits import LIMITS

CODEC_NAMES = ("fp32", "bf16", "int8")
"""The codecs there are; a test holds this equal to `codecs.CODECS`, which needs torch."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method. Raises `MethodError` for a combination that cannot work."""

    name: str
    sync_every: int
    """H: inner steps between two exchanges of a fragment."""
    outer_lr: float
    """Learning rate of the outer optimizer on the averaged pseudo-gradient; 1 replaces by the average."""
    outer_momentum: float
    """Momentum of the outer optimizer, in [0, 1); 0 keeps no buffer."""
    nesterov: bool
    """Nesterov momentum, as torch.optim.SGD(nesterov=True) computes it."""
    codec: str
    """Wire format of contributions and results."""
    num_fragments: int
    """Parts of the model that are exchanged in rounds of their own."""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise MethodError(f"method {self.name}: {problem}")


METHOD_PARTS = tuple(each.name for each in dataclasses.fields(Method) if each.name != "name")
"""What a preset can be overridden with, field by field."""


def _hint(word: str, choices: Any) -> str:
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _problem(m: Method) -> str | None:
    """Why this combination cannot work, or None."""
    if m.sync_every < 1:
        return f"sync_every is {m.sync_every}: at least one inner step lies between two exchanges"
    if not 0.0 < m.outer_lr <= 10.0:
        return f"outer_lr is {m.outer_lr}: it must be above 0 and at most 10"
    if not 0.0 <= m.outer_momentum < 1.0:
        return (
            f"outer_momentum is {m.outer_momentum}: it must be at least 0 and below 1, or steps grow forever"
        )
    if m.nesterov and m.outer_momentum == 0.0:
        return "nesterov needs an outer_momentum above 0: set nesterov = false for plain averaging"
    if m.codec not in CODEC_NAMES:
        return f"codec {m.codec!r} is unknown: choose {', '.join(CODEC_NAMES)}{_hint(m.codec, CODEC_NAMES)}"
    if not 1 <= m.num_fragments <= LIMITS.fragments:
        return f"num_fragments is {m.num_fragments}: from 1 to {LIMITS.fragments} are possible"
    if m.num_fragments > m.sync_every:
        return (
            f"num_fragments is {m.num_fragments} but sync_every is {m.sync_every}: each fragment needs"
            " an inner step of its own to be exchanged at"
        )
    return None


PRESETS: MappingProxyType[str, Method] = MappingProxyType(
    {
        each.name: each
        for each in (
            # DiLoCo (arXiv 2311.08105, section 2): Nesterov, lr 0.7, momentum 0.9. int8 by default, as in
            # INTELLECT-1 (arXiv 2412.01152): a quarter of the bytes, and the error of the mean, about
            # 1 % of its size and unbiased, is far below the noise between workers' pseudo-gradients.
            Method(
                "diloco", 100, outer_lr=0.7, outer_momentum=0.9, nesterov=True, codec="int8", num_fragments=1
            ),
            # Local SGD / FedAvg (arXiv 1805.09767, 1602.05629): parameters become their plain average. fp32,
            # so that it is the reference that others are compared with.
            Method(
                "local_sgd",
                100,
                outer_lr=1.0,
                outer_momentum=0.0,
                nesterov=False,
                codec="fp32",
                num_fragments=1,
            ),
        )
    }
)
"""The named methods."""


def method(name: str, **overrides: Any) -> Method:
    """The preset ``name`` with single fields replaced. Raises `MethodError`."""
    if name not in PRESETS:
        raise MethodError(
            f"method {name!r} is unknown: choose one of {', '.join(PRESETS)}{_hint(name, PRESETS)}"
        )
    for key in overrides:
        if key not in METHOD_PARTS:
            parts = ", ".join(METHOD_PARTS)
            raise MethodError(
                f"method {name}: {key!r} is no part{_hint(key, METHOD_PARTS)}; parts are {parts}"
            )
    return dataclasses.replace(PRESETS[name], **overrides)
