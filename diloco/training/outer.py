"""`Outer`: what a training loop sees of its outer side, and what it may ask for.

Owns the public face of one attached worker. What happens at each step is `driver`'s, and when a step is over
`stepping`'s; between two steps nothing touches the model.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor, nn

from diloco.checkpoints.own import Stateful
from diloco.checkpoints.sharded import ShardPlace
from diloco.errors import UserError
from diloco.interrupts import NOTICE_S, handled
from diloco.swarm.swarm import Swarm
from diloco.training.driver import WorkerDriver
from diloco.training.fitting import TrainedParameters
from diloco.training.keeping import CheckpointCost
from diloco.training.landings import Landings
from diloco.training.lending import lent, write_model, write_part
from diloco.training.schedules import Scheduled, Schedules
from diloco.training.stepping import StepHooks, optimizers_of
from peers.routing.state import StreamTerms

T = TypeVar("T")
_MAX_TOKENS = 1 << 40
"""Of one step: a run may have a million of such steps before its counts are too large for the wire."""


class Outer:
    """The outer side of one worker. Made by `attach`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
        swarm: Swarm,
        tokens_per_step: int | None,
        on_event: Callable[[object], None] | None,
        keep: Mapping[str, Stateful] | None = None,
        *,
        stage: int = 0,
        stream: StreamTerms | None = None,
        earlier: Outer | None = None,
        edges: tuple[str, str] = ("", ""),
        driver: WorkerDriver | None = None,
    ) -> None:
        optimizers = optimizers_of(optimizer or None)
        self.swarm = swarm
        self.stage = stage
        """Of the run's model that ``model`` is."""
        self.model = model
        self.method = swarm.settings.method.resolved()
        self._tokens_per_step = None if tokens_per_step is None else checked_tokens(tokens_per_step)
        self._trained: TrainedParameters | None = None
        """Of a site none: `fully_shard` replaces parameters at each step."""
        if driver is not None:
            self._driver = driver
        elif earlier is None:
            self._trained = TrainedParameters(model)
            self._driver = WorkerDriver(model, optimizers, swarm, on_event, keep, stage, stream, edges)
        else:
            self._trained = earlier._trained
            if self._trained is not None:
                self._trained.require_same()
            self._driver = earlier._driver
            self._driver.rebind(model, optimizers, on_event, keep)
            earlier.detach()
        self.replica = self._driver.replica
        """The tensors: ``replica.outer.outer_parameters(fragment)`` are the shared values, and
        ``replica.digest(fragment)`` is equal on all members that hold the same commit."""
        self._session = self._driver.session
        self._schedules = Schedules()
        self._landings = Landings(model, optimizers)
        self.replica.model.watcher = self._landings
        self._leaving: BaseException | None = None
        self._draws = False
        """The loop goes through `until_finished`, which knows when all of a step is done."""
        self._hooks = StepHooks(optimizers, self._step_over, told=tokens_per_step is None)

    @property
    def driver(self) -> WorkerDriver:
        """For loops that take the swarm's events themselves (`pipeline.serving`)."""
        return self._driver

    def __repr__(self) -> str:
        how = (
            "finished" if self.finished else "trains" if self._session.active else "not in step with the run"
        )
        return (
            f"<diloco.Outer of {type(self.model).__name__}, {self.num_parameters:,} parameters: {how},"
            f" step {self.step}, round {self.round}, {self.tokens:,} tokens>"
        )

    # -- what a loop asks ---------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Inner steps of this worker."""
        return self._session.steps

    @property
    def swarm_step(self) -> int:
        """Inner steps of a worker that has been in the run since it began, for schedules: who joins late, or
        has fallen behind and caught up, is at once where the others are."""
        return self._session.swarm_step

    @property
    def data_seed(self) -> int:
        """A seed for the order of this process's data, of 32 bits: see `Swarm.data_seed`."""
        return self.swarm.data_seed

    @property
    def tokens(self) -> int:
        """Tokens of those steps."""
        return self._session.tokens

    @property
    def loss(self) -> float:
        """The values that were given to `log` last."""
        return self._session.loss

    @property
    def waited_s(self) -> float:
        """Seconds that training waited for the network."""
        return self._session.waited_s

    @property
    def checkpoint_cost(self) -> CheckpointCost:
        """What this worker's checkpoints took so far."""
        kept = self._driver.keeping
        return kept.cost if kept is not None else CheckpointCost()

    @property
    def tokens_by_fate(self) -> dict[str, int]:
        """What became of the tokens that this worker trained: applied, late, rejected, superseded (also
        before they were offered), or non_finite: never offered, as what they led to was not finite. A
        fragment of P is a P-th of a contribution."""
        return self._session.tokens_by_fate

    @property
    def pseudo_grad_norm(self) -> float:
        """Of the last contribution, as of the last commit."""
        return self._driver.pseudo_grad_norm

    @property
    def tokens_per_step(self) -> int | None:
        """Tokens of an inner step, from the next one on: a loop whose batches are padded or packed may set it
        before each. None where the loop tells them with `step_done`."""
        return self._tokens_per_step

    @tokens_per_step.setter
    def tokens_per_step(self, tokens: int) -> None:
        if self._tokens_per_step is None:
            raise UserError("this loop was to tell its tokens by outer.step_done(tokens), see attach")
        self._tokens_per_step = checked_tokens(tokens)

    @property
    def round(self) -> int:
        """Commits that this worker has seen, but for that of the model's buffers; with gossip, its own outer
        steps."""
        return self._session.round

    @property
    def finished(self) -> bool:
        """The run has all its rounds."""
        return self._session.finished

    @property
    def num_parameters(self) -> int:
        """Values that are exchanged."""
        return self._driver.num_parameters

    @property
    def lag(self) -> int:
        """Inner steps since this worker last offered what it learned, of the fragment that waits longest:
        what a crash of this machine would cost, or how stale a late result is."""
        return self._session.lag

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second since `attach`, waiting included."""
        return self._session.tokens_per_second(time.monotonic())

    def until_finished(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, until the run has all its rounds or `stop` was called."""
        drawn, self._draws = iter(batches), True
        try:
            while True:
                if self._driver.keeping is not None:
                    self._driver.keeping.between_steps()
                if self._leaving is not None:
                    raise self._leaving
                if self.finished or self._driver.stopping:
                    return  # before another batch is drawn, which nobody would train on
                try:
                    batch = next(drawn)
                except StopIteration:
                    return
                yield batch
        finally:
            self._draws = False

    def stop(self) -> None:
        """Train no further: `until_finished` ends after the step at hand, and no wait for the network holds
        that up. It may be called from a signal handler or another thread."""
        self._driver.stopping = True

    @contextmanager
    def notice(self, seconds: float = NOTICE_S) -> Iterator[None]:
        """Within, Ctrl-C and SIGTERM end training behind the inner step at hand, whose numbers are whole
        then: `KeyboardInterrupt`, for SIGTERM and SIGHUP `SystemExit`, is raised out of `until_finished`, or
        of `optimizer.step` (or `step_done`) in a loop without that, so that what is saved and said at the end
        of `with` blocks is: this worker's state too, where the swarm has a state directory. A machine that is
        about to be taken away sends SIGTERM and waits for some ``seconds``: if a step takes longer the
        process ends, whatever it does then. A second signal ends it at once. On the main thread only; without
        this, signals do what they did before."""
        with handled(seconds) as interrupts:

            def leave() -> None:
                first = interrupts.requested
                code = None if first in (None, signal.SIGINT) else 128 + first
                self._leaving = KeyboardInterrupt() if code is None else SystemExit(code)
                self.stop()

            with interrupts.ending_with(leave):
                yield
            if self._leaving is not None:
                raise self._leaving  # it came where no step followed

    def schedule(self, scheduler: Scheduled) -> None:
        """Keep a torch scheduler that the loop steps after each inner step where the swarm is: it is stepped
        to `swarm_step` now, and again whenever this worker has caught up. Raises `UserError` for one that
        does not go by steps."""
        self._schedules.add(scheduler, self.swarm_step)

    def on_landing(self, callback: Callable[[nn.Module], object]) -> None:
        """Call it with the model now, and each time when the swarm's state, or something of it, was written
        into the live parameters: for what keeps copies of them, such as an average that is trained on from.
        It runs on the training thread, between two inner steps. Masters in the state of an optimizer, and
        schedule-free's points, go along without it."""
        self._landings.call(callback)

    def log(self, *, loss: float) -> None:
        """Tell the swarm's status how training goes."""
        self._session.loss = loss

    @contextmanager
    def outer_parameters(self) -> Iterator[nn.Module]:
        """The model with the outer parameters, to evaluate or save; local ones come back after. (Outer
        parameters evaluate better than a single worker's: arXiv 2501.18512, table 3.)"""
        with lent(self.model, self.replica) as model:
            yield model

    def save(self, path: Path, *, full: bool = False) -> None:
        """Write the model with the outer parameters as safetensors, tied tensors once; frozen parameters,
        which the base model has, only if it is to be ``full``. A stage's part becomes one file of several in
        the folder ``path``, under the whole model's names; once those of all stages are there, they and their
        index load as one model."""
        stages = self.swarm.settings.pipeline.stages
        if stages == 1:
            write_model(self.model, self.replica, path, round_=self.round, full=full)
            return
        place = ShardPlace(path, self.stage, stages, self.swarm.run.hex())
        write_part(self.model, self.replica, place, round_=self.round, full=full)

    def state_dict(self) -> dict[str, Tensor]:
        """What is this worker's own and nobody else has: error feedback's residuals, flat, for
        `safetensors.torch.save_file` or `torch.save`. Empty without error feedback. The shared state is not
        in it: that comes from the swarm."""
        return self.replica.local.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up, right after `attach`, what `state_dict` gave after this worker's last contribution. Raises
        `StateError`, before anything changes, if it does not fit."""
        self.replica.local.load_state_dict(state)

    def detach(self) -> None:
        """Unhook; the model stays as it is."""
        self._hooks.remove()

    def __enter__(self) -> Outer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    # -- inner steps --------------------------------------------------------------------------

    def enter(self, timeout_s: float) -> None:
        """Take part, and wait until the model holds the swarm's state."""
        self._driver.enter(timeout_s)
        self._landings.tell()

    def step_done(self, tokens: int | None = None) -> None:
        """One inner step is done: take what the swarm says, offer and land what is due, and wait if the
        method says so. For a loop whose optimizer cannot be hooked, which gives `attach` None for it, and for
        one that tells the ``tokens`` of each step (padded or packed batches), which gives `attach`
        ``tokens_per_step=None``: it calls this after each inner step, on the training thread; a step that a
        gradient scaler skipped counts for nothing there. Raises `UserError` for tokens that are no whole
        number from 1 to 2**40 and where the hook counts steps already, `OptimizerUndoes` if the first step on
        what had landed wrote an old copy of the parameters over it, `LayoutError` once
        another parameter is trained than when the model was attached, `EntryError` or `SwarmClosed` if this
        worker cannot go on, `TrainingDiverged` once it has left the run because what it trained was not
        finite five times in a row."""
        if self._hooks.counts:
            raise UserError(
                "optimizer.step is hooked and counts this step: give attach tokens_per_step=None for a loop"
                " that calls outer.step_done(tokens)"
            )
        told = tokens if tokens is not None else self._tokens_per_step
        if told is None:
            raise UserError("how many tokens had this step? call outer.step_done(tokens)")
        checked_tokens(told)
        if self._hooks.take():
            self._stepped(told)

    def _step_over(self) -> None:
        """The hook says so."""
        assert self._tokens_per_step is not None, "a loop that tells them calls `step_done`"
        self._stepped(self._tokens_per_step)

    def _stepped(self, tokens: int) -> None:
        if self.finished:
            return
        if self._trained is not None:
            self._trained.require_same()
        self._landings.stepped()
        before = self.swarm_step
        self._driver.stepped(tokens)
        self._landings.tell()
        self._schedules.skip(self.swarm_step - before - 1)
        if self._leaving is not None and self._driver.stopping and not self._draws:
            raise self._leaving


def checked_tokens(tokens: int) -> int:
    """Tokens of one step. More than a step can have, or half a token, is refused here: the host would refuse
    what is said of it, and this worker with it."""
    if type(tokens) is not int or not 1 <= tokens <= _MAX_TOKENS:
        raise UserError(f"a step of {tokens!r} tokens: give a whole number from 1 to 2**40")
    return tokens
