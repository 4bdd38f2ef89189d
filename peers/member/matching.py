"""Who exchanges with whom in gossip: groups that every member finds by itself, from the same numbers.

Pure functions of the members, a seed and the step. Knows no messages. Members who see another roster find
other groups: that is noticed where groups exchange (`peers.member.swaps`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from peers.protocol.profile import Matching


def group_of(matching: Matching, members: Iterable[bytes], step: int, me: bytes) -> tuple[bytes, ...]:
    """The group of ``me`` at this step, sorted; ``me`` alone if nobody is left for it."""
    return _groups(matching, frozenset(members), step).get(me, (me,))


@lru_cache(64)
def _groups(matching: Matching, members: frozenset[bytes], step: int) -> dict[bytes, tuple[bytes, ...]]:
    """By member, its group. All who see one roster find the same, which counts where many are simulated."""
    if matching.kind == "pair":
        groups = pairs(members, matching.seed, step)
    else:
        groups = lines(members, matching.seed, step, matching.group_size)
    return {member: group for group in groups for member in group}


def pairs(members: Iterable[bytes], seed: int, step: int) -> list[tuple[bytes, ...]]:
    """A random perfect matching for this step, drawn without negotiation; with an odd number one is alone.
    NoLoCo (arXiv 2506.10911), section 3."""
    order = _shuffled(members, f"pairs {seed} {step}")
    return [tuple(sorted(order[i : i + 2])) for i in range(0, len(order), 2)]


def lines(members: Iterable[bytes], seed: int, step: int, side: int) -> list[tuple[bytes, ...]]:
    """The lines of a grid along one of its axes, another one each step: with side^d members who average
    within their lines, all hold the exact mean after d steps. Moshpit SGD (arXiv 2103.03239). A grid that is
    not full has shorter lines."""
    order = _shuffled(members, f"grid {seed}")
    axes = 1
    while side**axes < len(order):
        axes += 1
    stride = side ** (step % axes)
    found: dict[tuple[int, int], list[bytes]] = {}
    for position, member in enumerate(order):
        found.setdefault((position // (stride * side), position % stride), []).append(member)
    return [tuple(sorted(line)) for line in found.values()]


def _shuffled(members: Iterable[bytes], salt: str) -> Sequence[bytes]:
    """Sorted by a hash with the salt: the order of any two does not depend on who else is there."""
    prefix = hashlib.sha256(salt.encode()).digest()
    return sorted(members, key=lambda member: hashlib.sha256(prefix + member).digest())
