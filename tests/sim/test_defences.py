"""Each defence against one that means harm, switched off: its role breaks the checker then.

A planted bug is a subclass or a function in place of the one in use. With all defences on, the seeds break
nothing (`test_roles`).
"""

from __future__ import annotations

from typing import Any

import pytest

from peers.coordinator import accusations, rounds, state_sync
from peers.coordinator.coordinator import Coordinator
from peers.coordinator.judgement import Court, Verdict
from peers.coordinator.marks import Marks, Pair
from peers.coordinator.open_round import OpenRound
from peers.coordinator.pace import MemberPace
from peers.node import Node
from peers.protocol.messages import Stuck
from tests.sim.roles import report_of
from transport.collectives.norms import NO_LIMITS
from transport.effects import Connect
from transport.simnet.links import Endpoint
from transport.simnet.network import SimNetwork

SLOWED = "of the rate without"


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
    assert broken("equivocator", seeds=range(5, 6))


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


@pytest.mark.timeout(300)  # four long runs
def test_whoever_dies_again_and_again_is_waited_for_if_deaths_are_not_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Coordinator, "lose_sight", never_lose_sight)
    assert SLOWED in broken("sybil", rounds=40)


caught_up = state_sync.caught_up


def waited_for_at_once(state: Any, now: float, course: Any, entry: Any, message: Any) -> None:
    """Rounds wait for what a newcomer has not had the time to train."""
    caught_up(state, now, course, entry, message)
    entry.awaited_from = 0


def test_whoever_comes_back_again_and_again_is_waited_for_if_newcomers_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_sync, "caught_up", waited_for_at_once)
    assert SLOWED in broken("flapper", seeds=range(5, 6))


def test_a_dripper_that_never_sits_out_is_waited_for_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.coordinator.rounds.MAX_COMMITS_OUT", 0)
    assert SLOWED in broken("dripper", seeds=range(1))


class Forgets(Marks):
    """It keeps nobody apart, and knows nothing of earlier times."""

    def add(self, pair: Pair, index: int) -> None:
        """Nothing is marked."""


def test_a_mute_one_has_others_sit_out_where_pairs_are_not_kept_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.coordinator.course.Marks", Forgets)
    assert SLOWED in broken("mute", seeds=range(1, 2))


class BlamesAll(Node):
    """After a frame that is no message it closes everyone."""

    def _expel(self, now: float, peer: bytes, reason: str) -> None:
        for each in list(self.links.by_peer):
            super()._expel(now, each, reason)


def test_rubbish_that_closes_more_than_its_sender_is_found() -> None:
    assert "is off the roster" in broken("rubbish", BlamesAll, range(1))


# -- words that are not believed ---------------------------------------------------------------------


def believe(state: Any, course: Any, now: float, current: Any, accuser: Any, message: Stuck) -> None:
    """Whoever is accused sits out."""
    rounds.set_aside(state, course, now, current, list(message.peers), message.poison)


def test_a_liar_whose_accusations_are_believed_slows_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accusations, "hear", believe)
    assert SLOWED in broken("liar", seeds=range(1))


def test_a_liar_whose_values_nobody_measures_moves_the_mean_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenRound, "disputes", lambda self: [])
    monkeypatch.setattr("peers.member.rounds.NormLimits", lambda parts, mean: NO_LIMITS)
    assert "times too far" in broken("liar", seeds=range(1, 3))


def test_a_liar_that_is_as_fast_as_it_says_has_the_others_train_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diloco.simulation.roles.liar.LIES", ("nothing",))  # or it is soon put out
    by_speed = {"method": {"pace": "by_speed"}}
    assert broken("liar", seeds=range(1), **by_speed) == ""
    monkeypatch.setattr("peers.coordinator.coordinator.fastest_of", lambda speeds: max(speeds, default=0.0))
    monkeypatch.setattr(MemberPace, "speed", lambda self, claimed: claimed)
    assert "honest peers train at" in broken("liar", seeds=range(1), **by_speed)


class LooksNamesUp(SimNetwork):
    """Who dials a name that nobody knows does nothing else until the resolver gives up, as one does whose
    names are looked up by libzmq."""

    def _use_network(self, peer: Endpoint, effect: Any) -> None:
        super()._use_network(peer, effect)
        unknown = isinstance(effect, Connect) and any(".invalid" in each for each in effect.addresses)
        if unknown and peer.alive and not peer.frozen:
            self.freeze(peer)
            self.at(5.0, lambda: self.thaw(peer) if peer.alive else None)


def test_a_liar_whose_addresses_are_looked_up_where_frames_are_sent_stops_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diloco.simulation.engine.SimNetwork", LooksNamesUp)
    assert "nothing was committed" in broken("liar", seeds=range(1))


def test_a_liar_that_sends_more_than_it_says_is_put_out_where_the_host_measures_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diloco.simulation.roles.liar.LIES", ("small norm",))
    outs = {report_of("liar", seed).roles[0].put_out for seed in (1, 2)}
    assert outs == {"it vouched for more than it says that it sent"}
    monkeypatch.setattr(Court, "square_of", lambda *chunk: None)
    assert {report_of("liar", seed).roles[0].put_out for seed in (1, 2)} == {""}
