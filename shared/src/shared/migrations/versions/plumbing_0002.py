"""What fails for one row is said beside it: deadlines with their attempts, and an index of keys that wait for locks."""

from alembic import op

revision = "plumbing_0002"
down_revision = None
branch_labels = ("plumbing",)
depends_on = "0001"

FAILURES = """
ALTER TABLE deadlines
    ADD COLUMN attempts int NOT NULL DEFAULT 0,
    ADD COLUMN failure text,
    ADD COLUMN retry_at timestamptz,
    ADD COLUMN given_up_at timestamptz,
    ADD CHECK (attempts >= 0),
    ADD CHECK (failure IS NOT NULL OR (retry_at IS NULL AND given_up_at IS NULL AND attempts = 0));
COMMENT ON COLUMN deadlines.attempts IS 'how often firing it has failed by a fault; a locked row does not count';
COMMENT ON COLUMN deadlines.failure IS 'why it has not fired although it is due';
COMMENT ON COLUMN deadlines.given_up_at IS 'from when on it is not tried any more, until an operator says so';
CREATE INDEX deadlines_failing ON deadlines (key, name) WHERE failure IS NOT NULL;
CREATE INDEX parked_locked ON parked (key, id) WHERE status = 'open' AND reason = 'locked';
COMMENT ON COLUMN parked.reason IS
    'why, as a code; behind: an earlier message of this key is parked; locked: another session holds its row, tried again';
"""


def upgrade() -> None:
    op.execute(FAILURES)
