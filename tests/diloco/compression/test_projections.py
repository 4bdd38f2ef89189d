"""Projections: linear, exact or converging where they should be, and the same bits on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import sha256

import pytest
import torch
from torch import Tensor

from diloco.compression.deterministic import seeded_uniform
from diloco.compression.low_rank import CYCLE, SURVEY, LowRank
from diloco.compression.projections import Dct, IdentityProjection, Projection, RandomMask

SHAPES = [(24, 40), (7,), (30, 4, 5), (), (50, 8)]
N = sum(math.prod(shape) for shape in SHAPES)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return seeded_uniform((seed, 7), math.prod(shape)).view(shape)


def with_spectrum(rows: int, columns: int, singular_values: Tensor, seed: int = 0) -> Tensor:
    left = torch.linalg.qr(uniform(rows, len(singular_values), seed=seed))[0]
    right = torch.linalg.qr(uniform(columns, len(singular_values), seed=seed + 1))[0]
    return (left * singular_values) @ right.T


ALL: dict[str, Callable[[], Projection]] = {
    "identity": lambda: IdentityProjection(N),
    "mask": lambda: RandomMask(N, one_in=7, seed=3),
    "dct": lambda: Dct(N),
    "low_rank": lambda: LowRank(SHAPES, rank=3, seed=3),
    "lgreco": lambda: LowRank(SHAPES, rank=3, seed=3, adapt="lgreco"),
    "dilocox": lambda: LowRank(SHAPES, rank=3, seed=3, adapt="dilocox", sync_every=90),
}


@pytest.fixture(params=ALL)
def projection(request: pytest.FixtureRequest) -> Projection:
    return ALL[request.param]()


def sketched(projection: Projection, x: Tensor, state: Tensor, index: int) -> Tensor:
    """The state with which ``x`` is lifted again: after the first of two exchanges, if there are two."""
    if not projection.sketches(state):
        return state
    return projection.next_state(projection.project(x, state, index), state, index)


def rounds(
    projection: Projection, vectors: list[Tensor], state: Tensor | None = None
) -> tuple[list[Tensor], Tensor]:
    """What outer steps with one member each lift, and the state after them."""
    state, lifted = projection.first_state() if state is None else state, []
    for index, x in enumerate(vectors):
        state = sketched(projection, x, state, index)
        y = projection.project(x, state, index)
        lifted.append(projection.lift(y, state, index))
        state = projection.next_state(y, state, index)
    return lifted, state


def test_the_mean_of_projections_lifts_to_the_projection_of_the_mean(projection: Projection) -> None:
    state = projection.first_state()
    for index in range(SURVEY + 2):
        members = [uniform(N, seed=10 * index + member) for member in range(3)]
        weights = [0.5, 0.25, 0.25]
        state = sketched(projection, members[0], state, index)
        sent = [projection.project(x, state, index) for x in members]
        mean = sum((w * y for w, y in zip(weights, sent, strict=True)), torch.zeros(len(sent[0])))
        x_mean = sum((w * x for w, x in zip(weights, members, strict=True)), torch.zeros(N))
        got = projection.lift(mean, state, index)
        expected = projection.lift(projection.project(x_mean, state, index), state, index)
        assert torch.allclose(got, expected, atol=1e-5)
        state = projection.next_state(mean, state, index)


def test_projecting_what_was_lifted_gives_it_back(projection: Projection) -> None:
    state, x = projection.first_state(), uniform(N)
    for index in range(3):
        state = sketched(projection, x, state, index)
        y = projection.project(x, state, index)
        again = projection.project(projection.lift(y, state, index), state, index)
        assert torch.allclose(y, again, atol=1e-5)
        state = projection.next_state(y, state, index)


def test_lengths_are_as_promised_and_never_above_the_most(projection: Projection) -> None:
    state, longest = projection.first_state(), 0
    size = len(state)
    for index in range(CYCLE + 1):
        y = projection.project(uniform(N, seed=index), state, index)
        assert y.shape == (projection.length(state),)
        if not projection.sketches(state):
            assert projection.lift(y, state, index).shape == (N,) == (projection.num_elements,)
        longest = max(longest, len(y))
        state = projection.next_state(y, state, index)
        assert len(state) == size
    assert longest == projection.max_sent


def test_the_old_state_and_the_inputs_stay_as_they_were(projection: Projection) -> None:
    x = uniform(N)
    state = sketched(projection, x, projection.first_state(), 0)
    y = projection.project(x, state, 0)
    before = [each.clone() for each in (state, x, y)]
    projection.lift(y, state, 0)
    projection.next_state(y, state, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, (state, x, y), strict=True))


def test_an_update_of_zeros_lifts_to_zeros_and_leaves_a_finite_state(projection: Projection) -> None:
    lifted, state = rounds(projection, [torch.zeros(N)] * 5)
    assert not any(each.any() for each in lifted)
    assert state.isfinite().all()
    x = uniform(N)
    lifted, _ = rounds(projection, [torch.zeros(N)] * 5 + [x] * 2)
    assert lifted[-1].any()


BITS = {
    "mask": "38c256b125fa83db",
    "dct": "867f4db9f2f28657",
    "low_rank": "0d43daf4d9df756b",
    "lgreco": "ddfa566126619f7f",
    "dilocox": "c4acfa99845a1c3c",
}


@pytest.mark.parametrize("name", BITS)
def test_these_lifts_and_states_are_the_same_bits_on_every_machine(name: str) -> None:
    projection, hashed = ALL[name](), sha256()
    state = projection.first_state()
    for index in range(12):
        # Not through `project`, whose bits depend on the machine.
        y = uniform(projection.length(state), seed=index)
        if not projection.sketches(state):
            hashed.update(projection.lift(y, state, index).numpy().tobytes())
        state = projection.next_state(y, state, index)
        hashed.update(state.numpy().tobytes())
    assert hashed.hexdigest()[:16] == BITS[name]


@pytest.mark.parametrize("make", [lambda: LowRank([(300, 400)], rank=8, seed=0), lambda: Dct(200_000)])
def test_threads_do_not_change_a_bit(make: Callable[[], Projection]) -> None:
    projection, results = make(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            state = projection.first_state()
            if projection.sketches(state):
                state = projection.next_state(uniform(projection.length(state)), state, 0)
            y = uniform(projection.length(state))
            results.append((projection.lift(y, state, 0), projection.next_state(y, state, 0)))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize(("n", "one_in"), [(1, 1), (10, 1), (10, 3), (9, 3), (1, 5), (1000, 7)])
def test_a_mask_takes_exactly_one_element_of_each_run(n: int, one_in: int) -> None:
    mask = RandomMask(n, one_in, seed=0)
    for index in range(20):
        support = mask.support(index)
        assert (support // one_in).tolist() == list(range(-(-n // one_in)))
        assert int(support.max()) < n


def test_masks_reach_every_element_about_equally_often() -> None:
    mask, counts = RandomMask(50, 5, seed=1), torch.zeros(50)
    for index in range(1000):
        counts[mask.support(index)] += 1
    assert 150 < float(counts.min()) <= float(counts.max()) < 250


def test_a_lifted_mask_holds_the_elements_in_their_places_and_zeros_elsewhere() -> None:
    mask, x = RandomMask(100, 9, seed=2), uniform(100)
    state = mask.first_state()
    lifted = mask.lift(mask.project(x, state, 4), state, 4)
    support = mask.support(4)
    assert torch.equal(lifted[support], x[support])
    assert int((lifted != 0).sum()) == 12


def test_masks_differ_by_round_and_by_seed() -> None:
    supports = [RandomMask(1000, 10, seed).support(index) for seed, index in [(0, 0), (0, 1), (1, 0)]]
    assert not any(torch.equal(supports[a], supports[b]) for a, b in [(0, 1), (0, 2), (1, 2)])


def test_a_mask_of_one_in_one_takes_everything() -> None:
    mask, x = RandomMask(20, 1, seed=0), uniform(20)
    state = mask.first_state()
    assert torch.equal(mask.lift(mask.project(x, state, 0), state, 0), x)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 300, 6400])
def test_the_cosine_transform_comes_back_and_keeps_lengths(n: int) -> None:
    dct, x = Dct(n), uniform(n)
    state = dct.first_state()
    y = dct.project(x, state, 0)
    assert torch.allclose(dct.lift(y, state, 0), x, atol=1e-6)
    assert float(y.norm()) == pytest.approx(float(x.norm()), rel=1e-5)


def test_a_constant_block_has_one_coefficient() -> None:
    dct = Dct(70)
    y = dct.project(torch.ones(70), dct.first_state(), 0)
    expected = torch.zeros(70)
    expected[0], expected[64] = 8.0, 6**0.5
    assert torch.allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: RandomMask(5, 0, 0), lambda: Dct(5, 0), lambda: LowRank([(9, 9)], 0, 0)]
)
def test_what_cannot_work_is_refused(make: Callable[[], Projection]) -> None:
    with pytest.raises(ValueError, match="is 0: "):
        make()


def test_the_identity_sends_the_vector_itself_and_copies_nothing() -> None:
    same, x = IdentityProjection(9), uniform(9)
    state = same.first_state()
    assert same.project(x, state, 0) is x
    assert same.lift(x, state, 0) is x
    assert (len(state), same.support(5), same.sync_every(state), same.length(state)) == (0, None, None, 9)
