"""Ceiling (a): a Falcon route that reads the body and answers 202, in the server the facade runs in.

The same gunicorn, the same uvicorn worker (uvloop, httptools), one worker process. What it does not do is
all that Polylect does.
"""

import gc
from typing import ClassVar

from falcon import HTTP_202
from falcon.asgi import App, Request, Response
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

_BODY = b'{"success":true}'


class Worker(UvicornWorker):  # type: ignore[misc]
    """uvicorn's own, with the facade's settings."""

    CONFIG_KWARGS: ClassVar = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }

    async def _serve(self) -> None:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        await super()._serve()


class Accepting:
    """Takes anything and keeps nothing."""

    async def on_post(self, request: Request, response: Response) -> None:
        """Read the body, answer."""
        await request.bounded_stream.read()
        response.status = HTTP_202
        response.content_type = "application/json"
        response.data = _BODY


app = App()
# Two paths, as requests of two dialects are measured beside it.
for _path in ("/api/ingest", "/collect"):
    app.add_route(_path, Accepting())
