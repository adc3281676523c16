"""Pages, as readers ask for them."""

import pytest

from core_service.errors import CoreError
from core_service.readers import page_size_of, refusing_page_token


@pytest.mark.parametrize(("wanted", "given"), [(0, 50), (1, 1), (1_000, 1_000), (1_001, 1_000)])
def test_a_page_size(wanted: int, given: int) -> None:
    assert page_size_of(wanted) == given


def test_a_page_token_the_store_refuses_is_told() -> None:
    with pytest.raises(CoreError) as refused, refusing_page_token("nonsense"):
        raise ValueError("not a page token")
    assert refused.value.field == "page_token"


def test_without_a_page_token_a_fault_stays_one() -> None:
    with pytest.raises(ValueError, match="a fault"), refusing_page_token(""):
        raise ValueError("a fault")
