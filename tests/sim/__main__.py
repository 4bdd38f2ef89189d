"""Replay seeds: one with its trace as a table, or many; a failing one can be shrunk.

scripts/sim --seed 17 --trace        what happened, one column per peer
scripts/sim --seed 17 --shrink       the shortest list of faults that still breaks it
scripts/sim --seeds 0:1000           many, in parallel
scripts/sim --seeds 0:100 --hashes   the hash of each trace, to compare two checkouts
scripts/sim --seeds 0:40 --exchanges 2   outer steps of two exchanges each
scripts/sim --seeds 0:100 --disks        workers have disks, and now and then everybody dies
scripts/sim --seeds 10000:10100 --disks  the same, and what is kept there is drawn too
scripts/sim --seeds 0:400 --stages       the model has two or three stages; also with --disks
scripts/sim --seeds 0:400 --streams      and microbatches travel between its two to four stages
scripts/sim --seeds 0:200 --roles    one peer of each swarm means harm; it goes on where roles.jsonl ends
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.sim.doors import HOST, key_of
from tests.sim.faults import Fault
from tests.sim.roles import resume, table_of
from tests.sim.run import Outcome, outcome_of, outcomes_of, plan

QUIET = ("send", "recv", "tick", "lost", "store")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int)
    which.add_argument("--seeds", help="FROM:TO")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--wire", action="store_true", help="with --trace: frames and ticks too")
    parser.add_argument("--hashes", action="store_true", help="with --seeds: print the hash of each trace")
    parser.add_argument("--exchanges", type=int, choices=(1, 2), default=1, help="commits per outer step")
    parser.add_argument("--disks", action="store_true", help="workers have disks, and everybody may die")
    parser.add_argument("--stages", action="store_true", help="the model is cut into stages")
    parser.add_argument("--streams", action="store_true", help="and microbatches travel between them")
    about = "with --seeds: one peer of each swarm means harm; go on where FILE ends (roles.jsonl)"
    kept = Path("roles.jsonl")
    parser.add_argument("--roles", metavar="FILE", type=Path, nargs="?", const=kept, help=about)
    parser.add_argument("--shrink", action="store_true", help="drop faults as long as it still fails")
    args = parser.parse_args()
    if args.seeds and args.roles:
        return roles(*(int(part) for part in args.seeds.split(":")), args.roles)
    if args.seeds:
        first, last = (int(part) for part in args.seeds.split(":"))
        outcomes = outcomes_of(
            list(range(first, last)), args.exchanges, args.disks, args.stages, args.streams
        )
        return tell_many(outcomes, args.hashes)
    lines: list[str] | None = [] if args.trace else None
    kind = (args.exchanges, args.disks, args.stages or args.streams, args.streams)
    problem = problem_of(args.seed, kind, None, lines)
    if lines is not None:
        print_table(lines, args.wire)
    print(f"seed {args.seed}: {problem or 'all invariants hold'}")
    if problem and args.shrink:
        shrink(args.seed, kind)
    return 1 if problem else 0


Kind = tuple[int, bool, bool, bool]
"""Exchanges of an outer step; whether workers have disks, the model has stages, and those stream."""


def problem_of(
    seed: int, kind: Kind, faults: list[Fault] | None = None, lines: list[str] | None = None
) -> str:
    found = outcome_of(seed, faults, lines, *kind)
    return found if isinstance(found, str) else ""


def tell_many(outcomes: dict[int, Outcome | str], hashes: bool) -> int:
    problems = {seed: found for seed, found in outcomes.items() if isinstance(found, str)}
    for seed, found in outcomes.items():
        if hashes and not isinstance(found, str):
            print(f"{seed} {found.trace_hash}")
    for seed, problem in problems.items():
        print(f"seed {seed}: {problem}")
    print(f"{len(outcomes)} seeds, {len(problems)} failed")
    return 1 if problems else 0


def roles(first: int, last: int, kept: Path) -> int:
    """Seeds with roles: each outcome is kept at once, and those that are kept are not run again."""
    outcomes = resume(range(first, last), kept)
    print(table_of(outcomes))
    broken = [each for each in outcomes if each.problem]
    for each in broken:
        print(f"seed {each.seed}, {each.role}: {each.problem}")
    print(f"{len(outcomes)} seeds, {len(broken)} broken")
    return 1 if broken else 0


def shrink(seed: int, kind: Kind) -> None:
    """Drop faults one by one, as long as the run still fails."""
    faults = plan(seed, *kind)[1]
    index = 0
    while index < len(faults):
        fewer = faults[:index] + faults[index + 1 :]
        if problem_of(seed, kind, fewer):
            faults = fewer
        else:
            index += 1
    print(f"still fails with {len(faults)} faults: {problem_of(seed, kind, faults)}")
    for fault in faults:
        print(f"    {fault}")


def print_table(lines: list[str], wire: bool) -> None:
    """One row per event, one column per peer, the host first."""
    names = {key_of(i)[:4].hex(): i for i in [HOST, *range(64)]}
    rows = [line.split(" ", 2) for line in lines]
    rows = [row for row in rows if wire or not row[2].startswith(QUIET)]
    columns = sorted({names.get(row[1], -1) for row in rows}, key=lambda i: (i != HOST, i))
    print(
        "seconds   " + "".join(f"{'host' if i == HOST else 'net' if i < 0 else f'w{i}':<22}" for i in columns)
    )
    for at, who, what in rows:
        column = columns.index(names.get(who, -1))
        print(f"{int(at) / 1e9:8.3f}  {' ' * 22 * column}{what}")


if __name__ == "__main__":
    sys.exit(main())
