"""The files of a host's or member's state directory: identity, incarnation, invite, address, and whose it is.

Shell code: it reads and writes files and decides nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from diloco.errors import UserError
from diloco.settings import RunSettings
from peers.admission.identity import Identity, next_incarnation, replace_private
from transport.addresses import valid_address

_SECRET_BYTES = 16


def default_state() -> Path:
    """Where folders are made for hosts and workers that were given none. Raises `UserError` for an account
    without a home, as containers have."""
    try:
        return Path.home() / ".local" / "state" / "diloco"
    except RuntimeError:
        raise UserError(
            "this account has no home folder to keep state in: name a folder by --state, or set HOME"
        ) from None


def make_home(home: Path) -> None:
    """A folder that only its owner may look into. Raises `UserError` if it cannot be made."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"state folder {home} cannot be made: {error.strerror}") from None


def load_identity(home: Path) -> tuple[Identity, int]:
    """The identity that lives in ``home``, made there on first use, and the number of this life of it, which
    rises with every call. Raises `UserError` for a folder that cannot be made."""
    make_home(home)
    return Identity.load_or_create(home / "identity"), next_incarnation(home / "incarnation")


def run_id_of(identity: Identity) -> bytes:
    """16 bytes that name the run of this host. They derive from its identity alone: where all else is lost,
    workers still know the run that they were in."""
    return hashlib.sha256(b"diloco run\0" + identity.public).digest()[:16]


def home_of(settings: RunSettings, state: Path | None) -> Path:
    """The state folder of a host: the one that was named, or that of the run's name."""
    return (state or default_state() / settings.run.name).expanduser()


def journal_of(home: Path, run: bytes) -> Path:
    """The journal of a run in its host's state folder."""
    return home / f"journal-{run.hex()[:16]}"


def invite_secret(home: Path, run: bytes, identity: Identity, *, fresh: bool = False) -> bytes:
    """The secret, 16 bytes, of this host's ticket to a run: kept, so that it outlives a restart, until a
    fresh one is asked for. Raises `UserError` for a file that is damaged."""
    path = home / f"invite-{run.hex()[:16]}"
    if fresh:
        path.unlink(missing_ok=True)
    if not path.exists():
        made = secrets.token_bytes(_SECRET_BYTES) if fresh else _first_secret(identity, run)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made + _check(made))
    found = path.read_bytes()
    secret = found[:_SECRET_BYTES]
    if len(secret) != _SECRET_BYTES or found != secret + _check(secret):
        raise UserError(f"{path} is damaged: delete it, and give out a new ticket")
    return secret


def _check(content: bytes) -> bytes:
    """Shows that a bit of a small file was flipped, which would be another port, or another ticket."""
    return hashlib.sha256(content).digest()[:4]


def _first_secret(identity: Identity, run: bytes) -> bytes:
    """Derives from the identity alone: where all else is lost, the first ticket still opens the door."""
    return hashlib.sha256(identity.sign(b"diloco first ticket 1", run)).digest()[:16]


def same_port(home: Path, listen: str) -> str:
    """With port 0, the port of this host's earlier life, so that members find it again. Raises `UserError`
    where that is kept and cannot be read: at another port no worker would look."""
    known = _addresses(home)
    if listen.endswith(":0") and not known and (home / "address").exists():
        raise UserError(
            f"{home / 'address'} is damaged, so the port at which workers look for this host is not known: "
            "name it (--listen tcp://0.0.0.0:PORT), or delete the file for another port and a new ticket"
        )
    return f"{listen[:-1]}{known[0].rpartition(':')[2]}" if listen.endswith(":0") and known else listen


def remember_address(home: Path, address: str, advertised: str) -> None:
    """Keep where this host listens, and what others are told of that. Raises `UserError`; then what was kept
    before stands."""
    path = home / "address"
    text = f"{address}\n{advertised}\n"
    try:
        replace_private(path, lambda aside: aside.write_text(f"{text}{_check(text.encode()).hex()}\n"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def advertised_address(home: Path) -> list[str]:
    """The address that the host of this state directory gives out; empty if it never listened."""
    return _addresses(home)[1:]


def local_address(home: Path) -> list[str]:
    """Where the host of this state directory listens, as seen from its own machine; empty if it never did."""
    return [each.replace("//0.0.0.0:", "//127.0.0.1:") for each in _addresses(home)[:1]]


def _addresses(home: Path) -> list[str]:
    path = home / "address"
    try:
        *found, check = path.read_text(errors="replace").split()
    except (OSError, ValueError):
        return []
    if check != _check("".join(f"{each}\n" for each in found).encode()).hex():
        return []
    dialled = [each.replace("//0.0.0.0:", "//127.0.0.1:") for each in found]  # nobody dials where it listens
    return found if len(found) == 2 and all(map(valid_address, dialled)) else []
