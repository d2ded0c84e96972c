"""Logging is set up once per process, and again where several services live in one."""

import subprocess
import sys

TWO_CONFIGURATIONS = """
from structlog import get_logger
from structlog.testing import capture_logs
from shared.web.logs import configure

log = get_logger()
configure("orders", "info")
log.info("order.placed")
configure("payments", "info")
with capture_logs() as captured:
    log.info("order.paid")
assert [each["event"] for each in captured] == ["order.paid"], captured
"""


def test_a_logger_that_was_used_follows_the_next_configuration() -> None:
    subprocess.run([sys.executable, "-c", TWO_CONFIGURATIONS], check=True, timeout=60)
