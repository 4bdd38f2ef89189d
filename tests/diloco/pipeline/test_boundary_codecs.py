"""Boundaries as bytes: receivers train on what they decoded, gradients replay, what does not fit fails."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from diloco.errors import BoundaryError, PipelineError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.boundary_codecs import BOUNDARY_CODECS, BoundaryCodec
from diloco.pipeline.cuts import Part
from diloco.pipeline.in_process import Line, LocalStage
from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.part import RunningPart
from tests.diloco.pipeline.kit import (
    POSITIONS,
    SEQUENCES,
    TOKENS,
    WIDTH,
    batches,
    built,
    layers,
    line_of,
    loss_sum,
    parameters_of,
    same_bits,
)

EDGE = Boundary((SEQUENCES, POSITIONS, WIDTH))
FIRST = MicrobatchId(b"feeder", 0, 0)
CUTS, QUOTA = (2, 4), 2


def tensor(seed: int = 0) -> Tensor:
    return torch.randn(EDGE.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BOUNDARY_CODECS)
def test_sizes_follow_from_the_boundary_and_the_formats_alone(name: str) -> None:
    codec = BoundaryCodec(EDGE, name, "fp32")
    assert len(memoryview(codec.encode_activation(tensor(), FIRST))) == codec.activation_bytes
    assert codec.gradient_bytes == 4 * SEQUENCES * POSITIONS * WIDTH
    assert BoundaryCodec(EDGE, "fp32", name).gradient_bytes == codec.activation_bytes
    assert BoundaryCodec(EDGE, name).gradient_bytes == codec.activation_bytes
    assert {
        "fp32": 4 * WIDTH,
        "bf16": 2 * WIDTH,
        "int8": WIDTH + 4,
        "int4": WIDTH // 2 + 2,
        "int4_rotated": WIDTH // 2 + 2,
    }[name] * EDGE.rows == codec.activation_bytes


@pytest.mark.parametrize("name", BOUNDARY_CODECS)
def test_bytes_of_a_wrong_size_are_refused_with_the_microbatch(name: str) -> None:
    codec = BoundaryCodec(EDGE, name)
    payload = bytes(codec.encode_activation(tensor(), FIRST))
    text = (
        f"the activation of microbatch 0: the payload has {len(payload) - 1} bytes instead of {len(payload)}"
    )
    with pytest.raises(BoundaryError, match=text):
        codec.decode_activation(payload[:-1], FIRST)
    with pytest.raises(BoundaryError, match="the gradient of microbatch 0: the payload has"):
        codec.decode_gradient(payload + b"\0", FIRST)


@pytest.mark.parametrize("name", BOUNDARY_CODECS)
def test_a_value_that_is_not_finite_is_refused_by_both_sides(name: str) -> None:
    codec, bad = BoundaryCodec(EDGE, name), tensor()
    bad[1, 2, 3] = math.nan
    with pytest.raises(BoundaryError, match="the activation of microbatch 0 has 1 of 120 values"):
        codec.encode_activation(bad, FIRST)
    with pytest.raises(BoundaryError, match="the gradient of microbatch 0 has 1 of 120 values"):
        codec.encode_gradient(bad, FIRST, 1)
    hostile = b"\xff" * codec.activation_bytes
    for decode in (codec.decode_activation, codec.decode_gradient):
        with pytest.raises(BoundaryError, match=r"microbatch 0: .*not finite"):
            decode(hostile, FIRST)


def test_a_value_too_large_for_the_receivers_dtype_is_refused() -> None:
    wide, half = BoundaryCodec(EDGE), BoundaryCodec(Boundary(EDGE.shape, torch.float16))
    payload = bytes(wide.encode_activation(tensor() * 1e6, FIRST))
    with pytest.raises(BoundaryError, match=r"the activation of microbatch 0 has .* not finite"):
        half.decode_activation(payload, FIRST)


def test_a_tensor_of_another_shape_or_dtype_is_refused() -> None:
    with pytest.raises(BoundaryError, match="the boundary is"):
        BoundaryCodec(EDGE).encode_activation(tensor().bfloat16(), FIRST)
    with pytest.raises(BoundaryError, match="the boundary is"):
        BoundaryCodec(EDGE).encode_gradient(tensor()[0], FIRST, 1)


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        PipelineError, match="activations = 'fp8' is unknown between stages: choose one of fp32"
    ):
        BoundaryCodec(EDGE, "fp8")
    with pytest.raises(PipelineError, match="gradients = 'topk' is unknown"):
        BoundaryCodec(EDGE, "int8", "topk")


@pytest.mark.parametrize("name", ["int8", "int4", "int4_rotated"])
def test_gradients_are_rounded_by_run_microbatch_and_stage_and_replay(name: str) -> None:
    def sent(seed: int = 3, microbatch: MicrobatchId = FIRST, stage: int = 1) -> bytes:
        return bytes(BoundaryCodec(EDGE, name, seed=seed).encode_gradient(tensor(), microbatch, stage))

    again = MicrobatchId(b"feeder", 0, 0)
    assert sent() == sent(microbatch=again)
    others = [sent(seed=4), sent(microbatch=MicrobatchId(b"feeder", 0, 1)), sent(stage=2)]
    assert len({sent(), *others}) == 4
    up = {bytes(BoundaryCodec(EDGE, name, seed=s).encode_activation(tensor(), FIRST)) for s in range(3)}
    assert len(up) == 1


@pytest.mark.parametrize("name", BOUNDARY_CODECS)
def test_what_was_decoded_is_memory_of_its_own(name: str) -> None:
    codec, x = BoundaryCodec(EDGE, name), tensor()
    payload = bytearray(codec.encode_activation(x, FIRST))
    decoded = codec.decode_activation(payload, FIRST)
    kept = decoded.clone()
    payload[:] = bytes(len(payload))
    assert torch.equal(decoded, kept)


def test_fp32_boundaries_are_those_without_a_codec() -> None:
    model, data = built(layers(dropout=0.3)), batches(6)
    plain, stages = line_of(model, CUTS, QUOTA)
    sent, others = line_of(model, CUTS, QUOTA, make_codec=BoundaryCodec)
    assert [step.loss for step in plain.run(data)] == [step.loss for step in sent.run(data)]
    assert same_bits(parameters_of(stages), parameters_of(others))


@pytest.mark.parametrize("recompute", [True, False])
def test_bf16_boundaries_of_parts_in_bf16_are_those_without_a_codec(recompute: bool) -> None:
    found = []
    for make_codec in (None, partial(BoundaryCodec, activations="bf16")):
        stages = []
        for number in range(3):
            part, edge = Part(number, 3), Boundary(EDGE.shape, torch.bfloat16)
            takes, gives = part.ends(edge)
            model = nn.Sequential(*copy.deepcopy(built(layers()))[2 * number : 2 * number + 2]).bfloat16()
            running = RunningPart(
                part,
                model,
                takes=takes,
                gives=gives,
                loss=loss_sum if part.is_last else None,
                nominal_tokens=QUOTA * TOKENS,
                recompute=recompute,
            )
            stages.append(LocalStage(running, torch.optim.SGD(model.parameters(), lr=0.1), quota=QUOTA))
        losses = [step.loss for step in Line(stages, make_codec=make_codec).run(batches(6))]
        found.append((losses, [each.clone() for s in stages for each in s.part.model.parameters()]))
    (one, parameters), (two, others) = found
    assert one == two
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


@pytest.mark.parametrize("name", ["bf16", "int8", "int4", "int4_rotated"])
def test_recompute_goes_on_from_what_was_decoded(name: str) -> None:
    """Forward and recompute see the same input: with it or without, equal bits."""
    model, data, found = built(layers(dropout=0.3)), batches(6), []
    for recompute in (True, False):
        coded = partial(BoundaryCodec, activations=name, seed=5)
        line, stages = line_of(model, CUTS, QUOTA, recompute=recompute, make_codec=coded)
        found.append(([step.loss for step in line.run(data)], parameters_of(stages)))
    assert found[0][0] == found[1][0]
    assert same_bits(found[0][1], found[1][1])
    exact, stages = line_of(model, CUTS, QUOTA)
    assert [step.loss for step in exact.run(data)] != found[0][0]


# -- ids ----------------------------------------------------------------------------------------------


def with_ids(count: int, dtype: torch.dtype = torch.float32) -> tuple[Boundary, Tensor]:
    edge = Boundary((SEQUENCES, POSITIONS, WIDTH + 1), dtype, ids=count)
    column = torch.arange(edge.rows).view(SEQUENCES, POSITIONS, 1) * (count - 1) // (edge.rows - 1)
    return edge, torch.cat((tensor(), column.float()), -1).to(dtype)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (256, 1), (257, 2), (65_536, 2), (2**24, 4)])
@pytest.mark.parametrize("name", BOUNDARY_CODECS)
def test_ids_travel_exactly_in_the_fewest_bytes_and_only_up(name: str, count: int, size: int) -> None:
    edge, x = with_ids(count)
    codec, plain = BoundaryCodec(edge, name), BoundaryCodec(EDGE, name)
    payload = codec.encode_activation(x, FIRST)
    assert len(memoryview(payload)) == codec.activation_bytes == plain.activation_bytes + size * edge.rows
    decoded = codec.decode_activation(payload, FIRST)
    assert torch.equal(decoded[..., -1], x[..., -1])
    values = plain.decode_activation(plain.encode_activation(tensor(), FIRST), FIRST)
    assert torch.equal(decoded[..., :-1], values)
    gradient = torch.cat((tensor(1), torch.zeros(SEQUENCES, POSITIONS, 1)), -1)
    down = codec.encode_gradient(gradient, FIRST, 1)
    assert bytes(down) == bytes(plain.encode_gradient(tensor(1), FIRST, 1))
    assert not codec.decode_gradient(down, FIRST)[..., -1].any()


def test_ids_in_bf16_and_those_that_are_none() -> None:
    edge, x = with_ids(256, torch.bfloat16)
    codec = BoundaryCodec(edge, "bf16")
    payload = bytearray(codec.encode_activation(x, FIRST))
    assert torch.equal(codec.decode_activation(payload, FIRST), x)
    few = BoundaryCodec(Boundary(edge.shape, torch.bfloat16, ids=200), "bf16")
    with pytest.raises(BoundaryError, match="the activation of microbatch 0 has 4 ids that are no whole"):
        few.decode_activation(payload, FIRST)
    with pytest.raises(BoundaryError, match="the activation of microbatch 0: the payload has"):
        codec.decode_activation(payload[:-1], FIRST)
