"""Which changes of the cores does a test notice? Draws mutants, runs them, and prints the score.

    scripts/mutate --sample 400 --seed 1          what came so far is in --out: begun again, it goes on there
    scripts/mutate --sample 400 --seed 1 --again  those that survived once more, after a test was written
    scripts/mutate --sample 40 --seed 2 --only peers/links.py
    scripts/mutate --sample 400 --seed 1 --seeds  survivors against simulated swarms as well
    scripts/mutate --sample 400 --seed 1 --report nothing is run: what came so far

Mutants are drawn evenly over the files of `peers/` and `transport/`, but for shells around sockets. All of it
runs in a copy of the checkout.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from mutation.lines import Table
from mutation.operators import Mutant, mutants_of, mutated
from mutation.runner import Child, import_heavy_modules, run_seeds, run_tests, start
from mutation.score import ALIVE, BY_SEEDS, Equivalent, Result, equivalents_in, summary

ROOT = Path(__file__).resolve().parents[2]
CORES = ("peers", "transport")
UNIT_TESTS = ("tests/transport", "tests/peers", "tests/scenarios")
SHELLS = {
    f"transport/sockets/{name}.py"
    for name in ("accepted", "descriptors", "dialled", "driver", "lane", "libzmq", "traces")
} | {"peers/protocol/traces.py"}
"""What `tests/net` and `tests/hostile` run with real sockets, and what only names facts for people."""
FAULT_RICH = (7, 198, 203, 224, 10, 11, 14, 28, 35, 36, 38, 53, 61, 80, 81, 90, 101, 120, 62, 104, 145, 174)
"""Seeds of `tests/sim` in which much goes wrong."""
SEEDS_TRIED = f"{len(FAULT_RICH)} seeds"
"""Beside a mutant that lived through them, so that they are not run again."""
LIMIT_S, SEEDS_LIMIT_S = 30.0, 240.0


def main() -> int:
    args = arguments()
    sources = {file: (ROOT / file).read_text() for file in core_files() if args.only in file}
    drawn = draw(sources, args.sample, args.seed)
    done = read_results(args.out, sources)
    wanted = [mutant for mutant in drawn if to_be_run(mutant, done, args.again)]
    if not args.report and (wanted or args.seeds):
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            run_all(copy_of_checkout(Path(folder)), sources, drawn, wanted, done, args)
    results = [done[mutant.name] for mutant in drawn if mutant.name in done]
    print("\n".join(summary(results, listed())))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, required=True, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--again", action="store_true", help="run those that survived once more")
    parser.add_argument("--seeds", action="store_true", help="run survivors against simulated swarms too")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"), help="where results are kept")
    return parser.parse_args()


# -- which mutants --------------------------------------------------------------------------------


def core_files() -> list[str]:
    found = [path.relative_to(ROOT).as_posix() for folder in CORES for path in (ROOT / folder).rglob("*.py")]
    return sorted(set(found) - SHELLS)


def draw(sources: dict[str, str], sample: int, seed: int) -> list[Mutant]:
    """As many of each file as there are of any, as far as it has so many."""
    rng = random.Random(seed)
    piles = []
    for file, source in sources.items():
        pile = mutants_of(file, source)
        rng.shuffle(pile)
        piles.append(pile)
    drawn: list[Mutant] = []
    while len(drawn) < sample and any(piles):
        rng.shuffle(piles)
        drawn += [pile.pop() for pile in piles if pile][: sample - len(drawn)]
    return drawn


def for_seeds(drawn: list[Mutant], done: dict[str, Result], listed: list[Equivalent]) -> list[Mutant]:
    """Those that no unit test told apart, that no seed was tried against, and that are not listed."""
    return [
        mutant
        for mutant in drawn
        if (found := done.get(mutant.name)) is not None
        and found.outcome in ALIVE
        and not found.by
        and not any(each.is_of(mutant) for each in listed)
    ]


def listed() -> list[Equivalent]:
    return equivalents_in(Path(__file__).with_name("equivalent.toml"))


def to_be_run(mutant: Mutant, done: dict[str, Result], again: bool) -> bool:
    found = done.get(mutant.name)
    return found is None or (again and found.outcome in ALIVE)


# -- results on disk ------------------------------------------------------------------------------


def read_results(path: Path, sources: dict[str, str]) -> dict[str, Result]:
    """What came of mutants so far; results about a file that has changed since are void."""
    found: dict[str, Result] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        plain = json.loads(line)
        mutant = Mutant(**plain.pop("mutant"))
        if plain.pop("source") == name_of(sources.get(mutant.file, "")):
            found[mutant.name] = Result(mutant, **plain)
    return found


def keep(path: Path, result: Result, sources: dict[str, str]) -> None:
    with path.open("a") as file:
        print(json.dumps({**asdict(result), "source": name_of(sources[result.mutant.file])}), file=file)


def name_of(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


# -- running --------------------------------------------------------------------------------------


def copy_of_checkout(folder: Path) -> Path:
    for name in (*CORES, "diloco", "tests", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lines_of(root: Path, kept: Path) -> Table:
    """Which test runs which line: all unit tests are run once for that, unless nothing has changed since."""
    texts = [
        path.read_bytes() for each in (*CORES, *UNIT_TESTS) for path in sorted((root / each).rglob("*.py"))
    ]
    path = kept.with_suffix(f".{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}.lines")
    if path.exists():
        return Table(path)
    say("which test runs which line ...")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mutation.lines", "-p", "no:cacheprovider"]
    command += ["--timeout=600", f"--lines-of={','.join(CORES)}", f"--lines-to={path}", *UNIT_TESTS]
    pythonpath = os.pathsep.join([str(root), str(root / "scripts")])
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": pythonpath}, capture_output=True, text=True
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode and not failed:
        raise SystemExit(f"the unit tests do not run:\n{done.stdout[-2000:]}")
    for line in failed:
        say(f"left out, as it fails without a mutant: {line}")
    return Table(path)


def run_all(
    root: Path,
    sources: dict[str, str],
    drawn: list[Mutant],
    wanted: list[Mutant],
    done: dict[str, Result],
    args: argparse.Namespace,
) -> None:
    import_heavy_modules()
    os.chdir(root)
    sys.path[:0] = [str(root)]
    out = args.out if args.out.is_absolute() else ROOT / args.out
    if wanted:
        table = lines_of(root, out)
        chosen = {mutant.name: tests_for(table, sources, mutant) for mutant in wanted}
        check_without_mutant(root, sources, table)
        run_pool(root, sources, wanted, done, out, args.jobs, chosen)
    if args.seeds:
        run_pool(root, sources, for_seeds(drawn, done, listed()), done, out, args.jobs, None)


def check_without_mutant(root: Path, sources: dict[str, str], table: Table) -> None:
    """A child whose module is as it was must pass, or every mutant would count as killed."""
    file = next(iter(sources))
    tests = table.tests[:: max(1, len(table.tests) // 50)]
    told = root / "told"
    child = start(root, file, ast.parse(sources[file]), told, 600.0, lambda: run_tests(root, tests, told))
    while (found := child.outcome()) is None:
        time.sleep(0.02)
    if found[0] != "survived":
        raise SystemExit(f"without a mutant, a test fails in a child: {found[1]}")


def tests_for(table: Table, sources: dict[str, str], mutant: Mutant) -> list[str]:
    """Those that run its line; those that run anything of its file for what runs when it is imported."""
    found = table.covering(mutant.file, mutant.line, whole_file=False)
    if found or not is_run_at_import(sources[mutant.file], mutant.line):
        return found
    found = table.covering(mutant.file, mutant.line, whole_file=True)
    folder = mutant.file.split("/")[0]
    return found or [test for test in table.tests if test.startswith(f"tests/{folder}/")]


def is_run_at_import(source: str, number: int) -> bool:
    """Whether a line lies outside of every function."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return not any(f.body[0].lineno <= number <= (f.end_lineno or 0) for f in functions)


def run_pool(
    root: Path,
    sources: dict[str, str],
    wanted: list[Mutant],
    done: dict[str, Result],
    out: Path,
    jobs: int,
    chosen: dict[str, list[str]] | None,
) -> None:
    """Try mutants, so many at a time; against ``chosen`` tests or, without those, simulated swarms."""
    waiting, running = list(reversed(wanted)), dict[int, tuple[Mutant, Child]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            tests = None if chosen is None else chosen[mutant.name]
            if tests == []:
                finish(mutant, "uncovered", "", 0.0, sources, done, out)
                continue
            child = begin(root, sources[mutant.file], mutant, tests)
            running[child.pid] = mutant, child
        for mutant, child in list(running.values()):
            if (found := child.outcome()) is None:
                continue
            del running[child.pid]
            outcome, by = found
            if chosen is None:
                survived = outcome == "survived"
                outcome = done[mutant.name].outcome if survived else BY_SEEDS
                by = SEEDS_TRIED if survived else by
            finish(mutant, outcome, by, time.monotonic() - child.began_at, sources, done, out)
        time.sleep(0.02)


def begin(root: Path, source: str, mutant: Mutant, tests: list[str] | None) -> Child:
    tree = mutated(source, mutant.index)
    told = root / f"told-{mutant.index}-{name_of(mutant.name)}"
    if tests is None:
        return start(root, mutant.file, tree, told, SEEDS_LIMIT_S, lambda: run_seeds(FAULT_RICH, told))
    return start(root, mutant.file, tree, told, LIMIT_S, lambda: run_tests(root, tests, told))


def finish(
    mutant: Mutant,
    outcome: str,
    by: str,
    seconds: float,
    sources: dict[str, str],
    done: dict[str, Result],
    out: Path,
) -> None:
    result = Result(mutant, outcome, by, round(seconds, 2))
    done[mutant.name] = result
    keep(out, result, sources)
    say(f"{outcome:<15} {seconds:5.1f} s  {mutant.name}  {by}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
