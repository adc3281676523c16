"""`polylect up`, and its parts one by one: what runs, and with which settings."""

import sys
from typing import Annotated, Any

import msgspec
import typer

from polylect_cli import parts
from polylect_cli.handover import hand_over, pack
from polylect_cli.output import print_json, print_line, print_table
from polylect_cli.settings import Settings, check_files, describe, load_settings


def up() -> None:
    """Run everything on this machine: database, core, worker and facade, until Ctrl-C."""
    settings = load_settings()
    check_files(settings)
    plan = parts.plan(settings)
    hand_over("polylect_cli.run_up", [sys.argv[0]], msgspec.json.encode(plan))


def core() -> None:
    """Run the core alone: gRPC, for a fleet."""
    settings = load_settings()
    check_files(settings)
    _run("core", settings, {**parts.core_options(settings), "database_url": parts.database_url(settings)})


def facade() -> None:
    """Run the facade alone: HTTP, for a fleet."""
    settings = load_settings()
    check_files(settings)
    _run("facade", settings, parts.facade_options(settings))


def worker() -> None:
    """Run one worker alone, for a fleet."""
    settings = load_settings()
    _run("worker", settings, {**parts.worker_options(settings), "database_url": parts.database_url(settings)})


def migrate() -> None:
    """Bring the database's schema up to date, in demo mode make the examples; repeating changes nothing."""
    settings = load_settings()
    if settings.database_url is None:
        # `up` does it too, so that one is needed only to look at a fresh schema.
        parts.migrate_embedded(settings)
    else:
        options = {**parts.prepare_options(settings), "database_url": parts.database_url(settings)}
        _run("prepare", settings, options)


def config(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List all settings with value, default and meaning; secrets are masked."""
    rows = describe(load_settings())
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        print_table(("name", "value", "default", "meaning"), rows)


def show_database_url() -> None:
    """Print the URL of the database in use, the embedded one's included; with its password."""
    print_line(parts.database_url(load_settings()))


def _run(part: str, settings: Settings, options: dict[str, Any]) -> None:
    hand_over(f"polylect_cli.run_{part}", [], pack(parts.log_options(settings), options))
