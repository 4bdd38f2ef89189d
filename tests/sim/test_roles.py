"""With one peer that means harm honest ones go on (X12), in many seeds.

That each defence is what sees to it, `test_defences` shows.
"""

from __future__ import annotations

import pytest

from diloco.simulation.roles.registry import ROLES
from tests.sim.roles import RoleOutcome, outcomes_of, report_of, role_of, table_of

NUM_SEEDS = 200


@pytest.fixture(scope="module")
def outcomes() -> list[RoleOutcome]:
    return outcomes_of(range(NUM_SEEDS))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", ROLES)
def test_honest_peers_go_on_with_one_that_means_harm(role: str, outcomes: list[RoleOutcome]) -> None:
    mine = [each for each in outcomes if each.role == role]
    assert len(mine) >= NUM_SEEDS // len(ROLES)
    failed = [f"seed {each.seed}: {each.problem}" for each in mine if each.problem]
    assert not failed, "\n".join([*failed, table_of(mine)])


def test_every_role_does_something_in_every_seed(outcomes: list[RoleOutcome]) -> None:
    idle = [each.seed for each in outcomes if not each.deeds and not each.problem]
    assert not idle
    assert {each.role for each in outcomes} == set(ROLES) == {role_of(seed) for seed in range(len(ROLES))}


def test_an_equivocator_that_signs_two_roots_is_put_out_and_no_honest_peer_is_touched() -> None:
    for seed in range(1, 8):  # in which one of the others gets another mean
        report = report_of("equivocator", seed)
        role = report.roles[0]
        assert role.deeds["signed two roots under one statement"] > 0
        assert role.put_out == "it vouched for two different things in one round", seed
        assert (report.violations, report.num_forged, report.num_set_aside) == ([], 0, 0), seed


def test_of_three_a_mute_one_has_nobody_but_itself_sit_out() -> None:
    for seed in range(1, 5):
        report = report_of("mute", seed, num_honest=2)
        assert (report.violations, report.num_forged, report.num_set_aside) == ([], 0, 0), seed
        assert report.roles[0].deeds["kept a chunk back"] > 0, seed


def test_the_same_seed_gives_the_same_run_twice() -> None:
    first, second = report_of("liar", 3, rounds=8), report_of("liar", 3, rounds=8)
    assert first.to_json() == second.to_json()
    assert first.roles[0].deeds != report_of("liar", 9, rounds=8).roles[0].deeds
