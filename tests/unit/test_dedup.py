"""What makes two events the same one."""

from itertools import combinations
from uuid import UUID

import pytest
from polylect.v1.event_pb2 import EVENT_KIND_REVENUE, EVENT_KIND_TRACK, Event, Revenue

from storage.dedup import dedup_key, message_key


def payment(transaction_id: str = "tx", event_type: str = "purchase", message_id: str = "") -> Event:
    revenue = Revenue(transaction_id=transaction_id, event_type=event_type)
    return Event(kind=EVENT_KIND_REVENUE, message_id=message_id, revenue=revenue)


def track(message_id: str, **fields: str) -> Event:
    return Event(kind=EVENT_KIND_TRACK, message_id=message_id, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("event", [track(""), payment(transaction_id=""), Event(kind=EVENT_KIND_REVENUE)])
def test_without_a_clients_id_there_is_no_key(event: Event) -> None:
    assert dedup_key(event) is None


def test_the_same_message_is_the_same_event_whatever_else_it_says() -> None:
    assert dedup_key(track("m", name="a")) == dedup_key(track("m", name="b")) == message_key("m")


def test_a_payment_is_the_same_whatever_message_told_of_it() -> None:
    assert dedup_key(payment(message_id="m-1")) == dedup_key(payment(message_id="m-2"))


def test_a_payment_without_transaction_id_is_known_by_its_message() -> None:
    assert dedup_key(payment(transaction_id="", message_id="m")) == message_key("m")


def test_what_differs_has_another_key() -> None:
    different = [track("tx"), track("t"), payment(), payment("tx2"), payment(event_type="refund")]
    for one, other in combinations(different, 2):
        assert dedup_key(one) != dedup_key(other)


def test_a_key_is_stable_and_a_uuid() -> None:
    # Keys outlive the program that made them: this one may never change.
    assert message_key("a1b2c3d4") == "c334bfc1206592359fd047767a46fbc9"
    assert UUID(message_key("é" * 128)).hex == message_key("é" * 128)
