"""Nothing in the tree speaks of the machine or the people it was made on."""

import re
from pathlib import Path

from .source_tree import ROOT, tracked_files

# Directories of one's own, anywhere; the dollar keeps this file from finding itself.
_OWN_DIRECTORY = re.compile(r"(?<![\w.$/])/(?:home|root|Users|work|mnt|workspace)/(?!\w+\.html)[\w.-]+")
# Package indexes are the user's affair: configured outside, never named here.
_REGISTRY = re.compile(
    r"(?:(?<!no-emit-)index-url|extra-index|\bregistry=https?:|trusted-host|https?://[\w.-]*(?:pypi|npmjs)[\w.-]*)"
)
_ADDRESS = re.compile(r"\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}:\d+\b")
# Made for the tests of TLS, and trusted by nobody else.
_TEST_KEYS = "tests/contract/core/tls/"
_SECRET = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bghp_\w{30,}")


def _text_files() -> list[tuple[Path, str]]:
    found = []
    for path in tracked_files():
        try:
            found.append((path.relative_to(ROOT), path.read_text()))
        except UnicodeDecodeError:
            continue
    return found


def _lines_with(pattern: "re.Pattern[str]") -> list[str]:
    here = Path(__file__).relative_to(ROOT)
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in _text_files()
        if path != here
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_directory_of_one_machine() -> None:
    assert _lines_with(_OWN_DIRECTORY) == []


def test_no_package_index() -> None:
    assert _lines_with(_REGISTRY) == []


def test_no_private_address_with_a_port() -> None:
    assert _lines_with(_ADDRESS) == []


def test_no_secret() -> None:
    assert [line for line in _lines_with(_SECRET) if not line.startswith(_TEST_KEYS)] == []


def test_files_that_are_made_are_not_kept() -> None:
    made = {".polylect", "__pycache__", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    assert [path for path, _ in _text_files() if made & set(path.parts) or path.name.endswith(".pyc")] == []
