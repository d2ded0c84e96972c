"""Orders' own tables beside the plumbing: lines carry the laws of units, policies the thresholds."""

from alembic import op

from shared.migrations.plumbing import PLUMBING

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE lines (
    order_id text NOT NULL,
    line_id text NOT NULL,
    ordered int NOT NULL,
    owed int NOT NULL,
    unallocated int NOT NULL,
    allocated int NOT NULL,
    backordered int NOT NULL,
    packed int NOT NULL,
    in_transit int NOT NULL,
    delivered int NOT NULL,
    lost int NOT NULL,
    returned_to_sender int NOT NULL,
    cancelled int NOT NULL,
    PRIMARY KEY (order_id, line_id),
    CONSTRAINT every_unit_in_one_bucket CHECK (owed = unallocated + allocated + backordered + packed + in_transit
        + delivered + lost + returned_to_sender + cancelled),
    CONSTRAINT owed_at_least_as_ordered CHECK (ordered > 0 AND owed >= ordered),
    CONSTRAINT no_bucket_below_zero CHECK (unallocated >= 0 AND allocated >= 0 AND backordered >= 0 AND packed >= 0
        AND in_transit >= 0 AND delivered >= 0 AND lost >= 0 AND returned_to_sender >= 0 AND cancelled >= 0)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE lines IS 'Units of each line in their forward buckets, as fulfillment tells them; the same as in the state.';
COMMENT ON COLUMN lines.owed IS 'ordered, and owed again as replacements';
COMMENT ON CONSTRAINT every_unit_in_one_bucket ON lines IS 'I1: owed = sum of forward buckets';
COMMENT ON CONSTRAINT owed_at_least_as_ordered ON lines IS 'I1: a replacement adds to what is owed, nothing takes from it';
COMMENT ON CONSTRAINT no_bucket_below_zero ON lines IS 'I2';

CREATE TABLE policies (
    policy_id text NOT NULL,
    version int NOT NULL CHECK (version > 0),
    effective_from timestamptz NOT NULL,
    close_after interval NOT NULL CHECK (close_after > '0'),
    PRIMARY KEY (policy_id, version)
);
COMMENT ON TABLE policies IS 'Thresholds of orders by version; a version never changes, a new one is a new row.';
COMMENT ON COLUMN policies.close_after IS 'how long a completed order stays open for returns and claims';
CREATE FUNCTION refuse_policy_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a published policy never changes: add a version'; END $$;
CREATE TRIGGER never_changes BEFORE UPDATE OR DELETE ON policies EXECUTE FUNCTION refuse_policy_change();
INSERT INTO policies VALUES ('orders', 1, '2000-01-01T00:00:00Z', '60 days');
"""


def upgrade() -> None:
    op.execute(PLUMBING)
    op.execute(TABLES)
