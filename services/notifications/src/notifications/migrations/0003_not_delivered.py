"""Messages that did not reach the customer are counted, and are few."""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
CREATE INDEX notifications_not_delivered ON notifications (queued_at) WHERE status IN ('failed', 'bounced');
"""


def upgrade() -> None:
    op.execute(TABLES)
