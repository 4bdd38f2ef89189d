"""What a worker claims of its contribution's norm bounds what an owner measures, by every method and codec.

So honest workers are never disputed: the claim is of the contribution before it is encoded, and a codec's row
says how much longer rounding makes it at most.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diloco.compression.codecs import codec
from diloco.compression.vectors import squared_norm
from diloco.methods.presets import PRESETS
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.outer.judge import CodecJudge
from diloco.outer.replica import TensorReplica
from diloco.outer.tensor_reducer import TensorReducer
from diloco.rules import rules_of
from diloco.settings import RunSettings
from peers.coordinator.measured import mean_limit, part_limit
from peers.member.spot_checks import is_same
from tests.diloco.outer.kit import make, normal, train
from transport.collectives.reducer import Part
from transport.errors import Poisoned

CODECS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in WIRE_FORMATS if name != "topk"],
    *[("topk", {"keep": keep, "value_bits": bits}) for keep in (1, 64, 4096) for bits in (2, 4, 8, 16)],
]


def growth_of(name: str, keep: int = 64, value_bits: int = 8) -> float:
    return WIRE_FORMATS[name].part_growth(keep, value_bits)


def measured(x: Tensor, name: str, parts: dict[str, Any]) -> float:
    """The squared norm that an owner measures."""
    coder = codec(name, **parts)
    return coder.add(torch.zeros(len(x)), coder.encode(x), 0.25, True)


def vectors(seed: int, n: int, kind: str, scale: float) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=draw)
    match kind:
        case "heavy":
            x = x**5
        case "sparse":
            x = x * (torch.rand(n, generator=draw) < 0.01)
        case "one large":
            x = torch.full((n,), 0.5001 / 7)
            x[:: 64 if seed % 2 else 256] = 1.0
        case "steps":
            x = (torch.rand(n, generator=draw) * 8).floor() + 0.5001
    return x * scale


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(CODECS),
    st.integers(0, 1000),
    st.sampled_from([1, 64, 1000, 4096, 9000]),
    st.sampled_from(["normal", "heavy", "sparse", "one large", "steps"]),
    st.sampled_from([1e-30, 1e-8, 1e-3, 1.0, 1e3]),
)
def test_no_codec_makes_a_vector_longer_than_its_row_says(
    coded: tuple[str, dict[str, Any]], seed: int, n: int, kind: str, scale: float
) -> None:
    name, parts = coded
    x = vectors(seed, n, kind, scale)
    found = measured(x, name, parts)
    assert found <= part_limit(math.sqrt(squared_norm(x)), n, growth_of(name, **parts))


@pytest.mark.parametrize("steps", [0.5001, 1.5001, 3.5001, 10.5001, 100.5001])
def test_values_so_small_that_float16_rounds_all_of_them_up_are_within_their_claim(steps: float) -> None:
    x = torch.full((4096,), steps * 2.0**-24)
    limit = part_limit(math.sqrt(squared_norm(x)), len(x), growth_of("fp16"))
    assert float(x.square().sum()) < measured(x, "fp16", {}) <= limit


@pytest.mark.parametrize(("name", "top", "middle"), [("int8", 127, 8.5), ("int4", 7, 0.5), ("fp4", 1, 0.75)])
def test_the_rows_say_no_more_than_it_takes(name: str, top: int, middle: float) -> None:
    block = 256 if name == "int8" else 64
    x = torch.full((block,), middle * 1.0001)
    x[0] = top
    assert measured(x, name, {}) > 0.95 * growth_of(name) * squared_norm(x)


def test_two_bits_without_a_zero_make_a_sparse_vector_much_longer() -> None:
    x = torch.zeros(1024)
    x[3] = 1.0
    found = measured(x, "int2_linear", {})
    assert 60.0 < found <= growth_of("int2_linear")


@pytest.mark.parametrize("name", sorted(WIRE_FORMATS))
def test_what_is_added_is_measured_whatever_its_weight_and_place(name: str) -> None:
    x, coder = normal(5000, 3), codec(name)
    payload = coder.encode(x)
    wanted = squared_norm(coder.decode(payload, len(x)))
    for weight, first in ((1.0, True), (0.25, False), (1e-6, False)):
        assert coder.add(torch.zeros(len(x)), payload, weight, first) == pytest.approx(wanted, rel=1e-3)


METHODS: list[dict[str, Any]] = [
    *[{"preset": name, **({"num_fragments": 2} if name == "streaming" else {})} for name in PRESETS],
    *[{"preset": "diloco", "codec": name} for name in WIRE_FORMATS],
    *[{"preset": "diloco", "codec": "int4", "error_feedback": kind} for kind in ("ef14",)],
    {"preset": "sparseloco", "value_bits": 2},
    {"preset": "sparseloco", "value_bits": 4, "keep": 2000},
    {"preset": "diloco", "projection": "low_rank", "rank": 2, "codec": "int8"},
]


@pytest.mark.parametrize("parts", METHODS, ids=lambda parts: " ".join(str(each) for each in parts.values()))
def test_an_honest_worker_is_within_its_claim_by_every_method(parts: dict[str, Any]) -> None:
    run = RunSettings.model_validate({"method": parts})
    chosen, rules = run.method.resolved(), rules_of(run)
    if chosen.gossips:
        pytest.skip("with gossip there are no claims")
    models = [make(40, seed) for seed in range(2)]
    replicas = [
        TensorReplica.of(model, chosen, torch.optim.AdamW(model.parameters(), lr=1e-3)) for model in models
    ]
    for count in range(3):
        for fragment in range(replicas[0].num_fragments):
            made: list[TensorReducer] = []
            limits = []
            for seed, (model, replica) in enumerate(zip(models, replicas, strict=True)):
                train(model, 10 * count + seed)
                contribution, norm = replica.contribution(fragment)
                assert isinstance(contribution, TensorReducer)
                contribution.begin(contribution.num_elements, 2)
                made.append(contribution)
                limits.append(part_limit(norm, contribution.num_elements, rules.part_growth))
            mean = made[0].reduce(0, [Part(0, 0.5, None), Part(1, 0.5, bytes(made[1].encode(0)))])
            assert made[0].part_squares[0] == 0.0
            assert made[0].part_squares[1] <= limits[1]
            assert made[0].part_squares[1] > 0.0 or not norm
            sent, judge = bytes(made[1].encode(0)), CodecJudge(chosen)
            measured_by_the_host = judge.square(0, sent, made[1].num_elements, None)
            assert measured_by_the_host is not None
            assert measured_by_the_host <= limits[1], "no owner could show anything that puts it out"
            shown = [Part(i, 0.5, bytes(each.encode(0))) for i, each in enumerate(made)]
            proved = bytes(made[0].reduce(0, shown))
            found = judge.deviation(0, shown, proved, made[0].num_elements)
            assert found is not None
            assert found[0] <= 1e-6 * found[2], "nor could anybody call its mean another one"
            for replica, each in zip(replicas, made, strict=True):
                assert each.accept(0, mean) <= mean_limit(limits, rules.mean_growth)
                replica.apply(fragment, each, each, 0.5, keep_old=False)
                replica.land(fragment, each, on_time=not chosen.delay)


@pytest.mark.parametrize(("name", "parts"), CODECS, ids=lambda each: str(each))
@pytest.mark.parametrize(("as_sent", "proved"), [(False, False), (True, False), (False, True)])
def test_whoever_computes_a_mean_again_comes_to_the_same_and_sees_any_other(
    name: str, parts: dict[str, Any], as_sent: bool, proved: bool
) -> None:
    n, shares = 9000, (0.5, 0.3, 0.2)
    made = [TensorReducer(codec(name, **parts), n, normal(n, seed), as_sent=as_sent) for seed in range(3)]
    for each in made:
        each.begin(4096, 3)
    for chunk in range(3):
        sent = [bytes(each.encode(chunk)) for each in made]
        added = sent[1] if proved else None  # see `DirectReduce.added`
        whole = [Part(i, share, added if i == 1 else sent[i]) for i, share in enumerate(shares)]
        mean = bytes(made[1].reduce(chunk, whole))
        own = bytes(made[1].own(chunk, proved, slice(0, made[1].length(chunk))))
        shown = [Part(i, share, sent[i] if i != 1 else own, plain=i == 1) for i, share in enumerate(shares)]
        checker = TensorReducer(codec(name, **parts), n)
        checker.begin(4096, 3)
        off, rounding, length = checker.deviation(chunk, shown, mean)
        assert off <= 1e-6 * length, "it is computed in the same way"
        assert is_same(off, rounding, length)
        claimed = math.sqrt(squared_norm(normal(n, 1)))
        assert checker.part_squares[1] <= part_limit(claimed, n, growth_of(name, **parts))
        # Its own contribution counts two and a half times, or the first member's not at all.
        for weights in ((0.5, 2.5 * 0.3, 0.2), (0.0, 0.3, 0.2)):
            lying = [Part(i, weight, whole[i].payload) for i, weight in enumerate(weights)]
            lie = bytes(made[1].reduce(chunk, lying))
            assert not is_same(*checker.deviation(chunk, shown, lie))


@pytest.mark.parametrize(("name", "parts"), CODECS, ids=lambda each: str(each))
def test_of_a_long_chunk_one_run_is_computed_again_and_only_a_lie_in_that_one_is_seen(
    name: str, parts: dict[str, Any]
) -> None:
    n, shares, section = 3 * 4096, (0.6, 0.4), slice(4096, 2 * 4096)
    made = [TensorReducer(codec(name, **parts), n, normal(n, seed)) for seed in range(2)]
    checker = TensorReducer(codec(name, **parts), n)
    for each in (*made, checker):
        each.begin(n, 2)
    own, theirs = bytes(made[0].own(0, False, section)), bytes(made[1].encode(0))
    assert len(own) == 4 * 4096
    honest = [Part(0, shares[0], None), Part(1, shares[1], theirs)]
    shown = [Part(0, shares[0], own, plain=True), honest[1]]
    mean = bytes(made[0].reduce(0, honest))
    off, rounding, length = checker.deviation(0, shown, mean, section)
    assert off <= 1e-6 * length
    assert is_same(off, rounding, length)
    assert checker.part_squares[0] == pytest.approx(squared_norm(normal(n, 0)[section]))
    for lied, found in ((section, True), (slice(0, 4096), False)):
        values = normal(n, 0).clone()
        values[lied] *= -2.0
        assert made[0].contribution is not None
        made[0].contribution.copy_(values)
        lie = bytes(made[0].reduce(0, honest))
        assert is_same(*checker.deviation(0, shown, lie, section)) is not found


def test_what_an_owner_added_is_as_long_as_its_chunk_and_finite_or_its_own_fault() -> None:
    checker = TensorReducer(codec("int8"), 100)
    checker.begin(100, 2)
    part = bytes(codec("int8").encode(normal(100, 1)))
    for own in (bytes(4 * 99), bytes(part), normal(100, 1).mul(math.inf).numpy().tobytes()):
        with pytest.raises(Poisoned) as error:
            checker.deviation(0, [Part(0, 0.5, part), Part(1, 0.5, own, plain=True)], part)
        assert error.value.member == 1
