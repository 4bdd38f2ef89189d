"""`docs/invariants.md` has every number that the repository names, and each of its tests exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "invariants.md"
NUMBER = re.compile(r"\b(?:[SLRXD]|DU|PP)\d{1,2}\b")
ENTRY = re.compile(r"^- \*\*((?:[SLRXD]|DU|PP)\d{1,2})\*\* ", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
SEARCHED = ("transport", "peers", "diloco", "tests", "scripts", "examples", "docs")


def entries(text: str) -> dict[str, str]:
    """What follows each number, up to the next entry or heading."""
    parts = ENTRY.split(re.sub(r"^#.*$", "- **END** ", text, flags=re.MULTILINE))
    return {
        number: said.partition("- **END**")[0] for number, said in zip(parts[1::2], parts[2::2], strict=True)
    }


HELD, NOT_YET = map(entries, PAGE.read_text(encoding="utf-8").split("\n## Not yet\n"))


@cache
def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def named_in_the_repository() -> dict[str, str]:
    """Every number, with a file that names it."""
    paths = [
        path for folder in SEARCHED for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")
    ]
    found: dict[str, str] = {}
    for path in [*paths, *ROOT.glob("*.md")]:
        if path not in (PAGE, Path(__file__)):
            for number in NUMBER.findall(path.read_text(encoding="utf-8")):
                found.setdefault(number, path.relative_to(ROOT).as_posix())
    return found


def test_every_number_that_is_named_anywhere_is_on_the_page() -> None:
    named = named_in_the_repository()
    assert len(named) > 25, "numbers are found"
    missing = {number: where for number, where in named.items() if number not in HELD | NOT_YET}
    assert not missing


def test_every_entry_is_held_by_a_test_or_says_why_not() -> None:
    without = [number for number, said in HELD.items() if not TEST.search(said)]
    assert not without
    assert all(len(said.split()) > 10 for said in NOT_YET.values()), "a reason"


def test_every_test_that_the_page_names_exists() -> None:
    gone = [
        f"{number}: {path}::{name}"
        for number, said in HELD.items()
        for path, name in TEST.findall(said)
        if not (ROOT / path).is_file() or name not in names_in(ROOT / path)
    ]
    assert not gone, "\n".join(gone)
    assert sum(said.count("::") for said in HELD.values()) == sum(len(TEST.findall(s)) for s in HELD.values())
