"""Whether a newer process has our identity, of which the coordinator alone may tell, and never with one word.

A word of another member counts for nothing. Of the coordinator's first word we make sure: the link to it
begins anew, and our incarnation is shown to it again. Only who says it again then is believed (S13). Which
incarnations there were a coordinator keeps over restarts (`peers.coordinator.lives`).
"""

from __future__ import annotations

from enum import Enum


class _Doubt(Enum):
    NONE = "none"
    TOLD = "told once, and a fresh connection is under way"
    ASKED = "a fresh connection stands, over which we greet again"


class Succession:
    """What a member was told about its own identity."""

    def __init__(self) -> None:
        self._doubt = _Doubt.NONE

    def connected(self) -> None:
        """A connection to the coordinator is up."""
        if self._doubt is _Doubt.TOLD:
            self._doubt = _Doubt.ASKED

    def greeted(self) -> None:
        """The coordinator took our incarnation for the newest."""
        self._doubt = _Doubt.NONE

    def told(self) -> bool | None:
        """The coordinator says that a newer process has our identity: True if it is believed, False if it is
        to be asked over a fresh link, None if that is under way."""
        if self._doubt is _Doubt.TOLD:
            return None
        believed, self._doubt = self._doubt is _Doubt.ASKED, _Doubt.TOLD
        return believed
