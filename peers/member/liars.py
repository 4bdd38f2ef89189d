"""Who handed out other bytes than a blob is named by: they are not asked for that blob again.

Kept over fetches, for a state is often ordered anew from the same donors. The oldest blobs are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_BLOBS = 64


class Liars:
    """Bad donors by blob."""

    def __init__(self) -> None:
        self._by_blob: dict[bytes, set[bytes]] = {}

    def note(self, blob: bytes, donors: Iterable[bytes]) -> None:
        """These donors handed out something else."""
        for donor in donors:
            self._by_blob.setdefault(blob, set()).add(donor)
        while len(self._by_blob) > MAX_BLOBS:
            del self._by_blob[next(iter(self._by_blob))]

    def of(self, blob: bytes) -> tuple[bytes, ...]:
        """Who handed out something else for this blob."""
        return tuple(sorted(self._by_blob.get(blob, ())))

    def without(self, blob: bytes, donors: Iterable[bytes]) -> list[bytes]:
        """Those of the donors who did not."""
        bad = self._by_blob.get(blob, ())
        return [donor for donor in donors if donor not in bad]
