"""The command `polylect`: its subcommands, and how it ends."""

import importlib.metadata
import sys
from typing import Annotated

import typer

from polylect_cli import (
    events,
    identity,
    keys,
    ledger,
    lifecycle,
    quarantine,
    send,
    sources,
    stats,
    tail,
    why,
)
from polylect_cli.output import EXIT_USAGE, CommandError, print_error, print_line
from polylect_cli.settings import SettingsError
from storage.postgres_binaries import EmbeddedPostgresError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Collect events: four HTTP dialects and gRPC in, one canonical event in Postgres out.",
    epilog="Exit codes: 0 done, 1 refused, 2 wrong use or settings, 3 nothing answers.",
)
for function, name in (
    (lifecycle.up, "up"),
    (lifecycle.core, "core"),
    (lifecycle.facade, "facade"),
    (lifecycle.worker, "worker"),
    (lifecycle.migrate, "migrate"),
    (lifecycle.config, "config"),
    (lifecycle.show_database_url, "database-url"),
    (send.send, "send"),
    (events.events, "events"),
    (stats.stats, "stats"),
    (tail.tail, "tail"),
    (why.why, "why"),
    (ledger.ledger, "ledger"),
):
    app.command(name)(function)
app.add_typer(sources.app, name="source")
app.add_typer(keys.app, name="key")
app.add_typer(identity.app, name="identity")
app.add_typer(quarantine.app, name="quarantine")


def _show_version(wanted: bool) -> None:
    if wanted:
        print_line(importlib.metadata.version("polylect"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every expected failure is a sentence and an exit code."""
    try:
        app()
    except CommandError as error:
        print_error(f"polylect: {error}")
        sys.exit(error.exit_code)
    except (SettingsError, EmbeddedPostgresError) as error:
        print_error("\n".join(f"polylect: {line}" for line in str(error).splitlines()))
        sys.exit(EXIT_USAGE)
    except BrokenPipeError:
        # `polylect events | head`: the reader has what it wanted.
        sys.stderr.close()
        sys.exit(0)
