"""Who this peer is: one Ed25519 seed in a file that only its owner may read.

The CURVE pair of its links derives from the same seed, so there is one secret to keep. Beside it
lies the incarnation, a number that grows with every start, so that others tell a restarted peer from
its former life (S13). It decides nothing about who is admitted. Keeps X7.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from filelock import FileLock

from peers.errors import IdentityError
from transport.keys import KeyPair, curve_pair, short

_MAGIC = "diloco-identity-2"
_SEED_BYTES = 32
_CHECK_DIGITS = 8


class Identity:
    """One peer's signing key and the key pair of its links."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != _SEED_BYTES:
            raise ValueError(f"an identity seed has {_SEED_BYTES} bytes, not {len(seed)}")
        self._signer = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._signer.public_key().public_bytes_raw()
        self.keys: KeyPair = curve_pair(seed, b"diloco identity curve 1")
        self.control: KeyPair = curve_pair(seed, b"diloco identity control 1")
        """Opens this identity's own door for orders: whoever can read the seed, and nobody else."""

    def __repr__(self) -> str:
        return f"Identity({short(self.public)})"

    @classmethod
    def ephemeral(cls) -> Identity:
        """A new identity that no file keeps."""
        return cls(secrets.token_bytes(_SEED_BYTES))

    @classmethod
    def load_or_create(cls, path: str | Path) -> Identity:
        """The identity in a file, made on first use with mode 0600. Raises `IdentityError`."""
        path = Path(path)
        try:
            if not path.exists():
                _create(path, secrets.token_bytes(_SEED_BYTES))
            return cls(_read(path))
        except OSError as error:
            raise IdentityError(f"cannot use the identity file {path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: str | Path) -> Identity | None:
        """The identity in a file, or None where there is no file. Raises `IdentityError`."""
        return cls.load_or_create(path) if Path(path).exists() else None

    def sign(self, tag: bytes, data: bytes) -> bytes:
        """A 64-byte signature over ``data`` that is worth nothing under another ``tag``."""
        return self._signer.sign(_tagged(tag, data))


def verify(public: bytes, tag: bytes, data: bytes, signature: bytes) -> bool:
    """Whether the holder of the Ed25519 key ``public`` signed ``data`` under ``tag``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _tagged(tag, data))
    except (InvalidSignature, ValueError):
        return False
    return True


def next_incarnation(path: str | Path, now_ms: Callable[[], int] | None = None) -> int:
    """The number of this start: above every earlier one kept in ``path``, and at least the unix
    time in milliseconds, so that it grows even when the file was lost. Durable when it returns."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock"), mode=0o600):
            before = _stored_incarnation(path)
            number = max(before + 1, now_ms() if now_ms else time.time_ns() // 1_000_000)
            replace_private(path, lambda aside: aside.write_bytes(f"{number}\n".encode()))
    except OSError as error:
        raise IdentityError(f"cannot keep the incarnation in {path}: {error.strerror}") from None
    return number


def _tagged(tag: bytes, data: bytes) -> bytes:
    if not 1 <= len(tag) <= 255:
        raise ValueError(f"a tag has 1 to 255 bytes, not {len(tag)}")
    return bytes([len(tag)]) + tag + data


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise IdentityError(f"the identity {path} is no ordinary file; name another one")
        if mode & 0o077:
            raise IdentityError(f"others may read the identity file {path}; run: chmod 600 {path}")
        text = file.read(256)
    words = text.decode("ascii", "replace").split()
    try:
        seed = base64.b32decode(words[1].upper() + "=" * (-len(words[1]) % 8))
    except (IndexError, binascii.Error, ValueError):
        seed = b""
    # With one bit flipped a seed is another identity, which nobody knows.
    if len(seed) != _SEED_BYTES or words != _content(seed).split():
        raise IdentityError(
            f"{path} holds no identity, or is damaged: put a copy back, name another file, or remove it to "
            "get a new one"
        )
    return seed


def _content(seed: bytes) -> str:
    text = base64.b32encode(seed).decode("ascii").rstrip("=").lower()
    return f"{_MAGIC} {text} {hashlib.sha256(seed).hexdigest()[:_CHECK_DIGITS]}\n"


def _create(path: Path, seed: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written_aside(path) as temporary:
        temporary.write_bytes(_content(seed).encode("ascii"))
        _sync(temporary)
        with suppress(FileExistsError):
            # A link never replaces: of two processes that start at once, both get the first one's.
            os.link(temporary, path)
    _sync(path.parent)


def replace_private(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file beside ``path`` that others cannot read, and put it in its place once it is
    on the disk: after a crash there is the old one or the new one."""
    with _written_aside(path) as aside:
        write(aside)
        _sync(aside)
        os.replace(aside, path)
    _sync(path.parent)


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``; gone at the end if it is still there."""
    # mkstemp opens with O_EXCL and mode 0600.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stored_incarnation(path: Path) -> int:
    try:
        text = path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise IdentityError(f"{path} holds no incarnation number; remove the file to start from the clock")
    return int(text)
