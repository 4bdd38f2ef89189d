"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diloco.cli.usage import finite

Recipe = Annotated[
    str,
    typer.Option(
        help="gpt, hf:MODEL_DIR (a language model of transformers), package.module:function or"
        " file.py:function, from this machine's disk."
    ),
]
Lora = Annotated[
    int | None,
    typer.Option(
        min=1, max=65_536, metavar="RANK", help="With hf: train LoRA adapters only (model.lora in RUN.toml)."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(help="Text to train on, a file or a folder; by default Python's own source."),
]
Device = Annotated[
    str, typer.Option(help="Where the model lives: auto (cuda, mps, xpu, or else cpu), cpu, cuda, cuda:1.")
]
Save = Annotated[
    Path | None,
    typer.Option(help="Write the outer parameters here: as safetensors; of a stage or with hf:, a folder."),
]
Full = Annotated[bool, typer.Option("--full", help="--save writes frozen parameters too.")]
Events = Annotated[
    Path | None,
    typer.Option(help="Write what happens as JSON lines, behind those that are there: see diloco replay."),
]
Notice = Annotated[
    float,
    typer.Option(
        min=1.0,
        max=86_400.0,
        callback=finite,
        help="Seconds from SIGTERM until this process ends, whatever it does.",
    ),
]
TicketHours = Annotated[
    float, typer.Option(min=0.01, max=90 * 24.0, callback=finite, help="How long the ticket is good.")
]
TicketUses = Annotated[
    int, typer.Option(min=0, max=1 << 20, help="Workers that it lets in, ever; 0: up to half of the run.")
]
Stage = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Stage to train, where the model is cut; else the host chooses."),
]
Threads = Annotated[int | None, typer.Option(min=1, max=4096, help="Threads for torch on the CPU.")]
Kernels = Annotated[
    str, typer.Option(metavar="auto|compiled|torch", help="What codecs run by; the bytes are the same.")
]
Adopt = Annotated[
    bool, typer.Option("--adopt", help="The journal is lost or old: go on from the workers' newest record.")
]
TruncateAt = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Cut off entry N of a journal that cannot be read, and all behind it."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Adopt without asking.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Begin a new run; the files of the one in the folder are kept aside.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the run that goes on, such as run.rounds=50 or checkpoint.keep=10.",
    ),
]
Resume = Annotated[
    int | None,
    typer.Option(min=0, metavar="INDEX", help="Go on from that commit, though there are later ones."),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="CHECKPOINT_OR_SAFETENSORS",
        help="Begin a new run with that state; an old run's files are kept aside. Needs --train.",
    ),
]
BulkPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65_535,
        help="Port for bulk lanes; by default the one after --listen's, or any if that is taken. 0: any.",
    ),
]
MaxUpload = Annotated[
    str | None,
    typer.Option(metavar="RATE", help="Send at most that fast, all workers together: 20Mbit/s, 2.5MB/s."),
]
Advertise = Annotated[str | None, typer.Option(help="Address to give out, if others see another one.")]
