"""Has the kernel drop a part of the requests for new connections, before anybody is woken for them.

A classic BPF program on the listening socket looks at packets that begin a connection (SYN without ACK) and
at nothing else, and drops by chance. Who is dropped asks again by itself: TCP does so after 1, 3 and 7
seconds. Connections inherit the program, and none of their packets is one that it looks at. Linux only: other
systems let all in. IPv4, as all our sockets are.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress

from transport.floods import OTHERS
from transport.sockets.kernel import borrowed

_ATTACH, _DETACH = 26, 27
"""SO_ATTACH_FILTER and SO_DETACH_FILTER."""
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_BYTE, _LOAD_WORD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x35, 0x06
_FLAGS, _SOURCE, _RANDOM = 13, 0xFFF0000C, 0xFFFFF038
"""Offset of TCP's flags; of the sender in the IP header; and where a random word is."""
_SYN, _SYN_ACK = 0x02, 0x12
_WHOLE = 0xFFFFFFFF

Instruction = tuple[int, int, int, int]


def let_in(descriptor: int, shares: Mapping[str, float]) -> bool:
    """Let in these shares of the connections that are asked of a listening socket, by address, and all others
    where `OTHERS` has none. Whether the system does that."""
    if sys.platform != "linux":
        return False
    with suppress(OSError, ValueError), borrowed(descriptor) as sock:
        if shares:
            instructions = program(shares)
            code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*each) for each in instructions))
            sock.setsockopt(
                socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", len(instructions), ctypes.addressof(code))
            )
        else:
            sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
        return True
    return False


def program(shares: Mapping[str, float]) -> list[Instruction]:
    """The program; a jump says how many instructions to leave out if its test holds, and if not."""
    own = [(socket.inet_aton(address), share) for address, share in shares.items() if address != OTHERS]
    begins: list[Instruction] = [
        (_LOAD_BYTE, 0, 0, _FLAGS),
        (_AND, 0, 0, _SYN_ACK),
        (_IF_EQUAL, 1, 0, _SYN),
        (_RETURN, 0, 0, _WHOLE),
        (_LOAD_WORD, 0, 0, _SOURCE),
    ]
    each = [
        instruction
        for address, share in own
        for instruction in ((_IF_EQUAL, 0, 4, int.from_bytes(address, "big")), *_by_chance(share))
    ]
    return [*begins, *each, *_by_chance(shares.get(OTHERS, 1.0))]


def _by_chance(share: float) -> list[Instruction]:
    return [
        (_LOAD_WORD, 0, 0, _RANDOM),
        (_IF_AT_LEAST, 0, 1, min(_WHOLE, int(share * 2**32))),
        (_RETURN, 0, 0, 0 if share < 1.0 else _WHOLE),
        (_RETURN, 0, 0, _WHOLE),
    ]
