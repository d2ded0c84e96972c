"""A table to find out by whether the database takes writes."""

from alembic import op

revision = "plumbing_0003"
down_revision = "plumbing_0002"

WRITE_CHECK = """
CREATE TABLE write_check (filler text NOT NULL);
COMMENT ON TABLE write_check IS 'Always empty: readyz writes to it and rolls back, to see whether there is room for a new file.';
"""


def upgrade() -> None:
    op.execute(WRITE_CHECK)
