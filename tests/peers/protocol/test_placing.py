"""The question for a stage, and its answer: bounded fields, and nothing else."""

from __future__ import annotations

import pytest

from peers.protocol.placing import ANY_STAGE, AskStage, StageIs
from transport.errors import BadFrame
from transport.frames import pack, unpack


@pytest.mark.parametrize("said", [AskStage(), AskStage(1 << 62, 63), AskStage(0, ANY_STAGE), StageIs(63)])
def test_it_comes_as_it_was_said(said: AskStage | StageIs) -> None:
    assert unpack(pack(said)) == said


@pytest.mark.parametrize(
    "said", [AskStage(-1), AskStage(1 << 63), AskStage(0, -2), AskStage(0, 64), StageIs(64)]
)
def test_what_no_run_has_is_no_message(said: AskStage | StageIs) -> None:
    with pytest.raises(BadFrame, match="outside"):
        unpack(pack(said))
