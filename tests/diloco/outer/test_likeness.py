"""Two workers that learn the same are told apart from two that do not, by what each of them has anyway."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diloco.methods import method
from diloco.outer.components import codecs_of
from diloco.outer.likeness import ROUNDS, Likeness
from diloco.outer.replica import TensorReplica
from transport.collectives.reducer import Part


def test_a_worker_alone_and_one_that_sends_zeros_say_nothing() -> None:
    likeness = Likeness()
    for own, mean, share in ((torch.ones(4), torch.ones(4), 1.0), (torch.zeros(4), torch.ones(4), 0.5)):
        likeness.take(own, mean, share)
    assert likeness.num_rounds == 0


def test_one_round_that_differs_begins_the_count_anew() -> None:
    likeness, own = Likeness(), torch.tensor([1.0, 2.0, 3.0])
    for rest in (own, 3.0 * own, torch.tensor([3.0, 1.0, 1.0]), own):
        likeness.take(own, 0.25 * own + 0.75 * rest, 0.25)
    assert likeness.num_rounds == 1


def rounds(codec: str, of_others: float, num_rounds: int = ROUNDS) -> list[bool]:
    """One of three workers: the others learn the same, but for so much noise."""
    torch.manual_seed(0)
    replica = TensorReplica.of(nn.Linear(64, 64), method("diloco", codec=codec))
    said = []
    for _ in range(num_rounds):
        learned = 0.01 * torch.randn(replica.num_elements(0))
        replica.model.show(0, replica.outer.outer_parameters(0) - learned)
        ours, _ = replica.contribution(0)
        mean = replica.receiver(0)
        noise: Tensor = of_others * 0.01 * torch.randn(len(learned))
        mean.output.copy_(learned / 3 + 2 * (learned + noise) / 3)  # type: ignore[attr-defined]
        replica.apply(0, mean, ours, 1 / 3, keep_old=False)
        replica.land(0, ours, on_time=True)
        said.append(replica.learns_what_others_do)
    return said


def test_it_is_told_after_three_rounds_whatever_the_codec() -> None:
    for codec in ("fp32", "bf16", "int8"):
        assert rounds(codec, 0.0) == [False, False, True]


def test_workers_on_data_of_their_own_are_not_taken_for_alike() -> None:
    assert rounds("fp32", 0.5) == [False] * ROUNDS


def pair_among(codec: str, seeds: tuple[int, int, int], num_rounds: int = ROUNDS) -> list[list[int]]:
    """What the first of three workers, which learn by these seeds, says of single others in each round."""
    replica = TensorReplica.of(nn.Linear(64, 64), method("diloco", codec=codec))
    said = []
    for number in range(num_rounds):
        learned = [
            0.01
            * torch.randn(replica.num_elements(0), generator=torch.Generator().manual_seed(9 * number + s))
            for s in seeds
        ]
        replica.model.show(0, replica.outer.outer_parameters(0) - learned[0])
        ours, _ = replica.contribution(0)
        length = replica.num_elements(0)
        ours.begin(length, 3)
        coder = codecs_of(method("diloco", codec=codec))[0]
        others = [Part(i, 1 / 3, bytes(coder.encode(learned[i]))) for i in (1, 2)]
        ours.accept(0, ours.reduce(0, [Part(0, 1 / 3, None), *others]))
        replica.apply(0, ours, ours, 1 / 3, keep_old=False)
        replica.land(0, ours, on_time=True)
        assert not replica.learns_what_others_do
        said.append(replica.twins)
    return said


def test_a_pair_among_others_is_told_by_what_an_owner_has_of_each() -> None:
    for codec in ("fp32", "int8"):
        assert pair_among(codec, (1, 2, 1)) == [[], [], [2]]
        assert pair_among(codec, (1, 2, 3)) == [[], [], []]
