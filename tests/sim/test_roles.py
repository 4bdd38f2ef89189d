"""With one peer that means harm honest ones go on (X12), in many seeds; and each defence is what sees to it.

Each planted bug switches one defence off; the role that it is against must break the checker then.
"""

from __future__ import annotations

from typing import Any

import pytest

from diloco.simulation.roles.registry import ROLES
from peers.coordinator.coordinator import Coordinator
from peers.coordinator.judgement import Court, Verdict
from peers.coordinator.open_round import OpenRound
from peers.node import Node
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
    assert {each.role for each in outcomes} == set(ROLES) == {role_of(seed) for seed in range(6)}


def test_an_equivocator_that_signs_two_roots_is_put_out_and_no_honest_peer_is_touched() -> None:
    for seed in range(1, 8):  # in which one of the others gets another mean
        report = report_of("equivocator", seed)
        role = report.roles[0]
        assert role.deeds["signed two roots under one statement"] > 0
        assert role.put_out == "it vouched for two different things in one round", seed
        assert (report.violations, report.num_forged, report.num_set_aside) == ([], 0, 0), seed


def test_the_same_seed_gives_the_same_run_twice() -> None:
    first, second = report_of("liar", 3, rounds=8), report_of("liar", 3, rounds=8)
    assert first.to_json() == second.to_json()
    assert first.roles[0].deeds != report_of("liar", 9, rounds=8).roles[0].deeds


# -- each defence switched off -----------------------------------------------------------------------


def broken(role: str, make_node: Any = Node, seeds: range = range(4), **more: Any) -> str:
    """The first lines of all violations over some seeds."""
    return "\n".join(line for seed in seeds for line in report_of(role, seed, make_node, **more).violations)


class TakesAnyWord(Node):
    """It stops when any member says that it is stale."""

    def _told_to_stop(self, now: float, peer: bytes) -> None:
        if not self.coordinator:
            self._step_down()


def test_a_liar_whose_stale_is_believed_ends_others() -> None:
    assert "is told IdentitySuperseded" in broken("liar", TakesAnyWord, range(1))


def test_a_liar_whose_weight_counts_as_offered_moves_the_mean_alone() -> None:
    assert "times too far" in broken("liar", seeds=range(1), run={"max_influence": 0.0})


class AnyDigest(OpenRound):
    """It takes whichever result is said first."""

    def agreement(self) -> bytes | None:
        return next(iter(self.done.values()), None) if len(self.done) == len(self.members) else None


def test_an_equivocator_whose_results_are_not_compared_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.coordinator.rounds.OpenRound", AnyDigest)
    assert broken("equivocator")


class BelievesTheAuthor(Court):
    """It takes whoever shows two signed roots for a liar."""

    def of_two_things(self, current: Any, accuser: bytes, identity: bytes, told: Any) -> Verdict:
        return Verdict(accuser, "it says that somebody vouched for two things")


def test_an_equivocator_whose_two_roots_are_not_looked_at_has_its_victim_put_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.node.Court", BelievesTheAuthor)
    assert "is put out for good" in broken("equivocator", seeds=range(1, 2))


def never_lose_sight(self: Coordinator, now: float, peer: bytes) -> None:
    """A death is noticed by silence alone."""


BACK_TOO_SOON = "a flapper is back before its absence costs much: no bug is known that it alone shows"


@pytest.mark.parametrize(
    "role", ["sybil", pytest.param("flapper", marks=pytest.mark.xfail(strict=True, reason=BACK_TOO_SOON))]
)
def test_whoever_dies_again_and_again_is_waited_for_if_deaths_are_not_noticed(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Coordinator, "lose_sight", never_lose_sight)
    assert "of the rate without" in broken(role, rounds=40)


def test_a_dripper_that_never_sits_out_is_waited_for_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.coordinator.rounds.MAX_COMMITS_OUT", 0)
    assert "of the rate without" in broken("dripper", seeds=range(1))


class BlamesAll(Node):
    """After a frame that is no message it closes everyone."""

    def _expel(self, now: float, peer: bytes, reason: str) -> None:
        for each in list(self.links.by_peer):
            super()._expel(now, each, reason)


def test_rubbish_that_closes_more_than_its_sender_is_found() -> None:
    assert "is off the roster" in broken("rubbish", BlamesAll, range(1))
