"""Sizes, names and docstrings."""

import ast
import re

import pytest

from .source_tree import PACKAGES, ROOT, Definition, Module, modules

# style.md says about 300 lines a module, 40 a function, 150 a dialect; a tenth or so more is still about.
_MODULE_LINES = 340
_FUNCTION_LINES = 44
_DIALECT_LINES = 165
# Longer ones, each with the reason.
_LONG_MODULES = {
    # Words of a table: no code, and apart they would be harder to find.
    "rest_facade.vocabulary": 360,
    # Three kinds of endpoint (single, batch, pixel) for four kinds of event.
    "rest_facade.dialects.datafly": 220,
}
_VAGUE = {"utils", "util", "common", "helpers", "helper", "base", "misc", "manager", "managers"}
_VAGUE_VERBS = re.compile(r"^_?(process|handle|manage)(_|$)")
# Names that falcon and uvicorn call.
_GIVEN_NAMES = {"process_startup", "process_shutdown", "process_request", "process_response", "handle_exit"}

_MODULES = modules()
_IDS = [module.name for module in _MODULES]


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_a_module_is_not_too_long(module: Module) -> None:
    usual = _DIALECT_LINES if module.name.startswith("rest_facade.dialects.") else _MODULE_LINES
    assert module.lines <= _LONG_MODULES.get(module.name, usual)


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_no_function_is_too_long(module: Module) -> None:
    long = {
        node.name: _length(node)
        for node in module.definitions()
        if not isinstance(node, ast.ClassDef) and _length(node) > _FUNCTION_LINES
    }
    assert long == {}


def _length(node: Definition) -> int:
    """Lines of a function's code: without docstring and signature, which in commands is documentation."""
    body = node.body
    if ast.get_docstring(node) is not None:
        body = body[1:]
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_long_modules_are_still_there() -> None:
    assert set(_LONG_MODULES) <= set(_IDS)


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_names_say_something(module: Module) -> None:
    assert not set(module.name.split(".")) & _VAGUE
    vague = {node.name for node in module.definitions() if _VAGUE_VERBS.match(node.name)}
    assert vague - _GIVEN_NAMES == set()


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_a_module_says_what_it_hides(module: Module) -> None:
    if module.text.strip():
        assert ast.get_docstring(module.tree), "no docstring"


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_what_is_public_is_documented(module: Module) -> None:
    bare = [node.name for node in module.public() if not _documented(node)]
    assert bare == []


def _documented(node: Definition) -> bool:
    if ast.get_docstring(node):
        return True
    # A property's name says it; an override's contract is its Protocol's or superclass's.
    decorators = {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
    return bool(decorators & {"property", "cached_property", "override", "overload", "field_validator"})


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_a_docstring_begins_with_one_line(module: Module) -> None:
    for node in module.public():
        text = ast.get_docstring(node) or ""
        first, _, rest = text.partition("\n")
        assert not rest or rest.startswith("\n"), f"{node.name}: {first}"


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_nothing_is_left_for_later(module: Module) -> None:
    found = re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b|\bfor now\b", module.text)
    assert found == []


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_no_module_has_state_of_its_own(module: Module) -> None:
    """What is bound at module level is not bound again by a function."""
    rebinding = [
        f"{module.name}: global {', '.join(node.names)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global)
    ]
    assert rebinding == []


def test_only_the_named_things_stand_at_the_top() -> None:
    expected = {*PACKAGES, "proto", "tests", "benchmarks", "docs", "requirements", "sdk"}
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    generated = {name for name in found if name.endswith(".egg-info") or name in {"build", "dist"}}
    assert found - generated - expected == set()
