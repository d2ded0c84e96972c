"""Cases by who has them, and what one order or customer has with support."""

from alembic import op

revision = "0006"
down_revision = "0005"

INDEXES = """
CREATE INDEX cases_of_subject ON cases (subject, opened_at, case_id);
CREATE INDEX cases_of_assignee ON cases (assignee, opened_at, case_id) WHERE status NOT IN ('resolved', 'closed');
COMMENT ON INDEX cases_of_assignee IS 'one''s own, and nobody''s';
"""


def upgrade() -> None:
    op.execute(INDEXES)
