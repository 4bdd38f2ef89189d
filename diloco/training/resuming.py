"""Whether the run goes back to the commit with which a worker was told to begin (``--resume``). Pure."""

from __future__ import annotations

from peers.protocol.events import Restored, RoundCommitted


class Resuming:
    """What the owner of one worker expects of the run, until it is known."""

    def __init__(self, wanted: int | None) -> None:
        self._wanted = wanted

    def hear(self, event: object) -> str:
        """One event of the member; a line for people if the run goes on from elsewhere, else nothing."""
        wanted = self._wanted
        if wanted is None or not isinstance(event, Restored | RoundCommitted):
            return ""
        index = event.record.index
        if isinstance(event, RoundCommitted) and index <= wanted and event.seconds == 0.0:
            return ""  # on the way there, by what is on the disk
        self._wanted = None
        if isinstance(event, Restored):
            return ""
        return (
            f"--resume {wanted}: the run does not go back there, it goes on with commit {index}, and so "
            f"does this worker; its host can have it go back: diloco host RUN.toml --resume {wanted}"
        )
