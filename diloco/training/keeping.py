"""A worker's state on disk: which parts of it there are, and what becomes of what an earlier life left.

Ties a session, a model and what its loop hands over to `checkpoints.keeper`. Keeps S4 and S7 over restarts:
what a record counts that an earlier life sent is not sent again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diloco.checkpoints.keeper import Hooks, Keeper
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.manifest import OwnEntry
from diloco.checkpoints.own import OwnState, Stateful
from diloco.checkpoints.rng import GlobalGenerators
from diloco.checkpoints.sources import InnerOptimizer, LiveModel
from diloco.checkpoints.store import Content, Saved
from diloco.loop.session import WorkerSession
from diloco.outer.plain_names import named_parameters
from diloco.outer.replica import TensorReplica
from diloco.settings import Checkpoint
from diloco.swarm.swarm import Swarm
from diloco.training.lending import Lent
from diloco.training.resuming import Resuming
from peers.protocol.commands import Command, Offer
from peers.protocol.events import RoundCommitted
from peers.protocol.held import Held
from peers.protocol.record import Record
from peers.protocol.shares import Stored
from transport.disk import Disk

_LOG = logging.getLogger("diloco")


class Worker:
    """One worker's live model, its own side of the shared state, and its counts, which belong together."""

    def __init__(self, model: nn.Module, replica: TensorReplica, session: WorkerSession) -> None:
        known = dict(named_parameters(model, remove_duplicate=False))
        names = [spec.name for specs in replica.layout.fragments for spec in specs if spec.name in known]
        self.live = LiveModel(model, names)
        self._replica = replica
        self._session = session

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "live": self.live.state_dict(),
            "own": self._replica.own_state(),
            "session": self._session.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, at the same outer parameters; if it does not fit, from these alone."""
        try:
            self._replica.load_own_state(state["own"])
            self.live.load_state_dict(state["live"])
            self._session.load_state_dict(state["session"], self._replica.receiver)
        except Exception:
            for fragment in range(self._replica.num_fragments):
                self._replica.local.loaded(fragment)
                self._replica.discard(fragment)
            raise


@dataclass(frozen=True, slots=True)
class CheckpointCost:
    """What checkpoints took of this process."""

    blocked_s: float = 0.0
    """Seconds for which the training thread took copies, by its own clock."""
    writer_cpu_s: float = 0.0
    """Seconds of a processor beside it, of the checkpoints that are done."""


class Keeping:
    """What `attach` asks where the swarm has a state directory."""

    def __init__(
        self,
        swarm: Swarm,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        replica: TensorReplica,
        session: WorkerSession,
        keep: Mapping[str, Stateful],
        hooks: Hooks,
        stage: int = 0,
        keeps_own: bool = True,
    ) -> None:
        assert swarm.home is not None, "it is kept there"
        self._key = swarm.key
        self._keeps_own = keeps_own
        """Whether what is this worker's alone is kept too, and not the shared state only."""
        self._replica = replica
        self._session = session
        self._worker = Worker(model, replica, session)
        self.keep_also(optimizers, keep)
        self._keeper = Keeper(
            LocalDisk(swarm.home),
            swarm.run,
            lambda: swarm.settings.to_bytes().decode(),
            replica,
            hooks,
            self,
            wanted=swarm.settings.checkpoint,
            me=swarm.key,
            stage=(stage, swarm.settings.pipeline.stages),
        )
        self._from_before: set[int] = set()
        """Fragments of which this life has offered nothing yet: what is held of them may have been sent."""
        self.left: Lent | None = None
        """The model is lent, and its local parameters are here: these are what is kept."""
        self._in_loop = False
        self._resuming = Resuming(swarm.resume)
        replica.find_result = self._keeper.shelf.find
        swarm.keep_results(self._keeper.shelf.keep)
        swarm.on_left(lambda: self._keeper.close(time.monotonic()))

    def keep_also(self, optimizers: Sequence[torch.optim.Optimizer], keep: Mapping[str, Stateful]) -> None:
        """From now on keep the state of these beside the worker's. Raises `StateError` for what cannot be."""
        sources: dict[str, Stateful] = {"the worker": self._worker}
        for index, each in enumerate(optimizers):
            name = "the inner optimizer" if len(optimizers) == 1 else f"inner optimizer {index}"
            sources[name] = InnerOptimizer(each)
        sources |= {f"keep[{name!r}]": each for name, each in keep.items()}
        sources["random generators"] = GlobalGenerators()
        self._own = OwnState(sources)
        self._own.check()

    def begin(self, up_to: int | None) -> Held | None:
        """See `Keeper.begin`."""
        return self._keeper.begin(up_to)

    @property
    def leads_on(self) -> bool:
        """Whether the swarm may count on results of rounds on this disk."""
        return self._keeper.leads_on

    @property
    def stored(self) -> Stored:
        """Shares of states on this disk."""
        return self._keeper.parts

    @property
    def later(self) -> tuple[Record, ...]:
        """Records on this disk that lead on from what the worker begins with."""
        return self._keeper.later

    def follow(self, wanted: Checkpoint) -> None:
        """The run's settings changed."""
        self._keeper.follow(wanted)

    @property
    def cost(self) -> CheckpointCost:
        """What checkpoints took so far."""
        return CheckpointCost(self._keeper.blocked_s, self._keeper.writer.cpu_s)

    # -- the worker's own (checkpoints.own.Own) --------------------------------------------

    @property
    def entry(self) -> OwnEntry | None:
        """How far the worker is; None if what it trained to is not finite, or is not kept."""
        if not self._keeps_own:
            return None
        try:
            with self.left.local() if self.left is not None else nullcontext():
                finite = self._worker.live.is_finite
        except RuntimeError:  # its device cannot be read any more
            return None
        return OwnEntry(step=self._session.steps, tokens=self._session.tokens) if finite else None

    def take(self) -> Content:
        """A copy of what is its own."""
        with self.left.local() if self.left is not None else nullcontext():
            return self._own.take()

    def take_up(self, disk: Disk, saved: Saved) -> None:
        """Go on from what is kept."""
        if not self._keeps_own:
            _LOG.warning(
                "a site begins with the shared state alone: what %s keeps beside it stays there", saved.path
            )
            return
        self._own.take_up(disk, saved)
        self._from_before = set(range(self._replica.num_fragments))

    # -- on the way ---------------------------------------------------------------------------

    def before(self, event: object) -> None:
        """An event that the session is about to take."""
        if line := self._resuming.hear(event):
            _LOG.warning("%s", line)
        if not isinstance(event, RoundCommitted) or event.number is not None:
            return
        record = event.record
        if record.fragment in self._from_before and self._key in record.members:
            self._session.loop.forget(record.fragment)
            if self._replica.local.forget_residuals(record.fragment):
                _LOG.warning(
                    "record %d counts what this worker sent before it ended: residuals are dropped",
                    record.index,
                )

    def after(self, now: float, event: object, answers: Sequence[Command]) -> None:
        """The event is taken, and answered."""
        self._keeper.hear(now, event, answers)
        self._write_if_due(now)

    def told(self, command: Command, taken: bool) -> None:
        """A command was carried out."""
        if isinstance(command, Offer) and taken:
            self._from_before.discard(command.fragment)

    def poll(self) -> None:
        """Say what became of a checkpoint."""
        self._keeper.poll(time.monotonic())
        self._write_if_due(time.monotonic())

    def _write_if_due(self, now: float) -> None:
        if not self._in_loop:  # it says by itself when it is between two steps
            self._keeper.between_steps(now)

    def between_steps(self) -> None:
        """The loop is between two inner steps, and says so from now on: then is the moment to take a copy in
        which schedulers, data and model are equally far."""
        self._in_loop = True
        self._keeper.between_steps(time.monotonic())
