"""A message that is held back while it is being sent is not tried again."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
ALTER TABLE notifications ADD held_back text;
COMMENT ON COLUMN notifications.held_back IS 'why it is not tried again once the attempt that is under way has ended';
"""


def upgrade() -> None:
    op.execute(TABLES)
