"""Inner optimizers of the built-in recipe: who moves what."""

from __future__ import annotations

import pytest
import torch

from diloco.errors import RecipeError
from diloco.models.gpt import GPT
from diloco.models.inner_optimizers import inner_optimizers, step_all
from diloco.settings import Train


def model() -> GPT:
    return GPT(layers=2, heads=2, width=16, context=8)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_every_parameter_has_one_optimizer(name: str) -> None:
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    made = model()
    optimizers = inner_optimizers(name, made, Train())  # type: ignore[arg-type]
    owned = [id(p) for each in optimizers for group in each.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in made.parameters())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_moves_matrices_and_adamw_embeddings_and_norms() -> None:
    made = model()
    muon, adamw = inner_optimizers("muon", made, Train())
    chosen = {id(p) for group in muon.param_groups for p in group["params"]}
    assert all(p.dim() == 2 for p in made.parameters() if id(p) in chosen)
    assert id(made.embedding.weight) not in chosen
    assert isinstance(adamw, torch.optim.AdamW)


def test_without_muon_in_torch_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(RecipeError, match=r"torch 2\.9"):
        inner_optimizers("muon", model(), Train())


def test_all_step_with_the_given_learning_rate() -> None:
    made = model()
    optimizers = inner_optimizers("sgd", made, Train())
    before = made.embedding.weight.detach().clone()
    made.loss(torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)).backward()
    step_all(optimizers, 0.5)
    assert made.embedding.weight.grad is not None
    torch.testing.assert_close(made.embedding.weight.detach(), before - 0.5 * made.embedding.weight.grad)
