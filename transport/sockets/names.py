"""Names of hosts become addresses here, in threads of their own: libzmq gets numbers only.

A name may take as long as its owner likes to resolve, and libzmq would ask for it on a thread that serves all
connections. A lookup that fails or takes too long is answered with what the name meant last, if that is
known. Of lookups that hang there are a bounded number; beyond it a name is not looked up. Keeps R4.
"""

from __future__ import annotations

import socket
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transport.addresses import is_numeric, parts
from transport.errors import DialFailed
from transport.limits import LIMITS, Limits

LOOKUP_S = 5.0
"""So long a name may take."""
Resolve = Callable[[str], Sequence[str]]


def resolve_name(name: str) -> list[str]:
    """The IPv4 addresses of a name; blocks. Raises `OSError` or `UnicodeError`."""
    found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(slots=True, eq=False)
class Lookup:
    """One question for a name; ``then`` is called with it once there is an answer."""

    name: str
    then: Callable[[Lookup], None]
    found: Sequence[str] = ()
    error: str = ""


class Names:
    """The lookups of one driver, on whose thread all but the lookups themselves happen. ``wake`` is called
    from any thread when `serve` has something to do."""

    def __init__(self, wake: Callable[[], None], resolve: Resolve, limits: Limits = LIMITS) -> None:
        self._wake, self._resolve, self._limits = wake, resolve, limits
        self._running: dict[str, list[Lookup]] = {}
        self._known: OrderedDict[str, Sequence[str]] = OrderedDict()
        self._done: deque[tuple[str, Sequence[str], str]] = deque()

    def look_up(self, name: str, then: Callable[[Lookup], None]) -> Lookup:
        """Begin to look up a name; whoever asks for one that is being looked up waits for the same answer."""
        lookup = Lookup(name, then)
        if name in self._running:
            self._running[name].append(lookup)
            return lookup
        self._running[name] = [lookup]
        if len(self._running) > self._limits.lookups:
            self._finish(name, (), "too many names are being looked up")
            return lookup
        try:
            threading.Thread(target=self._run, args=(name,), name=f"diloco-name {name}", daemon=True).start()
        except RuntimeError as error:  # there are no more threads
            self._finish(name, (), str(error))
        return lookup

    def known(self, name: str) -> Sequence[str]:
        """What a name meant when it was last resolved."""
        return self._known.get(name, ())

    def serve(self) -> None:
        """Answer what has been looked up."""
        while self._done:
            name, found, error = self._done.popleft()
            if found:
                self._known[name] = found
                self._known.move_to_end(name)
                if len(self._known) > self._limits.names_known:
                    self._known.popitem(last=False)
            for lookup in self._running.pop(name, []):
                lookup.found, lookup.error = found or self.known(name), error
                lookup.then(lookup)

    def _finish(self, name: str, found: Sequence[str], error: str) -> None:
        self._done.append((name, found, error))
        self._wake()

    def _run(self, name: str) -> None:
        self._finish(name, *_resolved(self._resolve, name))


def _resolved(resolve: Resolve, name: str) -> tuple[Sequence[str], str]:
    """The addresses that can be dialled, or why there are none."""
    try:
        found = [each for each in resolve(name) if is_numeric(each) and each != "0.0.0.0"]
    except (OSError, UnicodeError) as error:
        return (), f"{name} does not resolve: {getattr(error, 'strerror', None) or error}"
    return found, "" if found else f"{name} has no IPv4 address"


def numeric_address(address: str, timeout_s: float, resolve: Resolve = resolve_name) -> str:
    """The same address with a number for its name; blocks. Raises `DialFailed`."""
    found = parts(address)
    if found is None:
        raise DialFailed(f"cannot dial {address}: it is not like tcp://host:port")
    host, port = found
    if is_numeric(host):
        return address
    answered = threading.Event()
    names = Names(answered.set, resolve)
    lookup = names.look_up(host, lambda lookup: None)
    if not answered.wait(timeout_s):
        raise DialFailed(f"cannot dial {address}: {host} did not resolve in {timeout_s:.0f} s")
    names.serve()
    if not lookup.found:
        raise DialFailed(f"cannot dial {address}: {lookup.error}")
    return f"tcp://{lookup.found[0]}:{port}"
