"""`python -m benchmarks.loader`: takes a JSON order on standard input, does it.

Prints the number of answers now and then, and the figures last; each a line of JSON.
"""

import json
import sys
from functools import partial
from typing import Any

import uvloop

from benchmarks.loader.campaign import Connect, read_writers, run
from benchmarks.loader.http1 import HttpConnection
from benchmarks.loader.http2 import Calls, Stream


def main() -> None:
    """Do what the order says."""
    order = json.load(sys.stdin)
    print(json.dumps(uvloop.run(run(order, read_writers(order), _connect(order)))), flush=True)


def _connect(order: dict[str, Any]) -> Connect:
    if order["protocol"] == "http":
        return HttpConnection
    kind = Calls if order["protocol"] == "grpc" else Stream
    headers = {":path": order["path"], ":authority": f"{order['host']}:{order['port']}", **order["metadata"]}
    return partial(kind, headers=headers, answer_bytes=order["answer_bytes"])


if __name__ == "__main__":
    main()
