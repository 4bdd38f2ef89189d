"""Which way a microbatch goes: one replica of each stage. Pure: from the roster alone, no time, no messages.

With lines a feeder's microbatches take the replicas of its own line. Where that one is missing they take one
whose line has no feeder, and else any, spread by number. Nothing depends on two peers choosing the same
replacement: their rosters differ.
"""

from __future__ import annotations

from peers.routing.replicas import Replica, Replicas


def choose_path(replicas: Replicas, feeder: int, number: int) -> tuple[int, ...] | None:
    """The memberships that a feeder's microbatch goes through, its own first; None if a stage has nobody that
    takes new ones."""
    path = [feeder]
    for stage in range(1, replicas.stages):
        found = choose_replica(replicas, stage, feeder, number)
        if found is None:
            return None
        path.append(found.since)
    return tuple(path)


def choose_replica(
    replicas: Replicas, stage: int, feeder: int, number: int, *, drains_too: bool = False
) -> Replica | None:
    """Who takes a microbatch at a stage, also in the place of one who is gone; None if nobody does. One who
    leaves takes no new path, but a microbatch that is under way where there is nobody else."""
    there = _takers(replicas, stage, feeder, drains_too=drains_too)
    return there[(feeder + number) % len(there)] if there else None


def is_fed(replicas: Replicas, stage: int, since: int) -> bool:
    """Whether a feeder that stands may choose a replica for what it feeds."""
    feeders = [each for each in replicas.at(0) if not each.drains]
    return any(taker.since == since for each in feeders for taker in _takers(replicas, stage, each.since))


def _takers(replicas: Replicas, stage: int, feeder: int, *, drains_too: bool = False) -> list[Replica]:
    """Those among whom a feeder's microbatches are shared out."""
    here = replicas.at(stage)
    there = [each for each in here if not each.drains] or (here if drains_too else [])
    mine = replicas.standing(feeder)
    own = [each for each in there if mine is not None and each.line == mine.line]
    if own:
        return own[:1]
    fed = {each.line for each in replicas.at(0)}
    return [each for each in there if each.line not in fed] or there
