"""Log lines are bounded, whatever provokes them."""

import pytest
import structlog

from polylect_cli.logs import Brake


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def passed(brake: Brake, name: str) -> dict[str, object] | None:
    try:
        return dict(brake(None, "info", {"event": name}))
    except structlog.DropEvent:
        return None


def test_of_one_kind_a_few_lines_a_second() -> None:
    clock = Clock()
    brake = Brake(clock)
    lines = [passed(brake, "request_refused") for _ in range(1_000)]
    assert lines == [{"event": "request_refused"}] * 10 + [None] * 990
    # Others are not crowded out.
    assert passed(brake, "core_stopped") == {"event": "core_stopped"}
    clock.now += 1
    assert passed(brake, "request_refused") == {"event": "request_refused", "left_out": 990}
    assert passed(brake, "request_refused") == {"event": "request_refused"}


@pytest.mark.parametrize("kinds", [5_000])
def test_kinds_without_end_take_no_memory(kinds: int) -> None:
    brake = Brake(Clock())
    for number in range(kinds):
        assert passed(brake, f"sentence {number}")
    assert len(brake._kinds) <= 1_000
