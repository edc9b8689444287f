"""The server's own log: one line an event, the job's id on every line of a job.

Lines of libraries (uvicorn, DBOS, Alembic) take the same form. Nothing that is a secret is ever
handed to a logger: tokens and keys stay in their files, request headers and bodies are not logged.
Guests' words are in some lines: none of them can begin a line of its own.
"""

from __future__ import annotations

import logging
import sys

import structlog

_QUIET = ("dbos", "alembic", "uvicorn.access", "httpx", "qemu.qmp", "asyncio")


def on_one_line(text: str) -> str:
    """With line ends written as escapes."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def configure_logs(level: str, *, as_json: bool) -> None:
    """For the server's process; libraries and tests leave logging alone."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _one_line_an_event,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
    # DBOS brings a console handler of its own unless it finds one.
    dbos = logging.getLogger("dbos")
    dbos.handlers = [handler]
    dbos.propagate = False


def _one_line_an_event(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Tracebacks are added later, in lines of their own."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = on_one_line(value)
    return event
