"""Which methods and settings fit given links, which of them to take, and what would help if none fits.

Pure decisions over predictions. The order of ranked candidates is from what learns most surely to what saves
most; the first that is busy enough is recommended. After them comes every other method that can be predicted,
as its preset is: what those cost is known, where they belong in that order is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from diloco.errors import MethodError
from diloco.methods.presets import PRESETS, method
from diloco.methods.spec import Method
from diloco.planning.predict import Prediction, UniformSwarm, predict
from diloco.units import show_rate

_SHORT_S = 60.0
"""Exchanges below this are within every default patience."""
GOOD = 0.90
"""Utilization from which a setting is good enough to be recommended for how it learns."""
_CANDIDATES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("diloco", {"sync_every": 30, "codec": "bf16"}),
    ("diloco", {"sync_every": 50, "codec": "int8"}),
    ("diloco", {"sync_every": 100, "codec": "int8"}),
    ("streaming", {"sync_every": 100, "codec": "int8"}),
    ("streaming", {"sync_every": 100, "codec": "int4"}),
    ("diloco", {"sync_every": 250, "codec": "int8"}),
    ("streaming", {"sync_every": 250, "codec": "int4"}),
    ("diloco", {"sync_every": 500, "codec": "int8"}),
    ("streaming", {"sync_every": 500, "codec": "int4"}),
    ("sparseloco", {"sync_every": 100}),
    ("sparseloco", {"sync_every": 250}),
    ("noloco", {"sync_every": 100}),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of a plan."""

    preset: str
    overrides: dict[str, Any]
    method: Method
    prediction: Prediction
    ranked: bool
    """Its place in the order is known, so that it may be recommended."""


def candidates(num_parameters: float, layers: int, swarm: UniformSwarm) -> list[Candidate]:
    """Every method and setting that can be had: ranked ones from the surest to the most saving, then every
    other method as its preset is."""
    others = [_candidate(name, {}, num_parameters, swarm, ranked=False) for name in _unranked()]
    return [*ranked(num_parameters, layers, swarm), *(each for each in others if each is not None)]


def ranked(num_parameters: float, layers: int, swarm: UniformSwarm) -> list[Candidate]:
    """Those whose place in the order is known: from the surest to the most saving."""
    found = []
    for preset, wanted in _CANDIDATES:
        overrides = dict(wanted)
        if preset == "streaming":
            overrides |= _fragments(num_parameters, layers, swarm, overrides)
        found.append(_candidate(preset, overrides, num_parameters, swarm, ranked=True))
    return [each for each in found if each is not None]


def _candidate(
    preset: str, overrides: dict[str, Any], num_parameters: float, swarm: UniformSwarm, *, ranked: bool
) -> Candidate | None:
    try:
        chosen = method(preset, **overrides)
    except MethodError:
        return None
    return Candidate(preset, overrides, chosen, predict(chosen, num_parameters, swarm), ranked)


def _unranked() -> list[str]:
    ranked = {preset for preset, _ in _CANDIDATES}
    return [name for name in PRESETS if name not in ranked and name not in left_out()]


def left_out() -> dict[str, str]:
    """Methods that have no row, and why."""
    why = "its rounds do not wait for all, so a wait depends on who is faster"
    return {name: why for name, each in PRESETS.items() if each.quorum}


def _fragments(
    num_parameters: float, layers: int, swarm: UniformSwarm, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Fragments of about three layers, as the paper has them, and a delay that covers one's way and round
    trips with room to spare, up to a quarter of H."""
    sync_every: int = overrides["sync_every"]
    count = max(2, min(layers // 3 or 2, sync_every // 2, 64))
    probe = method("streaming", **overrides, num_fragments=count, delay=0)
    alone = predict(probe, num_parameters, swarm).timing.exposed_s / count
    delay = max(1, min(sync_every // 4, round(1.5 * alone / swarm.step_s + 0.5)))
    return {"num_fragments": count, "delay": delay}


def recommended(rows: list[Candidate]) -> tuple[Candidate, str]:
    """The ranked row to take, and why."""
    rows = [row for row in rows if row.ranked]
    for position, row in enumerate(rows):
        if row.prediction.utilization >= GOOD:
            before = "" if position == 0 else ", the first in the order of how surely they learn,"
            return (
                row,
                f"{row.prediction.utilization:.1%} of the time it trains{before} and {_what(row.method)}",
            )
    best = max(rows, key=lambda row: row.prediction.utilization)
    share = best.prediction.utilization
    return best, f"nothing reaches {GOOD:.0%} of those in the order; this trains {share:.1%} of the time"


def _what(chosen: Method) -> str:
    if chosen.gossips:
        return "nobody waits for more than one other"
    overlap = f"results have {chosen.delay} steps to come" if chosen.delay else "nothing is stale"
    return f"{overlap}, in {chosen.codec}"


def what_would_help(row: Candidate, num_parameters: float, swarm: UniformSwarm) -> list[str]:
    """Single changes with which ``row`` would reach `GOOD`, each a sentence."""

    def with_rate(bps: float) -> float:
        faster = replace(swarm, up_bps=bps, down_bps=max(bps, swarm.down_bps))
        return predict(row.method, num_parameters, faster).utilization

    help_ = []
    needed = bandwidth_for(with_rate, GOOD, min_bps=swarm.up_bps)
    if needed is not None:
        help_.append(f"{show_rate(needed)} of upload and download for each peer")
    for sync_every in (50, 100, 200, 500, 1000, 2000, 5000):
        if sync_every > row.method.sync_every:
            longer = row.method.replaced(sync_every=sync_every)
            if predict(longer, num_parameters, swarm).utilization >= GOOD:
                help_.append(
                    f"sync_every = {sync_every} (longer between exchanges: workers drift further apart)"
                )
                break
    for codec in ("int4", "int2"):
        if row.method.codec != codec and row.method.projection == "none" and not row.method.gossips:
            fewer = row.method.replaced(codec=codec, mean_codec="same")
            if predict(fewer, num_parameters, swarm).utilization >= GOOD:
                help_.append(f'codec = "{codec}"')
                break
    if row.method.num_fragments > 1 and row.method.delay < row.method.sync_every // 2:
        slower = row.method.replaced(delay=row.method.sync_every // 2)
        if predict(slower, num_parameters, swarm).utilization >= GOOD:
            help_.append(f"delay = {slower.delay} (results land later)")
    return help_ or ["a smaller model, or slower steps: no single change of bandwidth, H or bits is enough"]


def bandwidth_for(
    utilization: Callable[[float], float], target: float, *, min_bps: float = 1e3, max_bps: float = 1e14
) -> float | None:
    """The lowest rate in bits per second that reaches ``target``, within 1 %; None if none up to ``max_bps``
    does. Utilization grows with the rate."""
    if utilization(max_bps) < target:
        return None
    if utilization(min_bps) >= target:
        return min_bps
    low, high = min_bps, max_bps
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if utilization(middle) >= target else (middle, high)
    return high


def snippet(row: Candidate) -> str:
    """The [method] section of a RUN.toml, and a grace that covers its exchanges if the default one does not:
    what takes several times longer is not waited for."""
    longest = row.prediction.exchange_s
    lines = [] if longest < _SHORT_S else ["[run]", f"grace_s = {math.ceil(longest)}.0", ""]
    lines += ["[method]", f'preset = "{row.preset}"']
    lines += [f'{key} = "{v}"' if isinstance(v, str) else f"{key} = {v}" for key, v in row.overrides.items()]
    return "\n".join(lines)
