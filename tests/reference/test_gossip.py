"""NoLoCo (arXiv 2506.10911) and Moshpit SGD (2103.03239) against the whole stack.

Who swaps with whom is drawn, so the loop takes it from what the members were told, after it has checked that
it is a matching, or lines of one grid, the same on all sides, and not the same at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.reference import kit
from tests.reference.problem import values, workers

EVERY = 3
Groups = list[list[tuple[int, ...]]]


def reference(
    groups: Groups,
    count: int,
    lr: float,
    momentum: float,
    gamma: float,
    before: Sequence[int] = (),
) -> list[kit.Seen]:
    """NoLoCo, algorithm 1, in the descent sign Delta = phi - theta:

        m_i <- alpha m_i + beta/n sum_j Delta_j + gamma (phi_i - 1/n sum_j phi_j);  phi_i <- phi_i - m_i

    over the n members of i's group; the next inner phase begins at phi_i. (The paper writes delta = -m.)
    The first phase of replica i has ``before[i]`` more inner steps, done before there was anybody to swap
    with.
    """
    replicas = workers(count)
    phi = [values(each.model) for each in replicas]
    m = [{name: torch.zeros_like(value) for name, value in mine.items()} for mine in phi]
    seen = [kit.Seen() for _ in range(count)]
    for each, extra in zip(replicas, before, strict=False):
        for _ in range(extra):
            seen[each.index].starts.append(values(each.model))
            each.train()
    for partition in groups:
        for each in replicas:
            for _ in range(EVERY):
                seen[each.index].starts.append(values(each.model))
                each.train()
        theta = [values(each.model) for each in replicas]
        old = [dict(mine) for mine in phi]
        for group in partition:
            for i in group:
                for name in phi[i]:
                    deltas = [old[j][name] - theta[j][name] for j in group]
                    pull = old[i][name] - mean([old[j][name] for j in group])
                    m[i][name] = momentum * m[i][name] + lr * mean(deltas) + gamma * pull
                    phi[i][name] = old[i][name] - m[i][name]
        for each in replicas:
            each.load(phi[each.index])
    for told, outer in zip(seen, phi, strict=True):
        told.starts.append(outer)
        told.outer = outer
    return seen


def mean(of: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(of)).sum(0) / len(of)


def groups_of(seen: list[kit.Seen], steps: int) -> Groups:
    """The groups of each outer step; fails unless all their members name the same, and each is in one."""
    partitions = []
    for step in range(steps):
        told = {index: each.groups[step] for index, each in enumerate(seen)}
        partition = sorted(set(told.values()))
        assert sorted(index for group in partition for index in group) == list(range(len(seen)))
        assert all(index in group for index, group in told.items())
        partitions.append(partition)
    return partitions


def check(
    seen: list[kit.Seen],
    steps: int,
    *,
    size: int,
    lr: float,
    momentum: float,
    gamma: float,
    before: Sequence[int] = (),
    tolerance: float = 1e-6,
) -> None:
    """Fails unless the stack went where the loop goes, step for step, in groups of at most ``size``."""
    groups = groups_of(seen, steps)
    assert max(len(group) for partition in groups for group in partition) == size
    expected = reference(groups, len(seen), lr, momentum, gamma, before)
    for found, each in zip(seen, expected, strict=True):
        assert found.outer_steps == [steps]
        for have, want in zip(found.starts, each.starts, strict=False):
            kit.assert_equal(have, want, tolerance)
        kit.assert_equal(found.outer, each.outer, tolerance)


def payload_bytes(seen: list[kit.Seen], groups: Groups) -> int:
    """Delta and phi, 2N values of four bytes. A pair sends "1 message each way"; a larger group averages as a
    butterfly does (Moshpit SGD, section 3): each part goes to its owner, and the mean back to all others."""
    return sum(2 * (len(group) - 1) * swap_bytes(seen) for each in groups for group in each)


def swap_bytes(seen: list[kit.Seen]) -> int:
    return 2 * 4 * sum(value.numel() for value in seen[0].outer.values())


NOLOCO: dict[str, Any] = {"lr": 0.7, "momentum": 0.5, "gamma": 0.7}
AVERAGING: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "gamma": 1.0}


def moshpit(side: int) -> dict[str, Any]:
    return {"preset": "moshpit", "sync_every": EVERY, "group_size": side}


def test_noloco_over_sockets_is_the_papers_update() -> None:
    rounds = 6
    seen = kit.over_sockets({"preset": "noloco", "sync_every": EVERY}, rounds, (8, 8))
    payload = payload_bytes(seen, groups_of(seen, rounds))
    assert payload <= sum(each.bytes_sent for each in seen) <= 1.1 * payload + 40_000
    check(seen, rounds, size=2, **NOLOCO)
    kit.assert_equal(seen[0].starts[EVERY], seen[1].starts[EVERY])


def test_a_replica_that_began_some_steps_before_its_partner_swaps_as_if_both_had_begun_together() -> None:
    """There is no barrier at the start: who is early waits at its swap, which names the outer step."""
    rounds = 4
    seen = kit.over_sockets({"preset": "noloco", "sync_every": EVERY}, rounds, (8, 8), ahead=EVERY - 1)
    check(seen, rounds, size=2, **NOLOCO)


def test_a_replica_that_trained_before_its_partner_entered_swaps_as_if_both_had_begun_together() -> None:
    """Who enters in the first phase gets the parameters that the phase began with."""
    rounds = 4
    method = {"preset": "noloco", "sync_every": EVERY}
    seen = kit.over_sockets(method, rounds, (8, 8), ahead=EVERY - 1, alone=True)
    check(seen, rounds, size=2, **NOLOCO)


def test_what_a_replica_trained_with_nobody_to_swap_with_is_in_its_first_swap() -> None:
    """Fewer than ``min_peers`` take no outer step; they train on."""
    rounds = 4
    method = {"preset": "noloco", "sync_every": EVERY, "weights": "equal"}
    seen = kit.over_sockets(method, rounds, (8, 8), ahead=2 * EVERY + 1, alone=True)
    assert seen[0].pauses == [EVERY, 2 * EVERY]
    check(seen, rounds, size=2, before=(2 * EVERY, 0), **NOLOCO)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_noloco_in_simulated_time_is_the_papers_update(count: int) -> None:
    rounds, tokens = 8, (16,) * count
    seen = kit.simulated({"preset": "noloco", "sync_every": EVERY}, rounds * EVERY, tokens)
    check(seen, rounds, size=2, **NOLOCO)


@pytest.mark.parametrize("gamma", [0.6, 1.3])
def test_gamma_pulls_members_together_as_strongly_as_it_says(gamma: float) -> None:
    rounds, tokens = 6, (16,) * 4
    seen = kit.simulated({"preset": "noloco", "sync_every": EVERY, "gamma": gamma}, rounds * EVERY, tokens)
    check(seen, rounds, size=2, **{**NOLOCO, "gamma": gamma})


@pytest.mark.parametrize(("codec", "step"), [("bf16", 2.0**-8), ("fp16", 2.0**-11)])
def test_a_swap_may_send_half_the_bits(codec: str, step: float) -> None:
    """Both means are off by at most half a step for the parts and half for the mean, of values below 1, and
    the momentum of NoLoCo adds up such errors of three swaps."""
    rounds, tokens = 3, (16,) * 2
    method = {"preset": "noloco", "sync_every": EVERY, "codec": codec}
    seen = kit.simulated(method, rounds * EVERY, tokens)
    payload = payload_bytes(seen, groups_of(seen, rounds)) // 2
    kit.assert_bulk(seen, payload, messages=2 * rounds * 2)
    check(seen, rounds, size=2, tolerance=rounds * 0.7 * step, **NOLOCO)


def test_members_enter_both_means_of_a_swap_alike_whatever_their_tokens() -> None:
    rounds = 6
    method = {"preset": "noloco", "sync_every": EVERY}
    seen = kit.simulated(method, rounds * EVERY, (8, 24, 16))
    check(seen, rounds, size=2, **NOLOCO)


@pytest.mark.parametrize(("side", "count"), [(2, 4), (2, 8), (3, 9), (2, 3), (2, 5), (3, 6)])
def test_moshpit_averages_in_the_lines_of_a_grid(side: int, count: int) -> None:
    rounds, tokens = 6, (16,) * count
    seen = kit.simulated(moshpit(side), rounds * EVERY, tokens)
    check(seen, rounds, size=side, **AVERAGING)


@pytest.mark.parametrize(("side", "dimensions"), [(2, 2), (2, 3), (3, 2)])
def test_moshpit_over_a_full_grid_has_the_exact_mean_after_as_many_rounds_as_dimensions(
    side: int, dimensions: int
) -> None:
    """ "g^d peers are exact after d rounds": all train for one phase and stand still then, and each holds
    the mean of what all had trained."""
    count = side**dimensions
    seen = kit.simulated(moshpit(side), dimensions * EVERY, (16,) * count, StandsStill)
    trained = []
    for each in workers(count, StandsStill):
        for _ in range(EVERY):
            each.train()
        trained.append(values(each.model))
    for each_seen in seen:
        for name, value in each_seen.outer.items():
            kit.assert_equal({name: value}, {name: torch.stack([mine[name] for mine in trained]).mean(0)})


class StandsStill(torch.optim.SGD):
    """SGD that no longer moves after the first phase."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.05)
        self._left = EVERY

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        self._left -= 1
        if self._left == 0:
            self.param_groups[0]["lr"] = 0.0


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_pairs_are_matchings_that_change_and_send_two_vectors_each_way(count: int) -> None:
    rounds = 8
    seen = kit.simulated({"preset": "noloco", "sync_every": 1}, rounds, (16,) * count)
    groups = groups_of(seen, rounds)
    for partition in groups:
        assert sorted(map(len, partition)) == [1] * (count % 2) + [2] * (count // 2)
    assert count == 2 or len({tuple(partition) for partition in groups}) > 1
    payload = payload_bytes(seen, groups)
    # Two that dial each other at the same time begin anew on the link that stays.
    dialled = count * (count - 1) * swap_bytes(seen)
    assert payload <= sum(each.bulk_bytes for each in seen) <= 1.02 * payload + dialled


@pytest.mark.parametrize(("side", "count"), [(2, 3), (2, 5), (2, 6), (3, 6), (2, 7)])
def test_a_grid_that_is_not_full_brings_everyone_together_too(side: int, count: int) -> None:
    rounds = 8
    seen = kit.simulated({**moshpit(side), "sync_every": 1}, rounds, (16,) * count)
    met = {index: {index} for index in range(count)}
    for partition in groups_of(seen, rounds):
        assert all(len(group) <= side for group in partition)
        met = {i: set().union(*(met[j] for j in group)) for group in partition for i in group}
    assert all(len(each) == count for each in met.values())


@pytest.mark.parametrize(("side", "dimensions"), [(2, 2), (2, 3), (3, 2)])
def test_lines_of_a_grid_are_of_another_dimension_each_round(side: int, dimensions: int) -> None:
    count, rounds = side**dimensions, 3 * dimensions
    seen = kit.simulated({**moshpit(side), "sync_every": 1}, rounds, (16,) * count)
    groups = groups_of(seen, rounds)
    for first in range(0, rounds, dimensions):
        met = {index: {index} for index in range(count)}
        for partition in groups[first : first + dimensions]:
            assert all(len(group) == side for group in partition)
            met = {i: set().union(*(met[j] for j in group)) for group in partition for i in group}
        assert all(len(each) == count for each in met.values())
    assert len({tuple(partition) for partition in groups}) >= dimensions
    payload = payload_bytes(seen, groups)
    dialled = count * (count - 1) * swap_bytes(seen)
    assert payload <= sum(each.bulk_bytes for each in seen) <= 1.02 * payload + dialled
