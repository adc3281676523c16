"""The contract and what stands beside it: reasons, dialects, settings, tables."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from polylect.v1 import event_pb2
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import KeyKind

from rest_facade.dialects import DIALECTS
from rest_facade.vocabulary import Dialect
from storage import schema

from .source_tree import ROOT, Module, modules

_DIALECT_FILES = [each for each in modules("rest_facade/dialects") if each.path.name != "__init__.py"]
# What only others than HTTP dialects can meet.
_NOT_OVER_HTTP = {
    ErrorReason.ERROR_REASON_UNSPECIFIED,
    ErrorReason.ERROR_REASON_UNWRITABLE,
    ErrorReason.ERROR_REASON_ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_ARGUMENT_INVALID,
}
_CASES = ROOT / "tests" / "conformance" / "cases"


def test_every_file_of_a_dialect_has_its_row() -> None:
    rows = {dialect.name for dialect in DIALECTS}
    assert rows == {module.path.stem for module in _DIALECT_FILES}
    assert len(rows) == len(DIALECTS)


def test_no_two_dialects_claim_a_route() -> None:
    paths = [endpoint.path for dialect in DIALECTS for endpoint in dialect.endpoints]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_dialect_answers_every_reason(dialect: Dialect) -> None:
    unanswered = {
        ErrorReason.Name(reason)
        for reason in ErrorReason.values()
        if reason not in _NOT_OVER_HTTP and reason not in dialect.errors
    }
    assert unanswered == set()


@pytest.mark.parametrize("module", _DIALECT_FILES, ids=lambda module: module.path.stem)
def test_a_dialect_names_its_document(module: Module) -> None:
    assert re.search(r"seed \d{3}", ast.get_docstring(module.tree) or "")


@pytest.mark.parametrize("module", _DIALECT_FILES, ids=lambda module: module.path.stem)
def test_a_dialect_is_data(module: Module) -> None:
    """Functions for odd bits only: no classes, and less code than table."""
    functions = [node for node in module.definitions() if not isinstance(node, ast.ClassDef)]
    assert [node.name for node in module.definitions() if isinstance(node, ast.ClassDef)] == []
    lines = sum((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    assert lines < module.lines / 2


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_dialect_has_cases(dialect: Dialect) -> None:
    assert list((_CASES / dialect.name).glob("*.toml"))


def test_every_reason_is_documented_with_an_example() -> None:
    text = (ROOT / "proto/polylect/v1/error_reason.proto").read_text()
    comment_of = {
        name: comment
        for comment, name in re.findall(r"((?:^ *//.*\n)+) *(ERROR_REASON_\w+) = \d+;", text, re.MULTILINE)
    }
    assert set(comment_of) == set(ErrorReason.keys())
    # Nothing a client sends provokes these.
    inner = {"UNSPECIFIED", "OVERLOADED", "STORAGE_UNAVAILABLE", "INTERNAL", "UNWRITABLE"}
    bare = {
        name
        for name, comment in comment_of.items()
        if "Example:" not in comment and name.removeprefix("ERROR_REASON_") not in inner
    }
    assert bare == set()


def test_every_reason_names_its_status() -> None:
    text = (ROOT / "proto/polylect/v1/error_reason.proto").read_text()
    for comment, name in re.findall(r"((?:^ *//.*\n)+) *(ERROR_REASON_\w+) = \d+;", text, re.MULTILINE):
        for status in re.findall(r"HTTP (\d{3})", comment):
            usual = {
                dialect.errors[ErrorReason.Value(name)].status
                for dialect in DIALECTS
                if ErrorReason.Value(name) in dialect.errors
            }
            assert int(status) in usual, f"{name} says HTTP {status}, dialects answer {usual}"


def test_columns_of_events_are_the_canonical_fields() -> None:
    fields: set[str] = set()
    for field in Event.DESCRIPTOR.fields:
        nested = field.message_type
        if nested is not None and nested.file == event_pb2.DESCRIPTOR:
            fields |= {f"{field.name}_{inner.name}" for inner in nested.fields}
        elif not field.name.endswith("_json"):
            fields.add(field.name)
    # Money is two columns, the currency once.
    assert set(schema.events.columns.keys()) == fields | {"revenue_currency"}


def test_keys_of_per_source_tables_begin_with_the_source() -> None:
    for table in schema.metadata.tables.values():
        if "source_id" not in table.columns:
            continue
        for constraint in [table.primary_key, *table.constraints]:
            columns = [column.name for column in getattr(constraint, "columns", [])]
            if not columns or table.name == "sources" or columns == ["secret_hash"]:
                continue
            assert columns[0] == "source_id", f"{table.name}: {columns}"


def test_prefixes_of_keys_are_documented() -> None:
    text = (ROOT / "proto/polylect/v1/ingest.proto").read_text()
    for name in KeyKind.keys():  # noqa: SIM118 (a protobuf enum is no mapping)
        if KeyKind.Value(name):
            assert re.search(rf"// \w+_…:.*\n(?: *//.*\n)* *{name} = ", text), name


def test_config_lists_what_its_page_lists() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? *\|", page, re.MULTILINE)
    assert rows
    shown = subprocess.run(
        [Path(sys.executable).parent / "polylect", "config", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    ).stdout
    listed = re.findall(r'"name":"([A-Z_]+)".*?"default":"([^"]*)"', shown)
    assert [(name, default) for name, default in rows] == listed


def test_the_readme_names_every_part_of_the_tree() -> None:
    text = _section("Where things are")
    missing = {
        name
        for name in ("proto", "rest_facade", "core_service", "storage", "polylect_cli", "tests", "benchmarks")
        if f"`{name}/`" not in text
    }
    assert missing == set()


def _section(heading: str) -> str:
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {heading}"
    return found.group(1)
