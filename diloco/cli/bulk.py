"""What the command line says and is told about bulk lanes and uploads."""

from __future__ import annotations

import diloco
from diloco.units import parse_rate
from transport.sockets.aes_hardware import has_fast_aes

NO_AES = "this processor has no AES instructions"


def upload_bps(text: str | None) -> float | None:
    """Bits per second of ``--max-upload``. Raises `UserError`."""
    return None if text is None else parse_rate(text)


def bulk_line(swarm: diloco.Swarm) -> str:
    """How bulk goes to and from this process."""
    if not has_fast_aes():
        return f"no bulk lanes: {NO_AES}, so bulk goes over CURVE"
    if swarm.bulk_port is None:
        return "bulk lanes are dialled from here, nobody can open one here"
    return f"bulk lanes at port {swarm.bulk_port}"
