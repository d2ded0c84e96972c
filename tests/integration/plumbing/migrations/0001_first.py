"""The plumbing alone."""

from alembic import op

from shared.migrations.plumbing import PLUMBING

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(PLUMBING)
