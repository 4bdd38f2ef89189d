"""What can go wrong: one tree of errors, and the command line shows each as its plain text.

    DilocoError
    ├── UserError            the person can mend it; says what and how (exit code 2)
    │   ├── SettingsError    RUN.toml, one line per problem
    │   ├── MethodError      a method that cannot work
    │   ├── LayoutError      a model that cannot be shared as it is
    │   ├── StateError       state that does not fit this model
    │   ├── CheckpointError  files that hold no checkpoint, or none that can be used here
    │   ├── TextError        training text that cannot be read
    │   ├── RecipeError      a recipe that cannot be loaded
    │   ├── MissingExtra     a package that is not installed, and what brings it; an ImportError too
    │   ├── PipelineError    a model that cannot be cut so, or parts that do not fit together
    │   │   └── BoundaryError    a tensor between two stages of another size, or not finite
    │   ├── StateInUse       another process has the state directory
    │   ├── JoinError        the host of a ticket refuses
    │   ├── EntryError       the run trains something else than this member
    │   ├── SwarmTimeout     nobody handed out the shared state in time
    │   ├── OptimizerUndoes  an optimizer writes a copy of its own over what landed
    │   └── TrainingDiverged    what a worker trains to is not finite again and again: it left the run
    ├── DeviceFailed         a worker's device is out of memory, or lost: it left the run
    ├── SiteBroken           a rank of a site is gone, or failed: the site has left the run
    ├── SwarmClosed          the swarm is closed, or its network thread has ended
    └── CodecError           numbers or bytes that a codec cannot take; a ValueError too
        ├── NonFinite        values that are infinite, not a number or too large
        │   └── NonFiniteContribution    a worker trained to them; they are never offered
        └── WrongSize        a payload of another size than its elements need

Faults of peers and of the network have trees of their own in `peers` and `transport`. Nothing here needs
torch.
"""

from __future__ import annotations

from collections.abc import Sequence


class DilocoError(Exception):
    """Any error of this package that a caller may want to catch."""


class UserError(DilocoError):
    """A person can mend it: the text is for them, without a traceback."""


class SettingsError(UserError):
    """Settings that are not valid; ``problems`` holds one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class MethodError(UserError):
    """An unknown method, or a combination of its parts that cannot work, with the reason."""


class LayoutError(UserError):
    """A model whose parameters cannot be shared as they are."""


class StateError(UserError):
    """Outer state that does not fit this model or is not finite."""


class CheckpointError(UserError):
    """Files that hold no checkpoint, are damaged, or are of another format, run or model."""


class TextError(UserError):
    """Training text that is missing, empty or unreadable."""


class RecipeError(UserError):
    """A recipe that cannot be found or loaded from this machine."""


class MissingExtra(UserError, ImportError):
    """Something needs a package that is not installed: the text says what, and what to install."""


class PipelineError(UserError):
    """A model that cannot be cut into these stages, or parts that do not fit together."""


class BoundaryError(PipelineError):
    """A tensor between two stages, or a loss, that is of another shape or dtype than was agreed on, or not
    finite."""


class StateInUse(UserError):
    """Another process has the state directory: ``who`` says which, the text what to do as well."""

    def __init__(self, who: str, otherwise: str) -> None:
        super().__init__(f"{who}: {otherwise}")
        self.who = who


class JoinError(UserError):
    """The host refuses: ``code`` for programs, the text for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class EntryError(UserError):
    """This member differs from the run in ``code`` (settings, tensors, shapes, codec, fragments,
    protocol), or the run is full, over, cannot reach it, or its owner has put it out."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class SwarmTimeout(UserError):
    """The shared state did not come in time."""


class OptimizerUndoes(UserError):
    """The step after a landing undid it: an optimizer keeps a copy of the parameters that nobody renewed."""


class TrainingDiverged(UserError):
    """What this worker trains to was not finite so many times in a row that it left the run."""


class DeviceFailed(DilocoError):
    """The device that a worker trains on is out of memory, or lost: it has left the run, with the reason."""


class SiteBroken(DilocoError):
    """A rank of a site is gone or failed, so that its others train no further: the site has left the run."""


class SwarmClosed(DilocoError):
    """There is no swarm any more: it was closed, its network thread ended, or a newer process took over."""


class CodecError(DilocoError, ValueError):
    """A tensor or a payload that a codec cannot take: its own worker trained to it, or a peer sent it."""


class NonFinite(CodecError):
    """Values that are infinite, not a number, or beyond what the codec can hold; ``count`` of them."""

    def __init__(self, count: int, what: str) -> None:
        super().__init__(f"{count} {what}")
        self.count = count
        self.what = what


class NonFiniteContribution(NonFinite):
    """What a worker learned cannot be offered: ``count`` of its values are not finite or too large."""


class WrongSize(CodecError):
    """A payload of another size than the codec implies for this many elements."""
