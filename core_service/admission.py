"""The pipeline a client's request goes through; hides its order.

credential → origin → quota → scope → each event: permission, shape, clock, site → stamp. All is decided from
memory; making it durable is `commit`'s. A bad credential learns nothing of what comes after it, and a missing
permission is told before a wrong shape.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeAlias

import msgspec
import structlog
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import event_pb2, ingest_pb2
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.event_pb2 import Event, Provenance
from polylect.v1.ingest_pb2 import ClientItem, ClientOutcome, ClientRequest, EventResult
from polylect.v1.quarantine_pb2 import Circumstances, QuarantinedEvent
from polylect.v1.queue_pb2 import EventBatch
from uuid_utils import uuid7

from core_service.circumstances import circumstances_of
from core_service.direct import normalize
from core_service.errors import INVALID_CREDENTIAL, MISSING_CREDENTIAL, CoreError, Objection
from core_service.fingerprint import Fingerprints
from core_service.keys import KeyEntry, KeyRing
from core_service.limits import QuotaCounters, QuotaState
from core_service.meaning import shape_objection, time_objection
from core_service.moments import timestamp_of
from core_service.ports import GRPC
from core_service.wire import field, tag_of

_REVENUE = event_pb2.EVENT_KIND_REVENUE
_PULSE = ingest_pb2.KEY_KIND_PULSE
_SECRET = ingest_pb2.KEY_KIND_PULSORA_SECRET
_WARNING_SECONDS = 3_600

_EVENTS, _QUARANTINED = (tag_of(EventBatch.DESCRIPTOR, name) for name in ("events", "quarantined"))
_EVENT_ID, _RECEIVED_AT, _OCCURRED_AT, _CLIENT_IP, _PROVENANCE = (
    tag_of(Event.DESCRIPTOR, name)
    for name in ("event_id", "received_at", "occurred_at", "client_ip", "provenance")
)
_SITE_ID = tag_of(Provenance.DESCRIPTOR, "site_id")

_FOREIGN_ORIGIN = Objection(reasons.ERROR_REASON_ORIGIN_NOT_ALLOWED, "The origin is not one of the source's")
_NO_WRITE_SCOPE = Objection(reasons.ERROR_REASON_SCOPE_MISSING, "The key lacks the scope events:write")
_NO_REVENUE = Objection(reasons.ERROR_REASON_REVENUE_NOT_PERMITTED, "Revenue events require secret token")
_NO_EVENT = Objection(reasons.ERROR_REASON_KIND_UNKNOWN, "The item holds no event")
_UNKNOWN_SITE = Objection(reasons.ERROR_REASON_SITE_UNKNOWN, "Invalid site_id", "site_id")
_NO_SITE = Objection(reasons.ERROR_REASON_FIELD_MISSING, "Missing required field: site_id", "site_id")

log = structlog.get_logger()

# What an answer repeats. Generic for the type checker only.
Results: TypeAlias = "RepeatedCompositeFieldContainer[EventResult]"

_read_shallow = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Receipt:
    """What all events of one request have in common, and what became of them."""

    __slots__ = ("items", "key", "received_at", "refused", "request", "results", "stamp", "vendor_ids")

    def __init__(
        self, key: KeyEntry, received_at: Timestamp, request: ClientRequest, results: Results
    ) -> None:
        """Start with no event judged. All of `request` but its items counts; `results` is filled."""
        self.key = key
        self.received_at = received_at
        self.request = request
        self.results = results
        self.vendor_ids: Mapping[str, str] = {}
        # Of its events so many.
        self.refused = 0
        # What is to be made durable, each an EventBatch of one item.
        self.items: list[bytes] = []
        # What is added to every event.
        self.stamp = key.source.stamp + field(_RECEIVED_AT, received_at.SerializeToString())


class Admission:
    """Judges requests, and each of their events by itself."""

    def __init__(self, keys: KeyRing, quotas: QuotaCounters, fingerprints: Fingerprints) -> None:
        """Judge by these."""
        self._keys = keys
        self._quotas = quotas
        self._fingerprints = fingerprints
        # By key_id; of keys that exist only, so bounded by them.
        self._warn_again_at: dict[str, float] = {}

    def enter(self, request: ClientRequest, outcome: ClientOutcome, now: float) -> KeyEntry | None:
        """Let a client's request in, or write its refusal to `outcome`; quota and CORS go there too."""
        credential = request.credential
        origin = request.origin
        key = self._keys.find(credential, now) if credential else None
        if key is None or key.kind not in request.accepted_kinds:
            if origin:
                outcome.origin_allowed = self._keys.any_source_allows(origin)
            write_rejection(outcome.refusal, INVALID_CREDENTIAL if credential else MISSING_CREDENTIAL)
            return None
        if request.from_browser and key.kind == _SECRET:
            self._warn_of_secret_in_browser(key, now)
        source = key.source
        if source.cookie_domain:
            outcome.cookie_domain = source.cookie_domain
        if origin:
            if not source.origins.allow(origin):
                write_rejection(outcome.refusal, _FOREIGN_ORIGIN)
                return None
            outcome.origin_allowed = True
        objection = self._count(request, outcome, key, now)
        if objection is None and not key.may_write:
            objection = _NO_WRITE_SCOPE
        if objection is not None:
            write_rejection(outcome.refusal, objection)
            return None
        return key

    def source_id_of(self, request: ClientRequest, now: float) -> str:
        """Give the source a client's key belongs to; "" when the key is none, or not for there."""
        return self._keys.source_id_of(request.credential, now, request.accepted_kinds)

    def _warn_of_secret_in_browser(self, key: KeyEntry, now: float) -> None:
        # Once an hour, not with every page view.
        if now >= self._warn_again_at.get(key.key_id, 0.0):
            self._warn_again_at[key.key_id] = now + _WARNING_SECONDS
            log.warning("secret_key_in_browser", key_id=key.key_id, source=key.source.name)

    def enter_direct(self, key: KeyEntry, now: float) -> None:
        """Let a gRPC caller in. Raises CoreError: quota, scope."""
        if key.source.rate_limit is not None and key.source.rate_limit[0]:
            limit, window_seconds = key.source.rate_limit
            state = self._quotas.take((GRPC, key.source.source_id), limit, window_seconds, 1, now)
            if not state.admitted:
                raise CoreError(
                    *_over_quota(limit, window_seconds, 1)[:2], retry_after_seconds=state.retry_after_seconds
                )
        if not key.may_write:
            raise CoreError(*_NO_WRITE_SCOPE[:2])

    def judge(
        self,
        request: ClientRequest,
        items: Sequence[ClientItem],
        outcome: ClientOutcome,
        key: KeyEntry,
        received_at: Timestamp,
    ) -> Receipt:
        """Judge the items of a request that was let in. Needs the day's salt where one asks for it."""
        receipt = Receipt(key, received_at, request, outcome.results)
        vendor_cookies = key.source.vendor_cookies
        if vendor_cookies and request.vendor_ids:
            given = request.vendor_ids
            receipt.vendor_ids = {name: given[name] for name in vendor_cookies if name in given}
            outcome.vendor_cookies.extend(receipt.vendor_ids)
        for item in items:
            self.judge_item(item, receipt)
        return receipt

    def judge_direct(self, events: Sequence[Event], receipt: Receipt) -> None:
        """Judge the events of a gRPC caller into `receipt`."""
        request = receipt.request
        provenance = Provenance(
            dialect=request.dialect, endpoint=request.endpoint, request_id=request.request_id
        )
        receipt.stamp += field(_PROVENANCE, provenance.SerializeToString())
        for event in events:
            raw = event.SerializeToString()
            judged = normalize(event, raw)
            objection = _take(event, judged, receipt) if isinstance(judged, bytes) else judged
            if objection is not None:
                _refuse(_rejection(objection), raw, receipt)

    def _count(
        self, request: ClientRequest, outcome: ClientOutcome, key: KeyEntry, now: float
    ) -> Objection | None:
        own = key.source.rate_limit
        if own is not None and not own[0]:
            return None
        quota = request.quota
        limit, window_seconds = own if own is not None else (quota.limit, quota.window_seconds)
        if not limit or not window_seconds:
            return None
        if quota.scope == ingest_pb2.QUOTA_SCOPE_CLIENT_IP:
            counted = request.client_ip
        elif quota.scope == ingest_pb2.QUOTA_SCOPE_KEY:
            counted = key.key_id
        else:
            counted = ""
        cost = len(request.items) if quota.counts_events else 1
        name = (quota.name, key.source.source_id, counted)
        state = self._quotas.take(name, limit, window_seconds, cost, now)
        _write_rate_limit(outcome, state, limit, window_seconds)
        return None if state.admitted else _over_quota(limit, window_seconds, cost)

    def judge_item(self, item: ClientItem, receipt: Receipt) -> None:
        """Judge one item into `receipt`. Needs the day's salt where it asks for it."""
        if item.HasField("event"):
            event = item.event
            if item.fingerprint_visitor:
                event.anonymous_id = self._fingerprints.make(
                    event.client_ip or receipt.request.client_ip,
                    event.device.user_agent,
                    receipt.key.source.source_id,
                    receipt.received_at.seconds,
                )
            if receipt.vendor_ids:
                event.context_json = _with_vendor_ids(event.context_json, receipt.vendor_ids)
            objection = _take(event, event.SerializeToString(), receipt)
            if objection is None:
                return
            rejection = _rejection(objection)
        elif item.kind == _REVENUE and not receipt.key.may_write_revenue:
            rejection = _rejection(_NO_REVENUE)
        else:
            rejection = item.rejection if item.HasField("rejection") else _rejection(_NO_EVENT)
        make_fingerprint = partial(self._fingerprint, receipt)
        kept = circumstances_of(receipt.request, item, receipt.vendor_ids, make_fingerprint)
        _refuse(rejection, item.raw, receipt, kept)

    def _fingerprint(self, receipt: Receipt, user_agent: str) -> str:
        source_id, seconds = receipt.key.source.source_id, receipt.received_at.seconds
        return self._fingerprints.make(receipt.request.client_ip, user_agent, source_id, seconds)


def received_at_of(request: ClientRequest, clock: Callable[[], datetime]) -> Timestamp:
    """Give when the facade received the request; now, if it didn't say."""
    if request.HasField("received_at"):
        return request.received_at
    return timestamp_of(clock())


def write_rejection(target: Rejection, objection: Objection) -> None:
    """Write an objection into a message."""
    target.reason, target.message, target.field = objection


def _rejection(objection: Objection) -> Rejection:
    return Rejection(reason=objection.reason, message=objection.message, field=objection.field)


def _over_quota(limit: int, window_seconds: int, cost: int) -> Objection:
    quota = f"the quota of {limit} per {window_seconds} s"
    if cost > limit:
        message = f"A request that counts {cost} never fits {quota}; send fewer events at once"
    else:
        message = f"Rate limit exceeded: {quota} is used up"
    return Objection(reasons.ERROR_REASON_RATE_LIMITED, message)


def _write_rate_limit(outcome: ClientOutcome, state: QuotaState, limit: int, window_seconds: int) -> None:
    target = outcome.rate_limit
    target.limit = limit
    target.remaining = state.remaining
    target.reset_seconds = state.reset_seconds
    target.window_seconds = window_seconds
    if not state.admitted:
        target.retry_after_seconds = state.retry_after_seconds


def _take(event: Event, serialized: bytes, receipt: Receipt) -> Objection | None:
    """Add the event, of those bytes, to the receipt, stamped, or tell why not."""
    key = receipt.key
    if event.kind == _REVENUE and not key.may_write_revenue:
        return _NO_REVENUE
    max_age_seconds = receipt.request.max_age_seconds
    objection = shape_objection(event, len(serialized)) or time_objection(
        event, receipt.received_at, max_age_seconds
    )
    if objection is not None:
        return objection
    stamp = receipt.stamp
    site_id = event.provenance.site_id
    if site_id or key.kind == _PULSE:
        stored_site = key.sites.get(site_id) if site_id else key.only_site
        if not stored_site:
            return _UNKNOWN_SITE if site_id else _NO_SITE
        stamp += field(_PROVENANCE, field(_SITE_ID, stored_site.encode()))
    if not event.HasField("occurred_at"):
        stamp += field(_OCCURRED_AT, receipt.received_at.SerializeToString())
    if not event.client_ip:
        stamp += field(_CLIENT_IP, receipt.request.client_ip.encode())
    event_id = str(uuid7())
    stamp += field(_EVENT_ID, event_id.encode())
    receipt.items.append(field(_EVENTS, serialized + stamp))
    receipt.results.add().event_id = event_id
    return None


def _refuse(rejection: Rejection, raw: bytes, receipt: Receipt, kept: Circumstances | None = None) -> None:
    # A field name may be the client's own words, and U+0000 is what no text column takes.
    stored = Rejection(
        reason=rejection.reason,
        message=rejection.message.replace("\0", ""),
        field=rejection.field.replace("\0", ""),
    )
    refused = QuarantinedEvent(
        quarantine_id=str(uuid7()),
        source_id=receipt.key.source.source_id,
        rejection=stored,
        raw=raw,
        received_at=receipt.received_at,
        dialect=receipt.request.dialect,
        endpoint=receipt.request.endpoint,
        request_id=receipt.request.request_id,
        client_ip=receipt.request.client_ip,
        circumstances=kept,
    )
    receipt.refused += 1
    receipt.items.append(field(_QUARANTINED, refused.SerializeToString()))
    receipt.results.add().rejection.CopyFrom(rejection)


def _with_vendor_ids(context_json: str, vendor_ids: Mapping[str, str]) -> str:
    # Read one level deep only: everything the client wrote stays the text it was.
    context = _read_shallow(context_json.encode()) if context_json else {}
    own: dict[str, object] = dict(vendor_ids)
    theirs = context.get("vendor_ids")
    if theirs is not None and bytes(theirs).lstrip().startswith(b"{"):
        own = {**_read_shallow(theirs), **own}
    return msgspec.json.encode({**context, "vendor_ids": own}).decode()
