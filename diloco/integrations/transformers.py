"""`DilocoCallback` for the `Trainer` of transformers: a worker of a swarm, in a loop that is not ours.

Owns when the Trainer's events mean a step, an end, or that somebody looks at the model: what it evaluates and
saves are the outer parameters, while it trains on from its own. Decides nothing about rounds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from diloco.extras import require
from diloco.integrations.data_order import seed_data
from diloco.integrations.run_length import least_steps, run_steps
from diloco.swarm.swarm import Swarm
from diloco.training.attach import attach
from diloco.training.leaving import leave
from diloco.training.lending import Lent
from diloco.training.outer import Outer
from diloco.training.schedules import goes_by_steps

require("hf", "diloco.integrations.transformers")
from transformers import TrainerCallback  # noqa: E402

__all__ = ["DilocoCallback", "run_steps"]

_LOG = logging.getLogger("diloco")


class DilocoCallback(TrainerCallback):
    """Give it to a Trainer as the last of its callbacks; ``swarm`` is that of `diloco.join` or
    `diloco.host`. One update of the Trainer, however many batches it accumulates, is one inner step.

    A step has as many tokens as the Trainer counts that are no padding (or ``tokens_per_step``); examples,
    where the model's input is none of ids. Its sampler
    and the global generators draw by `Swarm.data_seed`; its scheduler is moved to where the swarm is. What it
    evaluates and saves are the outer parameters, which the model has at the end too, unless the best
    checkpoint was loaded. Training ends with the run; ``max_steps=run_steps(swarm)`` makes the Trainer's own
    end come no earlier. ``timeout_s`` and ``on_event`` are those of `attach`."""

    def __init__(
        self,
        swarm: Swarm,
        *,
        tokens_per_step: int | None = None,
        timeout_s: float = 600.0,
        on_event: Callable[[object], None] | None = None,
    ) -> None:
        self.outer: Outer | None = None
        """What `attach` made, once training has begun."""
        self._swarm = swarm
        self._tokens_per_step = tokens_per_step
        self._timeout_s = timeout_s
        self._on_event = on_event
        self._tokens_seen = 0
        self._lent: Lent | None = None
        self._trains = False
        """Between the begin and the end of training; behind it the model holds what it is to hold."""
        self._told_of_order = False

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **more: Any
    ) -> None:
        """Everything is made, and nothing was drawn."""
        loader = more.get("train_dataloader")
        counts = getattr(model, "main_input_name", None) == "input_ids"
        if counts and self._tokens_per_step is None and args.include_num_input_tokens_seen == "no":
            pads = _may_pad(loader, more.get("processing_class"))
            args.include_num_input_tokens_seen = "non_padding" if pads else "all"
        self._tokens_seen = state.num_input_tokens_seen
        seed_data(loader, self._swarm.data_seed)
        self._lent = None
        self.outer = attach(
            model,
            optimizer,
            self._swarm,
            tokens_per_step=None,
            timeout_s=self._timeout_s,
            on_event=self._on_event,
        )
        self._follow(self.outer, more.get("lr_scheduler"))
        self._compare_lengths(self.outer, state)
        self._trains = True

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """One update is done, or was skipped by a gradient scaler."""
        assert self.outer is not None, "training has begun"
        seen, before = state.num_input_tokens_seen, self._tokens_seen
        self._tokens_seen = seen
        examples = args.train_batch_size * args.gradient_accumulation_steps
        self.outer.step_done(self._tokens_per_step or (seen - before) or examples)

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Train on from the worker's own parameters."""
        self._take_back()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Between two steps: the Trainer may log, evaluate and save."""
        if self.outer is not None and self.outer.finished and not control.should_training_stop:
            control.should_training_stop = True
            control.should_save |= args.save_strategy == "steps"  # as at the end of its own steps
        self._lend_to(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Likewise."""
        self._lend_to(control)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: Any = None, **more: Any) -> None:
        """For the swarm's status."""
        if self.outer is not None and isinstance(loss := (logs or {}).get("loss"), int | float):
            self.outer.log(loss=float(loss))

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Of the outer parameters, if this callback was asked behind whoever wanted it."""
        self._require_lent(state, "evaluated")

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Likewise."""
        self._require_lent(state, "saved")

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **more: Any) -> None:
        """The model that is left behind holds the outer parameters, or those of the best checkpoint."""
        outer, lent = self.outer, self._lent
        self._lent, self._trains = None, False
        assert outer is not None, "training has begun"
        leave(outer, lent, keeps_model=bool(args.load_best_model_at_end and state.best_model_checkpoint))
        if not outer.finished:
            rounds = self._swarm.settings.run.rounds
            _LOG.warning(
                "the Trainer's steps are over after %d, and the run is not (round %d of %d): others wait for"
                " this worker until it closes the swarm or trains again",
                outer.step,
                outer.round,
                rounds,
            )

    # -- inside -------------------------------------------------------------------------------

    def _follow(self, outer: Outer, scheduler: Any) -> None:
        if goes_by_steps(scheduler):
            outer.schedule(scheduler)
        elif scheduler is not None:
            kind = type(scheduler).__name__
            _LOG.warning("%s goes by what this worker measures: its learning rate is its own", kind)

    def _compare_lengths(self, outer: Outer, state: Any) -> None:
        left = least_steps(self._swarm.settings) - outer.swarm_step
        if not outer.method.quorum and state.max_steps - state.global_step < left:
            _LOG.warning(
                "the Trainer ends after %d steps and the run has %d to go: with max_steps=%d it stays to the"
                " end, and its schedule is as long (diloco.integrations.transformers.run_steps(swarm))",
                state.max_steps - state.global_step,
                left,
                run_steps(self._swarm),
            )

    def _lend_to(self, control: Any) -> None:
        looks = control.should_evaluate or control.should_save
        if looks and self._lent is None and self.outer is not None:
            self._lent = Lent(self.outer.replica)
            self.outer.driver.leave(self._lent)  # it may be interrupted

    def _take_back(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None and self.outer is not None:
            self.outer.driver.come_back()

    def _require_lent(self, state: Any, what: str) -> None:
        if self._lent is None and self._trains and state.global_step and not self._told_of_order:
            assert self.outer is not None, "training has begun"
            self._told_of_order = not self.outer.finished
            if self._told_of_order:
                _LOG.warning(
                    "what was just %s are this worker's own parameters: a callback that asks for it comes"
                    " after DilocoCallback, which is to be the last",
                    what,
                )


def _may_pad(loader: Any, processing: Any) -> bool:
    """Whether batches may have padding that the Trainer can tell from tokens."""
    collate = getattr(loader, "collate_fn", None)
    collate = getattr(collate, "data_collator", collate)
    return any(
        getattr(each, "pad_token_id", None) is not None
        for each in (processing, getattr(collate, "tokenizer", None))
    )
