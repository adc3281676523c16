"""How the command line speaks to the core: as its administrator, over gRPC.

Hides the channel, the credential and the translation of refusals into sentences.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from polylect.v1.identity_pb2_grpc import IdentityServiceStub
from polylect.v1.quarantine_pb2_grpc import QuarantineServiceStub
from polylect.v1.query_pb2_grpc import QueryServiceStub
from polylect.v1.source_pb2_grpc import SourceServiceStub

from polylect_cli.output import EXIT_UNREACHABLE, CommandError
from polylect_cli.settings import Settings, check_files, load_settings
from polylect_cli.tokens import token

# The core gives up a question after 20 s, and says so.
_TIMEOUT_SECONDS = 25.0
# As much as the core sends at once: a page ends early, but a single event may be large.
_CHANNEL_OPTIONS = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)

Response = TypeVar("Response")


class Core:
    """A connection to the running core."""

    def __init__(self, settings: Settings, channel: grpc.Channel, admin_token: str) -> None:
        self.sources = SourceServiceStub(channel)
        self.queries = QueryServiceStub(channel)
        self.identity = IdentityServiceStub(channel)
        self.quarantine = QuarantineServiceStub(channel)
        self._target = settings.core_target
        self._metadata = (("authorization", f"Bearer {admin_token}"),)

    def call(
        self, method: Callable[..., Response], request: Any, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> Response:
        """Call; raises CommandError for every refusal."""
        try:
            return method(request, metadata=self._metadata, timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise _explained(error, self._target) from error

    def follow(self, method: Callable[..., Iterable[Response]], request: Any) -> Iterator[Response]:
        """Call and give what comes, without end; it has begun when this returns.

        Raises CommandError, both here and while read; Interrupted where it may be called again.
        """
        answers = method(request, metadata=self._metadata)
        with self._interruptions():
            # The stubs can't say that it is a call too.
            call = cast("grpc.Call", answers)
            call.initial_metadata()
            if not call.is_active():
                # It raises what ended it.
                next(iter(answers))
        return self._each(answers)

    def _each(self, answers: Iterable[Response]) -> Iterator[Response]:
        with self._interruptions():
            yield from answers

    @contextmanager
    def _interruptions(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            explained = _explained(error, self._target)
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise Interrupted(str(explained), explained.exit_code) from error
            raise explained from error


class Interrupted(CommandError):
    """A call that may be made again."""


@contextmanager
def connected() -> Iterator[Core]:
    """Open a connection for one command."""
    settings = load_settings()
    check_files(settings)
    admin_token = token(settings, "admin")
    if admin_token is None:
        raise CommandError(
            f"no admin token: {settings.data_dir / 'admin_token'} does not exist yet. Start Polylect here "
            "first (make run), set POLYLECT_DATA_DIR to where it runs, or set POLYLECT_ADMIN_TOKEN",
            EXIT_UNREACHABLE,
        )
    with _channel(settings) as channel:
        yield Core(settings, channel, admin_token)


def _channel(settings: Settings) -> grpc.Channel:
    if settings.core_tls_ca is None:
        return grpc.insecure_channel(settings.core_target, _CHANNEL_OPTIONS)
    key = settings.core_tls_key.read_bytes() if settings.core_tls_key else None
    chain = settings.core_tls_cert.read_bytes() if settings.core_tls_cert else None
    credentials = grpc.ssl_channel_credentials(settings.core_tls_ca.read_bytes(), key, chain)
    return grpc.secure_channel(settings.core_target, credentials, _CHANNEL_OPTIONS)


def _explained(error: grpc.RpcError, target: str) -> CommandError:
    # The error of a call is also that call, which the stubs can't say.
    status = rpc_status.from_call(cast("grpc.Call", error))
    details = list(status.details) if status else []
    code, said = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and not details:
        return CommandError(f"the core at {target} did not answer in time", EXIT_UNREACHABLE)
    if code is grpc.StatusCode.UNAVAILABLE and not details:
        return CommandError(
            f"no core answers at {target}: is it running (make run, polylect up)? "
            f"POLYLECT_GRPC_PORT or POLYLECT_CORE_ADDRESS say where to look ({said})",
            EXIT_UNREACHABLE,
        )
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return CommandError(
            f"the core at {target} does not know this admin token: POLYLECT_DATA_DIR or POLYLECT_ADMIN_TOKEN "
            "must be the running core's"
        )
    for detail in details:
        fault, info = BadRequest(), ErrorInfo()
        if detail.Unpack(fault):
            news = [one for one in fault.field_violations if one.description not in said]
            said += "".join(f"; {one.field}: {one.description}" for one in news)
            if code is grpc.StatusCode.NOT_FOUND and fault.field_violations[0].field == "source":
                said += "; `polylect source list` lists what there is, `polylect source create` makes one"
        elif detail.Unpack(info) and not said:
            said = info.reason
    return CommandError(said or code.name)


def time_text(moment: Timestamp) -> str:
    """Give a time for people and programs: ISO 8601 in UTC, "" when not set."""
    if not moment.seconds and not moment.nanos:
        return ""
    return moment.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
