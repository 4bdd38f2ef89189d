"""What a new run begins from, as its host's folder remembers it: a path, and a digest of what lies there.

Shell code without torch: it looks which of the two it is, and takes the digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diloco.errors import UserError
from transport.digests import hasher

MANIFEST = "manifest.json"
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OriginFile:
    """Where the first state of a run comes from."""

    path: Path
    digest: bytes
    """Of a checkpoint's manifest, which names its files by theirs, or of a model's file."""


def origin_of(path: Path) -> OriginFile:
    """What lies at ``path``. Raises `UserError` if that is neither a checkpoint nor a model."""
    path = path.expanduser().resolve()
    file = path / MANIFEST if path.is_dir() else path
    if not file.is_file() or (file == path and path.suffix != ".safetensors"):
        raise UserError(
            f"{path} is neither a checkpoint (a folder with a {MANIFEST}, STATE/checkpoints/RUN/INDEX-HEAD) "
            "nor a model (a .safetensors file)"
        )
    whole = hasher()
    try:
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE_BYTES):
                whole.update(piece)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    return OriginFile(path, whole.digest())
