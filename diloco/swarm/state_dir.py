"""The files of a host's or member's state directory: identity, incarnation, invite, port.

Shell code: it reads and writes files and decides nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from diloco.errors import UserError
from diloco.settings import RunSettings
from peers.admission.identity import Identity, next_incarnation


def load_identity(home: Path) -> tuple[Identity, int]:
    """The identity that lives in ``home``, made there on first use, and the number of this life of it, which
    rises with every call. Raises `UserError` for a folder that cannot be made."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"state folder {home} cannot be made: {error.strerror}") from None
    return Identity.load_or_create(home / "identity"), next_incarnation(home / "incarnation")


def run_id_of(identity: Identity, settings: RunSettings) -> bytes:
    """16 bytes that name the run of these settings under this host: with other settings it is another run."""
    return hashlib.sha256(b"diloco run\0" + identity.public + settings.digest()).digest()[:16]


def invite_secret(home: Path) -> bytes:
    """The secret, 16 bytes, of this host's ticket: kept, so that the ticket outlives a restart. Raises
    `UserError` for a file that is damaged."""
    path = home / "invite"
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(16))
    secret = path.read_bytes()
    if len(secret) != 16:
        raise UserError(f"{path} is damaged: delete it, and give out a new ticket")
    return secret


def same_port(home: Path, listen: str) -> str:
    """With port 0, the port of this host's earlier life, so that members find it again."""
    path = home / "port"
    if listen.endswith(":0") and path.exists() and path.read_text().strip().isdigit():
        return f"{listen[:-1]}{path.read_text().strip()}"
    return listen


def remember_port(home: Path, address: str) -> None:
    """Keep the port of ``address`` for `same_port`."""
    (home / "port").write_text(address.rsplit(":", 1)[1])
