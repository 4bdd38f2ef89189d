"""Seeds of swarms in which one peer has a role: who is there, at which pace, is drawn from the seed.

Each is a scenario as `diloco simulate` runs it. Of seeds in a row each role has every sixth.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from diloco.simulation.report.report import SimulationReport
from diloco.simulation.roles.registry import ROLES
from diloco.simulation.runner import simulate
from diloco.simulation.scenario import Scenario, parse_scenario
from peers.node import Node

ROUNDS = 24
NAMES = ("other", "guest", "visitor", "stranger")
"""Of the one with a role: each has another key, and of two members the one with the lower key dials."""
FIRST = ("mute",)
"""Roles that gain by entering before the others."""


def scenario_of(
    role: str,
    seed: int,
    rounds: int = ROUNDS,
    run: dict[str, Any] | None = None,
    method: dict[str, Any] | None = None,
    num_honest: int | None = None,
) -> Scenario:
    """A small swarm with one peer of that role; ``run`` and ``method`` replace settings of these, and
    ``num_honest`` the number of others that is drawn."""
    rng = Random(f"roles {seed}")
    link = {"up": rng.choice(["50Mbps", "100Mbps", "1Gbps"]), "latency": f"{rng.randint(2, 40)}ms"}
    step = {"step": "250ms", "spread": 0.05, **link}
    fragments = rng.choice([1, 1, 2])
    parameters = rng.choice([300, 900, 1500])
    drawn = rng.randint(4, 7)
    peers = [
        {"name": "honest", "count": num_honest or drawn, **step},
        {"name": rng.choice(NAMES), "role": role, **step},
    ]
    return parse_scenario(
        {
            "name": f"{role} {seed}",
            "mode": "vectors",
            "seed": seed,
            "run": {
                "rounds": rounds // fragments,
                "min_peers": 2,
                "failure_timeout_s": 5.0,
                "grace_s": 5.0,
                **(run or {}),
            },
            "method": {
                "preset": "local_sgd",
                "sync_every": 20,
                "num_fragments": fragments,
                **(method or {}),
            },
            "model": {"parameters": parameters, "tokens_per_step": 64},
            "peers": peers if role not in FIRST else peers[::-1],
        }
    )


def role_of(seed: int) -> str:
    return list(ROLES)[seed % len(ROLES)]


@dataclass(frozen=True)
class RoleOutcome:
    """What one seed came to."""

    seed: int
    role: str
    share: float
    """Of the rate without the peer with a role."""
    forged: int
    deeds: int
    problem: str


def report_of(role: str, seed: int, make_node: Callable[..., Node] = Node, **more: Any) -> SimulationReport:
    """Run one."""
    return simulate(scenario_of(role, seed, **more), make_node=make_node)


def outcome_of(seed: int) -> RoleOutcome:
    """An exception in the code that runs is a finding."""
    role = role_of(seed)
    try:
        report = report_of(role, seed)
    except Exception as error:
        return RoleOutcome(seed, role, 0.0, 0, 0, f"{type(error).__name__}: {error}")
    deeds = sum(sum(each.deeds.values()) for each in report.roles)
    share = report.honest_rate / report.honest_rate_alone
    problem = report.violations[0] if report.violations else ""
    return RoleOutcome(seed, role, share, report.num_forged, deeds, problem)


def outcomes_of(seeds: Sequence[int], processes: int | None = None) -> list[RoleOutcome]:
    """Many seeds, in parallel processes, in order."""
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(outcome_of, seeds, chunksize=3))


def resume(seeds: Sequence[int], kept: Path, processes: int | None = None) -> list[RoleOutcome]:
    """The same, where every outcome is kept in a file at once, and those that are in it are not run again."""
    done = {}
    if kept.exists():
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
        done = {row["seed"]: RoleOutcome(**row) for row in rows}
    left = [seed for seed in seeds if seed not in done]
    with (
        ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn")) as pool,
        kept.open("a", encoding="utf-8") as file,
    ):
        for outcome in pool.map(outcome_of, left):
            done[outcome.seed] = outcome
            file.write(json.dumps(vars(outcome)) + "\n")
            file.flush()
    return [done[seed] for seed in seeds if seed in done]


def table_of(outcomes: Sequence[RoleOutcome]) -> str:
    """By role: seeds, the rate that is left, forged means, and seeds in which X12 or another line broke."""
    lines = ["| role | seeds | rate left, least | median | forged means, most | broken |", "|---" * 6 + "|"]
    for role in ROLES:
        mine = [each for each in outcomes if each.role == role]
        if mine:
            shares = sorted(each.share for each in mine)
            broken = sum(bool(each.problem) for each in mine)
            forged = max(each.forged for each in mine)
            least, middle = shares[0], shares[len(shares) // 2]
            lines.append(f"| {role} | {len(mine)} | {least:.2f} | {middle:.2f} | {forged} | {broken} |")
    return "\n".join(lines)
