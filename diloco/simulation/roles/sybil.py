"""The sybil: a holder of one ticket who comes in under ever new names, and goes again."""

from __future__ import annotations

from functools import partial

from diloco.simulation.roles.role import Lives, Role

NUM_IDENTITIES = 12
"""That one sybil makes, beside its own."""
_AT_A_TIME = 2
_EVERY_S = 15.0


def identities_of(name: str) -> tuple[str, ...]:
    """The names under which a sybil comes in, beside its own."""
    return tuple(f"{name}~{number}" for number in range(1, NUM_IDENTITIES + 1))


class Sybil(Role):
    """Identities of one ticket come and go, two at a time, and each claims to hold another state."""

    name = "sybil"
    about = "ever new identities of one ticket, two at a time beside its own"

    def live(self, lives: Lives) -> None:
        """One after the other."""
        lives.at(_EVERY_S, partial(self._next, lives, 1))

    def _next(self, lives: Lives, number: int) -> None:
        names = identities_of(lives.name)
        lives.start(names[(number - 1) % len(names)])
        self.did("made another identity" if number <= len(names) else "came back under an earlier name")
        if number > _AT_A_TIME:
            lives.crash(names[(number - 1 - _AT_A_TIME) % len(names)])
        lives.at(_EVERY_S, partial(self._next, lives, number + 1))
