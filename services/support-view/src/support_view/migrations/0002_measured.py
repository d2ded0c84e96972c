"""What figures count, beside the sections it is made from."""

from alembic import op

revision = "0002"
down_revision = "0001"

MEASURED = """
CREATE TABLE measured (
    subject text COLLATE "C" NOT NULL,
    service text COLLATE "C" NOT NULL,
    measure text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    began_at timestamptz NOT NULL,
    ended_at timestamptz,
    part bigint NOT NULL,
    whole bigint NOT NULL,
    labels text[] NOT NULL,
    left_out text,
    facts bigint[] NOT NULL,
    PRIMARY KEY (subject, service, measure, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX measured_began ON measured (measure, began_at, subject, id);
CREATE INDEX measured_ended ON measured (measure, ended_at, subject, id);
CREATE INDEX measured_open ON measured (measure, began_at) WHERE ended_at IS NULL AND left_out IS NULL;
COMMENT ON TABLE measured IS 'One row per thing that figures count: a pure function of its section, and part of its generation.';
COMMENT ON COLUMN measured.ended_at IS 'null while it is open';
COMMENT ON COLUMN measured.labels IS 'dimension:value';
COMMENT ON COLUMN measured.left_out IS 'why it does not count; figures say how many were left out';
COMMENT ON COLUMN measured.facts IS 'sequences in its service''s journal of the subject: the facts behind it';
"""


def upgrade() -> None:
    op.execute(MEASURED)
