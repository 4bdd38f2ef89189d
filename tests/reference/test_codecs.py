"""Every codec as the payload of averaging without error feedback, against the whole stack: values and bytes.

    theta <- theta - C'(sum_i w_i C(Delta_i)),  C' the codec of the mean

docs/methods.md: without error feedback the owner of a chunk adds its own part, which does not travel, as it
is. The model of these tests is one chunk, so one worker owns all: which, the loop does not know, and so it
tells the story of each, of which one must fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from torch import Tensor

from tests.reference import formats, kit
from tests.reference.problem import Net, wide
from tests.reference.rounds import Told, in_rounds, num_parameters, weighted_mean

ROUNDS, EVERY = 5, 3
TOKENS = (8, 24, 16)


def reference(owner: int, codec: str, mean_codec: str, along: Sequence[dict[str, Tensor]]) -> Told:
    def outer_step(theta: Tensor, deltas: list[Tensor]) -> Tensor:
        parts = [delta if i == owner else formats.ROUNDED[codec](delta) for i, delta in enumerate(deltas)]
        return theta - formats.ROUNDED[mean_codec](weighted_mean(TOKENS, parts))

    return in_rounds(len(TOKENS), ROUNDS, EVERY, outer_step, along=along)


def fits(seen: list[kit.Seen], told: Told, step: float) -> bool:
    try:
        for each, starts in zip(seen, told.starts, strict=True):
            kit.assert_nearly_told(each, starts, step)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("codec", formats.ROUNDED)
@pytest.mark.parametrize("mean_codec", ["same", "fp32", "bf16", "int8"])
def test_parts_and_their_mean_are_rounded_as_the_codecs_say(codec: str, mean_codec: str) -> None:
    method = {"preset": "local_sgd", "sync_every": EVERY, "codec": codec, "mean_codec": mean_codec}
    seen = kit.simulated(method, ROUNDS * EVERY, TOKENS)
    returned = codec if mean_codec == "same" else mean_codec
    told = [reference(owner, codec, returned, seen[0].starts) for owner in range(len(TOKENS))]
    step = max(formats.STEPS[codec], formats.STEPS[returned]) * told[0].largest + 1e-6
    assert any(fits(seen, each, step) for each in told)
    n = num_parameters(Net)
    payload = ROUNDS * (len(TOKENS) - 1) * (formats.SIZES[codec](n) + formats.SIZES[returned](n))
    kit.assert_bulk(seen, payload, messages=ROUNDS * 2 * (len(TOKENS) - 1))


@pytest.mark.parametrize("codec", formats.ROUNDED)
@pytest.mark.parametrize("num_workers", [2, 3])
def test_a_longer_vector_takes_the_bytes_of_its_chunks(codec: str, num_workers: int) -> None:
    method = {"preset": "local_sgd", "sync_every": 1, "codec": codec}
    seen = kit.simulated(method, ROUNDS, TOKENS[:num_workers], make_model=wide)
    n = num_parameters(wide)
    payload = ROUNDS * (num_workers - 1) * 2 * formats.SIZES[codec](n)
    kit.assert_bulk(seen, payload, messages=ROUNDS * 4 * num_workers * (num_workers - 1))
