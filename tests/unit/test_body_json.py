"""JSON is read as strictly as storage needs, and loses no digit."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polylect.v1 import error_reason_pb2 as reasons

from rest_facade import body_json
from rest_facade.vocabulary import ShapeError


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", reasons.ERROR_REASON_PAYLOAD_UNREADABLE),
        (b'{"a":', reasons.ERROR_REASON_PAYLOAD_UNREADABLE),
        (b"NaN", reasons.ERROR_REASON_PAYLOAD_UNREADABLE),
        (b"[-Infinity]", reasons.ERROR_REASON_PAYLOAD_UNREADABLE),
        (b'"\xff"', reasons.ERROR_REASON_PAYLOAD_UNREADABLE),
        (b'"\\ud800"', reasons.ERROR_REASON_PAYLOAD_UNREADABLE),
        (b"1e99999999999999999999", reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE),
        (b"0e99999999999999999999", reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE),
        (b"[" + b"1e308," * 800 + b"1]", reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE),
        (b"1e401", reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE),
        (b"1e-401", reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE),
        (b"1e999999999999", reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE),
        (b"1" * 5000, reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE),
        (b"0." + b"1" * 2000, reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE),
        (b"[" * 33 + b"]" * 33, reasons.ERROR_REASON_PAYLOAD_TOO_DEEP),
        (b"[" * 100_000, reasons.ERROR_REASON_PAYLOAD_TOO_DEEP),
        (b'{"a":' * 33 + b"1" + b"}" * 33, reasons.ERROR_REASON_PAYLOAD_TOO_DEEP),
    ],
)
def test_refuses(raw: bytes, reason: int) -> None:
    with pytest.raises(ShapeError) as refused:
        body_json.read(raw)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        (b"79.90", b"79.90"),
        (b"1", b"1"),
        (b"1.0", b"1.0"),
        (b"1.7976931348623157e308", b"1.7976931348623157E+308"),
        (b"12345678901234567890123", b"12345678901234567890123"),
        (b"0.1000000000000000055511151231257827", b"0.1000000000000000055511151231257827"),
        (b'{"b":1,"a":2}', b'{"b":1,"a":2}'),
        ('"ünïcödé 🎈"'.encode(), '"ünïcödé 🎈"'.encode()),
    ],
)
def test_keeps_what_was_sent(raw: bytes, written: bytes) -> None:
    value, sanitized = body_json.read(raw)
    assert (body_json.write(value), sanitized) == (written, False)


def test_takes_32_levels_counted_from_the_body() -> None:
    body_json.read(b"[" * 32 + b"]" * 32)
    body_json.read(b"[" * 30 + b"]" * 30, levels_above=2)
    with pytest.raises(ShapeError):
        body_json.read(b"[" * 31 + b"]" * 31, levels_above=2)


def test_many_containers_are_not_depth() -> None:
    value, _ = body_json.read(b"[" + b",".join([b"[{}]"] * 100) + b"]")
    assert value == [[{}]] * 100


def test_brackets_in_strings_are_not_depth() -> None:
    value, _ = body_json.read(b'"' + b"[" * 100 + b'"')
    assert value == "[" * 100


def test_takes_nul_out_everywhere_and_tells() -> None:
    value, sanitized = body_json.read(b'{"a\\u0000":["b\\u0000",{"c":"\\u0000"}]}')
    assert (value, sanitized) == ({"a": ["b", {"c": ""}]}, True)


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    value, sanitized = body_json.read(b'"\\\\u0000"')
    assert (value, sanitized) == ("\\u0000", False)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary(max_size=64) | _JSON.map(body_json.write))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        value, _ = body_json.read(raw)
    except ShapeError:
        return
    assert body_json.read(body_json.write(value))[0] == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-1e18, max_value=1e18, places=9))
def test_decimals_keep_their_digits(number: Decimal) -> None:
    raw = f"{number:f}".encode()
    value, _ = body_json.read(raw)
    assert Decimal(body_json.write(value).decode()).as_tuple() == number.as_tuple()
