"""`outer.live_buffers`: which buffers are averaged, and where they are looked up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diloco.errors import LayoutError
from diloco.methods.presets import method
from diloco.outer.live_buffers import LiveBuffers
from diloco.outer.replica import TensorReplica
from peers.protocol.layout_rows import tell_rows


def model_with(**buffers: torch.Tensor) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for name, each in buffers.items():
        model.register_buffer(name, each)
    return model


def test_floats_of_the_state_dict_and_the_count_of_batches_are_averaged() -> None:
    model = model_with(low=torch.ones(2, dtype=torch.bfloat16), ids=torch.arange(3), yes=torch.ones(2) > 0)
    model.register_buffer("cache", torch.ones(2), persistent=False)
    model.register_buffer("again", model.low)
    model.register_buffer("spread", torch.ones(1).expand(4))
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    model.register_buffer("least", torch.full((2,), torch.finfo(torch.float32).min))
    found = LiveBuffers(nn.DataParallel(model)).specs
    assert [each.name for each in found] == [
        "low",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]
    assert [each.start for each in found] == [0, 2, 4, 6]


def test_who_is_refused_for_a_buffer_that_counts_as_a_constant_by_its_numbers_is_told_so() -> None:
    """One that has values from a checkpoint, and the fresh one of the run, have other layouts."""
    fresh = model_with(least=torch.tensor([torch.inf, 1.0]), mask=torch.ones(2, dtype=torch.bool))
    loaded = model_with(least=torch.tensor([-3.0, 1.0]), mask=torch.ones(2, dtype=torch.bool))
    began = TensorReplica.of(fresh, method("diloco")).model
    joins = TensorReplica.of(loaded, method("diloco")).model
    assert began.layout.manifest().text != joins.layout.manifest().text
    said = tell_rows(joins.layout.manifest().text.encode(), 4, 1)
    assert "least" in said
    assert "a constant, and may have held one where the run began" in joins.remedy(said)
    assert "a constant, here least: attach the model with such numbers" in began.remedy("names differ")
    said = tell_rows(joins.layout.manifest().text.encode(), 0, 1)
    assert joins.remedy(said) == "", "it is another model"
    plain = TensorReplica.of(nn.Linear(2, 2), method("diloco")).model
    assert plain.remedy(said) == ""


def test_what_is_no_number_or_has_no_memory_is_refused_by_name() -> None:
    with pytest.raises(LayoutError, match=r'buffer bad has values that are NaN.*buffers = "local"'):
        LiveBuffers(model_with(bad=torch.tensor([1.0, torch.nan])))
    with pytest.raises(LayoutError, match="buffer gone is on the meta device"):
        LiveBuffers(model_with(gone=torch.ones(2, device="meta")))


def test_a_buffer_that_its_module_replaces_is_found() -> None:
    model = model_with(mean=torch.zeros(2))
    found = LiveBuffers(model)
    model.mean = torch.full((2,), 3.0)
    (first, *_) = found.places()
    assert first[1].tolist() == [3.0, 3.0]
    assert found.changed() == []


@pytest.mark.parametrize("in_place", [False, True])
def test_one_that_takes_another_shape_is_named_once_and_left_alone(in_place: bool) -> None:
    model = model_with(mean=torch.full((2,), 3.0))
    found = LiveBuffers(model)
    if in_place:
        model.mean.resize_(3).fill_(7.0)
    else:
        model.mean = torch.full((3,), 7.0)
    (said,) = found.changed()
    assert "buffer mean was 2 float32 when it was attached, and is 3 float32 now" in said
    assert found.changed() == []
    (first, *others) = found.places()
    assert (first[0], first[1].shape) == (slice(0, 2), (2,))
    first[1].zero_()
    assert model.mean[2] == 7.0
    assert others[0][1].data_ptr() == model[1].running_mean.data_ptr()


def test_one_that_its_module_gives_up_is_named_too() -> None:
    model = model_with(mean=torch.zeros(2))
    found = LiveBuffers(model)
    model.mean = None
    assert "is gone now" in found.changed()[0]


def test_a_replica_has_them_in_its_last_fragment_where_the_run_averages_them() -> None:
    model = model_with()
    mean = TensorReplica.of(model, method("streaming", num_fragments=2, sync_every=4))
    assert (mean.num_fragments, mean.buffers, mean.outer.num_elements(2)) == (3, 2, 5)
    assert not mean.has_mean_buffers
    local = TensorReplica.of(model, method("diloco", buffers="local"))
    assert (local.num_fragments, local.buffers) == (1, None)
    plain = TensorReplica.of(nn.Linear(2, 2), method("diloco"))
    assert (plain.num_fragments, plain.buffers) == (1, None)


def test_a_mean_is_what_is_written_but_where_it_is_off_by_rounding_alone() -> None:
    model = model_with(table=torch.tensor([1 / 3]))
    replica = TensorReplica.of(model, method("diloco", codec="int4"))
    at, before = replica.buffers, model.table.clone()
    assert at == 1
    mean = torch.tensor([1 / 3 * (1 + 2e-7), 1.5, -2.0, 0.5, 4.0, 31.6])
    assert mean[0] != before[0]
    replica.outer.step(at, mean)
    replica.land(at, None, on_time=True)
    assert torch.equal(model.table, before)
    assert model[1].running_mean.tolist() == [1.5, -2.0]
    assert int(model[1].num_batches_tracked) == 32


def test_a_constant_of_more_bits_than_are_sent_keeps_them_and_a_mean_of_such_is_written() -> None:
    table = torch.tensor([1 / 3, 1e9 + 0.25, 0.7], dtype=torch.float64)
    model = model_with(table=table.clone())
    replica = TensorReplica.of(model, method("diloco"))
    at = replica.buffers
    assert at is not None
    mean = replica.model.gather(at, torch.empty(replica.outer.num_elements(at)))
    mean[2] = 0.75
    replica.outer.step(at, mean)
    replica.land(at, None, on_time=True)
    assert model.table.tolist() == [1 / 3, 1e9 + 0.25, 0.75]
    replica.model.show(at, replica.outer.outer_parameters(at))
    assert model.table.tolist() == [1 / 3, 1e9 + 0.25, 0.75]


def test_buffers_are_sent_as_they_are_whatever_the_format_of_parameters() -> None:
    model = model_with()
    model[1].running_var.copy_(torch.tensor([1e-6, 900.0]))
    model[1].num_batches_tracked.fill_(100_000)
    replica = TensorReplica.of(model, method("diloco", codec="fp16"))
    reducer, norm = replica.contribution(1)
    reducer.begin(5, 2)
    sent = torch.frombuffer(bytearray(reducer.encode(0)), dtype=torch.float32)  # type: ignore[arg-type]
    assert torch.equal(sent, torch.tensor([0.0, 0.0, 1e-6, 900.0, 1e5]))
    assert norm == pytest.approx(1e5, rel=1e-3)
