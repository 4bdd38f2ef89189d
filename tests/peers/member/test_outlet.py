"""The outlet: a node offers all that its member asks for, and so does the fake of these tests."""

from __future__ import annotations

import inspect

import pytest

from peers.member.outlet import MemberOutlet
from peers.node import Node
from peers.seats import Contact
from tests.peers.member.fakes import FakeOutlet

NODE = Node(bytes(32), 1, Contact(bytes(32), ()), failure_timeout_s=1.0)


@pytest.mark.parametrize("node", [NODE, FakeOutlet()], ids=lambda node: type(node).__name__)
def test_a_node_takes_what_its_member_gives_it(node: MemberOutlet) -> None:
    asked = {name: each for name, each in vars(MemberOutlet).items() if inspect.isfunction(each)}
    asked = {name: each for name, each in asked.items() if name[0] != "_"}
    assert "send_bulk" in asked
    for name, each in asked.items():
        expected = list(inspect.signature(each).parameters)[1:]
        assert list(inspect.signature(getattr(node, name)).parameters) == expected, name
