"""What ranks compare before they begin."""

from __future__ import annotations

from diloco.training.site_boxes import Box
from diloco.training.site_terms import About, difference

LAYOUT = "0 w 2x3 float32\n0 b 2 float32\n"


def about(layout: str = LAYOUT, optimizers: int = 1, tells_tokens: bool = False) -> About:
    return About(layout, [[Box((0, 0), (2, 3)), Box((0,), (2,))], []], optimizers, tells_tokens, "ab")


def test_it_comes_back_from_its_text() -> None:
    assert About.from_text(about().to_text()) == about()


def test_equal_ranks_go_together() -> None:
    assert difference([about()] * 3) == ""


def test_the_first_tensor_that_differs_is_shown_with_its_rank() -> None:
    other = about(LAYOUT.replace("0 b 2", "0 b 3"))
    found = difference([about(), about(), other])
    assert found.endswith("b 2 float32 on rank 0, b 3 float32 on rank 2")
    assert difference([about(), about("0 w 2x3 float32\n")]).endswith(
        "b 2 float32 on rank 0, nothing on rank 1"
    )


def test_ranks_with_other_optimizers_or_another_way_of_telling_tokens_do_not() -> None:
    assert "2 optimizers on rank 0, and 1 on rank 1" in difference([about(optimizers=2), about()])
    assert "None on rank 1 alone" in difference([about(), about(tells_tokens=True)])
