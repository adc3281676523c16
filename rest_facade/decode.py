"""Turns one HTTP request of a dialect into a ClientRequest: the one place where wire bytes become canonical.

What can't be read at all is raised as ShapeError and answered at once. Everything else travels to the core,
rejections too, because credential, origin and quota are judged before shape, and only the core knows those.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import ClientItem, ClientRequest
from polylect.v1.quarantine_pb2 import Circumstances
from uuid_utils import uuid7

from rest_facade import body_json
from rest_facade.envelope import Envelope, open_envelope
from rest_facade.shapes import compile_events
from rest_facade.vocabulary import (
    Batch,
    Choice,
    Credential,
    Dialect,
    Endpoint,
    Json,
    OnNull,
    Pixel,
    Place,
    Shape,
    ShapeError,
)

_USER_AGENT_CHARACTERS = 2048


class Arrival(msgspec.Struct, frozen=True):
    """What HTTP tells of a request beside its body."""

    # Lower-case names.
    headers: Mapping[str, str]
    # Decoded; of a repeated parameter the last.
    query: Mapping[str, str]
    client_ip: str
    request_id: str
    # Microseconds since the epoch.
    received_us: int
    # The visitor cookie, existing or new; "" where the dialect has none.
    cookie_id: str
    # Id of an event without one, where the dialect makes them. "": a new one.
    message_id: str = ""


class Decoder:
    """Decodes the requests of one endpoint."""

    def __init__(self, dialect: Dialect, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        # None: in the body.
        self._lookups = tuple(credential_lookup(place) for place in dialect.credentials)
        self._body_credential = next((c for c in dialect.credentials if c.place is Place.BODY), None)
        self._fill_single = compile_events(endpoint.single) if endpoint.single else None
        self._fill_batched = compile_events(endpoint.batch.events) if endpoint.batch else None
        self._dialect_name = dialect.name
        self._makes_message_ids = dialect.makes_message_ids
        self._makes_fingerprints = _may_fingerprint(endpoint.single)
        # What all requests have in common, serialized once.
        self._common = ClientRequest(
            dialect=dialect.name,
            endpoint=endpoint.path,
            accepted_kinds=dialect.key_kinds,
            quota=endpoint.quota or dialect.quota,
            max_age_seconds=dialect.max_age_seconds,
        ).SerializeToString()

    def decode(self, body: bytes, arrival: Arrival, request: ClientRequest) -> bool:
        """Fill `request` but for origin and vendor ids, and tell whether the answer is a batch's.

        Raises ShapeError when the body can't be read.
        """
        request.client_ip = arrival.client_ip
        request.request_id = arrival.request_id
        received_at = request.received_at
        received_at.seconds, micros = divmod(arrival.received_us, 1_000_000)
        received_at.nanos = micros * 1000
        if self._endpoint.batch is not None:
            batch = self._endpoint.batch
            envelope = open_envelope(body, batch.wire, batch.max_events)
            if self._endpoint.single is None or envelope.events is not None or batch.wire in envelope.beside:
                return self._decode_batch(batch, body, envelope, arrival, request)
        self._decode_single(body, arrival, request)
        return False

    def decode_kept(self, raw: bytes, kept: Circumstances, arrival: Arrival, request: ClientRequest) -> None:
        """Fill `request` from what the quarantine keeps of one event: the `raw` of an item, and the rest.

        What can't be read is a rejection too, and so is what was refused as a batch.
        """
        request.MergeFromString(self._common)
        try:
            if kept.HasField("envelope"):
                self._decode_kept_batched(raw, kept, arrival, request)
            elif self._endpoint.pixel is not None:
                value, cleaned = body_json.read(raw)
                members = body_json.as_object(value)
                self._decode_members(members, raw, arrival, request, kept.sanitized or cleaned)
            elif self.decode(raw, arrival, request):
                raise _not_replayed()
        except ShapeError as error:
            del request.items[:]
            _reject(request.items.add(raw=raw), error, arrival, request)
        for item in request.items:
            if kept.sanitized and item.HasField("event"):
                item.event.sanitized = True

    def serialize(self, request: ClientRequest) -> bytes:
        """Give a decoded request's bytes, with what the endpoint says of all of them."""
        # To protobuf, two messages' bytes in a row are the two merged.
        return self._common + request.SerializeToString()

    def _decode_single(self, body: bytes, arrival: Arrival, request: ClientRequest) -> None:
        if self._endpoint.pixel is not None:
            members, sanitized = _pixel_members(self._endpoint.pixel, arrival.query)
            body = body_json.write(members)
        else:
            value, sanitized = body_json.read(body)
            members = body_json.as_object(value)
        self._decode_members(members, body, arrival, request, sanitized)

    def _decode_members(
        self, members: Json, body: bytes, arrival: Arrival, request: ClientRequest, sanitized: bool
    ) -> None:
        if self._find_credential(arrival, members, request):
            # Not cut out of the text: there JSON can write a secret in many ways.
            body = body_json.write(members)
        item = request.items.add(raw=body)
        self._tell_circumstances(item.event, arrival)
        self._fill_item(self._fill_single, members, item, arrival, sanitized=sanitized, request=request)

    def _decode_batch(
        self, batch: Batch, body: bytes, envelope: Envelope, arrival: Arrival, request: ClientRequest
    ) -> bool:
        shared, sanitized, beside_bytes = _shared_members(envelope.beside)
        self._find_credential(arrival, shared, request)
        try:
            events = _events_of(batch, envelope)
            if len(events) * beside_bytes > self._endpoint.max_bytes:
                raise ShapeError(
                    reasons.ERROR_REASON_PAYLOAD_TOO_LARGE,
                    f"What stands beside {batch.wire} is too large to apply to every event.",
                )
        except ShapeError as error:
            _reject(request.items.add(raw=body), error, arrival, request)
            return False
        request.envelope = self._kept_envelope(envelope.beside)
        # Half as dear as to set them for each.
        circumstances = self._tell_circumstances(Event(), arrival).SerializeToString()
        for event in events:
            item = request.items.add(raw=event)
            try:
                members, cleaned = _batched_members(batch, event, shared, self._body_credential)
            except ShapeError as error:
                _reject(item, error, arrival, request)
                continue
            item.event.MergeFromString(circumstances)
            self._fill_item(
                self._fill_batched, members, item, arrival, sanitized=sanitized or cleaned, request=request
            )
        return True

    def _decode_kept_batched(
        self, raw: bytes, kept: Circumstances, arrival: Arrival, request: ClientRequest
    ) -> None:
        batch = self._endpoint.batch
        if batch is None:
            raise _not_replayed()
        beside = body_json.read_members(kept.envelope) if kept.envelope else {}
        shared, sanitized, _ = _shared_members(beside)
        members, cleaned = _batched_members(batch, raw, shared, self._body_credential)
        item = request.items.add(raw=raw)
        self._tell_circumstances(item.event, arrival)
        self._fill_item(
            self._fill_batched, members, item, arrival, sanitized=sanitized or cleaned, request=request
        )

    def _kept_envelope(self, beside: Mapping[str, msgspec.Raw]) -> bytes:
        """Give the members beside the events as they were written, without the credential; b"" for none."""
        credential = self._body_credential.name if self._body_credential else None
        # As it is looked for: what has U+0000 in its name is the credential too.
        kept = {name: raw for name, raw in beside.items() if body_json.without_nul(name) != credential}
        return msgspec.json.encode(kept) if kept else b""

    def _fill_item(
        self,
        fill: Any,
        members: Json,
        item: ClientItem,
        arrival: Arrival,
        *,
        sanitized: bool,
        request: ClientRequest,
    ) -> None:
        try:
            fill(members, item)
        except ShapeError as error:
            _reject(item, error, arrival, request)
            item.sanitized = sanitized
            # Its salt is gone when the event is good at last.
            item.fingerprint_visitor = self._makes_fingerprints
            return
        event = item.event
        if arrival.cookie_id and not event.anonymous_id:
            event.anonymous_id = arrival.cookie_id
        if self._makes_message_ids and not event.message_id:
            event.message_id = arrival.message_id or str(uuid7())
        if sanitized:
            event.sanitized = True

    def _tell_circumstances(self, event: Event, arrival: Arrival) -> Event:
        """Say what HTTP tells of a request's events; a shape, filled later, changes the user agent only."""
        event.client_ip = arrival.client_ip
        if arrival.cookie_id:
            event.cookie_id = arrival.cookie_id
        if user_agent := arrival.headers.get("user-agent"):
            event.device.user_agent = user_agent[:_USER_AGENT_CHARACTERS]
        provenance = event.provenance
        provenance.dialect = self._dialect_name
        provenance.endpoint = self._endpoint.path
        provenance.request_id = arrival.request_id
        return event

    def _find_credential(self, arrival: Arrival, members: Json, request: ClientRequest) -> bool:
        """Set the credential, take the body's out of `members`, and tell whether that one is secret."""
        place = self._body_credential
        in_body = members.pop(place.name, None) if place else None
        for lookup in self._lookups:
            found = lookup(arrival) if lookup else in_body
            if found:
                request.credential = found if type(found) is str else "?"
                break
        return bool(in_body is not None and place and place.secret)


def credential_lookup(place: Credential) -> Callable[[Arrival], str] | None:
    """Give what finds the credential at that place of a request, "" when there is none; None: in the body."""
    name = place.name
    if place.place is Place.HEADER:
        return lambda arrival: arrival.headers.get(name, "")
    if place.place is Place.QUERY:
        return lambda arrival: arrival.query.get(name, "")
    return {Place.BEARER: _bearer, Place.BASIC: _basic}.get(place.place)


def _bearer(arrival: Arrival) -> str:
    scheme, _, value = arrival.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _basic(arrival: Arrival) -> str:
    scheme, _, value = arrival.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0]
    except ValueError:
        # Something was given, and it is no key.
        return "?"


def _may_fingerprint(events: Shape | Choice | None) -> bool:
    shapes = events.shapes.values() if isinstance(events, Choice) else filter(None, [events])
    return any(row.null is OnNull.FINGERPRINT for shape in shapes for row in shape.fields)


def _shared_members(beside: Mapping[str, msgspec.Raw]) -> tuple[Json, bool, int]:
    """Read the members beside the events; tell too whether U+0000 was in them, and their bytes."""
    shared: Json = {}
    sanitized = False
    beside_bytes = 0
    for name, raw in beside.items():
        beside_bytes += len(name) + len(bytes(raw))
        clean_name: str = body_json.without_nul(name)
        shared[clean_name], cleaned = body_json.read(raw, levels_above=1)
        sanitized = sanitized or cleaned or clean_name != name
    return shared, sanitized, beside_bytes


def _events_of(batch: Batch, envelope: Envelope) -> list[bytes]:
    events = envelope.events
    if events is None:
        if batch.wire not in envelope.beside:
            raise ShapeError(
                reasons.ERROR_REASON_FIELD_MISSING, f"Missing required field: {batch.wire}", batch.wire
            )
        raise ShapeError(reasons.ERROR_REASON_FIELD_INVALID, f"{batch.wire} must be an array", batch.wire)
    if len(events) > batch.max_events:
        raise ShapeError(
            reasons.ERROR_REASON_BATCH_TOO_LARGE, f"At most {batch.max_events} events per batch", batch.wire
        )
    return events


def _batched_members(batch: Batch, event: bytes, shared: Json, key: Credential | None) -> tuple[Json, bool]:
    if batch.max_event_bytes and len(event) > batch.max_event_bytes:
        raise ShapeError(
            reasons.ERROR_REASON_EVENT_TOO_LARGE, f"An event may have at most {batch.max_event_bytes} bytes"
        )
    members, sanitized = body_json.read(event, levels_above=2)
    if type(members) is not dict:
        raise ShapeError(reasons.ERROR_REASON_FIELD_INVALID, "An event must be a JSON object")
    if key:  # One published client repeats it in every event.
        members.pop(key.name, None)
    return ({**shared, **members} if shared else members), sanitized


def _pixel_members(pixel: Pixel, query: Mapping[str, str]) -> tuple[Json, bool]:
    members: Json = dict(pixel.constants)
    for name, value in query.items():
        prefix, dot, rest = name.partition(".")
        if name in pixel.parameters:
            members[pixel.parameters[name]] = value
        elif dot and prefix in pixel.prefixes and rest:
            members.setdefault(pixel.prefixes[prefix], {})[rest] = value
    clean = body_json.without_nul(members)
    return clean, clean != members


def _reject(item: ClientItem, error: ShapeError, arrival: Arrival, request: ClientRequest) -> None:
    item.rejection.reason = error.reason
    item.rejection.message = error.message
    item.rejection.field = error.field
    request.user_agent = arrival.headers.get("user-agent", "")[:_USER_AGENT_CHARACTERS]
    request.cookie_id = arrival.cookie_id


def _not_replayed() -> ShapeError:
    return ShapeError(reasons.ERROR_REASON_BATCH_TOO_LARGE, "What was refused as a batch is not replayed")
