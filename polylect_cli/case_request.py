"""A request as a case file of tests/conformance writes it; hides the ways to write a body.

Shared by `polylect send` and the conformance tests, which read the rest of a case.
"""

import ast
import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class BadCase(ValueError):
    """A case file says something the format has not."""


@dataclass(frozen=True)
class Request:
    """One request; text may hold {{now_ms}} and {{key}}."""

    path: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    # The body goes zipped, and a header says so.
    gzip: bool = False
    # So many bytes of the body are announced and never sent.
    withheld_bytes: int = 0


def read_request(written: Mapping[str, Any]) -> Request:
    """Read the table `request` of a step. Raises BadCase, TypeError for what a request has not."""
    members = dict(written)
    body = take_body(members)
    return Request(**members, body=body or b"")


def take_body(members: dict[str, Any]) -> bytes | None:
    """Take the body out of a request's or response's members; None when none is given. Raises BadCase."""
    given = [name for name in ("body", "body_base64", "body_python") if name in members]
    if len(given) > 1:
        raise BadCase(f"{' and '.join(given)}: give one")
    if not given:
        return None
    text: str = members.pop(given[0])
    if given[0] == "body":
        return text.encode()
    if given[0] == "body_base64":
        return base64.b64decode(text)
    try:
        body = _evaluate(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise BadCase(f"body_python: {error.msg}") from error
    if not isinstance(body, bytes):
        raise BadCase("body_python is no bytes")
    return body


def wire_headers(request: Request, blanks: Mapping[str, str]) -> dict[str, str]:
    """Give the headers that go over the wire, as far as the case tells them."""
    headers = {name: filled(text.encode(), blanks).decode() for name, text in request.headers.items()}
    return headers | ({"Content-Encoding": "gzip"} if request.gzip else {})


def wire_body(request: Request, blanks: Mapping[str, str]) -> bytes:
    """Give the bytes that go over the wire."""
    body = filled(request.body, blanks)
    return gzip.compress(body, mtime=0) if request.gzip else body


def filled(text: bytes, blanks: Mapping[str, str]) -> bytes:
    """Fill in {{name}} for each blank."""
    for name, value in blanks.items():
        text = text.replace(b"{{%s}}" % name.encode(), value.encode())
    return text


def _evaluate(node: ast.expr) -> Any:
    """Compute an expression of literals, `+` and `*`, and nothing else."""
    match node:
        case ast.Constant(value=bytes() | int() as literal):
            return literal
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _evaluate(left) + _evaluate(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _evaluate(left) * _evaluate(right)
    raise BadCase(f"body_python: only bytes, numbers, + and *, not {ast.unparse(node)}")
