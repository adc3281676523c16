"""`polylect key`: the credentials of a source. A secret is shown once, when its key is made."""

from typing import Annotated, Any

import typer
from google.protobuf.duration_pb2 import Duration
from polylect.v1 import source_pb2 as pb
from polylect.v1.ingest_pb2 import KeyKind

from polylect_cli.calling import connected, time_text
from polylect_cli.output import EXIT_USAGE, CommandError, print_json, print_line, print_table
from polylect_cli.sources import JsonOption, SourceArgument
from polylect_cli.times import parse_duration

app = typer.Typer(no_args_is_help=True, help="Keys: the credentials of a source.")

_PREFIX = "KEY_KIND_"
_KINDS = [
    name.removeprefix(_PREFIX).lower().replace("_", "-")
    for name in KeyKind.keys()  # noqa: SIM118 (a protobuf enum is no mapping)
    if KeyKind.Value(name)
]

KeyArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="Id of the key, from `key list`.")]


@app.command()
def create(
    source: SourceArgument,
    kind: Annotated[str, typer.Option(metavar="|".join(_KINDS), help="What the key is for.")],
    site: Annotated[
        list[str] | None,
        typer.Option(help="PULSE: a site the key may speak for; repeatable. Default: the source's name."),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of the kind's own: events:write, events:read, revenue:write, stats:read, admin; "
            "repeat for more."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and show its secret, this once."""
    if kind not in _KINDS:
        raise CommandError(f"--kind {kind}: no such kind; give one of {', '.join(_KINDS)}", EXIT_USAGE)
    number = KeyKind.Value(_PREFIX + kind.upper().replace("-", "_"))
    request = pb.CreateKeyRequest(source=source, kind=number, scopes=scope or [], sites=site or [])
    with connected() as core:
        made = core.call(core.sources.CreateKey, request)
    if as_json:
        print_json({**_as_dict(made.key), "secret": made.secret})
    else:
        _print_secret(made.key, made.secret)


@app.command("list")
def list_keys(source: SourceArgument, as_json: JsonOption = False) -> None:
    """List a source's keys, newest first, ended ones included."""
    with connected() as core:
        keys = core.call(core.sources.ListKeys, pb.ListKeysRequest(source=source)).keys
    if as_json:
        print_json([_as_dict(key) for key in keys])
        return
    columns = ("key_id", "kind", "ends in", "scopes", "sites", "created_at", "expires_at", "revoked_at")
    print_table(
        columns,
        [
            (
                key.key_id,
                _kind(key),
                f"…{key.hint}",
                " ".join(key.scopes),
                " ".join(key.sites),
                time_text(key.created_at),
                time_text(key.expires_at),
                time_text(key.revoked_at),
            )
            for key in keys
        ],
    )


@app.command()
def rotate(
    key_id: KeyArgument,
    overlap: Annotated[
        str, typer.Option(help="How long the old key stays valid: a number and s, m, h or d; at most 30d.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Replace a key: show the new secret, this once, and end the old key after the overlap."""
    seconds = parse_duration("--overlap", overlap)
    request = pb.RotateKeyRequest(key_id=key_id, overlap=Duration(seconds=seconds))
    with connected() as core:
        made = core.call(core.sources.RotateKey, request)
    if as_json:
        print_json({**_as_dict(made.key), "secret": made.secret, "old_key": _as_dict(made.old_key)})
        return
    _print_secret(made.key, made.secret)
    print_line(f"the old key, {made.old_key.key_id}, ends at {time_text(made.old_key.expires_at)}")


@app.command()
def revoke(key_id: KeyArgument, as_json: JsonOption = False) -> None:
    """End a key now; within a second no part takes it any more."""
    with connected() as core:
        answer = core.call(core.sources.RevokeKey, pb.RevokeKeyRequest(key_id=key_id))
    key = answer.key
    if as_json:
        print_json({**_as_dict(key), "already_revoked": answer.already_revoked})
    elif answer.already_revoked:
        print_line(
            f"key {key.key_id} was revoked before, at {time_text(key.revoked_at)}; nothing has changed"
        )
    else:
        print_line(f"key {key.key_id} ended at {time_text(key.revoked_at)}")


def _print_secret(key: pb.Key, secret: str) -> None:
    print_line(f"key {key.key_id} ({_kind(key)}) made. Its secret, shown this once:")
    print_line(f"  {secret}")


def _kind(key: pb.Key) -> str:
    return KeyKind.Name(key.kind).removeprefix(_PREFIX).lower().replace("_", "-")


def _as_dict(key: pb.Key) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "source_id": key.source_id,
        "kind": _kind(key),
        "scopes": list(key.scopes),
        "sites": list(key.sites),
        "hint": key.hint,
        "created_at": time_text(key.created_at),
        "expires_at": time_text(key.expires_at) or None,
        "revoked_at": time_text(key.revoked_at) or None,
    }
