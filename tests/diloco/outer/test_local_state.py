"""Local state: pseudo-gradients, and how a result meets local steps: replace, mix, carry, eager."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diloco.compression.codecs import codec
from diloco.methods.presets import method
from diloco.outer.local_state import LocalState, PendingContribution
from diloco.outer.replica import TensorReplica
from diloco.outer.tensor_reducer import TensorReducer


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


class Line(nn.Module):
    """Parameters without a purpose."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values.clone())

    def train_by(self, change: Tensor) -> None:
        with torch.no_grad():
            self.weight.add_(change)


class Worker:
    """One worker's numbers over 2-D parameters; rounds are made by hand."""

    def __init__(self, name: str, start: Tensor, **overrides: Any) -> None:
        self.model = Line(start)
        self.replica = TensorReplica.of(self.model, method(name, **overrides))
        self.outer = self.replica.outer
        self.offered: TensorReducer | None = None

    def offer(self, again: bool = False) -> Tensor:
        """The contribution [k], ``again`` of the last snapshot; what it stands for on the wire is up to the
        test."""
        made, _ = self.replica.contribution_again(0) if again else self.replica.contribution(0)
        assert isinstance(made, TensorReducer)
        assert made.contribution is not None
        self.offered = made
        return made.contribution

    def apply(self, mean: Tensor, share: float, keep_old: bool = True) -> None:
        got = self.replica.receiver(0)
        assert isinstance(got, TensorReducer)
        got.output.copy_(mean)
        self.replica.apply(0, got, self.offered, share, keep_old)

    def land(self, on_time: bool = True) -> None:
        self.replica.land(0, self.offered, on_time)

    @property
    def live(self) -> Tensor:
        return self.model.weight.detach()

    @property
    def theta(self) -> Tensor:
        return self.outer.outer_parameters(0)


def commit(workers: list[Worker], keep_old: bool = True) -> Tensor:
    """Average what the workers offered last, and move everyone's outer parameters; in two exchanges, if the
    method has two."""
    if workers[0].replica.sketches(0):
        exchange(workers, keep_old)
        for worker in workers:
            worker.offer(again=True)
    return exchange(workers, keep_old)


def exchange(workers: list[Worker], keep_old: bool = True) -> Tensor:
    """One commit of what the workers offered last."""
    parts = [
        w.offered.contribution
        for w in workers
        if w.offered is not None and w.offered.contribution is not None
    ]
    mean = torch.stack(parts).mean(0)
    for worker in workers:
        worker.apply(mean, 1 / len(workers), keep_old)
    return mean


def test_the_pseudo_gradient_is_outer_minus_local_and_is_not_changed_by_later_training() -> None:
    worker = Worker("diloco", normal(9, 0))
    worker.model.train_by(normal(9, 1))
    delta = worker.replica.local.pseudo_gradient(0)
    assert torch.equal(delta, worker.theta - worker.live)
    kept = delta.clone()
    worker.model.train_by(normal(9, 2))
    assert torch.equal(delta, kept)


def test_lr_1_without_momentum_gives_everyone_the_average_of_the_workers() -> None:
    workers = [Worker("local_sgd", normal(9, 0)) for _ in range(3)]
    for i, worker in enumerate(workers):
        worker.model.train_by(normal(9, 1 + i))
        worker.offer()
    average = torch.stack([worker.live.clone() for worker in workers]).mean(0)
    commit(workers, keep_old=False)
    for worker in workers:
        worker.land()
        torch.testing.assert_close(worker.live, average)
    assert torch.equal(workers[0].live, workers[1].live)


def test_carrying_keeps_what_was_learned_since_the_contribution_on_top() -> None:
    worker = Worker("diloco", normal(9, 0))
    worker.model.train_by(normal(9, 1))
    worker.offer()
    snapshot = worker.live.clone()
    worker.model.train_by(normal(9, 2))
    later = worker.live.clone()
    worker.apply(normal(9, 3), 0.5)
    worker.land(on_time=False)
    torch.testing.assert_close(worker.live, worker.theta + (later - snapshot))


def test_carrying_without_steps_since_is_replacing_bit_for_bit() -> None:
    workers = [Worker("diloco", normal(99, 0)) for _ in range(2)]
    for worker in workers:
        worker.model.train_by(normal(99, 1))
        worker.offer()
    commit(workers)
    workers[0].land(on_time=False)
    workers[1].land(on_time=True)
    assert torch.equal(workers[0].live, workers[1].live)


def test_one_who_contributed_nothing_keeps_all_its_progress() -> None:
    worker = Worker("local_sgd", normal(9, 0))
    before = worker.theta.clone()
    worker.model.train_by(normal(9, 1))
    later = worker.live.clone()
    worker.apply(torch.ones(9), 0.0)
    worker.land(on_time=False)
    torch.testing.assert_close(worker.live, before - 1 + (later - before))


def test_mixing_takes_alpha_of_the_local_weights() -> None:
    worker = Worker("local_sgd", torch.zeros(2), delay=1, merge="mix", alpha=0.25)
    worker.model.train_by(torch.tensor([4.0, -8.0]))
    worker.offer()
    worker.model.train_by(torch.tensor([4.0, 0.0]))
    worker.apply(torch.tensor([-2.0, 2.0]), 0.5)
    worker.land()
    # 0.25 * (8, -8) + 0.75 * (2, -2)
    assert worker.live.tolist() == [3.5, -3.5]
    assert worker.replica.local.pseudo_gradient(0).tolist() == [-1.5, 1.5], (
        "measured from the outer parameters"
    )


def test_a_delayed_outer_step_by_hand() -> None:
    """H = 1 of two workers: contributions are made on what was known one round before, and until the first
    result lands each goes on from its own local steps."""
    workers = [
        Worker("delayed", torch.zeros(2), sync_every=1, outer="sgd", outer_lr=1.0, outer_momentum=0.0)
        for _ in range(2)
    ]
    for worker, change in zip(workers, ([2.0, 0.0], [0.0, 4.0]), strict=True):
        worker.model.train_by(torch.tensor(change))
        worker.offer()
        worker.replica.land(0, None, on_time=True)
        assert worker.live.tolist() == change, "nothing has come yet, and nothing is thrown away"
    commit(workers)
    firsts = [worker.offered for worker in workers]
    for worker in workers:
        worker.model.train_by(torch.tensor([1.0, 1.0]))
        assert worker.offer().tolist() == [-1.0, -1.0], (
            "from the snapshot of the offer before, not from what came meanwhile"
        )
    for worker, first in zip(workers, firsts, strict=True):
        worker.replica.land(0, first, on_time=True)
        assert worker.live.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["delayed", "dilocox", "eager"])
def test_a_late_result_of_a_whole_outer_step_keeps_what_was_learned_since_its_offer(name: str) -> None:
    """And nothing else: what was offered is in the result, and the live model went on without it."""
    worker = Worker(name, normal(64, 0).view(8, 8))
    worker.model.train_by(normal(64, 1).view(8, 8))
    worker.offer()
    worker.replica.land(0, None, on_time=True)
    went_on = worker.live.clone()
    commit([worker])
    later = normal(64, 2).view(8, 8)
    worker.model.train_by(later)
    worker.land(on_time=False)
    torch.testing.assert_close(worker.live.flatten(), worker.theta + later.flatten())
    assert not torch.equal(went_on, worker.live)


def test_eager_with_one_worker_is_diloco() -> None:
    eager = Worker("eager", normal(9, 0), sync_every=1, codec="fp32", outer_lr=0.7)
    plain = Worker("diloco", normal(9, 0), codec="fp32")
    landed = None
    for i in range(6):
        change = normal(9, 10 + i)
        plain.model.train_by(change)
        plain.offer()
        commit([plain], keep_old=False)
        plain.land()
        eager.model.train_by(change)
        eager.offer()
        eager.replica.land(0, landed, on_time=True)
        torch.testing.assert_close(eager.live, plain.live)
        commit([eager])
        landed = eager.offered


def test_eager_puts_the_fresh_part_in_the_place_of_the_stale_one() -> None:
    """Two workers, plain averaging: delta~ = mean(t-1) + (fresh - stale) / 2."""
    parts = {"sync_every": 1, "codec": "fp32", "outer": "sgd", "outer_lr": 1.0, "outer_momentum": 0.0}
    workers = [Worker("eager", torch.zeros(1), **parts) for _ in range(2)]
    for worker, change in zip(workers, (2.0, 4.0), strict=True):
        worker.model.train_by(torch.tensor([change]))
        worker.offer()
        worker.replica.land(0, None, on_time=True)
    assert [worker.live.item() for worker in workers] == [2.0, 4.0], "its own part stands for the first mean"
    commit(workers)
    firsts = [worker.offered for worker in workers]
    for worker, change, first in zip(workers, (10.0, 20.0), firsts, strict=True):
        worker.model.train_by(torch.tensor([change]))
        worker.offer()
        worker.replica.land(0, first, on_time=True)
    # The mean of the first round, 3, and half of each one's fresh part.
    assert [worker.live.item() for worker in workers] == [3.0 + 5.0, 3.0 + 10.0]
    assert [worker.theta.item() for worker in workers] == [3.0, 3.0], "the shared ones follow the means alone"


def test_a_random_mask_averages_its_elements_and_leaves_the_others_as_they_train() -> None:
    workers = [Worker("sparta", torch.zeros(40), mask_one_in=4) for _ in range(2)]
    for i, worker in enumerate(workers):
        worker.model.train_by(normal(40, i))
        assert len(worker.offer()) == 10
    locals_ = [worker.live.clone() for worker in workers]
    commit(workers, keep_old=False)
    average = (locals_[0] + locals_[1]) / 2
    for worker, local in zip(workers, locals_, strict=True):
        worker.land()
        touched = worker.outer.components(0).projection.support(0)
        assert touched is not None
        rest = torch.ones(40, dtype=torch.bool)
        rest[touched] = False
        torch.testing.assert_close(worker.live[touched], average[touched])
        assert torch.equal(worker.live[rest], local[rest])


def test_a_mask_of_every_element_is_plain_averaging() -> None:
    workers = [Worker("sparta", torch.zeros(7), mask_one_in=1) for _ in range(2)]
    for i, worker in enumerate(workers):
        worker.model.train_by(torch.full((7,), float(i)))
        worker.offer()
    commit(workers, keep_old=False)
    for worker in workers:
        worker.land()
        assert torch.equal(worker.live, torch.full((7,), 0.5))


def test_error_feedback_conserves_and_moves_only_on_commit() -> None:
    worker = Worker("sparseloco", torch.zeros(4096), feedback_decay=1.0, value_bits=16)
    produced, sent = torch.zeros(4096), torch.zeros(4096)
    for i in range(4):
        change = normal(4096, i)
        worker.model.train_by(change)
        worker.offer()  # and given up: nothing may change
        y = worker.offer()
        offered = worker.offered
        assert offered is not None
        offered.begin(4096, 1)
        part = torch.zeros(4096)
        codec("topk", value_bits=16).add(part, offered.encode(0), 1.0, first=True)
        assert torch.equal(y, offered.contribution)  # type: ignore[arg-type]
        produced, sent = produced - change, sent + part
        worker.apply(part, 1.0, keep_old=False)
        worker.land()
    residual = worker.replica.local.state_dict()["0.residual.0"]
    torch.testing.assert_close(sent + residual, produced, rtol=1e-4, atol=1e-4)
    assert float(residual.abs().max()) > 0


@pytest.mark.parametrize("name", ["diloco", "sparseloco", "dilocox", "demo"])
def test_a_contribution_that_is_given_up_leaves_everything_as_it_was(name: str) -> None:
    twins = [Worker(name, normal(4096, 0).view(64, 64)) for _ in range(2)]
    for worker in twins:
        worker.model.train_by(normal(4096, 1).view(64, 64))
    twins[0].offer()
    first, second = (worker.offer().clone() for worker in twins)
    assert torch.equal(first, second)
    assert twins[0].outer.digest(0) == twins[1].outer.digest(0)


LOW_RANK = {"rank": 5, "rank_share": 0.0, "adapt": "none", "codec": "fp32", "delay": 0, "sync_every": 1}


def test_a_sketch_moves_nothing_but_the_basis_and_the_second_exchange_is_about_its_snapshot() -> None:
    workers = [Worker("dilocox", normal(600, 0).view(20, 30), **LOW_RANK) for _ in range(2)]
    trained = [normal(600, 1 + i).view(20, 30) for i in range(2)]
    for worker, change in zip(workers, trained, strict=True):
        worker.model.train_by(change)
        worker.offer()
    worker, digest = workers[0], workers[0].replica.digest(0)
    before, live = worker.theta.clone(), worker.live.clone()
    exchange(workers)
    assert worker.replica.digest(0) != digest, "the basis is shared"
    assert torch.equal(worker.theta, before)
    assert torch.equal(worker.live, live)
    assert worker.replica.count(0) == 0
    for each in workers:
        each.model.train_by(normal(600, 9).view(20, 30))  # of the next contribution
        each.offer(again=True)
    exchange(workers)
    assert worker.replica.count(0) == 1
    mean, residuals = sum(trained) / -2, [w.replica.local.state_dict()["0.residual.0"] for w in workers]
    sent = mean.flatten() - sum(residuals) / 2
    # The first Nesterov step is (1 + momentum) lr times the mean of what was sent.
    torch.testing.assert_close(worker.theta, before - 1.9 * 0.2 * sent, rtol=1e-4, atol=1e-5)
    best = torch.linalg.svdvals(mean)[:5].square().sum()
    assert 0.6 * best < sent.square().sum() < best
    assert torch.equal(workers[1].theta, worker.theta)


@pytest.mark.parametrize("codec_name", ["fp32", "int4"])
@pytest.mark.parametrize("rank", [3, 20])
def test_two_factors_and_the_residual_are_all_that_was_trained(codec_name: str, rank: int) -> None:
    parts = {**LOW_RANK, "rank": rank, "codec": codec_name, "mean_codec": "fp32", "outer": "sgd"}
    worker = Worker("dilocox", torch.zeros(20, 70), **parts, outer_lr=1.0, outer_momentum=0.0)
    trained = torch.zeros(20, 70)
    for i in range(4):
        change = normal(1400, i).view(20, 70)
        trained += change
        worker.model.train_by(change)
        worker.offer()
        for again in (False, True):
            worker.offer(again)  # and given up: nothing may change
            worker.offer(again)
            made = worker.offered
            assert made is not None
            made.begin(made.num_elements, 1)
            part = torch.zeros(made.num_elements)
            codec(codec_name).add(part, made.encode(0), 1.0, first=True)
            worker.apply(part, 1.0, keep_old=False)
        worker.land()
    residual = worker.replica.local.state_dict()["0.residual.0"]
    # Outer parameters are what was sent, since each was added to them.
    torch.testing.assert_close(worker.theta - residual, trained.flatten(), rtol=1e-4, atol=1e-4)
    # Of full rank nothing is left but what the codec rounds.
    left = float(residual.norm() / trained.norm())
    assert left < 1e-5 if (rank, codec_name) == (20, "fp32") else left > 1e-3


def test_who_was_not_in_the_sketch_takes_part_with_a_snapshot_of_its_own() -> None:
    """One joined, or was late, between the two exchanges; another one was lost there."""
    parts = {**LOW_RANK, "rank": 20, "outer": "sgd", "outer_lr": 1.0, "outer_momentum": 0.0}
    first, lost, joiner = (Worker("dilocox", torch.zeros(20, 70), **parts) for _ in range(3))
    changes = [normal(1400, i).view(20, 70) for i in range(2)]
    for worker, change in zip((first, lost), changes, strict=True):
        worker.model.train_by(change)
        worker.offer()
    exchange([first, lost])
    view = first.replica.pin(0)
    joiner.replica.load(0, bytearray(view.read(0, view.size_bytes)))
    assert not joiner.replica.sketches(0)
    joiner.model.train_by(changes[1])
    joiner.offer()
    first.offer(again=True)
    exchange([first, joiner])
    # Of full rank any basis is exact.
    torch.testing.assert_close(first.theta, (sum(changes) / 2).flatten(), rtol=1e-4, atol=1e-5)
    assert joiner.replica.digest(0) == first.replica.digest(0)


def test_after_a_state_was_loaded_nothing_is_left_of_what_was_dropped() -> None:
    worker, donor = (Worker("sparseloco", normal(4096, i)) for i in range(2))
    worker.model.train_by(normal(4096, 5))
    worker.apply(worker.offer(), 1.0)
    worker.land()
    view = donor.replica.pin(0)
    worker.replica.load(0, bytearray(view.read(0, view.size_bytes)))
    assert torch.equal(worker.live, donor.live)
    assert not worker.replica.local.state_dict()["0.residual.0"].any()


def test_moments_are_averaged_as_fragments_of_their_own() -> None:
    models = [nn.Linear(3, 2) for _ in range(2)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1) for m in models]
    replicas = [
        TensorReplica.of(m, method("des_loc"), optimizer)
        for m, optimizer in zip(models, optimizers, strict=True)
    ]
    for i, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
        model(normal(3, i)).sum().backward()
        optimizer.step()
    assert [replica.num_fragments for replica in replicas] == [3, 3]
    for fragment, which in ((1, "exp_avg"), (2, "exp_avg_sq")):
        before = [o.state[m.weight][which].clone() for o, m in zip(optimizers, models, strict=True)]
        made = [each.contribution(fragment)[0] for each in replicas]
        sent = [each.contribution for each in made if isinstance(each, TensorReducer)]
        for each in replicas:
            each.outer.step(fragment, torch.stack([s for s in sent if s is not None]).mean(0))
            each.land(fragment, None, on_time=True)
        for optimizer, model in zip(optimizers, models, strict=True):
            torch.testing.assert_close(optimizer.state[model.weight][which], (before[0] + before[1]) / 2)


def test_the_mean_of_second_moments_of_very_different_sizes_is_never_negative() -> None:
    """As a difference from the outer value, fp32 leaves the last bit of that."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    replica = TensorReplica.of(model, method("des_loc"), optimizer)
    mean, weight = TensorReducer(codec("fp32"), 8), torch.tensor(1 / 3)
    for large, small in ((0.9, 1e-12), (0.7, 3e-13), (0.3, 1e-14)):
        optimizer.state[model.weight]["exp_avg_sq"].fill_(large)
        for value in (large, small):
            optimizer.state[model.weight]["exp_avg_sq"].fill_(value)
            made, _ = replica.contribution(2)
            assert isinstance(made, TensorReducer)
            assert made.contribution is not None
            mean.output.copy_(
                made.contribution * weight + made.contribution * weight + made.contribution * weight
            )
            replica.apply(2, mean, made, 1.0, keep_old=False)
            replica.land(2, made, on_time=True)
            torch.testing.assert_close(
                optimizer.state[model.weight]["exp_avg_sq"], torch.full((2, 3), value), rtol=1e-6, atol=0.0
            )


def test_an_offer_without_feedback_remembers_its_pseudo_gradient_without_a_copy() -> None:
    worker = Worker("diloco", normal(9, 0))
    delta = worker.replica.local.pseudo_gradient(0)
    offer = worker.replica.local.offer(0, delta, None)
    assert isinstance(offer, PendingContribution)
    assert offer.delta is delta
    assert isinstance(worker.replica.local, LocalState)
