"""One worker's side of a run as a core: what it trained and waited, what it says of itself, what it is to do.

A driver tells the session what happened, carries out the commands that it returns, and says by `told` how
each was taken: `training.driver` is the driver for real time, `simulation.worker` for virtual time. Owns the
counts (steps, tokens and their fates, loss, speed) and what the run's settings mean to a worker; decisions
about offers and landings are the `OuterLoop`'s. Owns no clock, thread, queue or tensor. Keeps S4 on the
training side: every token is counted once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from diloco.errors import DilocoError, EntryError, SwarmClosed
from diloco.loop.leaving import offer_all
from diloco.loop.outer_loop import OuterLoop
from diloco.loop.replica import Replica
from diloco.loop.setbacks import NON_FINITE
from diloco.loop.throughput import Throughput
from diloco.methods.schedule import Schedule
from diloco.rules import matching_of, wait_s
from diloco.settings import RunSettings
from peers.protocol.commands import Command, ReportProgress
from peers.protocol.events import (
    BecameActive,
    ContributionEnded,
    Fate,
    ProgressLost,
    Restored,
    RoundCommitted,
    StateFetched,
)
from peers.protocol.manifest import Manifest
from peers.protocol.messages import Report
from peers.protocol.profile import Matching, Profile
from transport.collectives.reducer import Reducer
from transport.effects import NEVER

_MAX_LOSS = 1e300
"""What a report can carry: a loss above counts as not finite."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run's settings mean to a worker."""

    settings: bytes
    """Digest of the run's settings."""
    schedule: Schedule
    wait_s: float
    """Seconds that a worker waits for a round that does not open, before it trains on."""
    codec: str = "plain"
    rounds: int = sys.maxsize
    """Outer steps of the run: after these a worker waits to be asked for its model's buffers, and with gossip
    is done. Unknown where it trains a part of the model, for others may still need what it computes."""
    matching: Matching | None = None
    quorum: int = 1
    """Contributions for which a round waits, where it does not wait for all."""
    adapts: bool = False
    """Whether the method's state says how long a contribution is."""

    @classmethod
    def of(cls, settings: RunSettings, *, buffers: bool = False) -> Terms:
        """The terms of a run with ``settings``; ``buffers``: of the model's buffers one mean is made."""
        method = settings.method.resolved()
        return cls(
            settings=settings.digest(),
            schedule=replace(Schedule.of(method), has_buffers=buffers),
            wait_s=wait_s(settings),
            codec=method.codec,
            rounds=settings.run.rounds if settings.pipeline.stages == 1 else sys.maxsize,
            matching=matching_of(settings),
            quorum=max(1, method.quorum),
            adapts=method.projection == "low_rank",
        )


class WorkerSession:
    """One life of one worker in a run, from entering to the end; it begins at ``now``."""

    def __init__(self, terms: Terms, replica: Replica, now: float, *, report_every_s: float = 0.5) -> None:
        self.loop = OuterLoop(terms.schedule, terms.wait_s, replica, terms.rounds)
        self.steps = 0
        """Inner steps of this worker."""
        self.swarm_step = 0
        """Inner steps of a worker that has been in the run since it began: its own, and for who came later or
        fell behind, as many as the outer steps that it holds took."""
        self.num_members = 1
        """Members of the run, this one included, which the driver sets."""
        self.tokens = 0
        self._tokens_before = 0
        """Those of earlier lives."""
        self.loss = 0.0
        """Loss of the last step, which the driver sets."""
        self.alike = False
        """Round after round all others, or one of them, sent what this worker did; the driver sets it."""
        self.validation: float | None = None
        """Loss of what was evaluated last through all stages of a model, if there was one; the driver sets
        it."""
        self._finite_loss = 0.0
        """The last that was reported and finite."""
        self.waited_s = 0.0
        """Seconds that training waited for the network; the driver adds to it."""
        self.was_active = False
        """Whether the worker held the shared state once: from then on it trains, also while it is behind."""
        self._terms = terms
        self._replica = replica
        self._report_every_s = report_every_s
        self._began_s = now
        self._reported_s = NEVER
        self._throughput = Throughput(terms.schedule.periods[0])
        self._commit_index = 0
        self._tokens_ended = dict.fromkeys(Fate, 0)
        """By fate, over all fragments: each counts the tokens that moved it."""

    def follow(self, settings: RunSettings) -> None:
        """The run's settings changed, in what may change while it goes on."""
        self._terms = Terms.of(settings, buffers=self._terms.schedule.has_buffers)
        self.loop.follow(self._terms.wait_s, self._terms.rounds)

    # -- what it says of itself ---------------------------------------------------------------

    def profile(
        self,
        name: str,
        addresses: tuple[str, ...],
        elements: tuple[int, ...],
        *,
        tensors: bytes,
        shapes: bytes,
        model: str,
        layout: bytes = b"",
    ) -> Profile:
        """What the member says when it enters. ``elements`` are the values that each fragment's contribution
        has, ``tensors`` and ``shapes`` digests of what the model is made of, ``model`` describes it.
        ``layout`` is the text that ``shapes`` names."""
        terms = self._terms
        return Profile(
            name=name,
            addresses=addresses,
            manifest=Manifest(terms.settings, tensors, shapes, terms.codec, elements, model),
            matching=terms.matching,
            rebases=terms.schedule.rebases,
            adapts=terms.adapts,
            layout=layout,
        )

    def report_is_due(self, now: float) -> bool:
        """Whether the last report is so old that another one is due."""
        return now - self._reported_s >= self._report_every_s

    def report(self, now: float, bytes_sent: int, bytes_received: int) -> list[Command]:
        """Tell the coordinator how training goes."""
        self._reported_s = now
        speed = self.loop.speed = self._throughput.tokens_per_s
        finite = abs(self.loss) <= _MAX_LOSS
        if finite:
            self._finite_loss = self.loss
        report = Report(
            step=self.steps,
            rounds=self._replica.count(0),
            tokens=self.tokens,
            loss=self._finite_loss,
            loss_is_finite=finite,
            tokens_per_second=self.tokens_per_second(now),
            speed=speed,
            bytes_sent=bytes_sent,
            bytes_received=bytes_received,
            non_finite=self.loop.setbacks.count,
            alike=self.alike,
            validation=self.validation or 0.0,
            validated=self.validation is not None,
        )
        return [ReportProgress(report)]

    @property
    def tokens_by_fate(self) -> dict[str, int]:
        """What became of the tokens that this worker trained: applied, late, rejected, superseded (also
        before they were offered), or non_finite: never offered, as what they led to was not finite. A
        fragment of P is a P-th of a contribution."""
        share = self._terms.schedule.num_fragments
        ended = {fate.value: tokens for fate, tokens in self._tokens_ended.items()}
        ended[Fate.SUPERSEDED.value] += self.loop.tokens_unoffered
        ended[NON_FINITE] = self.loop.setbacks.tokens
        return {fate: tokens // share for fate, tokens in ended.items()}

    def tokens_per_second(self, now: float) -> float:
        """Tokens per second since the session began, waiting included."""
        return (self.tokens - self._tokens_before) / max(1e-9, now - self._began_s)

    @property
    def round(self) -> int:
        """Commits that this worker has seen, but for those of a model's buffers, which are no rounds; with
        gossip, its own outer steps."""
        schedule = self._terms.schedule
        if schedule.gossips:
            return self.loop.rounds_applied
        buffers = schedule.buffers_fragment
        return self._commit_index - (0 if buffers is None else self._replica.count(buffers))

    @property
    def lag(self) -> int:
        """Inner steps since the last offer, of the fragment that waits longest."""
        return max(each.steps_since_offer for each in self.loop.progress)

    # -- over restarts ------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a later process of this worker goes on from, at the same head."""
        return {
            "steps": self.steps,
            "swarm_step": self.swarm_step,
            "tokens": self.tokens,
            "loss": self.loss,
            "waited_s": self.waited_s,
            "tokens_ended": {fate.value: tokens for fate, tokens in self._tokens_ended.items()},
            "loop": self.loop.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], landing: Callable[[int], Reducer]) -> None:
        """Go on from there, before the first event; see `OuterLoop.load_state_dict`."""
        self.loop.load_state_dict(state["loop"], landing)
        self.steps, self.tokens = state["steps"], state["tokens"]
        self.swarm_step = state["swarm_step"]
        self._tokens_before = self.tokens
        self.loss, self.waited_s = state["loss"], state["waited_s"]
        self._tokens_ended |= {Fate(fate): tokens for fate, tokens in state["tokens_ended"].items()}

    # -- what happens -------------------------------------------------------------------------

    def stepped(self, tokens: int, seconds: float, steps: int = 1) -> None:
        """Inner steps of ``tokens`` tokens each are done; they took ``seconds`` together, and after all but
        the last nothing was due. A driver then hands over the events that wait, and asks `due`: a step counts
        for the state that its work stands on, so it is counted before one of them replaces that."""
        self.count(tokens, seconds, steps)
        self.loop.count(steps * tokens, steps)

    def count(self, tokens: int, seconds: float, steps: int) -> None:
        """Count the last inner steps of a worker that stops: nothing is decided after them."""
        self.steps += steps
        self.swarm_step += steps
        self.tokens += steps * tokens
        self._throughput.count(steps, steps * tokens, seconds)

    def event(self, now: float, event: object) -> list[Command]:
        """One event of the member."""
        match event:
            case ContributionEnded():
                self._tokens_ended[event.fate] += event.tokens
            case BecameActive():
                self.was_active, self._commit_index = True, event.index
            case RoundCommitted():
                self._commit_index = event.record.index
            case Restored():
                self.swarm_step = 0  # the run went back
        commands = self.loop.handle(now, event)
        if isinstance(event, BecameActive | StateFetched | Restored) or (
            isinstance(event, RoundCommitted) and event.number is None
        ):
            self.swarm_step = max(self.swarm_step, self._steps_of_outer_steps())
        return commands

    def _steps_of_outer_steps(self) -> int:
        """Inner steps that each worker took for the outer steps that are held here. Where rounds wait for a
        quorum alone, a worker is in as many of them as its share of the contributions."""
        schedule, replica, steps = self._terms.schedule, self._replica, 0
        for fragment in range(schedule.num_fragments):
            if count := replica.count(fragment):
                every = replica.sync_every(fragment)
                steps = max(steps, schedule.offsets[fragment] + (count - 1) * every)
        if schedule.rebases:
            steps = steps * self._terms.quorum // max(self._terms.quorum, self.num_members)
        return steps

    def due(self, now: float) -> list[Command]:
        """What is to be done now: after a step, after events that came while it waits, or because time went
        by."""
        return self.loop.due(now)

    def offer_last(self) -> bool:
        """No inner step follows: all is to be offered, and `due` follows; whether some of it waits. To be
        called again after each event."""
        before = self._terms.schedule.offers_before_landing
        return not self.finished and offer_all(
            self.loop.progress, self._replica, offers_before_landing=before
        )

    def progress_lost(self) -> list[ProgressLost]:
        """What was given up as not finite and not told yet; a driver tells it on after `due`."""
        return self.loop.setbacks.take()

    def told(self, command: Command, taken: bool) -> None:
        """The driver tells whether the member took a command."""
        self.loop.told(command, taken)

    # -- what a driver asks -------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether the worker holds the shared state."""
        return self.loop.active

    @property
    def finished(self) -> bool:
        """Whether the run has all its rounds."""
        return self.loop.finished

    @property
    def awaits_end(self) -> bool:
        """Whether the worker is to train no more, and waits to be told that it may go."""
        return self.loop.awaits_end and not self.loop.finished

    @property
    def dismissal(self) -> DilocoError | None:
        """Why this worker cannot go on: `EntryError` if the run does not take it, `SwarmClosed` if a newer
        process took its place, `TrainingDiverged` if what it trains to stays not finite; None as long as it
        can."""
        refused = self.loop.refused
        if refused is not None:
            return EntryError(refused.code, refused.detail)
        if self.loop.superseded:
            return SwarmClosed("a newer process runs with this identity: this one stops")
        return self.loop.setbacks.diverged

    def waits(self, now: float) -> bool:
        """Whether to wait for events instead of training on (see `OuterLoop.waits`)."""
        return self.loop.waits(now)

    def patience_ends(self, now: float) -> float | None:
        """When to ask `due` again if no event comes meanwhile; None if nothing is waited for."""
        return self.loop.patience_ends(now)

    def quiet_steps(self) -> int:
        """How many steps may be counted in one go (see `OuterLoop.quiet_steps`)."""
        return self.loop.quiet_steps()
