"""The project's own Python files, parsed."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("core_service", "rest_facade", "storage", "polylect_cli")
STUBS = "polylect"

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Import:
    """A module, or a module's member, that is imported."""

    name: str
    line: int


@dataclass(frozen=True)
class Module:
    """A Python file."""

    path: Path

    @property
    def name(self) -> str:
        """Dotted name, a package's for its `__init__`."""
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def imports(self, *, at_run_time: bool = False) -> list[Import]:
        """What is imported, by absolute name; `from a import b` gives `a.b`."""
        return list(_imports(self.tree, self._anchor(), at_run_time))

    def definitions(self) -> Iterator[Definition]:
        for node in ast.walk(self.tree):
            if isinstance(node, Definition):
                yield node

    def public(self) -> Iterator[Definition]:
        """Top-level definitions, and methods of classes, without underscore."""
        for node in self.tree.body:
            if not isinstance(node, Definition) or node.name.startswith("_"):
                continue
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    inner
                    for inner in node.body
                    if isinstance(inner, Definition) and not inner.name.startswith("_")
                )

    def _anchor(self) -> list[str]:
        parts = self.name.split(".")
        return parts if self.path.name == "__init__.py" else parts[:-1]


def modules(*folders: str) -> list[Module]:
    """All Python files below the folders, those of our packages by default."""
    return [Module(path) for folder in folders or PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]


def module_named(name: str, known: dict[str, Module]) -> Module | None:
    """Find what an import means: the module, or the one whose member it is."""
    return known.get(name) or known.get(name.rpartition(".")[0])


def tracked_files() -> list[Path]:
    """The files under version control; all files where there is none (an unpacked archive)."""
    if not (ROOT / ".git").exists():
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def _imports(tree: ast.AST, anchor: list[str], at_run_time: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if at_run_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = anchor[: len(anchor) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (Import(f"{start}.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield from _imports(node, anchor, at_run_time)
