"""GET /healthz, /readyz and /metrics: what supervisors, load balancers and Prometheus ask."""

from falcon.asgi import Request, Response

from rest_facade import body_json
from rest_facade.caller import sane_request_id
from rest_facade.core_link import CoreLink
from rest_facade.core_refusal import CoreRefusal, UnknownFacade
from rest_facade.metrics import CONTENT_TYPE, Metrics

ALLOWED_METHODS = "GET, HEAD"


class _Asked:
    """What the three share."""

    allowed_methods = ALLOWED_METHODS

    async def on_options(self, req: Request, resp: Response) -> None:
        """Say which methods there are."""
        _name_request(req, resp)
        resp.status = 204
        resp.set_header("Allow", self.allowed_methods)


class HealthResource(_Asked):
    """Alive: this process answers."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer 200."""
        _name_request(req, resp)
        resp.data = body_json.write({"status": "alive"})

    on_head = on_get


class ReadyResource(_Asked):
    """Ready: core and database answer too, and the core knows this facade."""

    def __init__(self, link: CoreLink) -> None:
        self._link = link

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer 200, or 503 with the reason."""
        _name_request(req, resp)
        try:
            reason = (
                "" if await self._link.serves() else "the core does not serve: its database does not answer"
            )
        except UnknownFacade as refusal:
            reason = refusal.message
        except CoreRefusal:
            reason = "the core does not answer"
        if reason:
            resp.status = 503
            resp.set_header("Retry-After", "1")
            resp.data = body_json.write({"status": "unavailable", "reason": reason})
        else:
            resp.data = body_json.write({"status": "ready"})

    on_head = on_get


class MetricsResource(_Asked):
    """The counters."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer in Prometheus' text format."""
        _name_request(req, resp)
        resp.content_type = CONTENT_TYPE
        resp.data = self._metrics.exposition()

    on_head = on_get


def _name_request(req: Request, resp: Response) -> None:
    resp.set_header("X-Request-Id", sane_request_id(req.get_header("X-Request-Id")))
