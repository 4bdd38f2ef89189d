"""What this member says of the states that it holds: checks at once, digests once they are hashed.

A check comes with the state, from the application. A digest takes as long as reading the whole state, so the
program around the member hashes it beside training, and only where the coordinator wants to know it: of one
version, or of every version from now on. It remembers the version before the newest one too, as long as the
application does. Keeps S1 on the member's side.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.member.outlet import MemberOutlet
from peers.member.versions import Versions
from peers.protocol.commands import ConfirmNamed
from peers.protocol.events import NameWanted
from peers.protocol.held import Held
from peers.protocol.messages import Applied
from peers.protocol.naming import NameEvery, NameState, StateNamed
from peers.protocol.record import NO_DIGEST


@dataclass(frozen=True, slots=True)
class _Former:
    version: bytes
    check: bytes
    name: bytes


class OwnStates:
    """Checks and digests of one member's fragments."""

    def __init__(self, coordinator: bytes, outlet: MemberOutlet, versions: Versions) -> None:
        self.checks: dict[int, bytes] = {}
        """By fragment, of what the application holds."""
        self.names: dict[int, bytes] = {}
        """By fragment: the digest of the same, where it is known."""
        self._coordinator = coordinator
        self._outlet = outlet
        self._versions = versions
        self._former: dict[int, _Former] = {}
        """By fragment, before the last commit that was applied."""
        self._names_every = False
        self._asked: dict[tuple[int, bytes], bytes] = {}
        """By fragment and version that is to be named: the check."""
        self._hashing: set[tuple[int, bytes]] = set()
        """Fragments and checks with the program around."""
        self._overtaken: set[int] = set()
        """Fragments whose newest version is hashed once the one that is being hashed is done: each that waits
        in line is a whole state in memory."""

    # -- what is held -------------------------------------------------------------------------

    def begin_with(self, held: Held) -> None:
        """A checkpoint is loaded, whose digests were found true."""
        self.checks, self.names = dict(enumerate(held.checks)), dict(enumerate(held.digests))

    def clear(self) -> None:
        """Nothing is held."""
        self.checks, self.names, self._former = {}, {}, {}

    def move(self, fragment: int, check: bytes) -> None:
        """A commit is applied, and the version is still that of before."""
        if fragment in self.checks:
            before = self._versions.base(fragment), self.checks[fragment], self.names.get(fragment, b"")
            self._former[fragment] = _Former(*before)
        self._hold(fragment, check)

    def replace(self, fragment: int, check: bytes, name: bytes = b"") -> None:
        """Another state is held, to which no commit has led here."""
        self._former.pop(fragment, None)
        self._asked = {asked: of for asked, of in self._asked.items() if asked[0] != fragment}
        self._hold(fragment, check)
        if name:
            self.names[fragment] = name

    def _hold(self, fragment: int, check: bytes) -> None:
        self.names.pop(fragment, None)  # also of the same check: what was named may have been worn
        self.checks[fragment] = check

    # -- what is said -------------------------------------------------------------------------

    def begin_session(self) -> None:
        """The coordinator says anew what it wants."""
        self._asked.clear()
        self._names_every = False

    def say(self, now: float, fragment: int) -> None:
        """Which state of a fragment is held."""
        version = self._versions.base(fragment)
        self._outlet.send(now, self._coordinator, Applied(fragment, version, self.checks[fragment]))
        if fragment in self.names:
            self._say_name(now, fragment, version, self.names[fragment])
        elif self._names_every and any(each == fragment for each, _ in self._hashing):
            self._overtaken.add(fragment)
        elif self._names_every:
            self._name(now, fragment, version, self.checks[fragment], b"")

    def order_every(self, now: float, order: NameEvery) -> None:
        """The coordinator wants every version named, or no more."""
        self._names_every = order.on
        for fragment, check in self.checks.items():
            if order.on:
                version = self._versions.base(fragment)
                self._name(now, fragment, version, check, self.names.get(fragment, b""))

    def order(self, now: float, order: NameState) -> None:
        """The coordinator wants one version named."""
        fragment, version = order.fragment, order.version
        # It is asked again where an answer should be there by now: what hashes may have come to nothing.
        self._hashing = {each for each in self._hashing if (fragment, version) not in self._asked}
        former = self._former.get(fragment)
        if fragment in self.checks and version == self._versions.base(fragment):
            self._name(now, fragment, version, self.checks[fragment], self.names.get(fragment, b""))
        elif former is not None and version == former.version:
            self._name(now, fragment, version, former.check, former.name)
        else:
            self._say_name(now, fragment, version, NO_DIGEST)

    def confirm_named(self, now: float, named: ConfirmNamed, *, says: bool) -> None:
        """A state is hashed; the application may hold another one by now."""
        fragment, check = named.fragment, named.check
        self._hashing.discard((fragment, check))
        former = self._former.get(fragment)
        if named.state != NO_DIGEST:
            if self.checks.get(fragment) == check:
                self.names[fragment] = named.state
            if former is not None and former.check == check:
                self._former[fragment] = _Former(former.version, check, named.state)
        for asked in [each for each, of in self._asked.items() if (each[0], of) == (fragment, check)]:
            del self._asked[asked]
            if says:
                self._say_name(now, *asked, named.state)
        if fragment in self._overtaken:
            self._overtaken.discard(fragment)
            if self._names_every and says and fragment in self.checks:
                check, name = self.checks[fragment], self.names.get(fragment, b"")
                self._name(now, fragment, self._versions.base(fragment), check, name)

    def _name(self, now: float, fragment: int, version: bytes, check: bytes, name: bytes) -> None:
        if name:
            self._say_name(now, fragment, version, name)
            return
        self._asked[fragment, version] = check
        if (fragment, check) not in self._hashing:
            self._hashing.add((fragment, check))
            self._outlet.deliver(NameWanted(fragment, check))

    def _say_name(self, now: float, fragment: int, version: bytes, name: bytes) -> None:
        self._outlet.send(now, self._coordinator, StateNamed(fragment, version, name))
