"""`peers.coordinator.influence`, and what a coordinator makes of it when it opens rounds."""

from __future__ import annotations

import math
from statistics import median_low

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.coordinator.influence import REMEMBERED, NormHistory, effective_weights, limits_of
from peers.protocol.messages import Done, Open, Ready, Rejected
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, trained
from transport.frames import unpack

WEIGHTS = st.integers(1, 10**18).map(float)
NORMS = st.just(0.0) | st.floats(1e-45, 1e45)
OFFERS = st.lists(st.tuples(WEIGHTS, NORMS), min_size=4, max_size=64)
FEW = st.lists(st.tuples(WEIGHTS, NORMS), min_size=1, max_size=3)
LIMITS = st.floats(2.0, 1e6)


def weights_of(offers: list[tuple[float, float]], limit: float = 12.0) -> tuple[float, ...]:
    return effective_weights([w for w, _ in offers], [n for _, n in offers], limit)


@given(OFFERS, LIMITS)
def test_no_member_moves_a_mean_by_more_than_the_limit_times_the_share_of_a_median_one(
    offers: list[tuple[float, float]], limit: float
) -> None:
    honest = median_low(w for w, _ in offers), median_low(n for _, n in offers)
    for weight, (_, norm) in zip(weights_of(offers, limit), offers, strict=True):
        moved = math.log(weight) + (math.log(norm) if norm else -math.inf)
        if honest[1]:
            assert moved <= math.log(limit) + math.log(honest[0]) + math.log(honest[1]) + 1e-9
        else:
            assert not norm or weight <= 1e-25 * max(w for w, _ in offers)


@given(OFFERS, LIMITS)
def test_a_weight_is_above_0_and_at_most_what_was_offered(
    offers: list[tuple[float, float]], limit: float
) -> None:
    assert all(0.0 < w <= mine for w, (mine, _) in zip(weights_of(offers, limit), offers, strict=True))


@given(OFFERS, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(offers: list[tuple[float, float]], rng: object) -> None:
    order = list(range(len(offers)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    weights = weights_of(offers)
    assert weights_of([offers[i] for i in order]) == tuple(weights[i] for i in order)


@given(OFFERS, st.floats(1.0, 100.0))
def test_who_offers_more_never_weighs_less_and_who_is_longer_never_more(
    offers: list[tuple[float, float]], times: float
) -> None:
    weight, norm = offers[0]
    mine = weights_of(offers)[0]
    assert weights_of([(weight * times, norm), *offers[1:]])[0] >= mine * (1 - 1e-12)
    # Its norm may be the median, which then rises with it: as far as that it loses nothing.
    longer = weights_of([(weight, norm * times), *offers[1:]])[0]
    assert longer <= max(mine, min(weight, 4 * median_low(w for w, _ in offers))) * (1 + 1e-12)


@given(FEW, st.floats(0.0, 100.0))
def test_fewer_than_four_weigh_as_they_offer(offers: list[tuple[float, float]], limit: float) -> None:
    assert weights_of(offers, limit) == tuple(w for w, _ in offers)


@given(OFFERS)
def test_a_limit_of_0_changes_nothing(offers: list[tuple[float, float]]) -> None:
    assert weights_of(offers, 0.0) == tuple(w for w, _ in offers)


def test_12_is_4_for_weights_times_3_for_norms_and_others_are_split_in_that_ratio() -> None:
    assert limits_of(12.0) == (4.0, 3.0)
    assert limits_of(48.0) == (8.0, 6.0)
    offers = [(8.0, 1.0), (8.0, 2.0), (16.0, 2.0), (100.0, 12.0), (8.0, 4.0)]
    # lower medians: 8 of weights, 2 of norms; so 32 at most, and above a norm of 6 in proportion
    assert weights_of(offers) == (8.0, 8.0, 16.0, 16.0, 8.0)


@pytest.mark.parametrize(
    ("tokens", "kept", "kept_of_48"),
    [
        ([1.0] * 7 + [4.0], 1.0, 1.0),
        ([1.0] * 7 + [10.0], 0.83, 0.99),
        ([1.0] * 3 + [10.0], 0.82, 0.99),
        ([1.0] * 4 + [10.0] * 4, 0.87, 1.0),
        ([1.0] * 3 + [10.0] * 5, 1.0, 1.0),
        ([1.0] * 7 + [50.0], 0.29, 0.48),
    ],
)
def test_what_an_honest_mix_of_speeds_pays_is_what_the_docs_say(
    tokens: list[float], kept: float, kept_of_48: float
) -> None:
    def kept_of(limit: float) -> float:
        weights = effective_weights(tokens, [1.0] * len(tokens), limit)
        noise = sum(w * w / n for w, n in zip(weights, tokens, strict=True))
        return sum(weights) ** 2 / noise / sum(tokens)

    assert (round(kept_of(12.0), 2), round(kept_of(48.0), 2)) == (kept, kept_of_48)


def test_a_norm_may_be_ten_times_the_largest_of_the_last_16() -> None:
    history, now = NormHistory(), 0.0
    assert history.bound(now) == math.inf, "there is nothing to compare with"
    history.commit(now, 0.0)
    assert history.bound(now) == math.inf
    for norm in (5.0, *[1.0] * (REMEMBERED - 1)):
        history.commit(now, norm)
    assert history.bound(now) == 50.0
    history.commit(now, 1.0)
    assert history.bound(now) == 10.0
    history.num_refused += 2
    assert history.bound(now) == 1000.0, "who has really changed comes in after a few"
    history.commit(now, 500.0)
    assert history.bound(now) == 5000.0


def test_who_trained_on_while_nothing_was_committed_may_have_come_as_far_as_that_takes() -> None:
    history = NormHistory()
    for second in range(REMEMBERED):
        history.commit(second, 1.0)
    last = REMEMBERED - 1
    assert history.bound(last + 1) == 10.0
    assert history.bound(last + 100) == 1000.0, "a host that was away loses no work of two workers"
    history.commit(last + 100, 1.0)
    assert history.bound(last + 100.5) == 1000.0, "what waited for it is committed before that"
    history.commit(last + 101, 100.0)
    history.commit(last + 102, 1.0)
    assert history.bound(last + 103) == 1000.0, "and then as before: ten times the largest"


# -- in rounds --------------------------------------------------------------------------------------


def commit(swarm: Swarm, *indexes: int) -> None:
    serial = swarm.told(indexes[0], Open)[-1].serial
    for index in indexes:
        swarm.hear(index, Done(serial, 0, RESULT))
    swarm.said.clear()


def ready(swarm: Swarm, index: int, number: int, norm: float) -> None:
    swarm.hear(index, Ready(0, swarm.chain.head, 8, 8, number, norm))


def test_a_round_opens_and_is_recorded_with_the_effective_weights() -> None:
    swarm = trained(4)
    for index, tokens in enumerate((10, 20, 30, 10**15), start=1):
        swarm.ready(index, tokens=tokens, norm=1.0 if index > 1 else 9.0)
    opened = swarm.told(1, Open)[0]
    assert opened.weights == pytest.approx((10 / 3, 20.0, 30.0, 80.0))
    commit(swarm, 1, 2, 3, 4)
    record = unpack(swarm.journal[-1]).commit()
    assert record.weights == opened.weights


def test_with_max_influence_0_weights_stand() -> None:
    swarm = trained(4, max_influence=0.0)
    for index, tokens in enumerate((10, 20, 30, 10**15), start=1):
        swarm.ready(index, tokens=tokens)
    assert swarm.told(1, Open)[0].weights == (10.0, 20.0, 30.0, 1e15)


def test_with_two_members_a_norm_that_leaps_above_the_members_own_is_refused_until_it_stays() -> None:
    swarm = trained(2, min_peers=2)
    ready(swarm, 1, 1, 1e6)
    ready(swarm, 2, 1, 1.0)
    assert swarm.told(2, Open), "at first there is nothing to compare with, and the other is no measure"
    commit(swarm, 1, 2)
    ready(swarm, 1, 2, 1e6)
    ready(swarm, 2, 2, 101.0)
    assert "its own last rounds" in swarm.told(2, Rejected)[0].reason
    assert not swarm.told(2, Open)
    ready(swarm, 2, 3, 101.0)
    assert not swarm.told(2, Open)
    ready(swarm, 2, 4, 101.0)
    assert swarm.told(2, Open), "ten times more at each"


def test_with_four_members_nobodys_own_history_counts() -> None:
    swarm = trained(4)
    for number, norm in enumerate((1.0, 50.0), start=1):
        for index in (1, 2, 3, 4):
            ready(swarm, index, number, norm)
        assert swarm.told(1, Open), "all of them grew alike"
        commit(swarm, 1, 2, 3, 4)


def test_a_history_is_of_one_identity_and_fragment_and_survives_coming_back() -> None:
    swarm = trained(2, min_peers=2)
    for index in (1, 2):
        ready(swarm, index, 1, 1.0)
    commit(swarm, 1, 2)
    head = swarm.chain.head
    swarm.enter(2, head=head, holds_state=True)
    swarm.hold(2, version=head, digest=b"e" * 32)
    assert swarm.core.roster.entries[key(2)].norms[0].bound(swarm.now) == 10.0
