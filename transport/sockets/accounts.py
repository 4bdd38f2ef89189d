"""What was read of each connection that others opened, and of whom: one account per descriptor.

A descriptor is given out anew as soon as its connection has ended, and messages of the older one may be read
after that. An account that may be of either never makes a connection look as if it held more than it does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from transport.sockets.kernel import Handle, remote, taken_in


@dataclass(slots=True)
class Account:
    """One connection over which a message came."""

    peer: bytes
    route: bytes
    """The id that the socket gave the connection."""
    handle: Handle
    num_read: int
    """Bytes of its messages, as on the wire."""


class Accounts:
    """All accounts, by descriptor."""

    def __init__(self) -> None:
        self._by_descriptor: dict[int, Account] = {}

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def read(self, descriptor: int, route: bytes, peer: bytes, num_bytes: int) -> None:
        """A message of so many bytes was read."""
        account = self._by_descriptor.get(descriptor)
        if account is None or account.route != route:
            account = self._open(account, descriptor, route, peer)
            if account is None:
                return
        account.num_read += num_bytes

    def find(self, handle: Handle) -> Account | None:
        """That of a connection."""
        account = self._by_descriptor.get(handle[0])
        return account if account is not None and account.handle == handle else None

    def handles(self) -> list[Handle]:
        """Those of all connections that have one."""
        return [account.handle for account in self._by_descriptor.values()]

    def held(self, taken: Mapping[Handle, int | None], fresh: Collection[Handle]) -> dict[Handle, int]:
        """What libzmq holds of each connection, given what it took from the kernel (None: it is gone)."""
        found: dict[Handle, int] = {}
        for handle, num_taken in taken.items():
            account = self.find(handle)
            if num_taken is None:
                self.close(handle)
            elif account is not None:
                found[handle] = num_taken - account.num_read
            elif handle in fresh:
                found[handle] = num_taken
        return found

    def close(self, handle: Handle) -> None:
        """The connection is gone, or is being broken."""
        if self.find(handle) is not None:
            del self._by_descriptor[handle[0]]

    def _open(self, before: Account | None, descriptor: int, route: bytes, peer: bytes) -> Account | None:
        handle = remote(descriptor)
        if handle is None:
            self._by_descriptor.pop(descriptor, None)
            return None
        # Two ids over one connection: one of them is left from an older one. Counting begins here.
        num_read = (taken_in(handle) or 0) if before is not None and before.handle == handle else 0
        opened = self._by_descriptor[descriptor] = Account(peer, route, handle, num_read)
        return opened
