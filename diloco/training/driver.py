"""A worker's session driven by the clock, over a live model: its commands to the swarm, and events back.

Owns entering, the waits, reports, and what follows an inner step that is over. Owns no decision about rounds,
and counts nothing: that is `loop.session`'s. All of it happens on the training thread, between two inner
steps.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from diloco.checkpoints.keeper import Hooks
from diloco.checkpoints.origin import open_origin
from diloco.checkpoints.own import Stateful
from diloco.checkpoints.regroup import plan, take_over
from diloco.errors import EntryError, SwarmTimeout, UserError
from diloco.loop.session import Terms, WorkerSession
from diloco.outer.likeness import ROUNDS
from diloco.outer.replica import TensorReplica
from diloco.swarm.swarm import Swarm
from diloco.training.keeping import Keeping
from diloco.training.lending import Lent
from peers.protocol.commands import Command
from peers.protocol.events import (
    GotUnusable,
    KeptResultDamaged,
    ProgressLost,
    RoundCommitted,
    SettingsChanged,
)
from peers.protocol.profile import Profile
from peers.protocol.record import Record
from peers.routing.state import StreamTerms
from peers.seats import Training

_LOG = logging.getLogger("diloco")
_POLL_S = 0.05
_LOOKED_AT = 3
"""Inner steps after which buffers are looked at: one that changes its shape does so at once, as a rule, and a
user who learns of it then has lost nothing. Later after each commit."""


class WorkerDriver:
    """One life of a worker in ``swarm``, training ``model`` by ``optimizers``."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        swarm: Swarm,
        on_event: Callable[[object], None] | None,
        keep: Mapping[str, Stateful] | None,
        stage: int = 0,
        stream: StreamTerms | None = None,
        edges: tuple[str, str] = ("", ""),
        *,
        replica: TensorReplica | None = None,
        keeps_own: bool = True,
    ) -> None:
        method = swarm.settings.method.resolved()
        self.swarm = swarm
        self.pseudo_grad_norm = 0.0
        """Of the last contribution, as of the last commit."""
        self.stopping = False
        """No wait for the network holds this worker up any more."""
        self.replica = replica or TensorReplica.of(model, method, optimizers)
        # A host finds out by it which of several states is right.
        self.replica.outer.keeps_former = swarm.has_others and not method.gossips
        self._on_event = on_event
        self._stage, self._stream, self._edges = stage, stream, edges
        self._later: deque[object] = deque()
        self._resumed = time.monotonic()
        terms = Terms.of(swarm.settings, buffers=self.replica.buffers is not None)
        self.session = WorkerSession(terms, self.replica, self._resumed)
        self.keeping: Keeping | None = None
        if swarm.home is not None:
            hooks = Hooks(lambda command: self._run([command]), self._tell)
            self.keeping = Keeping(
                swarm, model, optimizers, self.replica, self.session, keep or {}, hooks, stage, keeps_own
            )
        self._told_of_damage = False
        self._entered = False
        self._num_stepped = 0
        self._left: Lent | None = None

    def rebind(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        on_event: Callable[[object], None] | None,
        keep: Mapping[str, Stateful] | None,
    ) -> None:
        """The same parameters are trained on by other optimizers. Raises `UserError` where the method
        averages what the earlier ones hold."""
        if self.replica.outer.method.moments_every:
            raise UserError(
                "the method averages the moments of the optimizer that was attached first: to train with"
                " another one close the swarm and join again"
            )
        self._on_event = on_event
        self.replica.step_by(model, optimizers)
        if self.keeping is not None:
            self.keeping.keep_also(optimizers, keep or {})

    @property
    def num_parameters(self) -> int:
        """Values that are exchanged, but for averaged moments."""
        outer = self.replica.outer
        return sum(outer.num_elements(f) for f in range(outer.method.num_fragments))

    def enter(self, timeout_s: float) -> None:
        """Take part, and wait until the model holds the swarm's state; again, where that took too long."""
        if not self._entered:
            self._take_part()
            self._entered = True
        else:
            self.swarm.call(lambda now, node: None)  # or it is closed
            self.come_back()
        give_up = time.monotonic() + timeout_s
        while not self.session.active or self.session.awaits_end:
            self.idle()
            self._take_event(_POLL_S)
            self._raise_dismissal()
            if self.session.finished and not self.session.active:
                raise EntryError("finished", "the run is over: there is nothing left to join")
            if time.monotonic() > give_up:
                raise SwarmTimeout(
                    f"no shared state after {timeout_s:.0f} s: is another member training, and reachable?"
                )
        if self.session.finished:
            self._report()  # of gossip nobody else would know
        self._resumed = time.monotonic()

    def leave(self, lent: Lent) -> None:
        """No inner step is taken until `come_back`, and the model holds what was ``lent`` meanwhile: the
        local parameters come back then, and are what is kept."""
        self._left = lent
        if self.keeping is not None:
            self.keeping.left = lent

    def come_back(self) -> None:
        """The model holds the local parameters. To enter again does this, before anything lands: what lands
        builds on them."""
        if self._left is not None:
            self._left.take_back()
            self._left = None
        if self.keeping is not None:
            self.keeping.left = None

    def stepped(self, tokens: int, seconds: float | None = None) -> None:
        """An inner step of so many tokens is over, for which it computed so many ``seconds`` (by default all
        since the last): do what follows."""
        session = self.session
        session.stepped(tokens, time.monotonic() - self._resumed if seconds is None else seconds)
        self._num_stepped += 1
        if self._num_stepped <= _LOOKED_AT:
            self._tell_changed_buffers()
        self._take_events()
        self._raise_dismissal()
        self._do_what_is_due()
        self._wait()
        self.report_if_due()
        if self.keeping is not None:
            self.keeping.poll()
        self._resumed = time.monotonic()

    def idle(self) -> None:
        """Again and again while it waits for the network: nothing here."""

    # -- for a loop that takes the swarm's events itself (`pipeline.serving`) -----------------

    def later(self, event: object) -> None:
        """An event of the swarm that came in the midst of an inner step, where the model must not change: it
        is taken behind that step, before those that the swarm still has."""
        self._later.append(event)

    def rest(self) -> None:
        """No inner step is begun: take what the swarm says, and do what is due by time."""
        self._take_events()
        self._raise_dismissal()
        self._do_what_is_due()
        self.report_if_due()
        if self.keeping is not None:
            self.keeping.poll()

    def report_if_due(self) -> None:
        """Say how training goes, if that was not said for a while."""
        if self.session.report_is_due(time.monotonic()):
            self._report()

    def offer_last(self) -> bool:
        """Offer all that was trained, as far as that can be now; whether some of it waits for its round. To
        be called again until nothing does, in the place of `rest`."""
        self._take_events()
        waits = self.session.offer_last()
        self.rest()
        return waits

    def go_back(self) -> None:
        """Give up what was trained and not offered: the model goes back to the outer parameters. Where an
        offer is under way it stays so, and what was trained since is given up."""
        loop = self.session.loop
        for fragment, each in enumerate(loop.progress):
            if each.offered is None:
                loop.forget(fragment)
            else:
                loop.forget_since_offer(fragment)

    def give_up_non_finite(self) -> None:
        """No inner step is begun, and none may ever end: if the live model is not finite, what was trained is
        given up, and training goes on from the outer parameters, as where it would have been offered."""
        self._run(self.session.loop.give_up_non_finite())
        self._do_what_is_due()

    # -- inside -------------------------------------------------------------------------------

    def _take_part(self) -> None:
        kept = self.keeping
        held = kept.begin(self.swarm.resume) if kept is not None else None
        if held is None and self.swarm.origin is not None:
            self._begin_from(self.swarm.origin)
        self.swarm.train(
            Training(
                self._profile(),
                self.replica,
                held=held,
                keeps=kept is not None,
                leads_on=bool(kept and kept.leads_on),
                later=kept.later if kept is not None else (),
                stored=kept.stored if kept is not None else None,
                stream=self._stream,
            )
        )

    def _profile(self) -> Profile:
        replica = self.replica
        found = replica.layout.manifest()
        profile = self.session.profile(
            self.swarm.name,
            self.swarm.addresses,
            tuple(replica.max_sent(f) for f in range(replica.num_fragments)),
            tensors=found.names_sha256,
            shapes=found.text_name,
            layout=found.text.encode(),
            model=f"{sum(map(len, replica.layout.fragments))} tensors of {self.num_parameters:,} values",
        )
        return replace(profile, stage=self._stage, takes=self._edges[0], gives=self._edges[1])

    def _begin_from(self, path: Path) -> None:
        origin = open_origin(path)
        found = plan(origin, self.replica, self.replica.outer.method)
        take_over(origin, self.replica, found)
        for line in found.lines():
            _LOG.warning("%s", line)

    def _wait(self) -> None:
        began, session = time.monotonic(), self.session
        while not self.stopping and session.waits(time.monotonic()):
            self.idle()
            if self._take_event(_POLL_S):
                self._take_events()
            self._raise_dismissal()
            self._do_what_is_due()
            self.report_if_due()
        if session.finished:
            self._report()  # of gossip nobody else would know
        session.waited_s += time.monotonic() - began

    def _take_events(self) -> None:
        """Take all events, also those that a command brings: to confirm one commit hands over the next."""
        while self._take_event(0.0):
            pass

    def _take_event(self, timeout_s: float) -> bool:
        event = self._later.popleft() if self._later else self.swarm.next_event(timeout_s)
        if event is None:
            return False
        if self.keeping is not None:
            self.keeping.before(event)
        self.session.num_members = 1 + len(self.swarm.view.peers)
        commands = self.session.event(time.monotonic(), event)
        self._run(commands)
        if self.keeping is not None:
            self.keeping.after(time.monotonic(), event, commands)
        if isinstance(event, SettingsChanged):
            self.session.follow(self.swarm.settings)
            if self.keeping is not None:
                self.keeping.follow(self.swarm.settings.checkpoint)
        if isinstance(event, GotUnusable):
            _LOG.warning("what was fetched cannot be used, training goes on: %s", event.reason)
        if isinstance(event, KeptResultDamaged) and not self._told_of_damage:
            self._told_of_damage = True  # once: where one file is damaged, more may be
            found = event.result.hex()[:16]
            _LOG.warning("a result on the disk, results/*-%s, is damaged: others are asked for it", found)
        if isinstance(event, RoundCommitted):
            self.pseudo_grad_norm = self.replica.last_norm
            self._tell_likeness(event.record)
            self._tell_changed_buffers()
        self._tell(event)
        return True

    def _tell_changed_buffers(self) -> None:
        for line in self.replica.model.changed_buffers():
            _LOG.warning("%s", line)

    def _tell_likeness(self, record: Record) -> None:
        replica, was = self.replica, self.session.alike
        self.session.alike = replica.learns_what_others_do or bool(replica.twins)
        if not self.session.alike or was:
            return
        who = [record.members[place] for place in replica.twins if place < len(record.members)]
        names = ", ".join(self.swarm.view.peers.get(each, "another worker") for each in who)
        _LOG.warning(
            "for %d rounds %s sent what this worker did (cosine above 0.99): they seem to train on the same"
            " data; draw each worker's from a seed of its own, swarm.data_seed",
            ROUNDS,
            "all others" if replica.learns_what_others_do else names or "another worker",
        )

    def _tell(self, event: object) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _do_what_is_due(self) -> None:
        commands, losses = self.session.due(time.monotonic()), self.session.progress_lost()
        if losses:
            self._report()  # at once, for this may be the last that the swarm hears of this worker
        self._run(commands)
        for lost in losses:
            _LOG.warning(_text_of(lost, of_buffers=lost.fragment == self.replica.buffers))
            self._tell(lost)
        self._raise_dismissal()

    def _run(self, commands: list[Command]) -> None:
        for command in commands:
            taken = self.swarm.command(command)
            self.session.told(command, taken)
            if self.keeping is not None:
                self.keeping.told(command, taken)

    def _report(self) -> None:
        swarm = self.swarm
        self._run(self.session.report(time.monotonic(), swarm.bytes_sent, swarm.bytes_received))

    def _raise_dismissal(self) -> None:
        error = self.session.dismissal
        if isinstance(error, EntryError) and error.code == "tensors":
            said = str(error).removeprefix(f"{error.code}: ")
            if remedy := self.replica.model.remedy(said):
                raise EntryError(error.code, f"{said}; {remedy}")
        if error is not None:
            raise error


def _text_of(lost: ProgressLost, *, of_buffers: bool) -> str:
    """For people."""
    if of_buffers:
        return f"{lost.reason}: they begin anew as the run did, and count for one token in the mean of all"
    times = "" if lost.in_a_row == 1 else f" (time {lost.in_a_row} in a row)"
    said = (
        f"{lost.reason}{times}: what led to it is given up, and the model goes back to the outer parameters"
    )
    return "; ".join([said, *lost.mended])
