"""`diloco host --adopt` shows whose word it is, asks, and adopts nothing by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

import diloco
from diloco.cli.adopt import adopt_record
from diloco.errors import UserError
from diloco.swarm.swarm import Swarm
from peers.coordinator.adoption import Proposal

FOUND = Proposal(b"h" * 32, 12, 3, 3, (("ann-01", True), ("bob-02", True), ("eve-03", False)))


class Host:
    """Workers that are here from the first moment."""

    def __init__(self, found: Proposal | None) -> None:
        self.settings = diloco.RunSettings()
        self.found = found
        self.adopted: list[bytes | None] = []
        self.ahead: dict[str, int] = {}

    def members_ahead(self) -> dict[str, int]:
        return self.ahead

    def proposed_adoption(self) -> Proposal | None:
        return self.found

    def status(self) -> dict[str, Any]:
        return {"members": [{}, {}]}

    def adopt(self, head: bytes | None) -> bool:
        self.adopted.append(head)
        return True


def record(host: Host, *, yes: bool) -> None:
    adopt_record(cast(Swarm, host), yes=yes, settles_s=0.0)


def test_voters_are_listed_and_with_yes_their_record_is_adopted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = Host(FOUND)
    record(host, yes=True)
    shown = capsys.readouterr().out
    assert "commit 12" in shown
    assert "ends at 3" in shown
    assert "ann-01  holds it" in shown
    assert "eve-03  holds another state" in shown
    assert host.adopted == [FOUND.head]


def test_without_a_person_to_ask_nothing_is_adopted() -> None:
    host = Host(FOUND)
    with pytest.raises(UserError, match="say --yes"):
        record(host, yes=False)
    assert host.adopted == []


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_decides(answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(FOUND)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question: answer)
    if answer:
        record(host, yes=False)
    else:
        with pytest.raises(UserError, match="nothing was adopted"):
            record(host, yes=False)
    assert host.adopted == ([FOUND.head] if answer else [])


def test_where_workers_hold_newer_records_and_most_none_of_them_it_is_said_what_to_do() -> None:
    host = Host(None)
    host.ahead = {"bob-02": 120, "ann-01": 112}
    with pytest.raises(UserError, match=r"ann-01 commit 112, bob-02 commit 120: .* join --resume 112"):
        record(host, yes=True)
    assert host.adopted == []


def test_where_the_journal_is_the_newest_the_run_goes_on_from_it() -> None:
    host = Host(None)
    record(host, yes=False)
    assert host.adopted == [None]


def test_without_the_hosts_identity_there_is_nothing_to_adopt_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no identity.*without --adopt"):
        diloco.host(diloco.RunSettings(), state=tmp_path, adopt=True)
    assert not (tmp_path / "identity").exists()
