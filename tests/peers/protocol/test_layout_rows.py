"""Where two layouts differ first, told from two bytes a tensor."""

from __future__ import annotations

import pytest

from peers.protocol.fields import MAX_ROW_GROUPS
from peers.protocol.layout_rows import first_difference, row_prints, tell_rows

ROWS = [f"0 layers.{i}.weight 4x4 float32" for i in range(300)]


def text(rows: list[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


@pytest.mark.parametrize("at", [0, 3, 9])
@pytest.mark.parametrize("change", ["0 layer.weight 4x4 float32", "0 layers.3.weight 4x5 float32"])
def test_of_a_small_model_the_tensor_is_named(at: int, change: str) -> None:
    rows, theirs = ROWS[:10], ROWS[:10]
    theirs[at] = change
    assert first_difference(row_prints(text(rows)), row_prints(text(theirs))) == (at, 1)
    _, name, shape, dtype = change.split()
    said = tell_rows(text(theirs), at, 1)
    assert said == f"the first tensor that differs is this member's {name} {shape} {dtype} (fragment 0)"


@pytest.mark.parametrize("num_theirs", [MAX_ROW_GROUPS - 1, MAX_ROW_GROUPS, 200, 300])
@pytest.mark.parametrize("num_rows", [MAX_ROW_GROUPS, MAX_ROW_GROUPS + 1, 300])
def test_of_large_models_of_any_two_sizes_a_few_tensors_are_named(num_rows: int, num_theirs: int) -> None:
    theirs = [*ROWS[:40], "0 other 4x4 float32", *ROWS[41:num_theirs]]
    found = first_difference(row_prints(text(ROWS[:num_rows])), row_prints(text(theirs)))
    assert found is not None
    first, count = found
    assert first <= 40 < first + count
    assert count <= 4
    assert len(row_prints(text(ROWS))) <= 1 + 2 * MAX_ROW_GROUPS
    if count > 1:
        assert tell_rows(text(theirs), first, count).endswith(f"up to layers.{first + count - 1}.weight")


def test_a_model_that_goes_on_where_the_other_ends_is_told() -> None:
    ours, theirs = text(ROWS[:10]), text(ROWS[:7])
    assert first_difference(row_prints(ours), row_prints(theirs)) == (7, 1)
    assert "after its 7 tensors" in tell_rows(theirs, 7, 1)
    assert "layers.7.weight" in tell_rows(ours, 7, 1)


def test_layouts_that_are_equal_and_prints_that_nobody_sent_say_nothing() -> None:
    assert first_difference(row_prints(text(ROWS)), row_prints(text(ROWS))) is None
    for ours, theirs in ((b"", b""), (b"", row_prints(text(ROWS))), (row_prints(text(ROWS)), b"")):
        assert first_difference(ours, theirs) is None
    assert tell_rows(b"frozen base 3 float32\n", 0, 1).endswith("base 3 float32 (frozen)")
