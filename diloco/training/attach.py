"""`attach`: a worker's session hooked to a training loop that already exists.

Hooks `optimizer.step`, drives a `loop.session.WorkerSession` by the clock over the live model, carries its
commands to the swarm and the swarm's events back. Owns no decision about rounds and counts nothing. All of it
happens on the training thread, inside the hook; between two steps nothing touches the model.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diloco.checkpoints.keeper import Hooks
from diloco.checkpoints.origin import open_origin
from diloco.checkpoints.own import Stateful
from diloco.checkpoints.regroup import plan, take_over
from diloco.compression import kernels
from diloco.errors import EntryError, SwarmTimeout, UserError
from diloco.interrupts import NOTICE_S, handled
from diloco.loop.session import Terms, WorkerSession
from diloco.outer.replica import TensorReplica
from diloco.swarm.swarm import Swarm
from diloco.training.keeping import CheckpointCost, Keeping
from peers.protocol.commands import Command
from peers.protocol.events import (
    GotUnusable,
    KeptResultDamaged,
    ProgressLost,
    RoundCommitted,
    SettingsChanged,
)
from peers.seats import Training

T = TypeVar("T")
_LOG = logging.getLogger("diloco")
_POLL_S = 0.05
_MAX_TOKENS = 1 << 40
"""Of one step: a run may have a million of such steps before its counts are too large for the wire."""


class Outer:
    """The outer side of one worker. Made by `attach`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        swarm: Swarm,
        tokens_per_step: int,
        on_event: Callable[[object], None] | None,
        keep: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.swarm = swarm
        self.model = model
        self.method = swarm.settings.method.resolved()
        self.pseudo_grad_norm = 0.0
        self._tokens_per_step = _checked_tokens(tokens_per_step)
        self._on_event = on_event
        self.replica = TensorReplica.of(model, self.method, optimizer)
        """The tensors: ``replica.outer.outer_parameters(fragment)`` are the shared values, and
        ``replica.digest(fragment)`` is equal on all members that hold the same commit."""
        # A host finds out by it which of several states is right.
        self.replica.outer.keeps_former = swarm.has_others and not self.method.gossips
        self._resumed = time.monotonic()
        self._session = WorkerSession(Terms.of(swarm.settings), self.replica, self._resumed)
        self._keeping: Keeping | None = None
        if swarm.home is not None:
            hooks = Hooks(lambda command: self._run([command]), self._tell)
            self._keeping = Keeping(swarm, model, optimizer, self.replica, self._session, keep or {}, hooks)
        self._stopping = False
        self._leaving: BaseException | None = None
        self._told_of_damage = False
        self._draws = False
        """The loop goes through `until_finished`, which knows when all of a step is done."""
        self._hook = None
        if optimizer is not None:
            self._hook = optimizer.register_step_post_hook(lambda *_: self.step_done())

    # -- what a loop asks ---------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Inner steps of this worker."""
        return self._session.steps

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
        return self._keeping.cost if self._keeping is not None else CheckpointCost()

    @property
    def tokens_by_fate(self) -> dict[str, int]:
        """What became of the tokens that this worker trained: applied, late, rejected, superseded (also
        before they were offered), or non_finite: never offered, as what they led to was not finite. A
        fragment of P is a P-th of a contribution."""
        return self._session.tokens_by_fate

    @property
    def round(self) -> int:
        """Commits that this worker has seen; with gossip, its own outer steps."""
        return self._session.round

    @property
    def finished(self) -> bool:
        """The run has all its rounds."""
        return self._session.finished

    @property
    def num_parameters(self) -> int:
        """Values that are exchanged."""
        return sum(self.replica.outer.num_elements(f) for f in range(self.method.num_fragments))

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
                if self._keeping is not None:
                    self._keeping.between_steps()
                if self._leaving is not None:
                    raise self._leaving
                if self.finished or self._stopping:
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
        self._stopping = True

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

    def log(self, *, loss: float) -> None:
        """Tell the swarm's status how training goes."""
        self._session.loss = loss

    @contextmanager
    def outer_parameters(self) -> Iterator[nn.Module]:
        """The model with the outer parameters, to evaluate or save; local ones come back after. (Outer
        parameters evaluate better than a single worker's: arXiv 2501.18512, table 3.)"""
        held = [p.detach().clone() for p in self.model.parameters()]
        for fragment in range(self.method.num_fragments):
            self.replica.model.scatter(fragment, self.replica.outer.outer_parameters(fragment))
        try:
            yield self.model
        finally:
            with torch.no_grad():
                for parameter, local in zip(self.model.parameters(), held, strict=True):
                    parameter.copy_(local)

    def save(self, path: Path, *, full: bool = False) -> None:
        """Write the model with the outer parameters as safetensors, tied tensors once; frozen parameters,
        which the base model has, only if it is to be ``full``."""
        frozen = {spec.name for spec in self.replica.layout.frozen}
        if self.replica.model.has_other_frozen and not full:
            _LOG.warning(
                "%s lacks the frozen parameters, and the run's are other ones than this model had by itself: "
                "save(full=True) or --full writes them too",
                path,
            )
        with self.outer_parameters():
            seen: set[int] = set()
            tensors = {}
            for name, tensor in self.model.state_dict().items():
                if tensor.numel() and tensor.data_ptr() in seen:
                    continue
                seen.add(tensor.data_ptr())
                if name in frozen and not full:
                    continue
                tensors[name] = tensor.detach().cpu().contiguous()
            save_file(tensors, str(path), metadata={"round": str(self.round), "format": "pt"})

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
        if self._hook is not None:
            self._hook.remove()

    def __enter__(self) -> Outer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    # -- the hook -----------------------------------------------------------------------------

    def enter(self, timeout_s: float) -> None:
        """Take part, and wait until the model holds the swarm's state."""
        held = self._keeping.begin(self.swarm.resume) if self._keeping is not None else None
        if held is None and self.swarm.origin is not None:
            self._begin_from(self.swarm.origin)
        layout = self.replica.layout
        found = layout.manifest()
        profile = self._session.profile(
            self.swarm.name,
            self.swarm.addresses,
            tuple(self.replica.max_sent(f) for f in range(self.replica.num_fragments)),
            tensors=found.names_sha256,
            shapes=found.text_name,
            layout=found.text.encode(),
            model=f"{sum(map(len, layout.fragments))} tensors of {self.num_parameters:,} values",
        )
        kept = self._keeping
        training = Training(
            profile,
            self.replica,
            held=held,
            keeps=kept is not None,
            leads_on=bool(kept and kept.leads_on),
            later=kept.later if kept is not None else (),
            stored=kept.stored if kept is not None else None,
        )
        self.swarm.train(training)
        give_up = time.monotonic() + timeout_s
        while not self._session.active or self._session.awaits_end:
            self._take_event(_POLL_S)
            self._raise_dismissal()
            if self.finished and not self._session.active:
                raise EntryError("finished", "the run is over: there is nothing left to join")
            if time.monotonic() > give_up:
                raise SwarmTimeout(
                    f"no shared state after {timeout_s:.0f} s: is another member training, and reachable?"
                )
        if self.finished:
            self._report()  # of gossip nobody else would know
        self._resumed = time.monotonic()

    def _begin_from(self, path: Path) -> None:
        origin = open_origin(path)
        found = plan(origin, self.replica, self.method)
        take_over(origin, self.replica, found)
        for line in found.lines():
            _LOG.warning("%s", line)

    def step_done(self, tokens: int | None = None) -> None:
        """One inner step is done: take what the swarm says, offer and land what is due, and wait if the
        method says so. The hook on `optimizer.step` calls this. An adapter for a loop whose optimizer cannot
        be hooked gives `attach` no optimizer, and calls this after each inner step, on the training thread;
        beside a hook (see `detach`) each step would count twice. ``tokens`` are those of this step, by
        default ``tokens_per_step``. Raises `UserError` for tokens that are no whole number from 1 to 2**40,
        `EntryError` or `SwarmClosed` if this worker cannot go on, `TrainingDiverged` once it has left the run
        because what it trained was not finite five times in a row."""
        tokens = self._tokens_per_step if tokens is None else _checked_tokens(tokens)
        if self.finished:
            return
        session = self._session
        session.stepped(tokens, time.monotonic() - self._resumed)
        self._take_events()
        self._raise_dismissal()
        self._do_what_is_due()
        self._wait()
        self._report_if_due()
        if self._keeping is not None:
            self._keeping.poll()
        self._resumed = time.monotonic()
        if self._leaving is not None and not self._draws:
            raise self._leaving

    def _wait(self) -> None:
        began, session = time.monotonic(), self._session
        while not self._stopping and session.waits(time.monotonic()):
            if self._take_event(_POLL_S):
                self._take_events()
            self._raise_dismissal()
            self._do_what_is_due()
            self._report_if_due()
        if self.finished:
            self._report()  # of gossip nobody else would know
        session.waited_s += time.monotonic() - began

    def _take_events(self) -> None:
        """Take all events, also those that a command brings: to confirm one commit hands over the next."""
        while self._take_event(0.0):
            pass

    def _take_event(self, timeout_s: float) -> bool:
        event = self.swarm.next_event(timeout_s)
        if event is None:
            return False
        if self._keeping is not None:
            self._keeping.before(event)
        commands = self._session.event(time.monotonic(), event)
        self._run(commands)
        if self._keeping is not None:
            self._keeping.after(time.monotonic(), event, commands)
        if isinstance(event, SettingsChanged):
            self._session.follow(self.swarm.settings)
            if self._keeping is not None:
                self._keeping.follow(self.swarm.settings.checkpoint)
        if isinstance(event, GotUnusable):
            _LOG.warning("what was fetched cannot be used, training goes on: %s", event.reason)
        if isinstance(event, KeptResultDamaged) and not self._told_of_damage:
            self._told_of_damage = True  # once: where one file is damaged, more may be
            found = event.result.hex()[:16]
            _LOG.warning("a result on the disk, results/*-%s, is damaged: others are asked for it", found)
        if isinstance(event, RoundCommitted):
            self.pseudo_grad_norm = self.replica.last_norm
        self._tell(event)
        return True

    def _tell(self, event: object) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _do_what_is_due(self) -> None:
        commands, losses = self._session.due(time.monotonic()), self._session.progress_lost()
        if losses:
            self._report()  # at once, for this may be the last that the swarm hears of this worker
        self._run(commands)
        for lost in losses:
            _LOG.warning(_text_of(lost))
            self._tell(lost)
        self._raise_dismissal()

    def _run(self, commands: list[Command]) -> None:
        for command in commands:
            taken = self.swarm.command(command)
            self._session.told(command, taken)
            if self._keeping is not None:
                self._keeping.told(command, taken)

    def _report_if_due(self) -> None:
        if self._session.report_is_due(time.monotonic()):
            self._report()

    def _report(self) -> None:
        swarm = self.swarm
        self._run(self._session.report(time.monotonic(), swarm.bytes_sent, swarm.bytes_received))

    def _raise_dismissal(self) -> None:
        error = self._session.dismissal
        if error is not None:
            raise error


def _text_of(lost: ProgressLost) -> str:
    """For people."""
    times = "" if lost.in_a_row == 1 else f" (time {lost.in_a_row} in a row)"
    said = (
        f"{lost.reason}{times}: what led to it is given up, and the model goes back to the outer parameters"
    )
    return "; ".join([said, *lost.mended])


def _checked_tokens(tokens: int) -> int:
    """Tokens of one step. More than a step can have, or half a token, is refused here: the host would refuse
    what is said of it, and this worker with it."""
    if type(tokens) is not int or not 1 <= tokens <= _MAX_TOKENS:
        raise UserError(f"a step of {tokens!r} tokens: give a whole number from 1 to 2**40")
    return tokens


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    swarm: Swarm,
    *,
    tokens_per_step: int = 1,
    timeout_s: float = 600.0,
    on_event: Callable[[object], None] | None = None,
    keep: Mapping[str, Stateful] | None = None,
) -> Outer:
    """Bring ``model`` to the swarm's state and keep it there: every `optimizer.step` from now on counts
    as one inner step of ``tokens_per_step`` tokens (the weight of this worker in a round). Without an
    ``optimizer`` nothing is hooked, and the loop calls `Outer.step_done` after each inner step.

    What is not finite is never offered: `ProgressLost` and a warning of the logger "diloco" tell of it, the
    model goes back to the outer parameters, and state of ``optimizer`` that is not finite begins anew.

    Where the swarm has a state directory, this worker's state is kept there and taken up again: the shared
    one, and its own: live parameters and buffers, ``optimizer``, random generators, counts, and what ``keep``
    names: anything with `state_dict` and `load_state_dict`, such as a learning rate's scheduler, a scaler, a
    StatefulDataLoader. All of it is equally far where the loop goes through `Outer.until_finished`. Raises
    `StateError` for a state dict of something else than tensors and plain values.

    Trainable parameters are exchanged, each storage once; frozen ones come with the state; buffers stay
    local. Returns when the model holds the shared state. Raises `EntryError` if the run trains another
    model, `SwarmTimeout` if nobody hands out the state within ``timeout_s``."""
    _LOG.info("codecs run by %s", kernels.running())
    outer = Outer(model, optimizer, swarm, tokens_per_step, on_event, keep)
    try:
        outer.enter(timeout_s)
    except BaseException:
        outer.detach()
        raise
    return outer
