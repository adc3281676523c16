"""How log lines look: JSON for machines, columns on a terminal. The only place that configures structlog.

Hides too that they are bounded: whatever is logged of a request or an event, nobody's requests fill the disk.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

import structlog

# Of lines of one kind, in a second: a client may provoke as many as it likes.
_LINES = 10
# Kinds are the words in our code.
_KINDS = 1_000


def configure_logs(part: str, level: str, style: Literal["auto", "json", "console"]) -> None:
    """Send this process's log lines to standard error, each with its part's name; the libraries' too."""
    if style == "auto":
        style = "console" if sys.stderr.isatty() else "json"
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_part(part),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Without local variables: among them are keys, tokens and what clients sent.
    traces = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    rendering: list[structlog.typing.Processor] = [
        structlog.processors.ExceptionRenderer(traces),
        structlog.processors.JSONRenderer(),
    ]
    if style == "console":
        # The plain formatter: rich tracebacks would cost each part 10 MB.
        plain = structlog.dev.plain_traceback
        rendering = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[Brake(), *shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    # Libraries speak up only when something is wrong.
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


@dataclass
class _Kind:
    window_began: float
    lines: int = 0
    left_out: int = 0


class Brake:
    """Lets a few lines of one kind through in a second; the next one then says how many were left out."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Start with none."""
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def __call__(self, _: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Give the line, or raise DropEvent."""
        name, now = str(event.get("event")), self._clock()
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= _KINDS:
                self._kinds.clear()
            kind = self._kinds[name] = _Kind(now)
        if now - kind.window_began >= 1:
            kind.window_began, kind.lines = now, 0
        if kind.lines >= _LINES:
            kind.left_out += 1
            raise structlog.DropEvent
        kind.lines += 1
        if kind.left_out:
            event["left_out"], kind.left_out = kind.left_out, 0
        return event


def _with_part(part: str) -> structlog.typing.Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["part"] = part
        return event

    return add
