"""Who may import whom."""

import ast
import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter

import pytest

from .source_tree import PACKAGES, ROOT, STUBS, Import, Module, module_named, modules

_OURS = {*PACKAGES, STUBS, "proto", "tests", "benchmarks"}
_GRPC = {"grpc", "grpc_health", "grpc_reflection", "grpc_status"}
_PROTOBUF = {"google"}
_SERVER = {"falcon", "gunicorn", "uvicorn", "uvicorn_worker"}
_DATABASE = {"sqlalchemy", "psycopg", "psycopg_pool", "alembic"}

# What each package may import of our own, and what it must not import of others'.
_MAY = {
    "storage": {STUBS, "storage"},
    "core_service": {STUBS, "core_service", "storage"},
    "rest_facade": {STUBS, "rest_facade"},
    "polylect_cli": {STUBS, *PACKAGES},
}
_MUST_NOT = {
    "storage": {*_GRPC, *_SERVER, "typer", "pydantic_settings"},
    "core_service": {*_SERVER, *_DATABASE, "typer", "pydantic_settings"},
    "rest_facade": {*_DATABASE, "typer", "pydantic_settings"},
    "polylect_cli": {*_DATABASE, "falcon"},
}
_KNOWS_THE_STORE = "core_service.server"
_DIALECT_MAY = {"rest_facade.vocabulary", "rest_facade.values"}

_MODULES = modules()
_IDS = [module.name for module in _MODULES]


def _top(name: str) -> str:
    return name.partition(".")[0]


def _told(module: Module, wrong: list[Import]) -> list[str]:
    return [f"{module.path.relative_to(ROOT)}:{each.line} imports {each.name}" for each in wrong]


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_a_package_imports_only_what_it_may(module: Module) -> None:
    may, must_not = _MAY[module.package], _MUST_NOT[module.package]
    wrong = [
        each
        for each in module.imports()
        if (_top(each.name) in _OURS and _top(each.name) not in may) or _top(each.name) in must_not
    ]
    assert _told(module, wrong) == []


def test_one_module_of_the_core_knows_the_store() -> None:
    knowing = {
        module.name
        for module in modules("core_service")
        for each in module.imports()
        if _top(each.name) == "storage"
    }
    assert knowing == {_KNOWS_THE_STORE}


@pytest.mark.parametrize(
    "module",
    [module for module in modules("rest_facade/dialects") if module.path.name != "__init__.py"],
    ids=lambda module: module.name,
)
def test_a_dialect_imports_words_and_values_only(module: Module) -> None:
    outside = {"storage", "core_service", "polylect_cli", "rest_facade", *_GRPC, *_SERVER, *_DATABASE}
    wrong = [
        each
        for each in module.imports()
        if _top(each.name) in outside
        and each.name not in _DIALECT_MAY
        and each.name.rpartition(".")[0] not in _DIALECT_MAY
    ]
    assert _told(module, wrong) == []


def test_stubs_import_nothing_of_ours_but_stubs() -> None:
    for module in modules("proto"):
        wrong = [each for each in module.imports() if _top(each.name) in _OURS - {STUBS}]
        assert _told(module, wrong) == []


def test_nobody_imports_the_source_root_of_the_stubs() -> None:
    for module in [*_MODULES, *modules("tests", "benchmarks")]:
        assert _told(module, [each for each in module.imports() if _top(each.name) == "proto"]) == []


@pytest.mark.parametrize("layer", ["system", "clients"])
def test_tests_of_the_whole_system_import_nothing_of_ours(layer: str) -> None:
    for module in modules(f"tests/{layer}"):
        wrong = [
            each
            for each in module.imports()
            if _top(each.name) in _OURS and not each.name.startswith(f"tests.{layer}")
        ]
        assert _told(module, wrong) == []


def test_tests_stay_among_themselves() -> None:
    for module in _MODULES:
        wrong = [each for each in module.imports() if _top(each.name) in {"tests", "benchmarks", "pytest"}]
        assert _told(module, wrong) == []


def test_there_are_no_cycles() -> None:
    known = {module.name: module for module in _MODULES}
    graph: dict[str, set[str]] = {}
    for module in _MODULES:
        imported = (module_named(each.name, known) for each in module.imports(at_run_time=True))
        graph[module.name] = {each.name for each in imported if each and each.name != module.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", _MODULES, ids=_IDS)
def test_no_function_imports(module: Module) -> None:
    inside = [
        f"{module.path.relative_to(ROOT)}:{node.lineno}"
        for function in module.definitions()
        if not isinstance(function, ast.ClassDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert inside == []


@pytest.mark.parametrize("package", ["core_service", "rest_facade", "storage"])
def test_parts_read_no_environment(package: str) -> None:
    """Settings are passed in. What is inherited as a whole, for a child process, is no setting."""
    reading = [
        f"{module.path.relative_to(ROOT)}:{node.lineno}"
        for module in modules(package)
        for node in ast.walk(module.tree)
        if _reads_environment(node)
    ]
    assert reading == []


def _reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Load) and ast.unparse(node.value) == "os.environ"
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {"os.getenv", "os.environ.get"}


def test_uvicorn_is_pinned_to_a_minor_version_while_its_inside_is_used() -> None:
    uses = [each.name for module in modules("rest_facade") for each in module.imports()]
    if any(name.startswith("uvicorn.protocols.") for name in uses):
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        (uvicorn,) = (one for one in wanted if re.match(r"uvicorn\b(?!-)", one))
        assert re.fullmatch(r"uvicorn~=\d+\.\d+\.\d+", uvicorn)


def test_every_package_is_known_here() -> None:
    """A new top-level package must get its own row above."""
    found = {
        path.parent.name
        for path in ROOT.glob("*/__init__.py")
        if path.parent.name not in {"tests", "benchmarks"} and path.parent.name not in sys.stdlib_module_names
    }
    assert found == set(PACKAGES)
