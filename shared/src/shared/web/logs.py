"""Logs are structured: one JSON object a line, `noun.verb_past` with fields, correlation and causation where there are any."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog


def _flatten(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Lift the fields that FastStream nests under `extra` to the top level."""
    extra = event.pop("extra", None)
    if isinstance(extra, dict):
        for name, value in extra.items():
            event.setdefault(name, value)
    return event


LIBRARIES = ("aiokafka", "faststream", "uvicorn", "uvicorn.access", "uvicorn.error", "httpx")
"""Loggers that have handlers of their own, some of them with colours."""


def configure_under_server(service: str) -> None:
    """Configure when the server imports the application, and has set up handlers of its own by then. What it logs before the
    application starts, or of an application that cannot start, is JSON too."""
    if logging.getLogger("uvicorn").handlers:
        configure(service, "info")


def configure(service: str, level: str) -> None:
    """Route structlog and the standard library's loggers through one JSON renderer on standard output."""
    chain: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _flatten,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # A logger that is kept would go on with the processors of its first use, also after another configuration.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=chain,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    for library in LIBRARIES:
        logging.getLogger(library).handlers.clear()
        logging.getLogger(library).propagate = True
    for chatty in ("aiokafka", "httpx", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)
