"""What a host says of an address that only machines near it can dial, and what a joiner hears there."""

from __future__ import annotations

import pytest

from diloco.swarm.reach import limited_reach, why_silent


@pytest.mark.parametrize("number", ["192.168.1.5", "10.0.0.1", "172.31.255.1", "169.254.3.3", "100.64.0.9"])
def test_a_private_address_in_a_ticket_says_so_with_all_three_remedies(number: str) -> None:
    line = limited_reach(f"tcp://{number}:7000", 7001)
    assert line is not None
    assert line.startswith(f"{number} in the ticket can be reached from its ")
    assert "forward ports 7000 and 7001 at the router" in line
    assert "--advertise PUBLIC:7000" in line
    assert "mesh VPN" in line
    assert "small rented machine" in line
    assert "\n" not in line


def test_without_bulk_lanes_one_port_is_to_be_forwarded() -> None:
    assert "forward port 7000 at the router" in str(limited_reach("tcp://10.0.0.1:7000", None))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_host_that_only_its_own_machine_reaches_is_told_to_listen_elsewhere(host: str) -> None:
    line = str(limited_reach(f"tcp://{host}:7000", 7001))
    assert line.startswith(f"{host} in the ticket can be reached from its own machine alone.")
    assert line.endswith("--listen 0.0.0.0:7000")


@pytest.mark.parametrize("host", ["203.0.113.5", "host.example", "172.32.0.1", "100.128.0.1", "10.example"])
def test_nothing_is_said_of_what_perhaps_all_can_dial(host: str) -> None:
    assert limited_reach(f"tcp://{host}:7000", 7001) is None
    assert why_silent((f"tcp://{host}:7000",)) == ""


def test_a_joiner_that_hears_nothing_is_told_from_where_alone_the_host_can_be_reached() -> None:
    assert "192.168.1.5:7000 in the ticket can be reached from its own network alone" in why_silent(
        ("tcp://192.168.1.5:7000",)
    )
    assert "from its own machine alone" in why_silent(("tcp://203.0.113.5:7", "tcp://127.0.0.1:7000"))
