"""What to do where the address of a host is one that only machines near it can dial: sentences for people.

Which addresses these are is `transport.addresses`' affair. Decides nothing: who starts a host may well want
no more than its own network.
"""

from __future__ import annotations

from transport.addresses import Near, parts, reach

_NEAR: dict[Near, str] = {
    "machine": "its own machine",
    "network": "its own network",
    "carrier": "its mesh VPN, or its provider's network,",
}
_REMEDIES = (
    "For others forward {ports} at the router to this machine and give --advertise PUBLIC:{port}, or put all "
    "machines into one mesh VPN and give --advertise ITS_ADDRESS:{port}, or run the host on a small rented "
    "machine with a public address: it needs neither a GPU nor torch"
)


def limited_reach(address: str, bulk_port: int | None) -> str | None:
    """What a host says of such an address in its ticket; None where nothing is to be said."""
    found, near = parts(address), reach(address)
    if found is None or near is None:
        return None
    port = found[1]
    ports = f"port {port}" if bulk_port is None else f"ports {port} and {bulk_port}"
    said = f"{found[0]} in the ticket can be reached from {_NEAR[near]} alone."
    if near == "machine":
        return f"{said} To let others in, start the host with --listen 0.0.0.0:{port}"
    return f"{said} {_REMEDIES.format(ports=ports, port=port)}"


def why_silent(addresses: tuple[str, ...]) -> str:
    """What a joiner is told beside that nobody answers; empty where the addresses do not say why."""
    for each in addresses:
        if (near := reach(each)) is not None:
            return (
                f"{each} in the ticket can be reached from {_NEAR[near]} alone: from elsewhere its host "
                "needs a forwarded port or a mesh VPN (diloco host --advertise), or a public address"
            )
    return ""
