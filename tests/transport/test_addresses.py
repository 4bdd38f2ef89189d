"""What an address looks like: a name or four numbers and a port, and nothing that means "any"."""

from __future__ import annotations

import pytest

from transport.addresses import ADDRESS_BYTES, is_numeric, parts, reach, valid_address, with_scheme


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("tcp://203.0.113.5:7000", ("203.0.113.5", 7000)),
        ("tcp://host.example:1", ("host.example", 1)),
        ("tcp://my_host-2:65535", ("my_host-2", 65535)),
        (f"tcp://{'a' * (ADDRESS_BYTES - 8)}:1", ("a" * (ADDRESS_BYTES - 8), 1)),
    ],
)
def test_what_can_be_dialled_has_a_host_and_a_port(address: str, found: tuple[str, int]) -> None:
    assert parts(address) == found
    assert valid_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host:1",
        "tcp://host",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://host:0x1",
        "tcp://host:07",
        "tcp://*:7000",
        "tcp://0.0.0.0:7000",
        "tcp://:7000",
        "tcp://host:*",
        "tcp://eth0;10.0.0.1:7000",
        "tcp://[::1]:7000",
        "tcp://h\u00f6st:1",
        "tcp://host:\u0661",
        "tcp://host:1\n",
        "ipc:///tmp/socket",
        "inproc://zeromq.zap.01",
        "udp://host:1",
        "TCP://host:1",
        f"tcp://{'a' * (ADDRESS_BYTES - 7)}:1",
    ],
)
def test_anything_else_cannot(address: str) -> None:
    assert parts(address) is None
    assert not valid_address(address)


def test_a_number_is_told_from_a_name() -> None:
    assert all(map(is_numeric, ("1.2.3.4", "255.255.255.255", "127.0.0.1")))
    assert not any(
        map(is_numeric, ("1.2.3", "256.1.1.1", "1.2.3.4.5", "01.2.3.4", "host", "0x7f.0.0.1", "1"))
    )


def test_a_scheme_may_be_left_out_and_another_one_stays() -> None:
    assert with_scheme("0.0.0.0:7000") == with_scheme("tcp://0.0.0.0:7000") == "tcp://0.0.0.0:7000"
    assert with_scheme("ipc://x") == "ipc://x"


def test_an_address_says_from_where_alone_it_can_be_dialled() -> None:
    assert reach("tcp://127.3.2.1:1") == reach("tcp://localhost:1") == "machine"
    assert reach("tcp://172.16.0.1:1") == "network"
    assert reach("tcp://100.127.0.1:1") == "carrier"
    assert reach("tcp://172.15.0.1:1") is reach("tcp://host.example:1") is reach("nonsense") is None
