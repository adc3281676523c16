"""What the bench compares is the same."""

from google.protobuf.json_format import Parse
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import ClientRequest, IngestRequest

from benchmarks import payloads, payloads_grpc
from rest_facade.decode import Arrival, Decoder
from rest_facade.dialects.pulsora import PULSORA

_ENDPOINT = next(one for one in PULSORA.endpoints if one.path == "/api/ingest")


def test_the_peer_gets_pulsoras_events() -> None:
    ours = payloads.payload("pulsora", "key", distinct=64).requests
    theirs = payloads_grpc.transcoded("key", 64).requests
    for our, their in zip(ours, theirs, strict=True):
        given = Parse(their.body, IngestRequest()).events[0]
        taken = _decoded(our)
        for event in (given, taken):
            # Of when the payload was made.
            assert event.HasField("occurred_at")
            event.ClearField("occurred_at")
        # The facade's own.
        taken.ClearField("provenance")
        assert given == taken


def _decoded(request: payloads.Request) -> Event:
    headers = {name.lower(): text for name, text in request.headers.items()}
    arrival = Arrival(headers, {}, "127.0.0.1", "", 1_800_000_000_000_000, "")
    client_request = ClientRequest()
    Decoder(PULSORA, _ENDPOINT).decode(request.body, arrival, client_request)
    return client_request.items[0].event
