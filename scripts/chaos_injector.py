"""Carries the drawn faults of a run under chaos out, each with its end, and looks at processes meanwhile.

A fault that makes no sense when it is due is skipped: of who is gone already, or where too few workers would
be left alone for rounds to go on.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Sequence
from itertools import count

from chaos_faults import Fault
from chaos_processes import HOST, LINE, Processes, wait_until
from chaos_story import Sample

_LOOK_EVERY_S = 1.0
_SLOW_BPS = 2e6
_UNDISTURBED = 2
"""Workers that hold the state and are left alone at any moment, so that rounds can go on."""
_LEAVES_S = 40.0
"""Longer than the notice of a worker, on a busy machine."""
_AGAIN_S = 5.0
_OF_LINES = ("cut", "stall", "throttle", "reset")
_Act = Callable[[], None]


class Injector:
    """Faults, and what came of each."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.faults: list[tuple[str, str, float]] = []
        """Kind, victim, and from when on a commit is waited for."""
        self.skipped = 0
        self.broken: list[str] = []
        self.samples: list[Sample] = []
        self._ends: list[tuple[float, int, _Act]] = []
        self._numbers = count()
        self._busy: set[str] = set()
        """Processes and lines that something is wrong with."""
        self._looked = -math.inf
        self._awaited: list[str] = []
        """Kinds of faults from which the run recovers once its host listens."""

    def run(self, faults: Sequence[Fault], until: float, began: float) -> None:
        """Until a moment of the monotonic clock."""
        waiting = list(reversed(faults))
        while (now := time.monotonic()) < until:
            self._turn(now)
            while waiting and began + waiting[-1].at_s <= now:
                self.skipped += not self._fire(now, waiting.pop())
            time.sleep(0.05)

    def heal(self) -> None:
        """End all that is wrong now; who was asked to leave is given its time."""
        ends, self._ends = self._ends, []
        for _, _, end in sorted(ends):
            end()

    def wait_for_everyone(self, seconds: float) -> bool:
        """Whether all come to be in one commit, and hold it."""
        told, since = self.processes.told, time.monotonic()

        def together() -> bool:
            self._turn(time.monotonic())
            whole = {
                line["index"]
                for line in told.last.values()
                if line["members"] == self.processes.peers and line["at"] > since
            }
            everyone = len(told.last) == self.processes.peers
            return everyone and bool(whole) and min(whole) <= min(x["index"] for x in told.last.values())

        return wait_until(together, seconds)

    def rest(self, seconds: float) -> tuple[float, float]:
        """Look at processes while nothing goes wrong; from when to when."""
        since = time.monotonic()
        self.run((), since + seconds, since)
        return since, time.monotonic()

    # -- inside -----------------------------------------------------------------------------------

    def _turn(self, now: float) -> None:
        self.processes.told.read()
        for column, what in self.processes.ended():
            self.broken.append(what)
            self._start_again(now, column)
        if self._awaited and self.processes.host_listens:
            self.faults += [(kind, "host", now) for kind in self._awaited]
            self._awaited.clear()
        while self._ends and self._ends[0][0] <= now:
            heapq.heappop(self._ends)[2]()
        if now - self._looked > _LOOK_EVERY_S:
            self._looked = now
            self.samples += self.processes.look(now)

    def _fire(self, now: float, fault: Fault) -> bool:
        """False if it makes no sense just now."""
        if fault.kind == "all die":
            return self._all_die(now, fault)
        kind = fault.kind.removeprefix("host ")
        column = HOST if kind != fault.kind else fault.who
        name = "host" if column == HOST else f"w{column}"
        target = f"line of {name}" if kind in _OF_LINES else name
        if target in self._busy or not self._may_be_disturbed(name, kind):
            return False
        begin, end = self._actions(kind, column)
        begin()
        self._hold(target, now + fault.seconds, end)
        if fault.kind != "host kill":  # that counts from the moment at which the new process listens
            # Without its host no round is committed: what counts is how soon it goes on after.
            self.faults.append((fault.kind, name, now + fault.seconds if column == HOST else now))
        return True

    def _hold(self, target: str, until: float, end: _Act) -> None:
        self._busy.add(target)

        def ends() -> None:
            self._busy.discard(target)
            end()

        heapq.heappush(self._ends, (until, next(self._numbers), ends))

    def _may_be_disturbed(self, name: str, kind: str) -> bool:
        if name == "host":
            return self.processes.host_listens  # else a busy machine never has one
        active = self.processes.told.active
        if kind in ("reset", "throttle"):
            return name in active
        disturbed = {each.removeprefix("line of ") for each in self._busy}
        left = [each for each in active if each not in disturbed and each != name]
        return len(left) >= _UNDISTURBED and name in active

    def _actions(self, kind: str, column: int) -> tuple[_Act, _Act]:
        processes, link = self.processes, self.processes.links[column]
        match kind:
            case "kill" if column == HOST:
                return processes.kill_host, lambda: self._start_host("host kill")
            case "kill" | "replace":
                fresh = kind == "replace"
                return lambda: processes.kill(column), lambda: self._start(column, fresh)
            case "leave":
                return lambda: processes.ask_to_leave(column), lambda: self._left(column, time.monotonic())
            case "stop":
                return lambda: processes.freeze(column), lambda: processes.thaw(column)
            case "full":
                began = time.monotonic()
                return lambda: processes.fill_disk(column), lambda: processes.empty_disk(column, began)
            case "cut":
                return lambda: link.do(lambda it: it.cut()), lambda: link.do(lambda it: it.restore())
            case "stall":
                return lambda: link.do(lambda it: it.pause()), lambda: link.do(lambda it: it.resume())
            case "throttle":
                slow, fast = _SLOW_BPS, LINE.rate_bps
                return (
                    lambda: link.do(lambda it: it.set_rate(slow)),
                    lambda: link.do(lambda it: it.set_rate(fast)),
                )
        return lambda: link.do(lambda it: it.reset()), lambda: None

    def _start_again(self, now: float, column: int) -> None:
        """Who ended by itself comes back soon, so that one fault does not hide all that would follow."""
        if column == HOST:
            self._hold("host", now + _AGAIN_S, lambda: self._start_host("end"))
        else:
            self._hold(f"w{column}", now + _AGAIN_S, lambda: self._start(column))

    def _start(self, column: int, fresh: bool = False) -> None:
        if column not in self.processes.workers:
            self.processes.start(column, fresh)

    def _start_host(self, after: str) -> None:
        if self.processes.host is None:
            self.processes.start_host()
            self._awaited.append(after)

    def _left(self, column: int, asked: float) -> None:
        """A worker that was asked to leave comes back once it has left."""
        if column not in self.processes.workers:
            self._start(column)
        elif time.monotonic() < asked + _LEAVES_S:
            self._hold(f"w{column}", time.monotonic() + 0.5, lambda: self._left(column, asked))
        else:
            self.broken.append(f"L8: w{column} did not leave within {_LEAVES_S:.0f} s of SIGTERM")

    def _all_die(self, now: float, fault: Fault) -> bool:
        """Every process is killed. The host, and all but one of the workers, come back in some order soon."""
        processes = self.processes
        alive = [column for column in processes.workers if f"w{column}" in processes.told.active]
        if not processes.host_listens or len(alive) < processes.peers - 2:
            return False
        began = list(processes.workers)
        for column in began:
            processes.kill(column)
        processes.kill_host()
        order = began[fault.who % len(began) :] + began[: fault.who % len(began)]
        host_at = now + fault.seconds
        self._hold("host", host_at, lambda: self._start_host("all die"))
        for place, column in enumerate(order):
            # One in two comes before its host; the last one long after.
            late = 15.0 if place == len(order) - 1 else 0.0
            at = now + (fault.seconds * 2 * (place + 1) / len(order)) + late
            self._hold(f"w{column}", at, lambda column=column: self._start(column))  # type: ignore[misc]
        return True
