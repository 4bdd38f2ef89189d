"""Inner optimizers of the built-in recipe, as the settings say.

Owns which parameters get which optimizer. Their state is one worker's own and stays local.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import Parameter

from diloco.errors import RecipeError
from diloco.settings import Train


def inner_optimizers(
    name: Literal["adamw", "sgd", "muon"], model: nn.Module, train: Train, *, of_a_part: bool = False
) -> list[torch.optim.Optimizer]:
    """Optimizers that together step all trainable parameters, in the order in which to step them. ``muon`` is
    torch's (2.9 or later) for matrices inside the model, scaled so that AdamW's learning rate suits it,
    beside AdamW for embeddings, head and norms, as MuLoCo (arXiv 2505.23725) has it; a part of a model may
    have no such matrix. Raises `RecipeError` where torch has no Muon."""
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    if name == "sgd":
        return [torch.optim.SGD(trainable.values(), lr=train.inner_lr)]
    if name == "adamw":
        return [_adamw(list(trainable.values()), train)]
    if not hasattr(torch.optim, "Muon"):
        raise RecipeError(f'inner = "muon" needs torch 2.9 or later: this is {torch.__version__}')
    embeddings = {
        id(each) for part in model.modules() if isinstance(part, nn.Embedding) for each in part.parameters()
    }
    matrices = [
        each
        for name, each in trainable.items()
        if each.dim() == 2 and id(each) not in embeddings and not {"head", "lm_head"} & set(name.split("."))
    ]
    if not matrices and of_a_part:
        return [_adamw(list(trainable.values()), train)]
    if not matrices:
        raise RecipeError('inner = "muon" moves matrices, and this model has none but embeddings and head')
    chosen = {id(each) for each in matrices}
    muon = torch.optim.Muon(
        matrices, lr=train.inner_lr, weight_decay=train.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, _adamw([each for each in trainable.values() if id(each) not in chosen], train)]


def step_all(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """One step of all with this learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


def set_weight_decay(optimizers: list[torch.optim.Optimizer], weight_decay: float) -> None:
    """Change the weight decay of matrices; SGD has none here."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if not isinstance(optimizer, torch.optim.SGD) and all(p.dim() >= 2 for p in group["params"]):
                group["weight_decay"] = weight_decay


FINAL_SHARE = 0.1
"""What is left of the learning rate after its decay."""


def lr_share(step: int, warmup_steps: int, decay_steps: int = 0) -> float:
    """Share of the learning rate at inner step ``step``, counted from 0: a straight rise, then 1, or a cosine
    that is at `FINAL_SHARE` from step ``decay_steps`` on."""
    rise = min(1.0, (step + 1) / max(1, warmup_steps))
    if not decay_steps:
        return rise
    fallen = min(1.0, step / decay_steps)
    return rise * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * fallen)))


def _adamw(parameters: list[Parameter], train: Train) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on norms."""
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.inner_lr, betas=(train.beta1, train.beta2))
