"""Tables of parts: a new codec is one row and one class, and so is a new outer optimizer.

`Halves` and `Forgetful` are such classes; the rows are added as a program of a user's would.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from diloco.compression.codecs import codec
from diloco.compression.codecs.base import AddsDecoded, output, require_finite, require_size
from diloco.compression.vectors import Buffer, bytes_of, items_of
from diloco.errors import MethodError, SettingsError
from diloco.methods.cost import element_bytes, mean_bytes, state_vectors
from diloco.methods.outer_optimizers import OUTER_OPTIMIZERS, OuterRule
from diloco.methods.presets import method
from diloco.methods.registry import make
from diloco.methods.wire_formats import WIRE_FORMATS, WireFormat
from diloco.outer.optimizers import Seen, outer_optimizer
from diloco.outer.replica import TensorReplica
from diloco.outer.tensor_reducer import TensorReducer
from diloco.settings import RunSettings, commented_toml, parse_settings
from tests.diloco.outer import kit


class Halves(AddsDecoded):
    """A codec: every value as the int16 number of halves in it."""

    name: ClassVar[str] = "halves"
    shares_memory: ClassVar[bool] = False

    def size_bytes(self, n: int) -> int:
        return 2 * n

    def encode(self, x: Tensor) -> Buffer:
        require_finite(x)
        return bytes_of((x * 2).round().to(torch.int16))

    def decode(self, payload: Buffer, n: int, out: Tensor | None = None) -> Tensor:
        require_size(payload, 2 * n)
        return output(out, n).copy_(items_of(payload, torch.int16)).mul_(0.5)


class Forgetful:
    """An outer optimizer: theta' = theta - lr * b', where b' = delta."""

    num_buffers = 1

    def __init__(self, lr: float) -> None:
        self._lr = lr

    def step(
        self,
        theta: Tensor,
        buffers: list[Tensor],
        delta: Tensor,
        count: int,
        out_theta: Tensor,
        out_buffers: list[Tensor],
        seen: Seen,
    ) -> None:
        out_buffers[0].copy_(delta)
        torch.sub(theta, delta * self._lr, out=out_theta)


@pytest.fixture
def _rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WIRE_FORMATS, "halves", WireFormat("halves", f"{__name__}:Halves", 2.0))
    row = OuterRule("forgetful", f"{__name__}:Forgetful", num_buffers=1, options=("lr",))
    monkeypatch.setitem(OUTER_OPTIMIZERS, "forgetful", row)


CHOSEN: dict[str, Any] = {"codec": "halves", "outer": "forgetful", "outer_lr": 0.5, "outer_momentum": 0.0}


@pytest.mark.usefixtures("_rows")
def test_settings_take_the_new_names_and_give_them_to_joiners() -> None:
    run = parse_settings({"method": CHOSEN}, "")
    assert RunSettings.from_bytes(run.to_bytes()).digest() == run.digest()
    assert 'codec = "halves"' in commented_toml(run).splitlines()


@pytest.mark.usefixtures("_rows")
def test_a_round_with_the_new_parts_encodes_reduces_and_steps() -> None:
    model = kit.make()
    replica = TensorReplica.of(model, method("diloco", **CHOSEN))
    before = kit.flat(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(1.3)
    made, _ = replica.contribution(0)
    assert isinstance(made, TensorReducer)
    made.begin(64, 1)
    for chunk in range(2):
        made.accept(chunk, bytearray(made.encode(chunk)))
    assert torch.equal(made.output, torch.full((83,), 1.5)), "1.3 is nearer to three halves than to two"
    replica.apply(0, made, made, 1.0, keep_old=False)
    assert torch.equal(replica.outer.outer_parameters(0), before - 0.75)
    assert torch.equal(replica.outer.buffers(0)[0], made.output)


@pytest.mark.usefixtures("_rows")
def test_costs_and_refusals_follow_from_the_rows() -> None:
    chosen = method("diloco", **CHOSEN)
    assert element_bytes("halves", chosen) == mean_bytes(chosen, 8) == 2.0
    assert state_vectors(chosen) == 2
    with pytest.raises(MethodError, match='outer = "forgetful" has no momentum'):
        method("diloco", outer="forgetful", outer_momentum=0.9)
    with pytest.raises(MethodError, match="would spoil"):
        method("noloco", codec="halves")


@pytest.mark.usefixtures("_rows")
def test_a_name_that_is_nearly_one_is_suggested_in_one_line() -> None:
    with pytest.raises(MethodError, match=r"codec = 'halfs': input should be 'fp32', .* or 'halves' \(did"):
        method("diloco", codec="halfs")
    with pytest.raises(SettingsError, match=r"method\.outer = 'adamw': .*'sign' or 'forgetful' \(did you"):
        parse_settings({"method": {"outer": "adamw"}}, "")
    with pytest.raises(MethodError, match="mean_codec = 'some': input should be 'same', 'fp32', 'fp16'"):
        method("diloco", mean_codec="some")


@pytest.mark.parametrize("name", WIRE_FORMATS)
def test_a_wire_format_has_the_name_of_its_class(name: str) -> None:
    assert (WIRE_FORMATS[name].name, codec(name).name) == (name, name)


@pytest.mark.parametrize("name", OUTER_OPTIMIZERS)
def test_an_outer_optimizer_keeps_as_many_buffers_as_its_row_says(name: str) -> None:
    made = outer_optimizer(name, lr=0.5, momentum=0.5)
    assert (OUTER_OPTIMIZERS[name].name, OUTER_OPTIMIZERS[name].num_buffers) == (name, made.num_buffers)


def test_a_part_gets_what_its_row_names_and_nothing_else() -> None:
    row = OuterRule("mine", f"{__name__}:Forgetful", num_buffers=1, options=("lr",))
    assert isinstance(make(row, lr=0.25, momentum=0.9), Forgetful)
    with pytest.raises(KeyError, match="lr"):
        make(row, momentum=0.9)
