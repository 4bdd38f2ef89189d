"""Recipe ``hf:MODEL_DIR``: a causal language model of transformers on text, all from this machine's disk.

Owns the way from a folder with config.json, tokenizer and perhaps weights to a `Job`: trained on packed
sequences, wholly or by LoRA adapters, and saved as `from_pretrained` reads it. Loads nothing from a network
and runs no code that lies beside a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diloco.errors import RecipeError, TextError
from diloco.extras import require
from diloco.integrations.packing import Sequences, pack
from diloco.models.inner_optimizers import inner_optimizers
from diloco.models.text import load_documents
from diloco.recipe import VALIDATION_BATCHES, InnerSteps, Job
from diloco.settings import RunSettings

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PROBE = "Hello, World! 0123456789\n\tdef f(x): return 'ä' # 漢字 🙂"
"""Tokenizers that differ give other ids for it, or have another vocabulary."""
_NEW_TOKENS = 32


def recipe_of(where: str) -> HFRecipe:
    """The recipe of the model in the folder ``where``, or of its config.json. Raises `RecipeError` and
    `MissingExtra`."""
    require("hf", f"recipe hf:{where}")
    folder = Path(where).expanduser()
    folder = folder.parent if folder.name == "config.json" else folder
    if not where or not folder.is_dir():
        raise RecipeError(f"recipe hf:{where}: there is no folder {folder}")
    if not (folder / "config.json").is_file():
        raise RecipeError(
            f"recipe hf:{where}: {folder} has no config.json, so it is no model of transformers"
        )
    from transformers.utils import logging

    logging.disable_progress_bar()  # what a worker shows is drawn there
    logging.set_verbosity_error()
    return HFRecipe(where, folder)


class HFRecipe:
    """Called as a recipe is. ``check`` finds before anything listens what could not be trained."""

    def __init__(self, where: str, folder: Path) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.__name__ = f"hf:{where}"
        self._folder = folder
        self._config = self._loaded("config.json", AutoConfig)
        self._config.use_cache = False
        self._tokenizer = self._loaded("a tokenizer", AutoTokenizer)
        self._packed: tuple[object, Tensor] | None = None

    def check(self, data_path: Path | None, settings: RunSettings | None) -> None:
        """Raises `RecipeError` and `TextError`; a joiner learns ``settings`` later."""
        with torch.device("meta"):
            embedded = self._built().get_input_embeddings().num_embeddings
        highest = max(self._tokenizer.get_vocab().values(), default=0)
        if highest >= embedded:
            raise RecipeError(
                f"recipe {self.__name__}: the tokenizer has ids up to {highest:,}, and the model embeds"
                f" {embedded:,}: they do not belong together"
            )
        if not self._has_weights and list(self._folder.glob("*.bin")):
            raise RecipeError(
                f"recipe {self.__name__}: {self._folder} has weights that are no safetensors: save them anew,"
                " by save_pretrained"
            )
        documents = self._documents(data_path)
        if settings is not None:
            self._require_fits(settings)
            self._sequences(documents, data_path, settings.model.context)

    def __call__(
        self, settings: RunSettings, data_path: Path | None, device: torch.device, worker_salt: str
    ) -> Job:
        """A whole model's job. Raises `RecipeError` and `TextError`."""
        self._require_fits(settings)
        context, train = settings.model.context, settings.train
        rows = self._sequences(self._documents(data_path), data_path, context)
        held_out = max(1, len(rows) // 20)
        model = self._model(settings).to(device)
        optimizers = inner_optimizers(settings.method.resolved().inner, model, train)
        steps = _Steps(model, optimizers, train)
        salt = hashlib.sha256(f"{settings.run.seed}\n{worker_salt}".encode()).digest()
        validation = rows[-held_out:][: VALIDATION_BATCHES * train.batch_size].to(device)
        return Job(
            model=model,
            optimizer=optimizers if len(optimizers) > 1 else optimizers[0],
            step=steps,
            batches=Sequences(rows[:-held_out], salt, train.batch_size, device),
            tokens_per_step=train.batch_size * context,
            evaluate=lambda: _evaluated(model, torch.split(validation.long(), train.batch_size)),
            sample=lambda: self._sample(model, validation[:1, : context // 2]),
            follow=steps.follow,
            at_step=steps.go_to,
            keep={"steps": steps},
            save=self._saving(model),
        )

    # -- inside -------------------------------------------------------------------------------

    def _loaded(self, what: str, kind: Any) -> Any:
        try:
            return kind.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of many kinds; the first line says which
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            raise RecipeError(
                f"recipe {self.__name__}: {what} in {self._folder} does not load: {reason}"
            ) from None

    def _built(self) -> Any:
        from transformers import AutoModelForCausalLM

        try:
            return AutoModelForCausalLM.from_config(self._config, trust_remote_code=False)
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise RecipeError(f"recipe {self.__name__}: it is no causal language model: {reason}") from None

    def _model(self, settings: RunSettings) -> nn.Module:
        """With the same values on all workers: those of the folder, or drawn by the run's seed."""
        from transformers import AutoModelForCausalLM

        rank, has_weights = settings.model.lora, self._has_weights
        with torch.random.fork_rng():
            torch.manual_seed(settings.run.seed)
            if has_weights:
                model = AutoModelForCausalLM.from_pretrained(
                    self._folder,
                    config=self._config,
                    dtype="auto" if rank else torch.float32,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                )
            else:
                model = self._built().float()
            if rank:
                model = _with_adapters(model, rank)
        # Of no elements: members compare its name, and so their tokenizers, before they exchange anything.
        model.register_parameter(self._mark, nn.Parameter(torch.zeros(0)))
        made: nn.Module = model.train()
        return made

    @property
    def _has_weights(self) -> bool:
        return any((self._folder / name).is_file() for name in _WEIGHTS)

    @property
    def _most_tokens(self) -> int | None:
        """That the model sees; None if it does not say."""
        most = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        return most if isinstance(most, int) else None

    @property
    def _mark(self) -> str:
        known = json.dumps(
            [sorted(self._tokenizer.get_vocab().items()), self._tokenizer(_PROBE)["input_ids"]]
        )
        return f"tokenizer_{hashlib.sha256(known.encode()).hexdigest()[:12]}"

    def _require_fits(self, settings: RunSettings) -> None:
        context = settings.model.context
        if settings.model.lora and not self._has_weights:
            raise RecipeError(f"recipe {self.__name__}: {self._folder} has no weights for LoRA to adapt")
        most = self._most_tokens
        if most is not None and context > most:
            raise RecipeError(
                f"model.context = {context}: the model of {self.__name__} sees {most} tokens at most"
            )

    def _documents(self, data_path: Path | None) -> list[str]:
        if data_path is None:
            raise TextError(f"recipe {self.__name__} trains on text of yours: give --data FILE, or a folder")
        return load_documents(data_path)

    def _sequences(self, documents: list[str], path: Path | None, context: int) -> Tensor:
        """Kept for the second time that it is asked."""
        key = (path, context)
        if self._packed is None or self._packed[0] != key:
            self._packed = key, pack(documents, self._tokenizer, context, str(path))
        return self._packed[1]

    def _sample(self, model: nn.Module, prompt: Tensor) -> str:
        ids = prompt.long()
        most = self._most_tokens or prompt.shape[1] + _NEW_TOKENS
        with _at_rest(model), torch.no_grad():
            for _ in range(_NEW_TOKENS):
                logits = model(input_ids=ids[:, -most:]).logits
                ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
        text: str = self._tokenizer.decode(ids[0, -_NEW_TOKENS:])
        return text

    def _saving(self, model: Any) -> Callable[[Path], None]:
        def save(folder: Path) -> None:
            mark = self._mark
            tensors = {name: each for name, each in model.state_dict().items() if name != mark}
            model.save_pretrained(folder, state_dict=tensors)
            self._tokenizer.save_pretrained(folder)

        return save


class _Steps(InnerSteps):
    """Called with a batch of ids int64 [B, T] it takes one inner step."""

    def __call__(self, batch: Any) -> Tensor:
        self._model.zero_grad(set_to_none=True)
        loss = _loss(self._model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.apply()
        return loss.detach()


def _loss(model: nn.Module, ids: Tensor) -> Tensor:
    cuda = ids.device.type == "cuda" and torch.cuda.is_bf16_supported()
    with torch.autocast("cuda", torch.bfloat16) if cuda else contextlib.nullcontext():
        loss: Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def _evaluated(model: nn.Module, batches: tuple[Tensor, ...]) -> float:
    with _at_rest(model), torch.no_grad():
        losses = [float(_loss(model, batch)) for batch in batches]
    return sum(losses) / len(losses)


@contextlib.contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _with_adapters(model: Any, rank: int) -> Any:
    """LoRA (arXiv 2106.09685) at all linear layers but the head, scaled by 2 whatever the rank."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)
