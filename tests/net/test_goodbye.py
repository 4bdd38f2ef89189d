"""A script that ends, however, says goodbye: nobody has to notice that it is gone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import diloco
from peers.protocol.traces import RemovedTrace
from tests.net.swarm_kit import eventually
from tests.net.swarm_processes import Processes, settings
from transport.effects import Trace

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import sys
import torch
import diloco

model = torch.nn.Linear(10, 10)
swarm = diloco.join("@" + sys.argv[1], listen="tcp://127.0.0.1:0", name="w0")
outer = diloco.Outer(model, torch.optim.SGD(model.parameters(), lr=0.1), swarm, 1, print)
outer.enter(60.0)
if sys.argv[2] == "error":
    raise KeyError("a bug of the script")
"""


@pytest.mark.parametrize("how", ["end", "error"])
def test_a_script_that_ends_without_closing_says_goodbye(how: str, tmp_path: Path) -> None:
    run = settings(rounds=200, failure_timeout_s=300.0)
    traces: list[Trace] = []
    with (
        diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path / "host", on_trace=traces.append) as host,
        Processes(tmp_path, 0) as workers,
    ):
        workers.ticket.write_text(host.ticket)
        workers.run("w0", [sys.executable, "-c", SCRIPT, str(workers.ticket), how])
        assert workers.processes["w0"].wait(80) == (how == "error"), workers.words("w0")
        # With a failure timeout of five minutes it would still be here.
        gone = eventually(lambda: [each for each in traces if isinstance(each, RemovedTrace)])
        assert [each.reason for each in gone] == ["left: the interpreter ends"]
