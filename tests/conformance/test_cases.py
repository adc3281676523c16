"""Every case file: the request goes in over a socket, answer and stored events are compared whole."""

import re
from pathlib import Path
from typing import Any

import pytest
from case_file import (
    Case,
    Response,
    Step,
    case_paths,
    filled_text,
    name_of,
    read_case,
)
from comparison import actual_event, differences, expected_event, matches
from conformance_stack import Clock, Reply, Stack
from polylect.v1.error_reason_pb2 import ErrorReason

from polylect_cli.case_request import Request, filled, wire_body, wire_headers


@pytest.mark.parametrize("path", case_paths(), ids=name_of)
async def test_case(path: Path, start_stack: Any) -> None:
    case = read_case(path)
    async with start_stack(Clock(case.now), case.setup) as stack:
        problems = []
        for number, step in enumerate(case.steps, 1):
            problems += [f"step {number}: {problem}" for problem in await _take(step, stack)]
        problems += await _look(case, stack)
    assert not problems, f"{case.about} ({case.source})\n" + "\n".join(problems)


async def _take(step: Step, stack: Stack) -> list[str]:
    stack.clock.advance(step.advance_seconds)
    blanks = _blanks(stack)
    for _ in range(step.repeat):
        reply = await _send(step.request, stack, blanks)
    await stack.settle()
    problems = list(_answer_problems(step.response, reply, blanks))
    if step.response.reason and step.response.reason not in (counted := await stack.refusals()):
        problems.append(f"reason {step.response.reason} was not counted, but {sorted(counted)}")
    return problems


def _blanks(stack: Stack) -> dict[str, str]:
    return {"now_ms": str(stack.clock.milliseconds), "key": stack.key}


async def _send(request: Request, stack: Stack, blanks: dict[str, str]) -> Reply:
    headers, body = wire_headers(request, blanks), wire_body(request, blanks)
    path = filled_text(request.path, blanks)
    return await stack.ask(request.method, path, headers, body, request.withheld_bytes)


def _answer_problems(expected: Response, reply: Reply, blanks: dict[str, str]) -> list[str]:
    problems = []
    if reply.status != expected.status:
        problems.append(f"status is {reply.status}, expected {expected.status}: {reply.body[:500]!r}")
    if expected.body is not None and reply.body != (body := filled(expected.body, blanks)):
        problems.append(f"body is {reply.body[:2000]!r}, expected {body[:2000]!r}")
    if expected.body_matches is not None and not re.fullmatch(
        expected.body_matches, reply.body.decode(errors="replace"), re.DOTALL
    ):
        problems.append(f"body is {reply.body[:2000]!r}, expected a match of {expected.body_matches}")
    for name, value in expected.headers.items():
        actual = reply.header(name)
        if actual is None or not matches(value, actual):
            problems.append(f"header {name} is {actual!r}, expected {value!r}")
    for name in expected.absent_headers:
        if (actual := reply.header(name)) is not None:
            problems.append(f"header {name} is {actual!r}, expected none")
    for name, value in expected.cookies.items():
        actual = reply.cookies.get(name)
        if actual is None or not matches(value, actual):
            problems.append(f"cookie {name} is {actual!r}, expected {value!r}")
    for name in expected.absent_cookies:
        if name in reply.cookies:
            problems.append(f"cookie {name} is {reply.cookies[name]!r}, expected none")
    return problems


async def _look(case: Case, stack: Stack) -> list[str]:
    problems = []
    if case.events is not None:
        actual: Any = [actual_event(event) for event in await stack.events()]
        problems += differences([expected_event(event) for event in case.events], actual, "events")
    if case.quarantined is not None:
        actual = [
            {"reason": _word(one.rejection.reason), "raw": one.raw.decode(errors="replace")}
            for one in await stack.quarantined()
        ]
        blanks = _blanks(stack)
        wanted = [{**one, "raw": filled_text(one["raw"], blanks)} for one in case.quarantined]
        problems += differences(wanted, actual, "quarantined")
    if case.links is not None:
        wanted = sorted(case.links, key=lambda link: (link["anonymous_id"], link["user_id"]))
        problems += differences(wanted, stack.links(), "links")
    return problems


def _word(reason: Any) -> str:
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_").lower()
