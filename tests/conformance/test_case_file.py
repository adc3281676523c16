"""The reader of case files and the comparison can say no."""

from decimal import Decimal
from typing import Any

import pytest
from case_file import parse_case
from comparison import differences, expected_event, matches

from polylect_cli.case_request import BadCase, wire_body

_CASE = """
about = "a"
source = "s"
[[steps]]
[steps.request]
path = "/x"
{request}
[steps.response]
status = 200
{rest}
"""


def _case(request: str = "", rest: str = "") -> Any:
    return parse_case("d/n", _CASE.format(request=request, rest=rest))


def test_bodies() -> None:
    python = _case("body_python = \"b'a' + b'bc' * 2\"").steps[0].request
    assert wire_body(python, {}) == b"abcbc"
    assert wire_body(_case('body_base64 = "/w=="').steps[0].request, {}) == b"\xff"
    assert wire_body(_case('body = "at {{now_ms}}"').steps[0].request, {"now_ms": "5"}) == b"at 5"
    assert wire_body(_case().steps[0].request, {}) == b""


@pytest.mark.parametrize(
    ("request_line", "rest"),
    [
        ('body_python = "__import__(1)"', ""),
        ('body_python = "1 + 2"', ""),
        ('body = "a"\nbody_base64 = "YQ=="', ""),
        ('bodi = "a"', ""),
        ("", "absent_header = []"),
        ("", "[setup]\nrate = 1"),
        ("", "[[event]]\nkind = 1"),
        ("no toml", ""),
    ],
)
def test_what_the_format_has_not_is_refused(request_line: str, rest: str) -> None:
    with pytest.raises(BadCase):
        _case(request_line, rest)


def test_decimals_keep_their_digits() -> None:
    case = _case(rest="[[events]]\nprice = 79.90")
    assert case.events == [{"price": Decimal("79.90")}]
    assert differences(case.events, [{"price": Decimal("79.9")}]) != []
    assert differences(case.events, [{"price": Decimal("79.90")}]) == []


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": Decimal(1)}),
        ({"a": {"b": "~ x+"}}, {"a": {"b": "xxy"}}),
        ([1], [1, 1]),
        ([], [1]),
        ({"a": []}, {"a": {}}),
    ],
)
def test_differences_are_found(expected: Any, actual: Any) -> None:
    assert len(differences(expected, actual)) == 1


def test_a_pattern_matches_the_whole_value() -> None:
    assert matches("~ [0-9]+", "12")
    assert not matches("~ [0-9]+", "12a")
    assert not matches("12", "~ 12")


def test_free_form_parts_may_be_given_as_json() -> None:
    assert expected_event({"properties_json": '{"a":null}', "traits": {}}) == {"properties": {"a": None}}
