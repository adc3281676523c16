"""The supervisor as a process: `python -m polylect_cli.run_up COMMAND`, its plan on standard input.

Hides what the operator is told: status lines on standard error, and once all runs how to use it. Knows the
documents' examples, which exist in demo mode only.
"""

import asyncio
import sys

import msgspec
import structlog

from polylect_cli.logs import configure_logs
from polylect_cli.supervisor import Plan, Supervisor

_DEMO = """
Keys for trying out (demo mode only):
  Pulsora  pub_123, sec_123                  PULSE    YOUR_API_KEY, pulse_dev_demo (site_abc123)
  Apex     pk_live_xyz                       Datafly  dk_live_abc123

Send an event:
  curl {http}/api/ingest -H 'X-API-Token: pub_123' -d \
'{{"type":"event","data":{{"visitor_fingerprint":"fp_1","session_id":"s_1","event_name":"signup"}}}}'
  curl {http}/collect -H 'Authorization: Bearer YOUR_API_KEY' -d \
'{{"site_id":"site_abc123","event_type":"page_view","timestamp":'$(date +%s000)',"session_id":"s_1"}}'
  curl {http}/api/events -d \
'{{"type":"pageview","projectKey":"pk_live_xyz","visitorId":"v_1","url":"https://example.com/pricing"}}'
  curl {http}/v1/t -H 'Authorization: Bearer dk_live_abc123' -d \
'{{"type":"track","event":"Product Added","properties":{{"price":79.99}}}}'
"""

_KEYS = """
Make a source and a key:
  {elsewhere}{command} source create shop
  {elsewhere}{command} key create shop --kind pulsora-public
"""

_LOOK = """
See it:
  {elsewhere}{command} events
  {elsewhere}{command} tail
  psql "$({elsewhere}{command} database-url)" \
-c 'select kind, name, received_at from events order by received_at desc'

Ctrl-C stops everything; nothing accepted is lost.
"""


def _ready_text(plan: Plan, seconds: float, command: str) -> str:
    """Tell that all runs, where, and what to do next. `command` is how `polylect` is called here."""
    http = plan.http_url
    database = "DATABASE_URL" if plan.database_url else f"embedded, in {plan.data_dir}"
    is_demo = plan.mode == "demo"
    page = f"\nOpen {http}/demo and press a button: the whole system at work.\n\n" if is_demo else ""
    head = (
        f"\nPolylect is ready ({plan.mode} mode, {seconds:.1f} s).\n{page}"
        f"  HTTP  {http}\n  gRPC  {plan.grpc_target}\n  Database  {database}\n"
    )
    body = _DEMO if is_demo else _KEYS
    return head + (body + _LOOK).format(http=http, command=command, elsewhere=plan.elsewhere)


async def _run(plan: Plan, command: str) -> int:
    configure_logs("supervisor", plan.log.level, plan.log.format)
    log = structlog.get_logger()

    page = "/demo" if plan.mode == "demo" else ""
    sys.stdout.write(f"Polylect starts, and will be at {plan.http_url}{page} in a second or two.\n")
    sys.stdout.flush()

    def announce(seconds: float) -> None:
        sys.stdout.write(_ready_text(plan, seconds, command))
        sys.stdout.flush()

    def say(level: str, sentence: str) -> None:
        getattr(log, level)(sentence)

    return await Supervisor(plan, say).run(announce)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(_run(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan), sys.argv[1])))
