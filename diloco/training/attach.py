"""`attach`: the outer loop hooked to a training loop that already exists.

Hooks `optimizer.step`, runs `loop.OuterLoop` over the live model, carries its commands to the swarm
and the swarm's events back. Owns no decision about rounds. All of it happens on the training
thread, inside the hook; between two steps nothing touches the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diloco.errors import EntryError, SwarmClosed, SwarmTimeout
from diloco.loop.outer_loop import OuterLoop
from diloco.loop.throughput import Throughput
from diloco.methods.schedule import Schedule
from diloco.outer.replica import TensorReplica
from diloco.rules import matching_of, wait_s
from diloco.swarm.swarm import Swarm
from peers.node import Training
from peers.protocol.commands import Command, ReportProgress
from peers.protocol.events import ContributionEnded, Fate, RoundCommitted
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Report
from peers.protocol.profile import Profile

T = TypeVar("T")
_REPORT_EVERY_S = 0.5
_POLL_S = 0.05


class Outer:
    """The outer side of one worker. Made by `attach`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        swarm: Swarm,
        tokens_per_step: int,
        on_event: Callable[[object], None] | None,
    ) -> None:
        self.swarm = swarm
        self.model = model
        self.method = swarm.settings.method.resolved()
        self.step = 0
        """Inner steps of this worker."""
        self.tokens = 0
        self.loss = 0.0
        self.waited_s = 0.0
        """Seconds that training waited for the network."""
        self._tokens_ended: dict[str, int] = {fate.value: 0 for fate in Fate}
        """By fate, over all fragments: each counts the tokens that moved it."""
        self.pseudo_grad_norm = 0.0
        self._tokens_per_step = tokens_per_step
        self._on_event = on_event
        self._replica = TensorReplica.of(model, self.method, optimizer)
        self._outer = self._replica.outer
        rounds = swarm.settings.run.rounds
        self._loop = OuterLoop(Schedule.of(self.method), wait_s(swarm.settings), self._replica, rounds)
        self._began = self._resumed = time.monotonic()
        self._speed = Throughput(self.method.sync_every)
        self._reported = 0.0
        self._stopping = False
        self._hook = optimizer.register_step_post_hook(lambda *_: self._stepped())

    # -- what a loop asks ---------------------------------------------------------------------

    @property
    def tokens_by_fate(self) -> dict[str, int]:
        """What became of the tokens behind this worker's contributions: applied, late, rejected, superseded.
        A fragment of P is a P-th of a contribution."""
        return {fate: tokens // len(self._loop.progress) for fate, tokens in self._tokens_ended.items()}

    @property
    def round(self) -> int:
        """Commits that this worker has seen; with gossip, its own outer steps."""
        return self._loop.rounds_applied if self.method.gossips else self.swarm.view.round

    @property
    def finished(self) -> bool:
        """The run has all its rounds."""
        return self._loop.finished

    @property
    def num_parameters(self) -> int:
        """Values that are exchanged."""
        return sum(self._outer.num_elements(f) for f in range(self.method.num_fragments))

    @property
    def lag(self) -> int:
        """Inner steps since this worker last offered what it learned, of the fragment that waits longest."""
        return max(each.steps_since_offer for each in self._loop.progress)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(1e-9, time.monotonic() - self._began)

    def until_finished(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, until the run has all its rounds or `stop` was called."""
        for batch in batches:
            if self.finished or self._stopping:
                return
            yield batch

    def stop(self) -> None:
        """Train no further: `until_finished` ends after the step at hand, and no wait for the network holds
        that up. It may be called from a signal handler or another thread."""
        self._stopping = True

    def log(self, *, loss: float) -> None:
        """Tell the swarm's status how training goes."""
        self.loss = loss

    @contextmanager
    def outer_parameters(self) -> Iterator[nn.Module]:
        """The model with the outer parameters, to evaluate or save; local ones come back after. (Outer
        parameters evaluate better than a single worker's: arXiv 2501.18512, table 3.)"""
        held = [p.detach().clone() for p in self.model.parameters()]
        for fragment in range(self.method.num_fragments):
            self._replica.model.scatter(fragment, self._outer.outer_parameters(fragment))
        try:
            yield self.model
        finally:
            with torch.no_grad():
                for parameter, local in zip(self.model.parameters(), held, strict=True):
                    parameter.copy_(local)

    def save(self, path: Path) -> None:
        """Write the model with the outer parameters as safetensors, tied tensors once."""
        with self.outer_parameters():
            seen: set[int] = set()
            tensors = {}
            for name, tensor in self.model.state_dict().items():
                if tensor.numel() and tensor.data_ptr() in seen:
                    continue
                seen.add(tensor.data_ptr())
                tensors[name] = tensor.detach().cpu().contiguous()
            save_file(tensors, str(path), metadata={"round": str(self.round), "format": "pt"})

    def state_dict(self) -> dict[str, Tensor]:
        """What is this worker's own and nobody else has: error feedback's residuals, flat, for
        `safetensors.torch.save_file` or `torch.save`. Empty without error feedback. The shared state is not
        in it: that comes from the swarm."""
        return self._replica.local.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up, right after `attach`, what `state_dict` gave after this worker's last contribution. Raises
        `StateError`, before anything changes, if it does not fit."""
        self._replica.local.load_state_dict(state)

    def detach(self) -> None:
        """Unhook; the model stays as it is."""
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
        layout = self._outer.layout
        found = layout.manifest()
        elements = tuple(self._replica.max_sent(f) for f in range(self._outer.num_fragments))
        profile = Profile(
            name=self.swarm.name,
            addresses=self.swarm.addresses,
            manifest=Manifest(
                settings=self.swarm.settings.digest(),
                tensors=found.names_sha256,
                shapes=found.shapes_sha256,
                codec=self.method.codec,
                elements=elements,
                model=f"{sum(map(len, layout.fragments))} tensors of {self.num_parameters:,} values",
            ),
            matching=matching_of(self.swarm.settings),
            rebases=self.method.quorum > 0,
            adapts=self.method.adapt != "none",
        )
        for fragment in range(self._outer.num_fragments):
            self._replica.digest(fragment)  # who begins with the run's first state need not fetch it
        self.swarm.train(Training(profile, self._replica))
        give_up = time.monotonic() + timeout_s
        while not self._loop.active:
            self._take_event(_POLL_S)
            self._raise_refusal()
            if self.finished:
                raise EntryError("finished", "the run has all its rounds: there is nothing left to join")
            if time.monotonic() > give_up:
                raise SwarmTimeout(
                    f"no shared state after {timeout_s:.0f} s: is another member training, and reachable?"
                )
        self._resumed = time.monotonic()

    def _stepped(self) -> None:
        if self.finished:
            return
        self._speed.count(1, self._tokens_per_step, time.monotonic() - self._resumed)
        self.step += 1
        self.tokens += self._tokens_per_step
        while self._take_event(0.0):
            pass
        self._raise_refusal()
        self._run(self._loop.stepped(time.monotonic(), self._tokens_per_step))
        self._wait()
        self._report()
        self._resumed = time.monotonic()

    def _wait(self) -> None:
        began = time.monotonic()
        while not self._stopping and self._loop.waits(time.monotonic()):
            self._take_event(_POLL_S)
            self._raise_refusal()
            self._run(self._loop.due(time.monotonic()))
            self._report()
        if self.finished:
            self._report(at_once=True)  # of gossip nobody else would know
        self.waited_s += time.monotonic() - began

    def _take_event(self, timeout_s: float) -> bool:
        event = self.swarm.next_event(timeout_s)
        if event is None:
            return False
        if isinstance(event, ContributionEnded):
            self._tokens_ended[event.fate.value] += event.tokens
        self._run(self._loop.handle(time.monotonic(), event))
        if isinstance(event, RoundCommitted):
            self.pseudo_grad_norm = self._replica.last_norm
        if self._on_event is not None:
            self._on_event(event)
        return True

    def _run(self, commands: list[Command]) -> None:
        for command in commands:
            done = self.swarm.command(command)
            self._loop.told(command, done)

    def _report(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._reported < _REPORT_EVERY_S:
            return
        self._reported = now
        self._loop.speed = self._speed.tokens_per_s
        report = Report(
            self.step,
            self._replica.count(0),
            self.tokens,
            self.loss,
            self.tokens_per_second,
            self._loop.speed,
            self.swarm.bytes_sent,
            self.swarm.bytes_received,
        )
        self.swarm.command(ReportProgress(report))

    def _raise_refusal(self) -> None:
        refused = self._loop.refused
        if refused is not None:
            raise EntryError(refused.code, refused.detail)
        if self._loop.superseded:
            raise SwarmClosed("a newer process runs with this identity: this one stops")


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    swarm: Swarm,
    *,
    tokens_per_step: int = 1,
    timeout_s: float = 600.0,
    on_event: Callable[[object], None] | None = None,
) -> Outer:
    """Bring ``model`` to the swarm's state and keep it there: every `optimizer.step` from now on counts
    as one inner step of ``tokens_per_step`` tokens (the weight of this worker in a round).

    Trainable parameters are exchanged, each storage once; frozen ones come with the state; buffers stay
    local. Returns when the model holds the shared state. Raises `EntryError` if the run trains another
    model, `SwarmTimeout` if nobody hands out the state within ``timeout_s``."""
    outer = Outer(model, optimizer, swarm, tokens_per_step, on_event)
    try:
        outer.enter(timeout_s)
    except BaseException:
        outer.detach()
        raise
    return outer
