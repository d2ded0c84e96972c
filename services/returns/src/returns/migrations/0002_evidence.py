"""Files that show what a customer says, beside the journal: a fact names each by its hash."""

from alembic import op

revision = "0002"
down_revision = "0001"

EVIDENCE = """
CREATE TABLE evidence (
    order_id text NOT NULL,
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    media_type text NOT NULL,
    content bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, sha256)
);
ALTER TABLE evidence ALTER COLUMN content SET STORAGE EXTERNAL;
COMMENT ON TABLE evidence IS 'Files of returns and claims, which return.evidence_attached names by their hash';
"""


def upgrade() -> None:
    op.execute(EVIDENCE)
