"""Which cuts make the slowest stage as fast as it can be: an exact answer, from the seconds of each layer.

Owns the search and nothing else: what a layer takes is measured elsewhere. Needs no torch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from diloco.errors import PipelineError


def best_cuts(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """The first layers of stages 1, 2, ... with which the largest sum of a stage's ``costs`` is as small as
    contiguous runs of layers allow; each stage has one layer at least. Costs are not negative. Raises
    `PipelineError` for more stages than layers.

    Dynamic programming: the best of ``s`` stages over the first ``j`` layers is the least, over where the
    last of them begins, of the larger of that stage and the best of the others. The one falls and the other
    rises as it begins later, so that the least is where they cross, which bisection finds."""
    count = len(costs)
    if not 1 <= stages <= count:
        raise PipelineError(f"{stages} stages of {count} layers are not possible: choose 1 to {count} stages")
    before = [0.0, *accumulate(costs)]
    best = before[:]
    """Of the stages so far, by how many layers they have together; shorter than they can be is never read."""
    begins: list[list[int]] = []
    for stage in range(1, stages):
        found, where = [0.0] * (count + 1), [0] * (count + 1)
        for end in range(stage + 1, count + 1):
            starts = range(stage, end)
            crossing = bisect_left(starts, True, key=lambda at: best[at] >= before[end] - before[at])
            near = {starts[min(crossing, len(starts) - 1)], starts[max(crossing - 1, 0)]}
            found[end], where[end] = min((max(best[at], before[end] - before[at]), at) for at in near)
        best = found
        begins.append(where)
    cuts = [count]
    for where in reversed(begins):
        cuts.append(where[cuts[-1]])
    return tuple(reversed(cuts[1:]))


def slowest(costs: Sequence[float], runs: Sequence[range]) -> float:
    """The largest sum of a stage's costs, given the layers of each."""
    return max(sum(costs[run.start : run.stop]) for run in runs)
