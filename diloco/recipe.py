"""Recipes: what one worker trains, as the command line runs it.

A recipe is a function `(settings, data_path, device, worker_salt) -> Job`; one that can build a stage of its
model takes a `part` too. Owns the built-in one, `gpt`, and the loading and calling of others. A recipe is
code from this machine's own disk that its owner named: nothing that a host or a peer sends is ever imported
(X8).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from diloco.errors import RecipeError
from diloco.models.gpt import GPT
from diloco.models.inner_optimizers import inner_optimizers, lr_share, set_weight_decay, step_all
from diloco.models.text import Text, load_text
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.part import Loss
from diloco.settings import RunSettings, Train

VALIDATION_BATCHES = 8
SAMPLE_BYTES = 200


@dataclass(slots=True)
class Job:
    """One worker's training, without any knowledge of a swarm."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    """Whose step ends an inner step: `attach` hooks it."""
    step: Callable[[Any], Tensor]
    """One whole inner step on a batch, the optimizer's included; returns the detached loss."""
    batches: Iterator[Any]
    """Endless."""
    tokens_per_step: int
    evaluate: Callable[[], float]
    """Validation loss; the same batches each time, and on every worker."""
    sample: Callable[[], str]
    """Something to look at."""
    follow: Callable[[RunSettings], None] | None = None
    """Told the run's settings when it begins to train, and when some of them change; without it they change
    at its next start, but for what an optimizer keeps of them."""
    keep: Mapping[str, Any] = field(default_factory=dict)
    """What a later process goes on from beside the model and ``optimizer``: objects with `state_dict` and
    `load_state_dict`, by name. ``batches`` are among them if they have these."""

    boundary: tuple[Boundary | None, Boundary | None] = (None, None)
    """Of a part: what lies between this stage and the ones below and above it; None at the outer ends."""
    loss: Loss | None = None
    """Of a part at the last stage; None at the others."""

    def kept(self) -> dict[str, Any]:
        """All of that, for `attach`."""
        data = {"batches": self.batches} if hasattr(self.batches, "load_state_dict") else {}
        return {**data, **self.keep}


Recipe = Callable[..., Job]


def gpt(settings: RunSettings, data_path: Path | None, device: torch.device, worker_salt: str) -> Job:
    """The built-in recipe: `GPT` on bytes of text with the inner optimizer of the run's method. ``data_path``
    None means the standard library's source. Workers with different salts draw different batches. Raises
    `TextError` and `RecipeError`."""
    sizes, train = settings.model, settings.train
    text = load_text(data_path)
    model = GPT(sizes.layers, sizes.heads, sizes.width, sizes.context, settings.run.seed).to(device)
    optimizers = inner_optimizers(settings.method.resolved().inner, model, train)
    steps = InnerSteps(model, optimizers, train)
    return Job(
        model=model,
        optimizer=optimizers[-1],
        step=steps,
        batches=text.batches(settings.run.seed, worker_salt, train.batch_size, sizes.context, device),
        tokens_per_step=train.batch_size * sizes.context,
        evaluate=evaluation(model, text, settings, device),
        sample=lambda: model.generate(b"def ", SAMPLE_BYTES, temperature=0.8).decode("utf-8", "replace"),
        follow=steps.follow,
        keep={"steps": steps, **{f"optimizer {i}": each for i, each in enumerate(optimizers[:-1])}},
    )


def job_of(
    recipe: Recipe,
    settings: RunSettings,
    data_path: Path | None,
    device: torch.device,
    worker_salt: str,
    part: Part | None = None,
) -> Job:
    """What ``recipe`` makes for one worker: of the whole model, or of ``part``. A recipe with an argument
    named ``part`` is always given one, of the whole model the only stage. Raises `RecipeError` for a stage of
    a recipe without, and what the recipe raises."""
    arguments = (settings, data_path, device, worker_salt)
    part = part or Part(0, 1)
    if "part" in inspect.signature(recipe).parameters:
        return recipe(*arguments, part=part)
    if part.stages > 1:
        raise RecipeError(
            f"recipe {getattr(recipe, '__name__', recipe)} cannot build stage {part.stage} of {part.stages}:"
            " give it an argument `part`, and let it build diloco.cut(layers, part)"
        )
    return recipe(*arguments)


def load_recipe(name: str) -> Recipe:
    """The recipe called ``gpt``, ``package.module:function`` or ``path/to/file.py:function``. Raises
    `RecipeError`, with the reason if the code itself fails to load."""
    if name == "gpt":
        return gpt
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute.isidentifier():
        raise RecipeError(
            f"recipe {name!r} is neither gpt, package.module:function nor path/to/file.py:function"
        )
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    recipe = getattr(module, attribute, None)
    if recipe is None:
        raise RecipeError(f"recipe {name!r}: {where} has no {attribute}")
    if not callable(recipe):
        raise RecipeError(f"recipe {name!r}: {attribute} is {type(recipe).__name__}, not a function")
    function: Recipe = recipe
    return function


class InnerSteps:
    """Called with a batch (inputs, targets) int64 [B, T] it takes one inner step, and returns the detached
    loss. ``train`` may change between two steps (see `follow`)."""

    def __init__(self, model: GPT, optimizers: list[torch.optim.Optimizer], train: Train) -> None:
        self.count = 0
        """Steps so far, from which the learning rate follows."""
        self._model = model
        self._optimizers = optimizers
        self._train = train

    def __call__(self, batch: Any) -> Tensor:
        train = self._train
        self._model.zero_grad(set_to_none=True)
        loss = self._model.loss(*batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._model.parameters(), train.clip_norm)
        share = lr_share(self.count, train.warmup_steps, train.decay_steps)
        self.count += 1
        step_all(self._optimizers, train.inner_lr * share)
        return loss.detach()

    def state_dict(self) -> dict[str, int]:
        """How far it is."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.count = state["count"]

    def follow(self, settings: RunSettings) -> None:
        """From the next step on, train as these settings say."""
        self._train = settings.train
        set_weight_decay(self._optimizers, settings.train.weight_decay)


def evaluation(
    model: GPT,
    text: Text,
    settings: RunSettings,
    device: torch.device,
    num_batches: int = VALIDATION_BATCHES,
) -> Callable[[], float]:
    """Loss on the same validation batches each time, and for every worker."""
    batch_size, context, seed = settings.train.batch_size, settings.model.context, settings.run.seed
    drawn = text.batches(seed, "validation", batch_size, context, device, validation=True)
    batches = list(itertools.islice(drawn, num_batches))

    @torch.no_grad()
    def evaluate() -> float:
        was_training = model.training
        model.eval()
        losses = [float(model.loss(*batch)) for batch in batches]
        model.train(was_training)
        return sum(losses) / len(losses)

    return evaluate


def _load_module(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            raise RecipeError(
                f"recipe module {where} is not installed: a file is named path/to/file.py:function"
            ) from None
        raise RecipeError(f"recipe module {where} does not load: {error}") from error
    except Exception as error:
        raise RecipeError(f"recipe module {where} does not load: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RecipeError(f"recipe file {path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a spec"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RecipeError(f"recipe file {path} does not load: {type(error).__name__}: {error}") from error
    return module
