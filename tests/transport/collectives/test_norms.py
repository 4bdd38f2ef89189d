"""What a member measures of what it decodes, and whom it refuses by that."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.transport.collectives.test_direct_reduce import key
from transport.collectives.chunks import MeanChunk, PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.norms import MeasuredNorms, NormLimits
from transport.collectives.plan import Plan
from transport.collectives.reducer import NumpyReducer, Part, PhantomReducer

KEYS = (key(0), key(1), key(2))


def test_squares_add_up_over_chunks_until_they_are_above_the_limit() -> None:
    norms = MeasuredNorms(3, NormLimits((4.0, 4.0, 4.0), 9.0))
    assert norms.add_parts(0, [(0, 1.0), (2, 4.0)]) is None
    assert norms.add_parts(1, [(0, 1.0), (2, 0.1)]) == 2
    assert norms.parts == [2.0, 0.0, 4.1]
    assert norms.add_mean(KEYS[0], 2, 9.0)
    assert norms.add_mean(KEYS[1], 3, 9.0)
    assert not norms.add_mean(KEYS[0], 4, 0.1)


def test_of_what_is_too_long_the_fewest_chunks_are_named_that_show_it_clearly() -> None:
    norms = MeasuredNorms(2, NormLimits((9.0, 9.0), 9.0))
    for chunk, (square, other) in enumerate(((1.0, 3.0), (5.0, 3.0), (0.5, 1.0), (4.5, 3.005))):
        norms.add_parts(chunk, [(0, square), (1, other)])
        norms.add_mean(KEYS[0], chunk, 2.0 * square)
    assert norms.long_parts(0) == (1, 3), "together 9.5"
    assert norms.long_parts(1) == (3, 0, 1, 2), "9.005 is above 9 and not clearly"
    assert norms.long_means(KEYS[0]) == (1,), "alone 10"


def test_without_limits_anything_is_taken() -> None:
    norms = MeasuredNorms(1, NormLimits())
    assert norms.add_parts(0, [(0, math.inf)]) is None
    assert norms.add_mean(KEYS[0], 1, 1e300)


def test_a_reducer_measures_what_others_sent_and_what_it_accepts() -> None:
    owner = NumpyReducer(2, np.array([1.0, 1.0], np.float32))
    owner.begin(2, 2)
    mean = owner.reduce(0, [Part(0, 0.5, None), Part(1, 0.5, np.array([3.0, 4.0], np.float32).tobytes())])
    assert owner.part_squares == [0.0, 25.0]
    assert owner.accept(0, mean) == pytest.approx(2.0**2 + 2.5**2)
    phantom = PhantomReducer(8, 1.0, b"mine")
    phantom.accept(0, phantom.reduce(0, [Part(0, 1.0, None)]))
    assert phantom.part_squares == [0.0]


class Owner:
    """Member 0 of three, who owns the first of three chunks of two elements."""

    def __init__(self, limits: NormLimits) -> None:
        self.exchange = DirectReduce(1, KEYS[0], NumpyReducer(6, np.ones(6, np.float32)), 2, 0.0)
        self.exchange.begin(0.0, Plan(0, KEYS, (1.0, 1.0, 1.0), limits=limits))
        self.sent: list[object] = []

    def hear(self, member: int, message: PartChunk | MeanChunk, *values: float) -> None:
        payload = np.array(values, np.float32).tobytes()
        if isinstance(message, PartChunk):
            self.exchange.part(1.0, KEYS[member], message, payload)
        else:
            self.exchange.mean(1.0, KEYS[member], message, payload)
        while self.exchange.pump(lambda peer: 1 << 20, lambda peer, sent, _: self.sent.append(sent)):
            pass

    @property
    def means_sent(self) -> int:
        return sum(isinstance(each, MeanChunk) for each in self.sent)


def test_an_owner_refuses_a_part_that_is_longer_than_its_author_says_before_anybody_gets_the_mean() -> None:
    owner = Owner(NormLimits((2.0, 2.0, 2.0), 1e9))
    owner.hear(1, PartChunk(1, 0, 0), 1.0, 1.0)
    owner.hear(2, PartChunk(1, 0, 0), 1.5, 1.0)
    assert owner.exchange.poisoned
    assert owner.exchange.poisoned[:2] == (KEYS[2], "its contribution is longer than it says")
    assert owner.exchange.refused() == [(0, np.array([1.5, 1.0], np.float32).tobytes())]
    assert owner.means_sent == 0


def test_an_owner_tells_what_it_measured_of_each() -> None:
    owner = Owner(NormLimits((9.0, 9.0, 9.0), 9.0))
    owner.hear(1, PartChunk(1, 0, 0), 1.0, 1.0)
    owner.hear(2, PartChunk(1, 0, 0), 2.0, 1.0)
    assert owner.exchange.norms.parts == [0.0, 2.0, 5.0]
    assert owner.means_sent == 2
    owner.exchange.begin(2.0, Plan(1, KEYS, (1.0, 1.0, 1.0), frozenset({KEYS[1]})))
    owner.hear(2, PartChunk(1, 1, 0), 2.0, 1.0)
    assert owner.exchange.norms.parts == [0.0, 0.0, 5.0], "of the present attempt"


def test_means_of_an_owner_that_are_longer_than_any_contribution_are_refused_in_its_name() -> None:
    owner = Owner(NormLimits((9.0, 9.0, 9.0), 9.9))
    owner.hear(1, MeanChunk(1, 0, 1), 3.0, 0.5)
    assert owner.exchange.poisoned is None
    owner.hear(2, MeanChunk(1, 0, 2), 3.0, 1.0)
    assert owner.exchange.poisoned
    assert owner.exchange.poisoned[:2] == (KEYS[2], "its means are longer than any contribution")
