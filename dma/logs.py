"""Structured logs on stderr: key=value for a person at a terminal, JSON for a collector."""

import sys

import structlog
from structlog.typing import Processor


def configure() -> None:
    """Set structlog up for this process."""
    terminal = sys.stderr.isatty()
    render: Processor = (
        structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
        if terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
