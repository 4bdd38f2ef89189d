"""The files of a host's or member's state directory: identity, incarnation, invite, address, and whose it is.

Shell code: it reads and writes files and decides nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from diloco.errors import UserError
from diloco.settings import RunSettings
from peers.admission.identity import Identity, next_incarnation, replace_private
from transport.addresses import valid_address

DEFAULT_STATE = Path.home() / ".local" / "state" / "diloco"
"""Folders of hosts that were given none, by the names of their runs."""


def make_home(home: Path) -> None:
    """A folder that only its owner may look into. Raises `UserError` if it cannot be made."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"state folder {home} cannot be made: {error.strerror}") from None


class HostLock:
    """A host's hold on its state directory: of two hosts the second is refused, since both would append to
    one journal and commit under one identity. The lock ends with the process, however that ends."""

    def __init__(self, home: Path) -> None:
        """Take it. Raises `UserError`, which names the process that has it."""
        make_home(home)
        # Whoever closes the swarm may be on another thread than whoever made it.
        self._lock = FileLock(home / "host.lock", mode=0o600, thread_local=False)
        self._process = home / "host.process"
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            detail = f"state folder {home} is in use by the host {self._holder()}"
            raise UserError(f"{detail}: end that one first, or name another folder (--state)") from None
        except OSError as error:
            raise UserError(f"state folder {home} cannot be locked: {error.strerror}") from None
        try:
            self._process.write_text(f"{os.getpid()} on {socket.gethostname()}\n")
        except OSError as error:
            self._lock.release()
            raise UserError(f"{self._process} cannot be written: {error.strerror}") from None

    def _holder(self) -> str:
        # The other one writes its name right after it has the lock.
        with suppress(OSError):
            if found := self._process.read_text(errors="replace").strip()[:100]:
                return f"with process {found}"
        return "that starts at this moment"

    def release(self) -> None:
        """Let another host have it; more than once changes nothing."""
        self._lock.release()


def load_identity(home: Path) -> tuple[Identity, int]:
    """The identity that lives in ``home``, made there on first use, and the number of this life of it, which
    rises with every call. Raises `UserError` for a folder that cannot be made."""
    make_home(home)
    return Identity.load_or_create(home / "identity"), next_incarnation(home / "incarnation")


def run_id_of(identity: Identity, settings: RunSettings) -> bytes:
    """16 bytes that name the run of these settings under this host: with other settings it is another run."""
    return hashlib.sha256(b"diloco run\0" + identity.public + settings.digest()).digest()[:16]


def home_of(settings: RunSettings, state: Path | None) -> Path:
    """The state folder of a host: the one that was named, or that of the run's name."""
    return (state or DEFAULT_STATE / settings.run.name).expanduser()


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
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(16) if fresh else _first_secret(identity, run))
    secret = path.read_bytes()
    if len(secret) != 16:
        raise UserError(f"{path} is damaged: delete it, and give out a new ticket")
    return secret


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
    try:
        replace_private(path, lambda aside: aside.write_text(f"{address}\n{advertised}\n"))
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
    found = path.read_text(errors="replace").split() if path.exists() else []
    dialled = [each.replace("//0.0.0.0:", "//127.0.0.1:") for each in found]  # nobody dials where it listens
    return found if len(found) == 2 and all(map(valid_address, dialled)) else []
