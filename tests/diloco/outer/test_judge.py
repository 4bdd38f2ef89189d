"""A judge refuses what members refuse, and takes what they take, in every wire format."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from diloco.methods.spec import Method
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.outer.components import codecs_of
from diloco.outer.judge import CodecJudge
from diloco.outer.tensor_reducer import TensorReducer
from peers.coordinator.measured import BAND
from transport.collectives.reducer import Part
from transport.effects import Phantom
from transport.errors import Poisoned

SIZE = 5000


def method(codec: str) -> Method:
    return Method(name="m", sync_every=4, codec=codec, outer="sgd")


def encoded(codec: str) -> bytearray:
    mine, _ = codecs_of(method(codec))
    return bytearray(mine.encode(torch.randn(SIZE, generator=torch.Generator().manual_seed(1))))


def refused_by_a_member(codec: str, payload: bytes) -> bool:
    reducer = TensorReducer(codecs_of(method(codec))[0], SIZE, torch.zeros(SIZE))
    reducer.begin(SIZE, 2)
    try:
        reducer.reduce(0, [Part(0, 0.5, None), Part(1, 0.5, payload)])
    except Poisoned as error:
        return error.member == 1
    return False


@pytest.mark.parametrize("codec", sorted(WIRE_FORMATS))
def test_a_contribution_is_refused_by_judge_and_members_alike(codec: str) -> None:
    judge, whole = CodecJudge(method(codec)), encoded(codec)
    rng = torch.Generator().manual_seed(2)
    assert judge.fault(0, bytes(whole), SIZE, None) == ""
    verdicts = set()
    for _ in range(60):
        damaged = bytearray(whole)
        for at in torch.randint(len(whole), (40,), generator=rng).tolist():
            damaged[at] = 0xFF
        fault = judge.fault(0, bytes(damaged), SIZE, None)
        assert bool(fault) == refused_by_a_member(codec, bytes(damaged)), fault
        verdicts.add(bool(fault))
    assert judge.fault(0, bytes(whole[:-1]), SIZE, None)


@pytest.mark.parametrize("codec", sorted(WIRE_FORMATS))
def test_a_mean_is_judged_by_the_format_of_means(codec: str) -> None:
    mine, _ = codecs_of(method(codec))
    means = mine.for_mean(3)
    payload = bytes(means.encode(torch.ones(SIZE)))
    judge = CodecJudge(method(codec))
    assert judge.fault(0, payload, SIZE, 3) == ""
    assert judge.fault(0, payload[:-1], SIZE, 3)


@pytest.mark.parametrize("codec", sorted(WIRE_FORMATS))
def test_a_judge_measures_what_members_measure(codec: str) -> None:
    judge, whole = CodecJudge(method(codec)), bytes(encoded(codec))
    reducer = TensorReducer(codecs_of(method(codec))[0], SIZE, torch.zeros(SIZE))
    reducer.begin(SIZE, 2)
    mean = bytes(reducer.reduce(0, [Part(0, 0.5, None), Part(1, 0.5, whole)]))
    found = judge.square(0, whole, SIZE, None)
    assert found == pytest.approx(reducer.part_squares[1], rel=BAND / 10)
    assert judge.square(0, mean, SIZE, 2) == pytest.approx(reducer.accept(0, mean), rel=BAND / 10)
    assert judge.square(0, whole[:-1], SIZE, None) == math.inf


def test_of_a_phantom_nothing_can_be_told() -> None:
    assert CodecJudge(method("fp32")).fault(0, Phantom(16), SIZE, None) is None
    assert CodecJudge(method("fp32")).square(0, Phantom(16), SIZE, None) is None


def test_a_host_imports_torch_for_its_first_judgement_only_and_cannot_tell_without() -> None:
    script = """
import sys
from diloco.rules import judge_of
from diloco.settings import RunSettings
judge = judge_of(RunSettings())
assert "torch" not in sys.modules
sys.modules["torch"] = None
assert judge.fault(0, b"", 0, None) is judge.square(0, b"", 0, None) is None
del sys.modules["torch"]
assert judge.fault(0, bytes(7), 4, None)
assert "torch" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
