"""`polylect source`: the sources events come from, and their settings."""

import re
from typing import Annotated, Any

import typer
from polylect.v1 import source_pb2 as pb

from polylect_cli.calling import connected, time_text
from polylect_cli.output import EXIT_USAGE, CommandError, own_command, print_json, print_line, print_table

app = typer.Typer(no_args_is_help=True, help="Sources: a site, app or service that sends events.")

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="Name or id of the source.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_UNIT_SECONDS = {
    "s": 1,
    "second": 1,
    "m": 60,
    "minute": 60,
    "h": 3_600,
    "hour": 3_600,
    "d": 86_400,
    "day": 86_400,
}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="1 to 64 letters, digits, dots, dashes, underscores.")],
    as_json: JsonOption = False,
) -> None:
    """Make a source; it gets keys with `polylect key create`."""
    with connected() as core:
        source = core.call(core.sources.CreateSource, pb.CreateSourceRequest(name=name)).source
    if as_json:
        print_json(_as_dict(source))
    else:
        print_line(f"source {source.name} made, its id is {source.source_id}")
        print_line(f"next: {own_command()} key create {source.name} --kind pulsora-public")


@app.command("list")
def list_sources(as_json: JsonOption = False) -> None:
    """List all sources."""
    with connected() as core:
        sources = core.call(core.sources.ListSources, pb.ListSourcesRequest()).sources
    if as_json:
        print_json([_as_dict(source) for source in sources])
        return
    if not sources:
        print_line("no sources yet; `polylect source create NAME` makes one")
        return
    columns = ("name", "source_id", "enabled", "rate limit", "origins", "vendor cookies", "created_at")
    print_table(
        columns,
        [
            (
                source.name,
                source.source_id,
                "yes" if source.enabled else "no",
                _rate(source),
                " ".join(source.origins),
                " ".join(source.vendor_cookies),
                time_text(source.created_at),
            )
            for source in sources
        ],
    )


@app.command()
def show(source: SourceArgument, as_json: JsonOption = False) -> None:
    """Show one source."""
    with connected() as core:
        found = core.call(core.sources.GetSource, pb.GetSourceRequest(source=source)).source
    _print_source(found, as_json)


@app.command("set")
def set_source(
    source: SourceArgument,
    rate_limit: Annotated[
        str | None,
        typer.Option(metavar="off|default|N/period", help="Period: second, minute, hour or day."),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin browsers may send from; repeat for more. Replaces the whole list."),
    ] = None,
    no_origins: Annotated[bool, typer.Option("--no-origins", help="Empty the list of origins.")] = False,
    vendor_cookie: Annotated[
        list[str] | None,
        typer.Option(help="_ga, _fbp, _fbc, _ttp, _pin_unauth, _scid; repeatable. Replaces the whole list."),
    ] = None,
    no_vendor_cookies: Annotated[bool, typer.Option("--no-vendor-cookies", help="Set none.")] = False,
    cookie_domain: Annotated[
        str | None, typer.Option(help="Domain attribute of cookies; empty: the host's own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change settings; what is not given stays. Effective everywhere within a second."""
    request = pb.UpdateSourceRequest(source=source, cookie_domain=cookie_domain)
    if rate_limit == "default":
        request.clear_rate_limit = True
    elif rate_limit == "off":
        request.rate_limit.CopyFrom(pb.SourceRateLimit(limit=0, window_seconds=1))
    elif rate_limit is not None:
        limit, window_seconds = parse_rate(rate_limit)
        request.rate_limit.CopyFrom(pb.SourceRateLimit(limit=limit, window_seconds=window_seconds))
    for name, values, empty in (
        ("origin", origin, no_origins),
        ("vendor-cookie", vendor_cookie, no_vendor_cookies),
    ):
        if values and empty:
            raise CommandError(f"--{name} and --no-{name}s contradict each other: give one", EXIT_USAGE)
    if origin or no_origins:
        request.origins.CopyFrom(pb.StringList(values=origin or []))
    if vendor_cookie or no_vendor_cookies:
        request.vendor_cookies.CopyFrom(pb.StringList(values=vendor_cookie or []))
    if request == pb.UpdateSourceRequest(source=source):
        raise CommandError("nothing to set: see `polylect source set --help`", EXIT_USAGE)
    _update(request, as_json)


@app.command()
def disable(source: SourceArgument, as_json: JsonOption = False) -> None:
    """Make all keys of a source invalid, until it is enabled again."""
    _update(pb.UpdateSourceRequest(source=source, enabled=False), as_json)


@app.command()
def enable(source: SourceArgument, as_json: JsonOption = False) -> None:
    """Undo `disable`."""
    _update(pb.UpdateSourceRequest(source=source, enabled=True), as_json)


def _update(request: pb.UpdateSourceRequest, as_json: bool) -> None:
    with connected() as core:
        source = core.call(core.sources.UpdateSource, request).source
    _print_source(source, as_json)


def _print_source(source: pb.Source, as_json: bool) -> None:
    shown = _as_dict(source)
    if as_json:
        print_json(shown)
        return
    shown |= {"rate_limit": _rate(source), "enabled": "yes" if source.enabled else "no"}
    print_table(
        ("setting", "value"),
        [(name, " ".join(value) if isinstance(value, list) else str(value)) for name, value in shown.items()],
    )


def _as_dict(source: pb.Source) -> dict[str, Any]:
    limit = source.rate_limit
    return {
        "source_id": source.source_id,
        "name": source.name,
        "enabled": source.enabled,
        "rate_limit": {"limit": limit.limit, "window_seconds": limit.window_seconds}
        if source.HasField("rate_limit")
        else None,
        "origins": list(source.origins),
        "vendor_cookies": list(source.vendor_cookies),
        "cookie_domain": source.cookie_domain,
        "created_at": time_text(source.created_at),
    }


def _rate(source: pb.Source) -> str:
    if not source.HasField("rate_limit"):
        return "default"
    return rate_text(source.rate_limit.limit, source.rate_limit.window_seconds)


def parse_rate(text: str) -> tuple[int, int]:
    """Read N/period; give N and the period's seconds. Raises CommandError."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(\w+)", text)
    if not match or match[2] not in _UNIT_SECONDS:
        raise CommandError(
            f"--rate-limit {text}: give off, default, or N/period with period second, minute, hour or day "
            "(also s, m, h, d), as in 100/minute",
            EXIT_USAGE,
        )
    return int(match[1]), _UNIT_SECONDS[match[2]]


def rate_text(limit: int, window_seconds: int) -> str:
    """Write a rate as it is read."""
    if limit == 0:
        return "off"
    names = {seconds: name for name, seconds in _UNIT_SECONDS.items() if len(name) > 1}
    return f"{limit}/{names.get(window_seconds, f'{window_seconds} s')}"
