"""How log lines look: JSON for machines, columns on a terminal. The only place that configures structlog."""

import logging
import sys
from typing import Literal

import structlog


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
        processors=[*shared, *rendering],
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


def _with_part(part: str) -> structlog.typing.Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["part"] = part
        return event

    return add
