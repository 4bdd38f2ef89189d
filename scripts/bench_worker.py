"""One process of bench_exchange.py: a member with its node, links and driver, and the rounds it is timed in.

Nothing is trained: vectors are random, and what stands for a model's outer state are eight zero bytes.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from diloco.compression.codecs import codec
from diloco.compression.codecs.base import Codec
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.outer.tensor_reducer import TensorReducer
from diloco.swarm.naming import NamingThreads
from peers.admission.door import Door
from peers.coordinator.rules import Rules
from peers.node import Node
from peers.protocol.commands import Command, ConfirmApplied, ConfirmCaptured, ConfirmLoaded, Offer
from peers.protocol.events import BecameActive, BecomeSeed, RoundCommitted, RoundOpened, StateFetched
from peers.protocol.manifest import Manifest
from peers.protocol.profile import Profile
from peers.seats import Contact, Hosting, Training
from transport.collectives.reducer import Reducer
from transport.digests import digest_of, tree_digest
from transport.effects import EncodedResult
from transport.keys import KeyPair
from transport.sockets.driver import SocketDriver
from transport.sockets.sealed_lanes import Bulk

TIMEOUT_S = 60.0
STATE = bytes(8)
"""What stands for a model's outer state here; nothing is trained."""
STATE_NAME = tree_digest([digest_of(STATE)])
CHECK = bytes(16)
REST_S = 0.1
"""Between rounds, as while a run trains: what follows a commit (a mean that is checked) has left the line."""
NAME = bytes(32)


Times = tuple[float, float, float]
"""Of a round: its seconds, those of its exchange, and processor seconds of the process."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every process is told."""

    keys: tuple[KeyPair, ...]
    sizes: tuple[int, ...]
    codecs: tuple[str, ...]
    repeats: int
    budget_s: float
    """Seconds per size and codec after which no repeat begins."""


class Untrained:
    """`peers.protocol.application.Application` without a model: its state is eight zero bytes."""

    digests: ClassVar[list[bytes]] = [digest_of(STATE)]

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.wire = codec("fp32")
        """Of the rounds that are measured now."""
        self._sizes = sizes

    def receiver(self, fragment: int) -> Reducer:
        """For the check of a mean, in one round of as many as it has members."""
        n = self._sizes[fragment] // 4
        return TensorReducer(self.wire, n, output=torch.empty(n))  # of which one chunk is used

    def state_buffer(self, fragment: int) -> bytearray:
        return bytearray(len(STATE))

    def state_at_hand(self, fragment: int) -> None:
        return None

    def state_blob(self, fragment: int, blob: bytes) -> Untrained | None:
        return self if blob == STATE_NAME else None

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes]:
        return lambda: STATE_NAME

    def kept_result(self, result: bytes) -> EncodedResult | None:
        return None

    def piece(self, index: int) -> bytes:
        return STATE


class Worker:
    """One process's member and the thread that it runs on."""

    def __init__(self, rank: int, plan: Plan) -> None:
        self.plan = plan
        self._app = Untrained(plan.sizes)
        self._rank = rank
        self._events: queue.SimpleQueue[tuple[float, object]] = queue.SimpleQueue()

    def start(self, host: str) -> tuple[str, str]:
        """Begin to talk; ``host`` is the address of process 0, which has none to dial. Returns where this one
        listens, for control and for bulk."""
        keys, host_key = self.plan.keys[self._rank], self.plan.keys[0].public
        hosting = None if self._rank else self._hosting()
        contact = Contact(host_key, (host,) if self._rank else ())
        node = self.node = Node(keys.public, 1, contact, failure_timeout_s=TIMEOUT_S, hosting=hosting)

        def take(event: object) -> None:
            self._events.put((time.perf_counter(), event))

        names = NamingThreads(node, take)
        self._driver = SocketDriver(
            node, keys, "tcp://127.0.0.1:0", names.hear, lambda trace: None, lambda entry: None, bulk=Bulk()
        )
        names.driver = self._driver
        self._driver.start()
        assert self._driver.address is not None
        return self._driver.address, self._driver.bulk_address or self._driver.address

    def _hosting(self) -> Hosting:
        n = len(self.plan.keys)
        rules = Rules(NAME, min_peers=n, failure_timeout_s=TIMEOUT_S, grace_s=10 * TIMEOUT_S)
        return Hosting(rules, [], Door(bytes(16), b"", NAME, {}))

    def enter(self) -> None:
        """Take part; returns once this member holds the (empty) shared state."""
        coordinator = self.node.coordinator
        if coordinator is not None:
            for rank, keys in enumerate(self.plan.keys):
                self._call(lambda now, r=rank, k=keys, c=coordinator: c.certify(k.public, str(r)))
        elements = tuple(size // 4 for size in self.plan.sizes)
        address = self._driver.address
        manifest = Manifest(NAME, NAME, NAME, "any", elements, "vectors")
        profile = Profile(str(self._rank), (address,) if address else (), manifest)
        self._call(lambda now: self.node.train(now, Training(profile, self._app)))
        while True:
            match self._event():
                case (_, BecomeSeed()):
                    for fragment in range(len(elements)):
                        self._command(ConfirmCaptured(fragment, STATE_NAME, CHECK))
                case (_, StateFetched(fragment=fragment, version=version)):
                    self._command(ConfirmLoaded(fragment, version, CHECK))
                case (_, BecameActive()):
                    return

    def measures(self, wire: Codec) -> None:
        """The rounds from now on are in this format."""
        self._app.wire = wire
        coordinator = self.node.coordinator
        if coordinator is not None:
            each = WIRE_FORMATS[wire.name].bytes_per_element
            coordinator.state.rules = replace(coordinator.state.rules, element_bytes=each)

    def round(self, fragment: int, reducer: Reducer, norm: float, barrier: Any) -> Times:
        """One round in this process."""
        barrier.wait()
        began, used = time.perf_counter(), time.process_time()
        if not self._command(Offer(fragment, 1, 1, reducer, norm)):
            raise RuntimeError("the member is not in the swarm any more")
        opened = began
        while True:
            at, event = self._event()
            if isinstance(event, RoundOpened):
                opened = at
            elif isinstance(event, RoundCommitted):
                ended, cpu_s = time.perf_counter(), time.process_time() - used
                assert event.mean is reducer
                self._command(ConfirmApplied(event.record, CHECK))
                return ended - began, ended - opened, cpu_s

    def stop(self) -> None:
        """Hang up."""
        self._driver.stop(0.0)

    def _event(self) -> tuple[float, object]:
        try:
            return self._events.get(timeout=TIMEOUT_S)
        except queue.Empty:
            raise RuntimeError(f"nothing happened for {TIMEOUT_S:.0f} s") from self._driver.error

    def _call(self, run: Any) -> Any:
        return self._driver.call(lambda _, now: run(now)).result(TIMEOUT_S)

    def _command(self, command: Command) -> bool:
        return bool(self._call(lambda now: self.node.command(now, command)))


def slowest(times: Any, barrier: Any, rank: int, mine: Times) -> Times:
    """The largest values of all processes, the same everywhere."""
    times[3 * rank : 3 * rank + 3] = mine
    barrier.wait()
    found = max(times[0::3]), max(times[1::3]), max(times[2::3])
    barrier.wait()
    return found


def measure(worker: Worker, fragment: int, name: str, rank: int, barrier: Any, times: Any) -> list[Any]:
    """Times of each repeat, at least two where so many are wanted. One before them, which opens buffers and
    touches memory for the first time, does not count."""
    plan = worker.plan
    num_elements = plan.sizes[fragment] // 4
    vector = torch.randn(num_elements, generator=torch.Generator().manual_seed(rank))
    output, wire, norm = torch.zeros(num_elements), codec(name), float(vector.norm())
    worker.measures(wire)
    found: list[Times] = []
    until = time.perf_counter() + plan.budget_s
    for _ in range(1 + plan.repeats):
        time.sleep(REST_S)
        reducer = TensorReducer(wire, num_elements, vector, output)
        own = worker.round(fragment, reducer, norm, barrier)
        found.append(slowest(times, barrier, rank, own))
        over, *_ = slowest(times, barrier, rank, (float(time.perf_counter() > until), 0.0, 0.0))
        if over and len(found) > 2:
            break
    check(output, num_elements, name, len(plan.keys))
    return found[1:]


def check(output: torch.Tensor, num_elements: int, name: str, num_processes: int) -> None:
    """The result is the mean of what went in."""
    wanted = torch.zeros(num_elements)
    for rank in range(num_processes):
        generator = torch.Generator().manual_seed(rank)
        wanted += torch.randn(num_elements, generator=generator) / num_processes
    if not torch.allclose(output, wanted, atol={"fp32": 1e-6, "bf16": 0.05, "int8": 0.1, "int4": 1.5}[name]):
        raise RuntimeError(f"the mean with {name} is wrong")


def work(rank: int, plan: Plan, host: str, barrier: Any, times: Any, results: Any) -> None:
    """One process. Process 0 reports its addresses first, then one line per size and codec."""
    torch.set_num_threads(1)
    worker = Worker(rank, plan)
    addresses = worker.start(host)
    if not rank:
        results.put(addresses)
    worker.enter()
    for fragment in range(len(plan.sizes)):
        for name in plan.codecs:
            found = measure(worker, fragment, name, rank, barrier, times)
            if not rank:
                results.put((fragment, name, found))
    barrier.wait()
    worker.stop()
