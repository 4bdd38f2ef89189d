"""Shows a worker how its training goes: builds its view, feeds it, and asks the host who is slow.

The host is asked once, for where the run stands, and again while the view is on a terminal. Decides nothing
about a run; a host that does not answer leaves the view as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from diloco.errors import DilocoError
from diloco.monitoring.own_training import OwnTraining
from diloco.monitoring.run_view import Screen
from diloco.monitoring.worker_view import MemberSpeed, WorkerScreen, WorkerView
from diloco.rules import buffers_fragment, num_commits
from diloco.settings import RunSettings
from diloco.swarm.swarm import Swarm
from peers.coordinator.status import RunStatus
from peers.errors import PeersError
from peers.protocol.events import SettingsChanged
from transport.errors import TransportError

_ASK_EVERY_S = 15.0
_QUIET_S = 60.0
"""While the host does not answer."""


class _Shown(WorkerScreen):
    """A worker's screen that follows the run's settings."""

    def __init__(self, swarm: Swarm, view: WorkerView, console: Console | None) -> None:
        super().__init__(view, console)
        self._swarm = swarm

    def event(self, event: object) -> None:
        if isinstance(event, SettingsChanged):
            self.want(rounds_wanted(self._swarm.settings))
        super().event(event)


class BesideHost:
    """Feeds the panel of a host that trains too; what happens in the run its own view tells."""

    def __init__(self, screen: Screen, own: OwnTraining) -> None:
        self._screen, self._own = screen, own
        with screen.lock:
            screen.view.own = own

    def event(self, event: object) -> None:
        """Told by the coordinator's traces."""

    def stepped(self, step: int, loss: float | None, tokens_per_second: float, waited_s: float) -> None:
        """One inner step is done."""
        with self._screen.lock:
            self._own.stepped(step, loss, tokens_per_second, waited_s)


def rounds_wanted(settings: RunSettings) -> int:
    """What a worker counts until the run is done: commits, or with gossip its outer steps."""
    return settings.run.rounds if settings.method.resolved().gossips else num_commits(settings)


def own_training(swarm: Swarm, where: str) -> OwnTraining:
    """The numbers of the worker in this process."""
    return OwnTraining(where, lambda: (swarm.bytes_sent, swarm.bytes_received), time.monotonic)


@contextmanager
def watched(
    swarm: Swarm, where: str, ask: Callable[[], RunStatus] | None, console: Console | None = None
) -> Iterator[WorkerScreen]:
    """The view of the worker in this process, while it trains. ``ask`` blocks, and asks the host how the run
    stands."""
    settings = swarm.settings
    view = WorkerView(
        settings.run.name, swarm.key, swarm.name, rounds_wanted(settings), own_training(swarm, where)
    )
    view.buffers_fragment = buffers_fragment(settings)
    screen = _Shown(swarm, view, console)
    ended = threading.Event()
    with screen:
        if ask is not None:
            asking = threading.Thread(
                target=_ask, args=(ask, screen, ended), name="diloco-status", daemon=True
            )
            asking.start()
        try:
            yield screen
        finally:
            ended.set()


def _ask(ask: Callable[[], RunStatus], screen: WorkerScreen, ended: threading.Event) -> None:
    while not ended.is_set():
        pause_s = _ASK_EVERY_S
        try:
            status = ask()
        except (DilocoError, PeersError, TransportError):
            pause_s = _QUIET_S  # that it is away its silence tells
            screen.heard((), screen.view.num_undone)
        else:
            members = tuple(
                MemberSpeed(each.key, each.name, each.speed, each.awaited)
                for each in status.members
                if each.active or each.awaited
            )
            screen.heard(members, 0 if status.gossips else status.num_commits - status.num_rounds)
        if not screen.is_live:
            return
        ended.wait(pause_s)
