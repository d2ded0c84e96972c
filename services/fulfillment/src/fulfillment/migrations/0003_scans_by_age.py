"""Scans that wait for their parcel are found by their age: they go after a while."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("CREATE INDEX unmatched_scans_by_age ON unmatched_scans (received_at)")
