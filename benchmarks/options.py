"""Options that both benches have."""

from pathlib import Path
from typing import Annotated

import typer

Scratch = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        writable=True,
        help="Where the scratch database goes: a real disk, or fsync is free.",
    ),
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the scratch directory, with the log.")]
