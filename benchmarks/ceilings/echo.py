"""Ceiling (c): a bare grpc.aio call that gives back the bytes it got.

On uvloop, the collector set as the core's; without interceptor, credentials or messages: nothing is parsed,
kept or looked at.
`python -m benchmarks.ceilings.echo PORT`.
"""

import asyncio
import gc
import sys

import grpc
import uvloop

from benchmarks.spawning import HOST

SERVICE, METHOD = "polylect.v1.IngestService", "Ingest"


async def _echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


async def serve(port: int) -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"{HOST}:{port}")
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
