"""`diloco methods` and `diloco compare`: the family in a table, and how well its members learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from diloco.cli import options
from diloco.cli.usage import finite
from diloco.errors import UserError
from diloco.extras import require
from diloco.methods.cost import cost_of, data_parallel_bytes
from diloco.methods.presets import PRESETS, method
from diloco.methods.spec import METHOD_FIELDS, Method
from diloco.terminal import wide_console
from diloco.units import parse_count


def methods_command(
    name: Annotated[
        str | None, typer.Argument(help="One method, with all its parts.", show_default=False)
    ] = None,
    params: Annotated[str, typer.Option(help="Parameters of the model: 150M, 1.5B, 10000000.")] = "1B",
    peers: Annotated[int, typer.Option(min=2, max=64, help="Workers.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What methods there are, what they are made of, and what they send."""
    count = whole_count(params)
    if name is not None:
        chosen = method(name)
        print(json.dumps(chosen.model_dump())) if as_json else wide_console().print(_parts_table(chosen))
        return
    if as_json:
        print(json.dumps({each.name: _numbers(each, count, peers) for each in PRESETS.values()}))
        return
    wide_console().print(_methods_table(count, peers, params))


def compare_command(
    methods: Annotated[
        list[str],
        typer.Argument(
            metavar="METHOD...",
            help="data_parallel, single, or a method, with parts replaced like this:"
            " streaming:delay=5,codec=fp4",
        ),
    ],
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers of every method.")] = 4,
    tokens: Annotated[str, typer.Option(help="Tokens of every run, over all workers: 2M.")] = "1M",
    start_tokens: Annotated[
        str,
        typer.Option(help="Tokens of data-parallel training before, as DiLoCo's paper has it; 0 for none."),
    ] = "0",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with seeds 0, 1, ...")] = 1,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the model.")] = 3,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 4,
    width: Annotated[int, typer.Option(min=8, help="Width of the model.")] = 64,
    context: Annotated[int, typer.Option(min=8, help="Bytes that it sees at once.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per inner step and worker.")] = 8,
    inner_lr: Annotated[
        float,
        typer.Option(min=0.0, max=10.0, callback=finite, help="Learning rate of the inner optimizer."),
    ] = 2e-3,
    sync_every: Annotated[int | None, typer.Option(min=1, help="H of methods that name none.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: options.Threads = None,
    data: Annotated[
        Path | None, typer.Option(help="Text to train on; by default Python's own source.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.json and comparison.png.")] = None,
) -> None:
    """Train the same model with each method, at equal tokens, in this one process."""
    _require_packages(draws=out is not None)
    import torch

    from diloco.comparison.compare import Budget, Comparison, compare
    from diloco.comparison.report import draw, progress_line, results_table

    if threads is not None:
        torch.set_num_threads(threads)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out} cannot be made: {error.strerror}") from None
    budget = Budget(
        workers=workers,
        tokens=int(whole_count(tokens)),
        start_tokens=0 if start_tokens == "0" else int(whole_count(start_tokens)),
        seeds=tuple(range(seeds)),
        layers=layers,
        heads=heads,
        width=width,
        context=context,
        batch_size=batch_size,
        inner_lr=inner_lr,
        sync_every=sync_every,
        device=device,
        data=data,
    )
    found: Comparison = compare(
        methods, budget, on_result=lambda result: print(progress_line(result), flush=True)
    )
    wide_console().print(results_table(found))
    if out is not None:
        (out / "comparison.json").write_text(json.dumps(found.to_plain()) + "\n", encoding="utf-8")
        draw(found, out / "comparison.png")
        print(f"written: {out / 'comparison.json'}, {out / 'comparison.png'}")


def _require_packages(*, draws: bool) -> None:
    require("train", "diloco compare")
    if draws:
        require("plot", "diloco compare --out")


def whole_count(text: str) -> float:
    """``150M`` as a number of at least 1. Raises `UserError`."""
    value = parse_count(text)
    if not 1.0 <= value <= 1e15:
        raise UserError(f"{text!r} is no count: write 150M, 1.5B or 10000000")
    return value


def _numbers(chosen: Method, count: float, peers: int) -> dict[str, float | int | str]:
    cost = cost_of(chosen, count, peers)
    return {
        "sync_every": chosen.sync_every,
        "delay": chosen.delay,
        "codec": chosen.codec,
        "bytes_per_exchange": cost.per_exchange,
        "bytes_per_step": cost.per_step,
        "data_parallel_bytes_per_step": data_parallel_bytes(count, peers),
        "paper": chosen.paper,
    }


def _methods_table(count: float, peers: int, params: str) -> Table:
    title = f"what each of {peers} workers sends for a model of {params} parameters"
    table = Table(title=title, caption="diloco methods NAME shows every part of one", title_justify="left")
    for column in ("method", "H", "tau", "codec", "MB/exchange", "MB/step", "less than DP", "paper"):
        table.add_column(column, justify="left" if column in ("method", "codec", "paper") else "right")
    full = data_parallel_bytes(count, peers)
    for each in PRESETS.values():
        cost = cost_of(each, count, peers)
        table.add_row(
            each.name,
            str(each.sync_every),
            str(each.delay),
            codec_text(each),
            f"{cost.per_exchange / 1e6:,.1f}",
            f"{cost.per_step / 1e6:,.2f}",
            f"{full / cost.per_step:,.0f}x",
            each.paper.rsplit(", ", 1)[-1] if each.paper.count(", ") else each.paper,
        )
    return table


def codec_text(each: Method) -> str:
    """What a method sends of a vector, and in which numbers."""
    codec = f"top {each.keep}/4096, {each.value_bits} bit" if each.codec == "topk" else each.codec
    match each.projection:
        case "low_rank":
            rank = f"{each.rank_share:.0%} of a side" if each.rank_share else each.rank
            return f"rank {rank}, {codec}"
        case "random_mask":
            return f"1 of {each.mask_one_in}, {codec}"
        case "dct":
            return f"DCT, {codec}"
        case _:
            return codec


def _parts_table(chosen: Method) -> Table:
    table = Table(title=f"{chosen.name}: {chosen.paper}", title_justify="left")
    table.add_column("part")
    table.add_column("value")
    table.add_column("what it is")
    for part in METHOD_FIELDS:
        field = Method.model_fields[part]
        value = getattr(chosen, part)
        shown = json.dumps(value)
        changed = field.is_required() or value != field.default
        table.add_row(part, f"[bold]{shown}[/bold]" if changed else shown, field.description or "")
    return table
