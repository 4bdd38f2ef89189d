"""Streams under faults: seeds of the model, and bugs that it finds."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from tests.peers.routing import model, test_stories
from tests.peers.routing.model import Broken, ModelSwarm, run_seed
from tests.peers.routing.planted import BUGS
from transport.errors import BadFrame

SEEDS = (1000, 1001, 1006, 0, 1, 3, 5, 14, 48, 57, 64, 88, 129, 360, 1663)
"""From 1000 on with any wiring; of the others those after the first few failed once."""


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_microbatches_count_once_and_end(seed: int) -> None:
    run_seed(seed)


@pytest.mark.parametrize("seed", [0, 3, 50])
def test_without_faults_nothing_is_given_up_and_a_line_counts_in_one_order(seed: int) -> None:
    assert run_seed(seed, faulty=False).seen["SETTLED"] > 50


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = BUGS[name]
    for where, what, instead in bug.patches:
        monkeypatch.setattr(where, what, instead)
    if bug.seed is not None:
        with pytest.raises((Broken, BadFrame)):
            run_seed(bug.seed, bug.stream, bug.loop, faulty=bug.faulty)
    else:
        monkeypatch.setattr(
            test_stories, "ModelSwarm", partial(ModelSwarm, make=bug.stream, make_loop=bug.loop)
        )
        with pytest.raises((Broken, AssertionError)):
            getattr(test_stories, bug.story)()


def main() -> None:
    """Many seeds: ``python -m tests.peers.routing.test_streaming 0 1000``."""
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            run_seed(seed)
        except (Broken, AssertionError, BadFrame) as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")


def test_the_model_kills_between_effects_and_its_coordinator_is_away() -> None:
    """Or its seeds show little."""
    seen = run_seed(5).seen + run_seed(14).seen + model.run_seed(88).seen
    assert min(seen[each] for each in ("kill_between", "coordinator", "Has", "Ended", "AskTargets")) > 0


if __name__ == "__main__":
    main()
