"""`scripts/mutate`: what it changes and leaves alone, whether a child sees the change, and the score."""

from __future__ import annotations

import ast
import os
import signal
from pathlib import Path

import pytest
from mutation.__main__ import SHELLS, core_files, draw, for_seeds, read_results
from mutation.lines import Table
from mutation.operators import Mutant, mutants_of, mutated
from mutation.runner import Child, start, waited_s
from mutation.score import Equivalent, Result, equivalents_in, summary, wilson

ROOT = Path(__file__).parents[1]
SOURCE = '''"""A docstring with 1 number."""
LIMIT = 3


class Some:
    """Text."""

    __slots__ = ("a",)

    def value(self, x: int, y: int = 4) -> int:
        """Text."""
        assert x > 0
        if x < 5 and not y:
            self.a = x + 1
            self.outlet.trace(SomeTrace(number=7))
            raise ValueError(f"{x} is 8")
        return x
'''


def changes() -> list[tuple[int, str]]:
    return [(mutant.line, mutant.change) for mutant in mutants_of("some.py", SOURCE)]


def test_each_place_is_changed_and_text_for_people_is_left_alone() -> None:
    assert changes() == [
        (2, "3 -> 4"),
        (2, "3 -> 2"),
        (10, "value returns at once"),
        (13, "negate"),
        (13, "and -> or"),
        (13, "< -> <="),
        (13, "< -> >="),
        (13, "5 -> 6"),
        (13, "5 -> 4"),
        (13, "drop not"),
        (14, "drop"),
        (14, "+ -> -"),
        (14, "1 -> 2"),
        (16, "drop"),
    ]


def test_a_mutant_differs_from_the_module_in_one_line_and_in_nothing_that_another_changes() -> None:
    before = ast.unparse(ast.parse(SOURCE)).splitlines()
    seen = set()
    for mutant in mutants_of("some.py", SOURCE):
        after = ast.unparse(mutated(SOURCE, mutant.index))
        seen.add(after)
        if "returns at once" not in mutant.change:
            different = [pair for pair in zip(before, after.splitlines(), strict=True) if len(set(pair)) > 1]
            assert len(different) == 1, mutant.name
    assert len(seen) == len(mutants_of("some.py", SOURCE))


def test_every_mutant_of_every_core_can_be_compiled() -> None:
    for mutant in draw({file: (ROOT / file).read_text() for file in core_files()}, 100, seed=5):
        compile(mutated((ROOT / mutant.file).read_text(), mutant.index), mutant.file, "exec")


def test_they_are_drawn_evenly_over_files_and_the_same_for_the_same_seed() -> None:
    sources = {"a.py": "x = 3\n" * 50, "b.py": "x = 3\n" * 50, "c.py": "x = 1\n"}
    drawn = draw(sources, 21, seed=1)
    counts = {file: sum(each.file == file for each in drawn) for file in sources}
    assert counts == {"a.py": 10, "b.py": 10, "c.py": 1}
    assert drawn == draw(sources, 21, seed=1) != draw(sources, 21, seed=2)


def test_the_interval_of_a_share() -> None:
    assert wilson(85, 100) == pytest.approx((0.7672, 0.9069), abs=1e-4)
    assert wilson(0, 10)[0] == pytest.approx(0.0)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_child_that_does_nothing_for_long_hangs_and_one_that_waits_for_a_processor_does_not(
    tmp_path: Path,
) -> None:
    is_ready, ready = os.pipe()

    def work() -> int:
        os.write(ready, b"!")
        signal.pause()
        return 0

    pid = start(tmp_path, "none.py", ast.parse(""), tmp_path / "told", 1000.0, work).pid
    os.read(is_ready, 1)
    long_ago = -1e6
    assert Child(pid, long_ago, 10.0, tmp_path / "told", lambda pid: 1e9).outcome() is None
    assert Child(pid, long_ago, 10.0, tmp_path / "told").outcome() == ("timeout", "more than 50 s")


def test_the_time_without_a_processor_is_known_of_this_process_and_of_none_that_is_gone() -> None:
    assert waited_s(os.getpid()) >= 0.0
    assert waited_s(1 << 30) == 0.0


def test_every_shell_is_a_file_that_there_is() -> None:
    assert [name for name in sorted(SHELLS) if not (ROOT / name).exists()] == []


def mutant(change: str = "3 -> 4", text: str = "x = 3") -> Mutant:
    return Mutant("a.py", 1, 4, change, text, 0)


def test_the_score_counts_no_equivalents_and_tells_seeds_apart() -> None:
    results = [
        Result(mutant("a"), "killed", "a test", 1.0),
        Result(mutant("b"), "timeout", "", 30.0),
        Result(mutant("c"), "killed by seeds", "seed 7", 9.0),
        Result(mutant("d"), "survived", "22 seeds", 1.0),
        Result(mutant("e"), "survived", "", 1.0),
        Result(mutant("f"), "uncovered", "", 1.0),
    ]
    lines = summary(results, [Equivalent("a.py", "x = 3", "e", "the same at all times")])
    told = "\n".join(lines)
    assert "by unit tests: 2 of 5, 40.0%" in told
    assert "with simulated seeds: 3 of 5, 60.0%" in told
    assert "2 of the 3 others were tried against simulated seeds" in told
    assert "a.py:1:4 d" in told
    assert "a.py:1:4 e" not in told


def test_seeds_are_run_against_what_no_unit_test_told_apart_and_only_once() -> None:
    outcomes = {
        "a": ("killed", "a test"),
        "b": ("survived", ""),
        "c": ("survived", "22 seeds"),
        "d": ("uncovered", ""),
        "e": ("survived", ""),
        "f": ("killed by seeds", "seed 7"),
    }
    drawn = [mutant(change) for change in (*outcomes, "never run")]
    done = {m.name: Result(m, *outcomes[m.change], 1.0) for m in drawn if m.change in outcomes}
    listed = [Equivalent("a.py", "x = 3", "e", "the same at all times")]
    assert [m.change for m in for_seeds(drawn, done, listed)] == ["b", "d"]


def test_results_about_a_file_that_has_changed_are_void(tmp_path: Path) -> None:
    from mutation.__main__ import keep

    path = tmp_path / "mutants.jsonl"
    found = Result(mutant(), "killed", "a test", 1.0)
    keep(path, found, {"a.py": "x = 3"})
    assert read_results(path, {"a.py": "x = 3"}) == {found.mutant.name: found}
    assert read_results(path, {"a.py": "x = 4"}) == {}


def test_a_table_finds_the_tests_of_a_line_and_the_quickest_first(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text('{"tests": ["s", "q"], "seconds": [2, 1], "files": {"a.py": {"1": [0, 1], "2": [0]}}}')
    table = Table(path)
    assert table.covering("a.py", 1, whole_file=False) == ["q", "s"]
    assert table.covering("a.py", 3, whole_file=False) == []
    assert table.covering("a.py", 3, whole_file=True) == ["q", "s"]


def test_every_equivalent_is_of_a_line_that_there_is() -> None:
    for each in equivalents_in(ROOT / "scripts" / "mutation" / "equivalent.toml"):
        lines = [line.strip() for line in (ROOT / each.file).read_text().splitlines()]
        assert each.text in lines, each
