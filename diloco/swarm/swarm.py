"""A process's place in a swarm: identity, driver thread and node, and what the training thread sees.

Owns the thread seam: commands go to the driver's thread and back, events come through a queue.
Knows nothing of tensors; `attach` brings those. Torch is not imported here, so that a coordinator
starts at once on the smallest machine.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from diloco.errors import EntryError, SettingsError, SwarmClosed, SwarmTimeout, UserError
from diloco.rules import buffers_fragment
from diloco.settings import RunSettings
from diloco.swarm.setting_changes import changes_between, told, unpack_values, with_values
from peers.admission.ticket import Ticket
from peers.coordinator.adoption import Proposal
from peers.node import Node
from peers.protocol.commands import Command, LeaveRun
from peers.protocol.events import (
    BecameActive,
    EntryRefused,
    HostIsBehind,
    PeerLeft,
    PeersJoined,
    RoundCommitted,
    RoundOpened,
    SettingsChanged,
    StageAssigned,
)
from peers.protocol.placing import ANY_STAGE
from peers.seats import Training
from transport.counters import Direction
from transport.digests import digest_of
from transport.effects import KeepResult
from transport.errors import DriverStopped
from transport.sockets.driver import SocketDriver

_LOG = logging.getLogger("diloco")
T = TypeVar("T")
_POLL_S = 0.25
_CALL_S = 60.0
_MAX_POSTED = 16
"""Commands under way for whose end nobody waits; more wait for the first of them."""


@dataclass(slots=True)
class View:
    """What a loop may want to show; written by the driver's thread, one field at a time."""

    round: int = 0
    """Commits that this worker has seen, but for those of a model's buffers."""
    num_of_buffers: int = 0
    """Such commits since this worker holds the shared state."""
    peers: dict[bytes, str] = field(default_factory=dict)
    """Names of the other members."""
    participants: int = 0
    """Members in the last commit."""
    weight: float = 0.0
    """This worker's share of the last commit."""
    sync_seconds: float = 0.0
    """From opening to commit of the last round."""


class Swarm:
    """Made by `diloco.join`, `diloco.host` and `diloco.solo`; a context manager that leaves at the end."""

    def __init__(
        self,
        settings: RunSettings,
        node: Node,
        driver: SocketDriver,
        *,
        name: str,
        addresses: tuple[str, ...],
        events: queue.SimpleQueue[object],
        ticket: Ticket | None = None,
        home: Path | None = None,
        run: bytes = bytes(16),
        resume: int | None = None,
        origin: Path | None = None,
        host_answered: bool = True,
        on_close: Callable[[], None] = lambda: None,
        on_event: Callable[[object], None] = lambda event: None,
    ) -> None:
        self.settings = settings
        """Of the run, as they are now."""
        self.name = name
        self.addresses = addresses
        self.view = View()
        self.home = home
        """Directory that keeps what is this worker's over restarts."""
        self.run = run
        """16 bytes that name the run; zeros for a swarm of one."""
        self.resume = resume
        """This worker begins with its checkpoint of that commit or the newest before; None for the newest."""
        self.origin = origin
        """What a worker here begins with, as the first of a run that is about to begin."""
        self.host_answered = host_answered
        """False for a worker that came back and did not find its host, for which it looks since."""
        self.attached: object | None = None
        """What `attach` made for it last."""
        self._node = node
        self._driver = driver
        self._events = events
        self._ticket = ticket
        self._on_close = on_close
        self._on_event = on_event
        self._on_left: list[Callable[[], None]] = []
        self._told_behind = -1
        self._posted: deque[Future[bool]] = deque()
        self._closed = False
        self._process = os.getpid()
        atexit.register(self._close_at_exit)

    def __repr__(self) -> str:
        where = "closed" if self._closed else f"{len(self.view.peers)} other members, round {self.view.round}"
        role = "hosts" if self._ticket is not None else "alone in" if self.is_host else "in"
        return f"<diloco.Swarm: {self.peer_name} {role} run {self.settings.run.name}, {where}>"

    # -- what a loop sees ---------------------------------------------------------------------

    @property
    def ticket(self) -> str:
        """The word that lets others join; only the host has it. It holds a secret."""
        if self._ticket is None:
            raise SwarmClosed("only the host has a ticket to give")
        return self._ticket.encode()

    @property
    def peer_name(self) -> str:
        """Name and key of this peer: no two in a run have the same."""
        return f"{self.name}-{self._node.key.hex()[:16]}"

    @property
    def data_seed(self) -> int:
        """A seed for the order of this worker's data, of 32 bits: by the run and this peer's key, so that no
        two workers draw the same, and one that comes back draws the same again."""
        return int.from_bytes(digest_of(b"order of data" + self.run + self.key)[:4], "big")

    @property
    def bulk_port(self) -> int | None:
        """Where others open bulk lanes; None if nobody can."""
        address = self._driver.bulk_address
        return None if address is None else int(address.rpartition(":")[2])

    @property
    def key(self) -> bytes:
        """The public key of this peer, by which records name it."""
        return self._node.key

    @property
    def is_host(self) -> bool:
        """Whether this process coordinates the run: then it has a `ticket` (but for `solo`) and `status`."""
        return self._node.coordinator is not None

    @property
    def has_others(self) -> bool:
        """Whether others can be in the run: not in a swarm of one (`solo`)."""
        return self._ticket is not None or not self.is_host

    @property
    def bytes_sent(self) -> int:
        """Bytes of ours on the wire since the start, all purposes, retransmissions included."""
        return self._bytes("sent")

    @property
    def bytes_received(self) -> int:
        """Bytes of others on the wire since the start, likewise."""
        return self._bytes("received")

    def _bytes(self, direction: Direction) -> int:
        total = self._driver.counters.total(direction)
        return total.size_bytes + total.again_bytes

    def status(self) -> dict[str, Any]:
        """The coordinator's view of roster and rounds; only the host has it."""
        coordinator = self._node.coordinator
        if coordinator is None:
            raise SwarmClosed("only the host keeps the roster: use `diloco status TICKET`")
        return self.call(lambda now, node: coordinator.status(now).plain())

    @property
    def failed(self) -> bool:
        """Whether the network thread has ended by an error: what this worker holds is its own still."""
        return self._driver.error is not None

    def proposed_adoption(self) -> Proposal | None:
        """The record that `adopt` could choose now, for a host that was started to adopt one."""
        return self.call(lambda now, node: node.coordinator.proposal() if node.coordinator else None)

    def members_ahead(self) -> dict[str, int]:
        """By full name: the commits that workers here say they hold, if the journal is to be taken for
        older."""
        return self.call(lambda now, node: node.coordinator.members_ahead() if node.coordinator else {})

    def adopt(self, head: bytes | None) -> bool:
        """Have the host go on from a record that was proposed, or with None from its journal as it is. False
        if the record cannot be adopted any more."""

        def choose(now: float, node: Node) -> bool:
            if node.coordinator is None:
                raise SwarmClosed("only the host adopts a record")
            if head is not None:
                return node.coordinator.adopt(now, head)
            node.coordinator.adopt_nothing(now)
            return True

        return self.call(choose)

    def keep_results(self, keep: Callable[[KeepResult], None]) -> None:
        """Have results of rounds kept from now on, on the network's thread."""
        self._driver.keep_results(keep)

    def on_left(self, act: Callable[[], None]) -> None:
        """To be called once this process has left the run, while its state directory is still its own."""
        self._on_left.append(act)

    # -- the thread seam ----------------------------------------------------------------------

    def call(self, run: Callable[[float, Node], T]) -> T:
        """Run something on the driver's thread. Raises `SwarmClosed` when that has ended, or does nothing."""
        return self._result_of(self._submit(run))

    def command(self, command: Command) -> bool:
        """Carry out one command on the member; False if it was not taken."""
        return self.call(lambda now, node: node.command(now, command))

    def post(self, command: Command) -> None:
        """Have one command carried out after all before it, and before all that follow, without waiting: what
        it raises, the next one or the next but some raises. Raises `SwarmClosed` likewise."""
        while self._posted and (self._posted[0].done() or len(self._posted) >= _MAX_POSTED):
            self._result_of(self._posted.popleft())
        self._posted.append(self._submit(lambda now, node: node.command(now, command)))

    def _submit(self, run: Callable[[float, Node], T]) -> Future[T]:
        try:
            return self._driver.call(lambda _, now: run(now, self._node))
        except DriverStopped as error:
            raise self._ended(error) from error

    def _result_of(self, waiting: Future[T]) -> T:
        try:
            return waiting.result(_CALL_S)
        except DriverStopped as error:
            raise self._ended(error) from error
        except TimeoutError:
            if waiting.done():
                raise  # it is the call's own
            waiting.cancel()
            held = self._driver.unwritten or "something holds it up"
            raise SwarmClosed(
                f"the swarm's network thread did not answer for {_CALL_S:.0f} s: {held}"
            ) from None

    def _ended(self, error: DriverStopped) -> SwarmClosed:
        reason = self._driver.error or ("it was closed" if self._closed else error)
        return SwarmClosed(f"the swarm's network thread has ended: {reason}")

    def ask_stage(
        self,
        wish: int | None = None,
        *,
        memory_bytes: int = 0,
        timeout_s: float = 60.0,
        moves: bool = False,
    ) -> int:
        """Before anything is built: which stage of the run's model this process is to train, if possible the
        ``wish``. Without several it is 0, and nobody is asked. ``memory_bytes`` are what it has for a stage.
        With ``moves`` it may later be told to train another one (`Stage.moves_to`).
        Raises `UserError` for a wish that is no stage, `EntryError` if there is no place, `SwarmTimeout` if
        the host does not answer."""
        if self.settings.pipeline.stages == 1:
            return 0
        if wish is not None and not 0 <= wish < self.settings.pipeline.stages:
            stages = self.settings.pipeline.stages
            raise UserError(f"there is no stage {wish}: {stages} stages are numbered 0 to {stages - 1}")
        wanted = ANY_STAGE if wish is None else wish
        self.call(lambda now, node: node.ask_stage(now, self.name, memory_bytes, wanted, moves))
        give_up = time.monotonic() + timeout_s
        while (left_s := give_up - time.monotonic()) > 0:
            event = self.next_event(min(left_s, _POLL_S))
            if isinstance(event, StageAssigned):
                return event.stage
            if isinstance(event, EntryRefused):
                raise EntryError(event.code, event.detail)
        raise SwarmTimeout(f"the host did not say within {timeout_s:.0f} s which stage to train")

    def train(self, training: Training) -> None:
        """Take part with a model."""
        self.call(lambda now, node: node.train(now, training))

    def next_event(self, timeout_s: float) -> object | None:
        """The next event, or None after ``timeout_s``. Raises `SwarmClosed` when there are no more."""
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            if self._driver.error is not None:
                cause = self._driver.error
                raise SwarmClosed(f"the swarm's network thread has ended: {cause}") from cause
            return None
        self._note(event)
        return event

    def _note(self, event: object) -> None:
        self._on_event(event)
        match event:
            case PeersJoined():
                self.view.peers.update(event.members)
            case PeerLeft():
                self.view.peers.pop(event.key, None)
            case HostIsBehind() if event.index != self._told_behind:  # once for each state of the host
                self._told_behind = event.index
                _LOG.warning(
                    "the host's journal ends at commit %d, and this worker holds commit %d: the host lost "
                    "its state or runs from an old copy. This worker keeps its own; the host's owner can go "
                    "on from it (diloco host --adopt)",
                    event.index,
                    event.ours,
                )
            case SettingsChanged():
                self._follow(event.values)
            case BecameActive():
                self.view.round = event.index
            case RoundOpened():
                self.view.participants = len(event.members)
            case RoundCommitted():
                record = event.record
                self.view.num_of_buffers += record.fragment == buffers_fragment(self.settings)
                self.view.round = record.index - self.view.num_of_buffers
                self.view.participants = len(record.members)
                self.view.sync_seconds = event.seconds
                total = sum(record.weights)
                mine = dict(zip(record.members, record.weights, strict=True)).get(self._node.key, 0.0)
                self.view.weight = mine / total if total else 0.0

    def _follow(self, packed: bytes) -> None:
        try:
            settings = with_values(self.settings, unpack_values(packed))
        except SettingsError as error:
            _LOG.warning("the host changed settings in a way that means nothing here: %s", error)
            return
        changes = changes_between(self.settings, settings)
        if changes:
            _LOG.warning("the run's settings are changed: %s", told(changes))
        self.settings = settings

    # -- the end ------------------------------------------------------------------------------

    def close(self, reason: str = "done", linger_s: float = 1.0) -> None:
        """Leave: say goodbye, send what is queued for at most ``linger_s``, free ports and threads."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        try:
            if self._node.member is not None and self._driver.error is None:
                with suppress(SwarmClosed):  # it ended in this moment
                    self.command(LeaveRun(reason))
        finally:
            with ExitStack() as undone:
                undone.callback(self._on_close)
                for act in self._on_left:
                    undone.callback(act)
                self._driver.stop(linger_s)

    def _close_at_exit(self) -> None:
        """A script that ends without `close` says goodbye all the same; a forked child has nothing to say."""
        if os.getpid() == self._process:
            self.close("the interpreter ends")

    def __enter__(self) -> Swarm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(_reason_of(error))


def _reason_of(error: BaseException | None) -> str:
    """What others are told of why this process leaves."""
    if error is None:
        return "done"
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        return "interrupted"
    return f"failed: {error}".partition("\n")[0]
