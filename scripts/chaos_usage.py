"""What processes of a run under chaos take: none too much, and when all is well again no more than before."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

from chaos_story import Sample, Story, Verdict

SETTLED_CPU_S = 15.0
"""After so many seconds of a processor a process has loaded what it needs, on a busy machine too."""
GROWN, MEMORY, THREADS, DESCRIPTORS, RESTING_MEMORY, RESTING_THREADS, RESTING_DESCRIPTORS = (
    f"R1: MiB more than after its first {SETTLED_CPU_S:.0f} s of a processor",
    "R1: MiB",
    "R3: threads",
    "R3: descriptors",
    "R1: MiB more at rest than before the faults",
    "R3: threads more at rest than before the faults",
    "R3: files and sockets more at rest than before the faults",
)
"""What is measured of a process. At rest a worker is compared with the one that took most in the beginning:
all have the same connections then, whoever
dialled them."""
_RESTING: dict[str, Callable[[Sample], float]] = {
    RESTING_MEMORY: lambda sample: sample.mib,
    RESTING_THREADS: lambda sample: sample.threads,
    RESTING_DESCRIPTORS: lambda sample: sample.descriptors - sample.eventfds,
}


def too_much(story: Story, verdict: Verdict) -> Iterable[str]:
    """R1, R3: no process takes more than the bounds."""
    most = {**_most(story.samples), **dict(_more_at_rest(story))}
    for (what, name), found in most.items():
        verdict.most[what] = max(found, verdict.most.get(what, -math.inf))
        if found > story.bounds.get(what, math.inf):
            yield f"{what}: {found:.0f} of {name}, and {story.bounds[what]:.0f} are enough"


def _most(samples: Iterable[Sample]) -> dict[tuple[str, str], float]:
    settled: dict[tuple[str, int], float] = {}
    most: dict[tuple[str, str], float] = defaultdict(float)
    for sample in samples:
        measured = {MEMORY: sample.mib, THREADS: sample.threads, DESCRIPTORS: sample.descriptors}
        if sample.cpu_s >= SETTLED_CPU_S:
            measured[GROWN] = sample.mib - settled.setdefault((sample.name, sample.life), sample.mib)
        for what, found in measured.items():
            most[what, sample.name] = max(found, most[what, sample.name])
    return most


def _more_at_rest(story: Story) -> Iterable[tuple[tuple[str, str], float]]:
    if len(story.rests) != 2:
        return
    before, after = (
        [sample for sample in story.samples if since <= sample.at <= until] for since, until in story.rests
    )
    for what, measure in _RESTING.items():
        usual: dict[bool, float] = defaultdict(float)
        for sample in before:
            usual[sample.name == "host"] = max(usual[sample.name == "host"], measure(sample))
        least: dict[str, float] = {}
        for sample in after:
            # A file is open for a moment: what stays is in every sample.
            least[sample.name] = min(measure(sample), least.get(sample.name, math.inf))
        for name, found in least.items():
            yield (what, name), found - usual[name == "host"]
