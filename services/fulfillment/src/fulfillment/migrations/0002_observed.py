"""Scans that come before their parcel is known are kept, and so is what fails when a backorder is served."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
CREATE TABLE unmatched_scans (
    carrier text NOT NULL,
    tracking text NOT NULL,
    code text NOT NULL,
    occurred_at timestamptz NOT NULL,
    detail text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    attempts int NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    error text,
    PRIMARY KEY (carrier, tracking, code, occurred_at)
);
COMMENT ON TABLE unmatched_scans IS 'Scans of tracking numbers that no shipment has yet; each is applied when one has.';
COMMENT ON COLUMN unmatched_scans.next_at IS 'not before, where it failed though its parcel is known; error says why';

CREATE TABLE backorder_failures (
    order_id text PRIMARY KEY,
    attempts int NOT NULL CHECK (attempts > 0),
    error text NOT NULL,
    failed_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL
);
COMMENT ON TABLE backorder_failures IS 'Orders whose backorders could not be served, for a fault of ours: the others are.';
COMMENT ON COLUMN backorder_failures.next_at IS 'when it is tried again; infinity: given up, until somebody asks for it';

ALTER TABLE parcels ADD COLUMN handed_over_at timestamptz;
COMMENT ON COLUMN parcels.handed_over_at IS 'none: before this was written';
COMMENT ON TABLE parcels IS 'Where a scan belongs. A number may be of several parcels, and may be used again long after.';

ALTER TABLE policies ADD COLUMN tracking_days int NOT NULL DEFAULT 60 CHECK (tracking_days > 0);
COMMENT ON COLUMN policies.tracking_days IS 'a number handed over twice within so many days is of both parcels; later, of the newer';
"""


def upgrade() -> None:
    op.execute(TABLES)
