"""TensorReplica: the live model over its outer state, and the whole state for joiners."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diloco.errors import LayoutError, NonFiniteContribution, StateError
from diloco.methods.presets import method
from diloco.outer.replica import TensorReplica
from diloco.outer.tensor_reducer import TensorReducer
from tests.diloco.outer.kit import flat, make, normal, train
from transport.collectives.reducer import Part

DILOCO = method("diloco", codec="fp32")
AVERAGE = method("local_sgd")


def test_a_replica_begins_with_the_models_values_as_outer_parameters() -> None:
    model = make()
    replica = TensorReplica.of(model, method("diloco", num_fragments=2))
    first = replica.num_elements(0)
    assert torch.equal(replica.outer.outer_parameters(0), flat(model)[:first])
    assert torch.equal(replica.outer.outer_parameters(1), flat(model)[first:])
    assert (replica.num_fragments, len(replica.layout.fragments), replica.count(0)) == (2, 2, 0)


@pytest.mark.parametrize(
    ("name", "parts", "num_elements"),
    [("diloco", {}, 83), ("noloco", {}, 166), ("sparta", {"mask_one_in": 10}, 9), ("demo", {}, 83)],
)
def test_a_contribution_has_the_length_that_its_receivers_expect(
    name: str, parts: dict[str, int], num_elements: int
) -> None:
    replica = TensorReplica.of(make(), method(name, **parts))
    made, _ = replica.contribution(0)
    assert replica.max_sent(0) == num_elements == made.num_elements == replica.receiver(0).num_elements


def test_a_pseudo_gradient_that_is_not_finite_is_refused() -> None:
    model = make()
    replica = TensorReplica.of(model, DILOCO)
    with torch.no_grad():
        model[0].bias[1] = torch.inf
    assert not replica.is_finite(0)
    with pytest.raises(NonFiniteContribution, match="1 of the pseudo-gradient's 83 values are not finite"):
        replica.contribution(0)
    assert replica.last_norm == 0.0
    replica.reset(0, None)
    assert replica.is_finite(0)
    assert torch.equal(flat(model), replica.outer.outer_parameters(0))


@pytest.mark.parametrize(
    ("codec", "value", "fits"),
    [("fp16", 65000.0, True), ("fp16", 70000.0, False), ("fp32", 70000.0, True), ("fp32", 1e30, False)],
)
def test_what_the_codec_cannot_take_is_found_before_it_is_offered(
    codec: str, value: float, fits: bool
) -> None:
    model = make()
    replica = TensorReplica.of(model, method("diloco", codec=codec))
    with torch.no_grad():
        model[0].bias[1] -= value
    if fits:
        made, _ = replica.contribution(0)
        made.begin(made.num_elements, 1)
        made.encode(0)
        return
    with pytest.raises(NonFiniteContribution, match=r"too large for torch\.float16|norm that is not finite"):
        replica.contribution(0)


@pytest.mark.parametrize("merge", ["replace", "carry", "mix"])
def test_a_reset_goes_back_to_what_is_offered_and_its_result_lands_as_ever(merge: str) -> None:
    """As if there had been no inner steps after the offer."""
    landed = []
    for spoilt in (False, True):
        model = make()
        replica = TensorReplica.of(model, method("diloco", codec="fp32", sync_every=4, delay=2, merge=merge))
        train(model, 1)
        ours, _ = replica.contribution(0)
        offered = flat(model)
        if spoilt:
            with torch.no_grad():
                model[0].bias[1] = torch.nan
            replica.reset(0, ours)
            torch.testing.assert_close(flat(model), offered)
        mean = replica.receiver(0)
        mean.begin(mean.num_elements, 1)
        ours.begin(ours.num_elements, 1)
        mean.accept(0, ours.encode(0))
        replica.apply(0, mean, ours, 1.0, keep_old=True)
        train(model, 2)
        replica.land(0, ours, on_time=True)
        landed.append(flat(model))
    torch.testing.assert_close(landed[0], landed[1])


def test_a_reset_mends_the_inner_optimizer_that_it_knows() -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters())
    replica = TensorReplica.of(model, DILOCO, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()
    replica.reset(0, None)
    (said,) = replica.mend()
    assert said.startswith("8 tensors of the inner optimizer")


def test_h_is_the_methods_unless_its_projection_adapts_it() -> None:
    assert TensorReplica.of(make(), method("diloco", sync_every=7)).sync_every(0) == 7
    assert TensorReplica.of(make(), method("dilocox", sync_every=8, rank=2)).sync_every(0) == 8


def test_moments_are_exchanged_less_often_than_parameters() -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters())
    replica = TensorReplica.of(model, method("des_loc", sync_every=4), optimizer)
    assert [replica.sync_every(fragment) for fragment in range(3)] == [4, 12, 24]


def test_slow_momentum_is_scaled_as_the_inner_learning_rate_changes() -> None:
    """u <- beta u + delta / gamma;  theta <- theta - alpha gamma u, SlowMo (arXiv 1910.00643)."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    replica = TensorReplica.of(model, method("slowmo"), optimizer)
    theta, u = flat(model), torch.zeros(83)
    for count, gamma in enumerate([0.1, 0.1, 0.02, 0.03]):
        optimizer.param_groups[0]["lr"] = gamma
        train(model, count + 1)
        delta = theta - flat(model)
        made, _ = replica.contribution(0)
        assert isinstance(made, TensorReducer)
        assert made.contribution is not None
        made.output.copy_(made.contribution)
        replica.apply(0, made, made, 1.0, keep_old=False)
        replica.land(0, made, on_time=True)
        u = 0.5 * u + delta / gamma
        theta = theta - gamma * u
        torch.testing.assert_close(flat(model), theta)


@pytest.mark.parametrize("told", [0.0, -1.0, 1e-30])
def test_an_inner_learning_rate_that_makes_no_sense_moves_no_momentum_without_bound(told: float) -> None:
    model = make()
    replica = TensorReplica.of(model, method("slowmo"), torch.optim.SGD(model.parameters(), lr=0.1))
    for gamma in (0.1, told, 0.1, 0.1):
        mean = torch.full((84,), 1e-3)
        mean[-1] = gamma
        replica.outer.step(0, mean)
    assert replica.outer.buffers(0)[0].abs().max() <= 4.1e-3


def test_slow_momentum_needs_the_inner_optimizer() -> None:
    with pytest.raises(LayoutError, match="follows the inner learning rate"):
        TensorReplica.of(make(), method("slowmo"))


def test_a_donor_hands_out_the_version_that_it_was_asked_for_and_no_other() -> None:
    replica = TensorReplica.of(make(), DILOCO)
    assert replica.state_blob(0, bytes(32)) is None
    named = replica.digest(0)
    blob = replica.state_blob(0, named)
    assert blob is not None
    assert bytes(blob.piece(0)) == bytes(replica.pin(0).read(0, replica.state_size(0)))
    replica.outer.step(0, normal(replica.num_elements(0), 1))
    assert replica.state_blob(0, named) is None


def test_state_of_another_size_is_refused_and_changes_nothing() -> None:
    model = make()
    model[1].weight.requires_grad_(False)
    replica = TensorReplica.of(model, DILOCO)
    digest, size = replica.digest(0), replica.state_size(0)
    assert len(replica.state_buffer(0)) == size
    with pytest.raises(StateError, match=f"{size + 1} bytes instead of {size}"):
        replica.load(0, bytearray(size + 1))
    assert replica.digest(0) == digest


def test_a_bf16_model_keeps_its_outer_parameters_in_fp32() -> None:
    model = make().bfloat16()
    replica = TensorReplica.of(model, AVERAGE)
    assert replica.local.pseudo_gradient(0).dtype == torch.float32
    replica.outer.step(0, torch.full((replica.num_elements(0),), 1e-5))
    replica.local.discard(0)
    moved = replica.outer.outer_parameters(0)
    assert not torch.equal(moved, flat(model))
    assert torch.equal(moved.bfloat16().float(), flat(model))
    assert model[0].weight.dtype == torch.bfloat16


def test_tied_weights_move_once() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    replica = TensorReplica.of(model, AVERAGE)
    before = model[0].weight.detach().clone()
    replica.outer.step(0, torch.ones(24))
    replica.local.discard(0)
    assert torch.equal(model[1].weight.detach(), before - 1)


def test_transposed_parameters_are_read_and_written_in_their_logical_order() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(normal(6, 0).view(2, 3).t())
    expected = model.weight.detach().clone()
    replica = TensorReplica.of(model, AVERAGE)
    assert torch.equal(replica.outer.outer_parameters(0), expected.flatten())
    replica.outer.step(0, torch.ones(6))
    replica.local.discard(0)
    assert torch.equal(model.weight.detach(), expected - 1)


def test_writing_one_fragment_leaves_the_others_as_they_train() -> None:
    model = make()
    replica = TensorReplica.of(model, method("local_sgd", num_fragments=2))
    train(model, 1)
    local = flat(model)
    replica.local.discard(1)
    first = replica.num_elements(0)
    assert torch.equal(flat(model)[:first], local[:first])
    assert torch.equal(flat(model)[first:], replica.outer.outer_parameters(1))


def test_the_state_is_the_count_then_outer_parameters_then_momentum_then_frozen_parameters_of_the_last() -> (
    None
):
    model = make()
    model[1].bias.requires_grad_(False)
    replica = TensorReplica.of(model, method("diloco", num_fragments=2))
    replica.outer.step(1, normal(replica.num_elements(1), 1))
    parts = [
        torch.tensor([1]),
        replica.outer.outer_parameters(1),
        *replica.outer.buffers(1),
        model[1].bias.detach(),
    ]
    expected = b"".join(part.numpy().tobytes() for part in parts)
    view = replica.pin(1)
    assert bytes(view.read(0, view.size_bytes)) == expected
    assert replica.state_size(1) == view.size_bytes == len(expected)
    assert replica.state_size(0) == 8 + 8 * replica.num_elements(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_joiner_that_loads_the_state_equals_the_donor(dtype: torch.dtype) -> None:
    def frozen(seed: int) -> nn.Sequential:
        model = make(seed=seed).to(dtype)
        model[1].weight.requires_grad_(False)
        return model

    chosen = method("diloco", num_fragments=2)
    donor_model, joiner_model = frozen(0), frozen(50)
    donor, joiner = TensorReplica.of(donor_model, chosen), TensorReplica.of(joiner_model, chosen)
    for i in range(2):
        donor.outer.step(i, normal(donor.num_elements(i), i))
        donor.local.discard(i)
        view = donor.pin(i)
        joiner.load(i, bytearray(view.read(0, view.size_bytes)))
        assert (joiner.digest(i), joiner.count(i)) == (donor.digest(i), 1)
    assert torch.equal(flat(joiner_model), flat(donor_model))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_a_model_on_an_accelerator_gives_the_bits_of_one_on_the_cpu() -> None:
    digests = []
    for device in ("cpu", "cuda"):
        model = make().bfloat16()
        train(model, 1)
        model.to(device)
        replica = TensorReplica.of(model, DILOCO)
        replica.outer.step(0, replica.local.pseudo_gradient(0).add_(0.01))
        replica.local.discard(0)
        assert torch.equal(replica.outer.outer_parameters(0).bfloat16().float(), flat(model).cpu())
        digests.append(replica.digest(0))
    assert digests[0] == digests[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_outer_step_takes_no_more_extra_device_memory_than_one_fragment() -> None:
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8))).cuda()
    replica = TensorReplica.of(model, method("diloco", num_fragments=8))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for fragment in range(8):
        replica.outer.step(fragment, replica.local.pseudo_gradient(fragment))
        replica.local.discard(fragment)
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 4 * max(replica.num_elements(f) for f in range(8))


def test_averaged_moments_that_are_not_finite_go_back_to_the_averaged_ones() -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters())
    replica = TensorReplica.of(model, method("des_loc"), optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()
    assert [replica.is_finite(fragment) for fragment in range(3)] == [False, False, False]
    for fragment in range(3):
        replica.reset(fragment, None)
    assert all(replica.is_finite(fragment) for fragment in range(3))
    assert replica.mend() == []


def test_a_state_that_came_in_checked_pieces_is_named_by_their_digests_and_hashed_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    donor, joiner = (make_frozen(seed) for seed in range(2))
    donor.outer.step(0, normal(donor.num_elements(0), 1))
    name = donor.digest(0)
    blob = donor.state_blob(0, name)
    assert blob is not None
    incoming = joiner.state_buffer(0)
    for index, digest in enumerate(blob.digests):
        incoming.put(index, blob.piece(index), digest)
    monkeypatch.setattr("diloco.outer.snapshot.digest_of", None)
    joiner.load(0, incoming)
    assert joiner.digest(0) == name
    assert joiner.frozen_tail(0) == donor.frozen_tail(0)
    handed_on = joiner.state_blob(0, name)
    assert handed_on is not None
    assert [bytes(handed_on.piece(i)) for i in range(len(blob.digests))] == [
        bytes(blob.piece(i)) for i in range(len(blob.digests))
    ]
    monkeypatch.undo()
    joiner.outer.step(0, normal(joiner.num_elements(0), 2))
    donor.outer.step(0, normal(donor.num_elements(0), 2))
    assert joiner.digest(0) == donor.digest(0) != name


def make_frozen(seed: int) -> TensorReplica:
    """Its state has several pieces, and the last ones are frozen parameters."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(600, 600), nn.Linear(600, 600))
    model[1].requires_grad_(False)
    return TensorReplica.of(model, DILOCO)


def test_what_is_at_hand_of_a_state_that_nobody_named_is_there_without_a_digest() -> None:
    replica = make_frozen(0)
    at_hand = replica.state_at_hand(0)
    assert (list(at_hand.digests), at_hand.num_together) == ([], 3)
    assert bytes(at_hand.piece(2)) == bytes(replica.pin(0).read(2 << 20, 1 << 20))
    replica.digest(0)
    assert len(replica.state_at_hand(0).digests) == 5


def test_frozen_parameters_that_two_have_alike_are_pieces_of_equal_digest() -> None:
    """So that of a large base only the trained part travels to a joiner that has it from the same file."""

    def adapted(seed: int) -> TensorReplica:
        torch.manual_seed(0)
        base, adapter = nn.Linear(1024, 1024, bias=False), nn.Linear(8, 8)
        base.weight.requires_grad_(False)
        made = TensorReplica.of(nn.ModuleList([base, adapter]), DILOCO)
        made.outer.step(0, normal(made.num_elements(0), seed))
        return made

    ours, theirs = adapted(1), adapted(2)
    assert ours.digest(0) != theirs.digest(0)
    assert ours.digest(0) == ours.pin(0).digest()
    mine, other = ours.state_at_hand(0), theirs.state_at_hand(0)
    assert mine.num_together == other.num_together == 1
    differ = [a != b for a, b in zip(mine.digests, other.digests, strict=True)]
    assert differ == [True, False, False, False, False]
    theirs.load(0, bytearray(b"".join(ours.pin(0).pieces())))
    assert theirs.digest(0) == ours.digest(0) == theirs.pin(0).digest()


def one_round(
    replica: TensorReplica, model: nn.Module, seed: int
) -> tuple[TensorReducer, bytes | memoryview]:
    """A round of one member: its contribution, whose result lands, and a payload of the result."""
    train(model, seed)
    made, _ = replica.contribution(0)
    assert isinstance(made, TensorReducer)
    made.begin(made.num_elements, 1)
    mean = made.reduce(0, [Part(0, 1.0, None)])
    made.accept(0, mean)
    replica.apply(0, made, made, 1.0, keep_old=False)
    replica.land(0, made, on_time=True)
    return made, mean  # type: ignore[return-value]


def memory_of(replica: TensorReplica) -> int:
    return replica.model.device.size_bytes


@pytest.mark.parametrize("name", ["fp32", "int8"])
@pytest.mark.parametrize("keeps_former", [False, True])
def test_after_the_first_rounds_no_round_takes_fresh_memory(name: str, keeps_former: bool) -> None:
    model = make(20_000)
    replica = TensorReplica.of(model, method("diloco", codec=name))
    replica.outer.keeps_former = keeps_former
    sizes = [(one_round(replica, model, seed), memory_of(replica))[1] for seed in range(6)]
    n = replica.num_elements(0)
    states = 2 if keeps_former else 1
    assert sizes[1:] == [sizes[1]] * 5
    assert sizes[1] == 4 * n * (2 * states + 2), "states, a pseudo-gradient and an output"


@pytest.mark.parametrize("merge", ["replace", "carry", "mix"])
def test_where_the_former_state_is_kept_late_results_land_with_the_same_bits_and_no_copy(merge: str) -> None:
    landed, sizes = [], []
    for keeps_former in (False, True):
        model = make(20_000)
        settings = method("diloco", codec="fp32", sync_every=4, delay=2, merge=merge)
        replica = TensorReplica.of(model, settings)
        replica.outer.keeps_former = keeps_former
        for seed in range(5):
            train(model, seed)
            made, _ = replica.contribution(0)
            assert isinstance(made, TensorReducer)
            made.begin(made.num_elements, 1)
            train(model, 100 + seed)
            made.accept(0, made.reduce(0, [Part(0, 1.0, None)]))
            replica.apply(0, made, made, 1.0, keep_old=True)
            sizes.append(memory_of(replica) // (4 * replica.num_elements(0)))
            train(model, 200 + seed)
            replica.land(0, made, on_time=merge != "carry" and seed != 3)
            del made
        landed.append(flat(model))
    assert torch.equal(*landed)
    assert sizes[9] == sizes[4] + 2 - 1, "a second state of two vectors, and no anchor"


def test_a_payload_on_its_way_and_a_snapshot_are_not_written_by_the_rounds_that_follow() -> None:
    model = make(20_000)
    replica = TensorReplica.of(model, method("diloco", codec="fp32"))
    _, payload = one_round(replica, model, 0)
    view = replica.pin(0)
    sent, served = bytes(payload), b"".join(view.pieces())
    for seed in range(1, 5):
        one_round(replica, model, seed)
    assert bytes(payload) == sent
    assert b"".join(view.pieces()) == served
