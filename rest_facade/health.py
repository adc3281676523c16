"""GET /healthz, /readyz and /metrics: what supervisors, load balancers and Prometheus ask."""

from falcon.asgi import Request, Response

from rest_facade import body_json
from rest_facade.core_link import CoreLink
from rest_facade.core_refusal import CoreRefusal
from rest_facade.metrics import CONTENT_TYPE, Metrics

ALLOWED_METHODS = "GET, HEAD"


class HealthResource:
    """Alive: this process answers."""

    allowed_methods = ALLOWED_METHODS

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer 200."""
        resp.data = body_json.write({"status": "alive"})

    on_head = on_get


class ReadyResource:
    """Ready: core and database answer too."""

    allowed_methods = ALLOWED_METHODS

    def __init__(self, link: CoreLink) -> None:
        self._link = link

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer 200, or 503 with the reason."""
        try:
            reason = (
                "" if await self._link.serves() else "the core does not serve: its database does not answer"
            )
        except CoreRefusal:
            reason = "the core does not answer"
        if reason:
            resp.status = 503
            resp.set_header("Retry-After", "1")
            resp.data = body_json.write({"status": "unavailable", "reason": reason})
        else:
            resp.data = body_json.write({"status": "ready"})

    on_head = on_get


class MetricsResource:
    """The counters."""

    allowed_methods = ALLOWED_METHODS

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer in Prometheus' text format."""
        resp.content_type = CONTENT_TYPE
        resp.data = self._metrics.exposition()

    on_head = on_get
