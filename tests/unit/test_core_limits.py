"""Quotas: never more than the limit in any window, and a wait that is true."""

from hypothesis import given
from hypothesis import strategies as st

from core_service.limits import QuotaCounters

STEPS = st.lists(
    st.tuples(st.floats(0, 40, allow_nan=False), st.integers(1, 4)),
    min_size=1,
    max_size=200,
)


@given(STEPS, st.integers(1, 12), st.sampled_from([1, 10, 60]))
def test_no_window_holds_more_than_the_limit(steps: list[tuple[float, int]], limit: int, window: int) -> None:
    quotas = QuotaCounters()
    now, admitted = 1_000_000.0, []
    for pause, cost in steps:
        now += pause
        if quotas.take("q", limit, window, cost, now).admitted:
            admitted.append((now, cost))
        held = sum(units for time, units in admitted if time + window > now)
        assert held <= limit


@given(STEPS, st.integers(4, 12))
def test_the_wait_is_true_and_its_second_before_is_not_enough(
    steps: list[tuple[float, int]], limit: int
) -> None:
    quotas = QuotaCounters()
    now = 1_000_000.0
    for pause, cost in steps:
        now += pause
        state = quotas.take("q", limit, 60, cost, now)
        if state.admitted:
            assert state.retry_after_seconds == 0
            continue
        assert 1 <= state.retry_after_seconds <= 60
        assert not quotas.take("q", limit, 60, cost, now + state.retry_after_seconds - 1.001).admitted
        now += state.retry_after_seconds
        assert quotas.take("q", limit, 60, cost, now).admitted


def test_a_steady_client_keeps_nearly_the_whole_limit() -> None:
    quotas = QuotaCounters()
    admitted = sum(quotas.take("q", 1_000, 1, 1, n / 1_000).admitted for n in range(100_000))
    assert admitted > 100_000 * 0.96


def test_the_state_is_told() -> None:
    quotas = QuotaCounters()
    assert quotas.take("q", 3, 60, 2, 0.0) == (True, 1, 60, 0)
    assert quotas.take("q", 3, 60, 2, 10.0) == (False, 1, 50, 50)
    assert quotas.take("q", 3, 60, 1, 10.0) == (True, 0, 60, 0)
    assert quotas.take("q", 3, 60, 4, 20.0) == (False, 0, 50, 60)
    assert quotas.take("q", 3, 60, 0, 20.0) == (True, 0, 50, 0)
    assert quotas.take("other", 3, 60, 3, 20.0) == (True, 0, 60, 0)


def test_a_lowered_limit_holds_at_once() -> None:
    quotas = QuotaCounters()
    quotas.take("q", 100, 60, 50, 0.0)
    assert quotas.take("q", 10, 60, 1, 1.0) == (False, 0, 59, 59)


def test_a_clock_set_back_blocks_nobody_for_longer_than_a_window() -> None:
    quotas = QuotaCounters()
    quotas.take("q", 1, 60, 1, 1_000_000.0)
    assert quotas.take("q", 1, 60, 1, 0.0) == (False, 0, 60, 60)
    assert quotas.take("q", 1, 60, 1, 60.0).admitted


def test_memory_is_bounded_and_the_least_recent_are_forgotten() -> None:
    quotas = QuotaCounters(max_counters=10)
    for name in range(10):
        quotas.take(name, 1, 60, 1, 0.0)
    assert not quotas.take(0, 1, 60, 1, 1.0).admitted
    quotas.take("new", 1, 60, 1, 2.0)
    assert len(quotas) == 10
    assert not quotas.take(0, 1, 60, 1, 3.0).admitted
    assert quotas.take(1, 1, 60, 1, 3.0).admitted


def test_used_up_counters_go_by_themselves() -> None:
    quotas = QuotaCounters()
    for name in range(1_000):
        quotas.take(name, 1, 1, 1, 0.0)
    for name in range(1_000, 1_600):
        quotas.take(name, 1, 1, 1, 10.0)
    assert len(quotas) == 600
