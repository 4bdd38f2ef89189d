"""What stages of a scenario are made of, and which scenarios are refused."""

from __future__ import annotations

from typing import Any

import pytest

from diloco.errors import SettingsError
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.boundary_codecs import BOUNDARY_CODECS, BoundaryCodec
from diloco.simulation.scenario import parse_scenario
from diloco.simulation.stages import shapes_of, with_streams
from tests.diloco.simulation.small_pipeline import small
from transport.limits import LIMITS


def test_a_stage_has_its_layers_and_takes_as_long_as_they_do() -> None:
    shapes = shapes_of(parse_scenario(small(stages=3, pipeline={"cuts": [1, 3]})))
    assert [each.num_layers for each in shapes] == [1, 2, 3]
    assert [each.num_parameters for each in shapes] == [100_000, 200_000, 300_000]
    assert [each.weight for each in shapes] == [0.5, 1.0, 1.5]
    assert {each.forward_share for each in shapes} == {2 / 8}


def test_a_boundary_has_the_bytes_of_its_codec_each_way() -> None:
    formats = {"activations": "int4", "gradients": "bf16"}
    shape = shapes_of(parse_scenario(small(pipeline=formats)))[0]
    assert shape.activation_bytes == 1000 * 16 * 34, "15.25 blocks of 64 values, filled up to 16"
    assert shape.gradient_bytes == 2 * 1000 * 976
    assert shape.targets_bytes == 4000
    assert shape.stream_bytes == 2 * (shape.activation_bytes + shape.gradient_bytes) + 4000


@pytest.mark.parametrize("name", BOUNDARY_CODECS)
@pytest.mark.parametrize("width", [1, 3, 63, 64, 65, 255, 257, 4096])
def test_a_boundary_has_the_bytes_that_a_real_one_sends(name: str, width: int) -> None:
    more = {"model": {"width": width, "context": 7}, "pipeline": {"activations": name}}
    shape = shapes_of(parse_scenario(small(**more)))[0]
    real = BoundaryCodec(Boundary((1, 7, width)), name)
    assert (shape.activation_bytes, shape.gradient_bytes) == (real.activation_bytes, real.gradient_bytes)


def test_without_recompute_forward_is_a_third() -> None:
    shape = shapes_of(parse_scenario(small(pipeline={"recompute": False})))[0]
    assert shape.forward_share == 2 / 6


def test_a_model_in_one_piece_has_no_stages() -> None:
    assert shapes_of(parse_scenario(small(stages=1))) == []


def test_flops_give_the_seconds_of_a_microbatch_at_a_stage() -> None:
    peers = [{"name": "peer", "count": 3, "flops": 1e9, "mfu": 0.5}]
    scenario = parse_scenario(small(num_peers=3, pipeline={"stages": 3}) | {"peers": peers})
    assert scenario.step_s(scenario.peers[0]) == pytest.approx(8 * 200_000 * 1000 / 0.5e9)


def test_a_boundary_is_one_frame_and_is_kept_until_it_is_acknowledged() -> None:
    shape = shapes_of(parse_scenario(small(model={"width": 100_000})))[0]
    limits = with_streams(LIMITS, shape)
    assert limits.payload_bytes == shape.activation_bytes
    assert limits.stream_window_bytes >= limits.stream_window(1_000)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"model": {"width": None}}, "model.width is missing"),
        ({"model": {"layers": 2}}, "3 stages of 2 layers"),
        ({"mode": "vectors"}, "simulated in time alone"),
        ({"peers": [{"name": "p", "count": 2, "step": 1.0}]}, "too few peers"),
        ({"peers": [{"name": "p", "count": 6, "step": 1.0, "stage": 3}]}, "stage 3 of 3"),
        (
            {
                "peers": [
                    {"name": "p", "count": 6, "step": 1.0},
                    {"name": "q", "role": "liar", "step": 1.0},
                ]
            },
            "whole models only",
        ),
        ({"pipeline": {"stagse": 2}}, "pipeline"),
        ({"events": [{"do": "cut", "peers": "peer-1", "at": 1, "for": 2}]}, "name both"),
        ({"events": [{"do": "cut", "peers": ["peer-1", "peer-2"], "at": 1}]}, "how long the cut lasts"),
    ],
)
def test_what_makes_no_stages_is_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        parse_scenario(small(**more))
