"""An operator, with or without a core running."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_operator import Operator


@pytest.fixture
def nobody(tmp_path: Path) -> Operator:
    """An operator with nothing running."""
    return Operator(tmp_path, POLYLECT_ADMIN_TOKEN="a-token")


@pytest.fixture
def operator(tmp_path: Path, database_url: str) -> Iterator[Operator]:
    """An operator whose core runs over an empty database."""
    made = Operator(tmp_path, DATABASE_URL=database_url)
    with made.part("core"):
        made.wait_for_core()
        yield made
