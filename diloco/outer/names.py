"""Digests of a replica's states: by which donors hand them out, and which members agree on.

Hashing a state takes as long as reading it several times, so it happens beside training, from a view that is
read in place as long as no step needs its memory (`OuterState.reading`). The newest version that was named is
remembered, and the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock

from diloco.outer.checks import followed_by
from diloco.outer.snapshot import FrozenTail, StateView
from diloco.outer.state import OuterState
from transport.digests import tree_digest


@dataclass(frozen=True, slots=True)
class _Named:
    """Digests of one version of a fragment."""

    name: bytes
    version: int
    digests: list[bytes]


class Names:
    """What the states of ``outer`` are called, with the frozen parameters that follow each. Any thread may
    call its methods; of two that name one version the later one is remembered."""

    def __init__(
        self, outer: OuterState, frozen: Callable[[int], FrozenTail], frozen_check: Callable[[int], bytes]
    ) -> None:
        self._outer = outer
        self._frozen = frozen
        self._frozen_check = frozen_check
        self._lock = Lock()
        self._named: list[tuple[_Named, ...]] = [()] * outer.num_fragments

    def check(self, fragment: int) -> bytes:
        """The check of the present state, as it was when it was written. For the trainer's thread."""
        return followed_by(self._outer.check(fragment), self._frozen_check(fragment))

    def digest(self, fragment: int) -> bytes:
        """The digest of the present state, hashed now if it is not known."""
        return self.present(fragment)()

    def learn(self, fragment: int, version: int, digests: list[bytes]) -> None:
        """A state was loaded, or read, whose pieces were checked by these digests."""
        with self._lock:
            self._named[fragment] = (_Named(tree_digest(digests), version, digests),)

    def present(self, fragment: int) -> Callable[[], bytes]:
        """What finds the digest of the state as it is now, once, on any thread."""
        reads = ExitStack()
        return self._naming(fragment, reads.enter_context(self._outer.reading(fragment)), reads)

    def to_name(self, fragment: int, check: bytes) -> Callable[[], bytes] | None:
        """See `peers.protocol.application.Application.to_name`."""
        behind = self._frozen_check(fragment)
        for version, each in self._outer.checks(fragment).items():
            if each and followed_by(each, behind) == check:
                return self._hashing(fragment, version)
        return None

    def found(self, fragment: int, name: bytes) -> list[_Named]:
        """What is named so."""
        return [each for each in self._named[fragment] if each.name == name]

    def known(self, fragment: int, version: int) -> _Named | None:
        """What a version on this machine is called, if that is remembered."""
        return next((each for each in self._named[fragment] if each.version == version), None)

    def _hashing(self, fragment: int, version: int) -> Callable[[], bytes] | None:
        reads = ExitStack()
        present = reads.enter_context(self._outer.reading(fragment))
        if present.version == version:
            return self._naming(fragment, present, reads)
        reads.close()
        former = self._outer.pin_version(fragment, version)
        return self._naming(fragment, former, reads) if former is not None else None

    def _naming(self, fragment: int, view: StateView, reads: ExitStack) -> Callable[[], bytes]:
        def name() -> bytes:
            with reads:
                known = self.known(fragment, view.version)
                return known.name if known is not None else self._name(fragment, view)

        return name

    def _name(self, fragment: int, view: StateView) -> bytes:
        digests = self._frozen(fragment).digests_of(view)
        newest = _Named(tree_digest(digests), view.version, digests)
        with self._lock:
            others = [each for each in self._named[fragment] if each.version != view.version]
            kept = sorted([newest, *others], key=lambda each: each.version, reverse=True)
            self._named[fragment] = tuple(kept[:2])
        return newest.name
