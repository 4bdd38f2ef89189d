"""`diloco simulate`: what a run will do on given links, by the code that will run it."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diloco.errors import UserError
from diloco.terminal import printable, wide_console

if TYPE_CHECKING:
    from diloco.simulation.scenario import Scenario
    from diloco.simulation.sweep import SeedOutcome

SHIPPED = Path(__file__).parents[1] / "simulation" / "scenarios"


def simulate_command(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="SCENARIO", help="A TOML file, or the name of one that comes with diloco."),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting: --set method.preset=noloco."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the scenario's.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="A:B", help="Run each of these seeds and check all invariants.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="I,J,...", help="Let only these single events happen, as --events numbers them."
        ),
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="List the single events of a seed, and stop.")
    ] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="For many seeds; one for each core.")] = None,
    json_to: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report here; - prints it.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with a timeline here.")
    ] = None,
) -> None:
    """Run a scenario in virtual time by the production code, and tell how it went.

    Exit code 1: an invariant did not hold.
    """
    if scenario is None:
        _list_shipped()
        return
    found = _load(scenario, replace or ())
    if events:
        _list_events(found, seed)
    elif seeds is not None:
        _run_many(found, " --set ".join([scenario, *(replace or ())]), _range_of(seeds), processes)
    else:
        _run_one(found, seed, only, json_to, html)


def _load(name: str, overrides: Sequence[str] = ()) -> Scenario:
    from diloco.simulation.scenario import load_scenario

    shipped = SHIPPED / f"{name}.toml"
    if not Path(name).exists() and re.fullmatch(r"[a-z0-9-]+", name):
        if not shipped.exists():
            raise UserError(
                f"{name} is neither a file nor a scenario that comes with diloco: {_shipped_names()}"
            )
        return load_scenario(shipped, overrides)
    return load_scenario(Path(name), overrides)


def _shipped_names() -> str:
    return ", ".join(path.stem for path in sorted(SHIPPED.glob("*.toml")))


def _list_shipped() -> None:
    table = Table(
        "scenario", "what one learns from it", title="diloco simulate SCENARIO", title_justify="left"
    )
    for path in sorted(SHIPPED.glob("*.toml")):
        table.add_row(path.stem, Text(_load(path.stem).about))
    wide_console().print(table)


def _list_events(scenario: Scenario, seed: int | None) -> None:
    from diloco.simulation.faults import faults_of

    for number, fault in enumerate(faults_of(_with_seed(scenario, seed))):
        print(f"{number:4}  {fault}")


def _run_one(
    scenario: Scenario, seed: int | None, only: str | None, json_to: Path | None, html: Path | None
) -> None:
    from diloco.simulation.faults import faults_of
    from diloco.simulation.report.html import render_page
    from diloco.simulation.report.tables import render
    from diloco.simulation.runner import simulate

    scenario = _with_seed(scenario, seed)
    faults = faults_of(scenario)
    if only is not None:
        faults = [faults[number] for number in _numbers_of(only, len(faults))]
    err = Console(stderr=True)
    with err.status("simulating") if err.is_terminal else nullcontext():
        report = simulate(scenario, faults=faults)
    if html is not None:
        _write(html, render_page(report))
    if json_to is not None:
        _write(json_to, report.to_json())
    if json_to is None or str(json_to) != "-":
        wide_console().print(render(report))
    if report.violations:
        raise typer.Exit(1)


def _run_many(scenario: Scenario, name: str, seeds: Sequence[int], processes: int | None) -> None:
    from diloco.simulation.sweep import run_seeds

    outcomes: list[SeedOutcome] = []
    err = Console(stderr=True)
    with err.status("simulating") if err.is_terminal else nullcontext() as status:
        for outcome in run_seeds(scenario, seeds, processes):
            outcomes.append(outcome)
            if status is not None:
                status.update(f"simulating: {len(outcomes)} of {len(seeds)} seeds")
    broken = [outcome for outcome in outcomes if outcome.problem]
    sound = [outcome for outcome in outcomes if not outcome.problem]
    print(f"{len(outcomes)} seeds, {len(broken)} broken")
    if sound:
        _print_spread("compute utilization", [100 * each.utilization for each in sound], " %")
        _print_spread("tokens/s", [each.tokens_per_s for each in sound], "")
        _print_spread("seconds", [each.seconds for each in sound], "")
        _print_spread("rounds", [float(each.rounds) for each in sound], "")
    if broken:
        _explain(scenario, name, broken)
        raise typer.Exit(1)


def _print_spread(what: str, values: list[float], unit: str) -> None:
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"  {what:<20} {low:,.1f} to {high:,.1f}, median {middle:,.1f}{unit}")


def _explain(scenario: Scenario, name: str, broken: list[SeedOutcome]) -> None:
    from diloco.simulation.faults import faults_of
    from diloco.simulation.sweep import shrink

    for outcome in broken:
        print(f"seed {outcome.seed}: {printable(outcome.problem)}")
    first = broken[0]
    print(f"the fewest events with which seed {first.seed} still breaks:")
    numbers = shrink(scenario, first.seed, first.problem)
    faults = faults_of(_with_seed(scenario, first.seed))
    for number in numbers:
        print(f"{number:4}  {faults[number]}")
    if not numbers:
        print("      none: it breaks without any")
    only = ",".join(map(str, numbers)) or "none"
    print(f"replay: diloco simulate {name} --seed {first.seed} --only {only}")


def _with_seed(scenario: Scenario, seed: int | None) -> Scenario:
    return scenario if seed is None else scenario.model_copy(update={"seed": seed})


def _range_of(text: str) -> range:
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError(f"--seeds {text} is no range: write the first and the one after the last, like 0:200")
    return range(int(found[1]), int(found[2]))


def _numbers_of(text: str, num_events: int) -> list[int]:
    if text == "none":
        return []
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise UserError(f"--only {text} is no list of numbers: write it like 0,3,7, or none")
    numbers = sorted({int(each) for each in text.split(",")})
    if numbers[-1] >= num_events:
        raise UserError(
            f"--only {text}: this seed has {num_events} events, numbered from 0 (--events lists them)"
        )
    return numbers


def _write(path: Path, text: str) -> None:
    if str(path) == "-":
        sys.stdout.write(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
