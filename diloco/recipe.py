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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from diloco.errors import PipelineError, RecipeError
from diloco.models.gpt import GPT, VOCABULARY, GPTSizes
from diloco.models.inner_optimizers import inner_optimizers, lr_share, set_weight_decay, step_all
from diloco.models.layered import LayeredGPT, cross_entropy_sum, gpt_layers
from diloco.models.text import Text, load_text
from diloco.pipeline.boundary import Boundary
from diloco.pipeline.cuts import Part
from diloco.pipeline.cutting import Layer, clip_share, cut
from diloco.pipeline.part import Loss
from diloco.settings import RunSettings, Train

WHOLE = Part(0, 1)
VALIDATION_BATCHES = 8
SAMPLE_BYTES = 200


@dataclass(slots=True)
class Job:
    """One worker's training, without any knowledge of a swarm."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | list[torch.optim.Optimizer]
    """What steps ``model``, several in the order in which they step: `attach` hooks them."""
    step: Callable[[Any], Tensor]
    """One whole inner step on a batch, the optimizer's included; returns the detached loss."""
    batches: Iterable[Any]
    """Endless, or what gives an epoch of batches each time when it is gone through: a DataLoader, say."""
    tokens_per_step: int
    evaluate: Callable[[], float]
    """Validation loss; the same batches each time, and on every worker."""
    sample: Callable[[], str]
    """Something to look at."""
    follow: Callable[[RunSettings], None] | None = None
    """Told the run's settings when it begins to train, and when some of them change; without it they change
    at its next start, but for what an optimizer keeps of them."""
    at_step: Callable[[int], None] | None = None
    """Told before each inner step how many the swarm has taken: a schedule goes by that, as who joins late is
    to learn at the rate of the others."""
    save: Callable[[Path], None] | None = None
    """Writes the model as it is then, with the outer parameters, into the folder at a path; without it they
    are written as one file of safetensors."""
    keep: Mapping[str, Any] = field(default_factory=dict)
    """What a later process goes on from beside the model and ``optimizer``: objects with `state_dict` and
    `load_state_dict`, by name. ``batches`` are among them if they have these."""

    boundary: tuple[Boundary | None, Boundary | None] = (None, None)
    """Of a part: what lies between this stage and the ones below and above it; None at the outer ends."""
    loss: Loss | None = None
    """Of a part at the last stage; None at the others."""
    apply: Callable[[], None] | None = None
    """Of a part: one optimizer step by the gradients that are there. None lets ``optimizer`` step. The
    ``batches`` of a part are microbatches, pairs of input and targets; ``step``, ``evaluate`` and ``sample``
    are not asked."""
    validation: Sequence[Any] = ()
    """Of the first part: microbatches that are run forward only, to evaluate."""
    layers: Sequence[Layer] = ()
    """The whole model's, as they were given to `diloco.cut`: for `diloco cut`, which times them."""

    def kept(self) -> dict[str, Any]:
        """All of that, for `attach`."""
        data = {"batches": self.batches} if hasattr(self.batches, "load_state_dict") else {}
        return {**data, **self.keep}


Recipe = Callable[..., Job]


def gpt(
    settings: RunSettings,
    data_path: Path | None,
    device: torch.device,
    worker_salt: str,
    part: Part = WHOLE,
) -> Job:
    """The built-in recipe: a decoder on bytes of text with the inner optimizer of the run's method, `GPT` or,
    where the weights are not tied, `LayeredGPT`, of which it builds a ``part`` too. ``data_path`` None means
    the standard library's source. Workers with different salts draw different batches. Raises `TextError`,
    `RecipeError` and `PipelineError`."""
    if settings.model.lora:
        raise RecipeError(
            f"model.lora = {settings.model.lora}: the built-in model has no base to adapt; --recipe"
            " hf:MODEL_DIR adapts one of transformers"
        )
    if part.stages > 1:
        return _part_of_gpt(settings, data_path, device, worker_salt, part)
    sizes, train = settings.model, settings.train
    text = load_text(data_path)
    model = _whole_gpt(settings).to(device)
    optimizers = inner_optimizers(settings.method.resolved().inner, model, train)
    steps = InnerSteps(model, optimizers, train)
    return Job(
        model=model,
        optimizer=optimizers if len(optimizers) > 1 else optimizers[0],
        step=steps,
        batches=text.batches(settings.run.seed, worker_salt, train.batch_size, sizes.context, device),
        tokens_per_step=train.batch_size * sizes.context,
        evaluate=evaluation(model, text, settings, device),
        sample=lambda: model.generate(b"def ", SAMPLE_BYTES, temperature=0.8).decode("utf-8", "replace"),
        follow=steps.follow,
        at_step=steps.go_to,
        keep={"steps": steps},
    )


def _whole_gpt(settings: RunSettings) -> GPT | LayeredGPT:
    sizes, seed = settings.model, settings.run.seed
    if sizes.tied:
        return GPT(sizes.layers, sizes.heads, sizes.width, sizes.context, seed)
    return LayeredGPT(_sizes_of(settings), seed)


def _sizes_of(settings: RunSettings) -> GPTSizes:
    sizes = settings.model
    return GPTSizes(sizes.layers, sizes.heads, sizes.width, sizes.context, sizes.waist)


def _part_of_gpt(
    settings: RunSettings, data_path: Path | None, device: torch.device, worker_salt: str, part: Part
) -> Job:
    if settings.model.tied:
        raise PipelineError(
            f"model.tied = true: the embedding of stage 0 and the head of stage {part.stages - 1} would be"
            " the same weights; set model.tied = false in the file of the run"
        )
    sizes, train, microbatch = settings.model, settings.train, settings.pipeline.microbatch
    layers = gpt_layers(_sizes_of(settings), settings.run.seed)
    model = cut(layers, part).to(device)
    optimizers = inner_optimizers(settings.method.resolved().inner, model, train, of_a_part=True)
    steps = InnerSteps(model, optimizers, train, clip_share=clip_share(layers, part))
    batches: Iterator[Any] = iter(())
    validation: tuple[Any, ...] = ()
    if part.is_first:
        text, seed = load_text(data_path), settings.run.seed
        batches = text.batches(seed, worker_salt, microbatch, sizes.context)
        validation = validation_batches(text, settings, microbatch, torch.device("cpu"))
    return Job(
        model=model,
        optimizer=optimizers if len(optimizers) > 1 else optimizers[0],
        step=steps,
        batches=batches,
        tokens_per_step=settings.pipeline.quota * microbatch * sizes.context,
        evaluate=_of_whole_models,
        sample=_of_whole_models,
        follow=steps.follow,
        at_step=steps.go_to,
        keep={"steps": steps},
        boundary=part.ends(_boundary(settings)),
        loss=cross_entropy_sum if part.is_last else None,
        apply=steps.apply,
        layers=layers,
        validation=validation,
    )


def _boundary(settings: RunSettings) -> Boundary:
    """All channels, or those of the waist and the bytes themselves."""
    sizes, rows = settings.model, (settings.pipeline.microbatch, settings.model.context)
    if sizes.waist:
        return Boundary((*rows, sizes.waist + 1), ids=VOCABULARY)
    return Boundary((*rows, sizes.width))


def _of_whole_models() -> Any:
    raise PipelineError("a part alone has no loss and no text of its own")


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
    part = part or WHOLE
    if part.stages > 1:
        require_parts(recipe, part.stages)
    made = recipe(*arguments, part=part) if _takes_part(recipe) else recipe(*arguments)
    return _checked(made, recipe, of_a_part=part.stages > 1)


def check_recipe(recipe: Recipe, data_path: Path | None, settings: RunSettings | None) -> None:
    """Before anything listens: a stage of a recipe without any is refused, and one that has a method
    ``check`` says what could not be trained. Who joins learns the ``settings`` later. Raises `RecipeError`,
    and what the recipe raises."""
    if settings is not None and settings.pipeline.stages > 1:
        require_parts(recipe, settings.pipeline.stages)
    check = getattr(recipe, "check", None)
    if callable(check):
        check(data_path, settings)


def require_parts(recipe: Recipe, stages: int) -> None:
    """Raises `RecipeError` for a recipe that builds whole models only."""
    if not _takes_part(recipe):
        raise RecipeError(
            f"recipe {getattr(recipe, '__name__', recipe)} cannot build one of {stages} stages: give it an"
            " argument `part`, and let it build diloco.cut(layers, part)"
        )


def _takes_part(recipe: Recipe) -> bool:
    return "part" in inspect.signature(recipe).parameters


def load_recipe(name: str) -> Recipe:
    """The recipe called ``gpt``, ``hf:MODEL_DIR`` (a language model of transformers),
    ``package.module:function`` or ``path/to/file.py:function``. Raises `RecipeError`, with the reason if the
    code itself fails to load, and `MissingExtra`."""
    if name == "gpt":
        return gpt
    if name.startswith("hf:"):
        made: Recipe = importlib.import_module("diloco.integrations.hf_recipe").recipe_of(name[3:])
        return made
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute.isidentifier():
        raise RecipeError(
            f"recipe {name!r} is neither gpt, hf:MODEL_DIR, package.module:function nor"
            " path/to/file.py:function"
        )
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    recipe = getattr(module, attribute, None)
    if recipe is None:
        raise RecipeError(f"recipe {name!r}: {where} has no {attribute}")
    if not callable(recipe):
        raise RecipeError(f"recipe {name!r}: {attribute} is {type(recipe).__name__}, not a function")
    function: Recipe = recipe
    _require_signature(function, name)
    return function


class InnerSteps:
    """Called with a batch (inputs, targets) int64 [B, T] it takes one inner step of a whole model, and
    returns the detached loss; `apply` steps by gradients that are there. ``train`` may change between two
    steps (see `follow`). A part clips by its share of the model (`cutting.clip_share`)."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        train: Train,
        *,
        clip_share: float = 1.0,
    ) -> None:
        self.count = 0
        """Steps so far, from which the learning rate follows."""
        self._model = model
        self._optimizers = optimizers
        self._train = train
        self._clip_share = clip_share

    def __call__(self, batch: Any) -> Tensor:
        self._model.zero_grad(set_to_none=True)
        loss: Tensor = self._model.loss(*batch)  # type: ignore[operator]
        loss.backward()  # type: ignore[no-untyped-call]
        self.apply()
        return loss.detach()

    def apply(self) -> None:
        """Step by the gradients that the parameters have."""
        train = self._train
        nn.utils.clip_grad_norm_(self._model.parameters(), train.clip_norm * self._clip_share)
        share = lr_share(self.count, train.warmup_steps, train.decay_steps)
        self.count += 1
        step_all(self._optimizers, train.inner_lr * share)

    def state_dict(self) -> dict[str, int]:
        """How far it is."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.count = state["count"]

    def go_to(self, step: int) -> None:
        """So many steps were taken, here or by others."""
        self.count = step

    def follow(self, settings: RunSettings) -> None:
        """From the next step on, train as these settings say."""
        self._train = settings.train
        set_weight_decay(self._optimizers, settings.train.weight_decay)


def validation_batches(
    text: Text,
    settings: RunSettings,
    batch_size: int,
    device: torch.device,
    num_batches: int = VALIDATION_BATCHES,
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The same ones each time, and for every worker."""
    context, seed = settings.model.context, settings.run.seed
    drawn = text.batches(seed, "validation", batch_size, context, device, validation=True)
    return tuple(itertools.islice(drawn, num_batches))


def evaluation(
    model: GPT | LayeredGPT,
    text: Text,
    settings: RunSettings,
    device: torch.device,
    num_batches: int = VALIDATION_BATCHES,
) -> Callable[[], float]:
    """Loss on the same validation batches each time, and for every worker."""
    batches = validation_batches(text, settings, settings.train.batch_size, device, num_batches)

    @torch.no_grad()
    def evaluate() -> float:
        was_training = model.training
        model.eval()
        losses = [float(model.loss(*batch)) for batch in batches]
        model.train(was_training)
        return sum(losses) / len(losses)

    return evaluate


def _require_signature(recipe: Recipe, name: str) -> None:
    """It can be called as `job_of` does, and says that it returns a `Job` if it says anything."""
    wanted = "(settings, data_path, device, worker_salt)"
    try:
        found = inspect.signature(recipe)
    except (TypeError, ValueError):  # of a builtin: what it takes cannot be known
        return
    given = {"part": None} if "part" in found.parameters else {}
    try:
        found.bind(None, None, None, None, **given)
    except TypeError as error:
        raise RecipeError(
            f"recipe {name!r} is to be called with {wanted}, and takes {found}: {error}"
        ) from None
    try:
        said = get_type_hints(recipe).get("return")
    except (NameError, TypeError, AttributeError):  # it names what cannot be found: nothing is known
        return
    if isinstance(said, type) and not issubclass(said, Job):
        returns = "None" if said is type(None) else said.__name__
        raise RecipeError(
            f"recipe {name!r} is to return a diloco.recipe.Job, and says that it returns {returns}"
        )


def _checked(job: object, recipe: Recipe, *, of_a_part: bool) -> Job:
    """What a recipe returned. Raises `RecipeError` for what could not be trained."""
    name = getattr(recipe, "__name__", type(recipe).__name__)
    if not isinstance(job, Job):
        raise RecipeError(f"recipe {name} returned {type(job).__name__}: it is to return a diloco.recipe.Job")
    tokens = job.tokens_per_step
    wrong = {
        "model is to be a torch module": not isinstance(job.model, nn.Module),
        "batches are to be iterable": not hasattr(job.batches, "__iter__"),
        "tokens_per_step is to be a whole number above 0": type(tokens) is not int or tokens < 1,
        **{
            f"{each} is to be a function": not callable(getattr(job, each))
            for each in (() if of_a_part else ("step", "evaluate", "sample"))
        },
    }
    if found := [sentence for sentence, is_wrong in wrong.items() if is_wrong]:
        raise RecipeError(f"the Job that recipe {name} returned cannot be trained: {'; '.join(found)}")
    return job


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
