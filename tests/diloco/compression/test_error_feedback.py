"""Error feedback: what was sent and what is left are what was produced; the papers' identities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diloco.compression.error_feedback import EF14, EF21, EControl, Feedback, feedback


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def top1(x: Tensor) -> Tensor:
    kept = torch.zeros_like(x)
    at = int(x.abs().argmax())
    kept[at] = x[at]
    return kept


def zeros(kind: Feedback, n: int) -> list[Tensor]:
    return [torch.zeros(n) for _ in range(kind.num_vectors)]


def test_ef14_conserves_what_was_produced() -> None:
    kind, local, sent = EF14(), [torch.zeros(50)], torch.zeros(50)
    deltas = [normal(50, i) for i in range(20)]
    for delta in deltas:
        c = top1(kind.input(delta, local))
        local, sent = kind.committed(delta, local, c), sent + c
    torch.testing.assert_close(sent + local[0], torch.stack(deltas).sum(0), rtol=1e-4, atol=1e-5)
    assert local[0].any()


def test_ef14_with_decay_by_hand() -> None:
    """beta 0.5, top-1 of two: (3, 1) sends 3; (0.5 * 1 + 0, 4 + ...)."""
    kind, local = EF14(decay=0.5), [torch.zeros(2)]
    local = kind.committed(torch.tensor([3.0, 1.0]), local, torch.tensor([3.0, 0.0]))
    assert local[0].tolist() == [0.0, 1.0]
    assert kind.input(torch.tensor([2.0, 0.0]), local).tolist() == [2.0, 0.5]
    local = kind.committed(torch.tensor([2.0, 0.0]), local, torch.tensor([2.0, 0.0]))
    assert local[0].tolist() == [0.0, 0.5]


def test_a_share_of_what_was_sent_leaves_the_buffer() -> None:
    """DeMo's momentum: m = 0.9 m + g; the sent part q leaves with 0.2 of it."""
    kind = EF14(decay=0.9, share=0.2)
    local = kind.committed(torch.tensor([10.0, 1.0]), [torch.zeros(2)], torch.tensor([10.0, 0.0]))
    assert local[0].tolist() == [8.0, 1.0]


def test_demo_that_sends_everything_keeps_nothing() -> None:
    kind = EF14(decay=0.999)
    delta, local = normal(9, 1), [normal(9, 2)]
    assert not kind.committed(delta, local, kind.input(delta, local))[0].any()


@pytest.mark.parametrize("kind", [EF21(), EControl(0.3)], ids=["ef21", "econtrol"])
def test_without_compression_estimates_are_exact_and_errors_zero(kind: Feedback) -> None:
    local, shared = zeros(kind, 9), torch.zeros(9)
    for i in range(5):
        delta = normal(9, i)
        c = kind.input(delta, local)
        local = kind.committed(delta, local, c)
        moved, new = kind.update(c, shared)
        assert new is not None
        shared = new
        torch.testing.assert_close(local[-1], delta, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(moved, delta, rtol=1e-5, atol=1e-5)
    if kind.num_vectors == 2:
        assert float(local[0].abs().max()) < 1e-5


def test_econtrol_without_eta_is_ef21() -> None:
    kinds: list[Feedback] = [EF21(), EControl(0.0)]
    locals_ = [zeros(kind, 9) for kind in kinds]
    for i in range(6):
        delta = normal(9, i)
        sent = [top1(kind.input(delta, local)) for kind, local in zip(kinds, locals_, strict=True)]
        assert torch.equal(sent[0], sent[1])
        locals_ = [k.committed(delta, local, c) for k, local, c in zip(kinds, locals_, sent, strict=True)]


@pytest.mark.parametrize("kind", [EF21(), EControl(0.1)], ids=["ef21", "econtrol"])
def test_a_fixed_gradient_is_learned_through_a_harsh_compressor(kind: Feedback) -> None:
    local, shared, delta = zeros(kind, 12), torch.zeros(12), normal(12, 3)
    for _ in range(60):
        c = top1(kind.input(delta, local))
        local = kind.committed(delta, local, c)
        _, new = kind.update(c, shared)
        assert new is not None
        shared = new
    if isinstance(kind, EControl):
        assert float((shared - delta).norm() / delta.norm()) < 0.5, "errors are fed back and so stay small"
    else:
        torch.testing.assert_close(shared, delta, rtol=1e-4, atol=1e-4)


def test_econtrol_by_hand() -> None:
    """eta 0.5, top-1: delta (3, 1) sends 3, so e = (0, 1) and h = (3, 0); then (3, 1) - h + 0.5 e."""
    kind, delta = EControl(0.5), torch.tensor([3.0, 1.0])
    local = kind.committed(delta, zeros(kind, 2), torch.tensor([3.0, 0.0]))
    assert [each.tolist() for each in local] == [[0.0, 1.0], [3.0, 0.0]]
    assert kind.input(delta, local).tolist() == [0.0, 1.5]
    local = kind.committed(delta, local, torch.tensor([0.0, 1.5]))
    assert [each.tolist() for each in local] == [[0.0, 0.5], [3.0, 1.5]]


@pytest.mark.parametrize("name", ["ef21", "econtrol"])
def test_the_old_common_mean_stays_as_it_was(name: str) -> None:
    """A donor may be reading it."""
    shared, sent = normal(9, 1), normal(9, 2)
    kept = [shared.clone(), sent.clone()]
    feedback(name).update(sent, shared)
    assert torch.equal(shared, kept[0])
    assert torch.equal(sent, kept[1])


def test_options_reach_the_feedback_that_has_them() -> None:
    delta, sent, ones = torch.ones(2), torch.full((2,), 4.0), torch.ones(2)
    ef14 = feedback("ef14", decay=0.5, share=0.25)
    assert ef14.committed(delta, [ones], sent)[0].tolist() == [0.5, 0.5]
    assert feedback("econtrol", eta=0.5).input(delta, [ones, torch.zeros(2)]).tolist() == [1.5, 1.5]


@pytest.mark.parametrize("name", ["none", "ef14", "ef21", "econtrol"])
def test_an_aborted_round_changes_nothing(name: str) -> None:
    kind = feedback(name, decay=0.9, eta=0.1)
    local = [normal(9, i) for i in range(kind.num_vectors)]
    before, delta = [each.clone() for each in local], normal(9, 7)
    kept = delta.clone()
    first = kind.input(delta, local).clone()
    kind.committed(delta, local, top1(first))
    assert torch.equal(kind.input(delta, local), first)
    assert torch.equal(delta, kept)
    assert all(torch.equal(a, b) for a, b in zip(local, before, strict=True))


def test_an_unknown_feedback_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        feedback("ef99")
