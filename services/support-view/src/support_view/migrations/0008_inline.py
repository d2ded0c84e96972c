"""Sections stay uncompressed: they are written again with every batch, and compressing one costs more than writing it."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("ALTER TABLE sections SET (toast_tuple_target = 4080)")
