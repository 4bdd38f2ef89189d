"""`DilocoCallback` for the `Trainer` of Lightning: a worker of a swarm, in a loop that is not ours.

Owns when the Trainer's events mean a step, an end, or that somebody looks at the model: what it validates and
saves are the outer parameters, while it trains on from the worker's own. Decides nothing about rounds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from diloco.extras import require
from diloco.integrations.data_order import seed_data
from diloco.integrations.run_length import run_steps
from diloco.integrations.tokens import tokens_in
from diloco.swarm.swarm import Swarm
from diloco.training.attach import attach
from diloco.training.leaving import leave
from diloco.training.lending import Lent
from diloco.training.outer import Outer
from diloco.training.schedules import goes_by_steps

require("lightning", "diloco.integrations.lightning")
from lightning.pytorch import Callback  # noqa: E402

__all__ = ["DilocoCallback", "run_steps"]

_LOG = logging.getLogger("diloco")


class DilocoCallback(Callback):
    """Give it to a Trainer with ``max_epochs=-1`` or ``max_steps=run_steps(swarm)``; ``swarm`` is that of
    `diloco.join` or `diloco.host`. One step of its optimizers, however many batches they accumulate, is one
    inner step.

    ``tokens_of`` says how many tokens a batch has (by default `tokens.tokens_in`). Loaders and the global
    generators draw by `Swarm.data_seed`; schedulers that go by steps are moved to where the swarm is. What is
    validated and saved are the outer parameters, which the module has at the end too. Training ends with the
    run. ``timeout_s`` and ``on_event`` are those of `attach`."""

    def __init__(
        self,
        swarm: Swarm,
        *,
        tokens_of: Callable[[Any], int] = tokens_in,
        timeout_s: float = 600.0,
        on_event: Callable[[object], None] | None = None,
    ) -> None:
        self.outer: Outer | None = None
        """What `attach` made, once training has begun."""
        self._swarm = swarm
        self._tokens_of = tokens_of
        self._timeout_s = timeout_s
        self._on_event = on_event
        self._tokens = 0
        self._steps = 0
        """Of the Trainer, as it counts them."""
        self._lent: Lent | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Everything is made and restored, and nothing was drawn."""
        for loader in _each(trainer.train_dataloader):
            seed_data(loader, self._swarm.data_seed)
        self._tokens, self._steps, self._lent = 0, trainer.global_step, None
        self.outer = attach(
            pl_module,
            trainer.optimizers,
            self._swarm,
            tokens_per_step=None,
            timeout_s=self._timeout_s,
            on_event=self._on_event,
        )
        saved = trainer.strategy.lightning_module_state_dict
        made = saved.made if isinstance(saved, _Saved) else saved  # by an earlier fit
        trainer.strategy.lightning_module_state_dict = _Saved(made, self.outer, trainer)
        for each in trainer.lr_scheduler_configs:
            self._follow(self.outer, each)
        trainer.should_stop |= self.outer.finished

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch of a step, or the last."""
        assert self.outer is not None, "training has begun"
        self._tokens += self._tokens_of(batch)
        if trainer.global_step == self._steps:
            return
        tokens, self._tokens, self._steps = self._tokens, 0, trainer.global_step
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self.outer.log(loss=float(loss))
        self.outer.step_done(tokens)
        trainer.should_stop |= self.outer.finished

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Of the outer parameters."""
        if self.outer is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._lent = Lent(self.outer.replica)
            self.outer.driver.leave(self._lent)  # it may be interrupted

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Train on from the worker's own."""
        lent, self._lent = self._lent, None
        if lent is not None and self.outer is not None:
            self.outer.driver.come_back()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The module that is left behind holds the outer parameters."""
        outer, lent, self._lent = self.outer, self._lent, None
        assert outer is not None, "training has begun"
        leave(outer, lent)
        if not outer.finished:
            _LOG.warning(
                "the Trainer's steps are over after %d, and the run is not (round %d of %d): others wait for"
                " this worker until it closes the swarm or trains again; max_epochs=-1 keeps it to the end",
                outer.step,
                outer.round,
                self._swarm.settings.run.rounds,
            )

    # -- inside -------------------------------------------------------------------------------

    def _follow(self, outer: Outer, config: Any) -> None:
        scheduler, by_steps = config.scheduler, config.interval == "step" and config.frequency == 1
        if by_steps and goes_by_steps(scheduler):
            outer.schedule(scheduler)
        else:
            kind = type(scheduler).__name__
            _LOG.warning(
                "%s goes by epochs or by what this worker measures, so its learning rate is its own: one with"
                ' "interval": "step" follows the swarm',
                kind,
            )


class _Saved:
    """What the Trainer writes of the module into every checkpoint, also one of weights only, of which
    callbacks are told nothing: the outer parameters."""

    def __init__(self, made: Callable[[], dict[str, Any]], outer: Outer, trainer: Any) -> None:
        self.made = made
        self._outer, self._trainer = outer, trainer

    def __call__(self) -> dict[str, Any]:
        """As ``made`` names them."""
        if self._trainer.state.fn != "fit":
            return self.made()
        with self._outer.outer_parameters():
            return {
                name: value.detach().clone() if isinstance(value, torch.Tensor) else value
                for name, value in self.made().items()
            }


def _each(loaders: Any) -> Iterator[Any]:
    """What a module gives: one loader, or several in lists and mappings."""
    if isinstance(loaders, Mapping | list | tuple):
        for each in loaders.values() if isinstance(loaders, Mapping) else loaders:
            yield from _each(each)
    else:
        yield loaders
