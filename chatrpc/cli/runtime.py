"""What long-running commands share: the event loop, signals, logs."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Coroutine

import structlog
import uvloop

from chatrpc.settings import LogSettings


def run(work: Coroutine[None, None, None]) -> None:
    """Run a command on uvloop.

    What the imports have made stays for as long as the process. Without the freeze, every full garbage collection looks
    through all of it, and stops the loop for a tenth of a second.
    """
    gc.freeze()
    uvloop.run(work)


def configure_logs(settings: LogSettings) -> None:
    """Send structured logs, and what libraries log, to standard error."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        # Prettier ones show local variables, and with them what users say.
        exception_formatter=structlog.dev.plain_traceback,
    )
    if settings.format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # One line a request of the model's client or the key set's fetch is more than an operator wants.
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A client that vanishes in the middle of a write is no error of the server's.
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)
