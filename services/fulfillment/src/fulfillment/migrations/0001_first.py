"""Fulfillment's own tables beside the plumbing: lines, backorders and stock carry the laws of units."""

from alembic import op

from shared.migrations.plumbing import PLUMBING

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE lines (
    order_id text NOT NULL,
    line_id text NOT NULL,
    sku text NOT NULL,
    ordered int NOT NULL,
    again int NOT NULL,
    in_shipments int NOT NULL,
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
    CONSTRAINT every_unit_in_one_bucket CHECK (ordered = unallocated + allocated + backordered + packed + in_transit
        + delivered + lost + returned_to_sender + cancelled),
    CONSTRAINT no_bucket_below_zero CHECK (unallocated >= 0 AND allocated >= 0 AND backordered >= 0 AND packed >= 0
        AND in_transit >= 0 AND delivered >= 0 AND lost >= 0 AND returned_to_sender >= 0 AND cancelled >= 0),
    CONSTRAINT shipments_hold_what_is_counted CHECK (in_shipments = allocated + packed + in_transit + delivered + lost
        + returned_to_sender),
    CONSTRAINT ordered_again_within_ordered CHECK (again >= 0 AND again < ordered)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE lines IS 'Units of each line in their forward buckets; the same as in the state.';
COMMENT ON COLUMN lines.again IS 'of ordered: on top of what was placed, by replacements and exchanges';
COMMENT ON COLUMN lines.in_shipments IS 'units in live shipments, less those promised anew by a replacement';
COMMENT ON CONSTRAINT every_unit_in_one_bucket ON lines IS 'I1: ordered = sum of forward buckets';
COMMENT ON CONSTRAINT no_bucket_below_zero ON lines IS 'I2';
COMMENT ON CONSTRAINT shipments_hold_what_is_counted ON lines IS 'I4';
COMMENT ON CONSTRAINT ordered_again_within_ordered ON lines IS 'I1: replacements add to what was placed, and only to that';

CREATE TABLE backorders (
    order_id text COLLATE "C" NOT NULL,
    backorder_id text COLLATE "C" NOT NULL,
    line_id text NOT NULL,
    sku text COLLATE "C" NOT NULL,
    placed_at timestamptz NOT NULL,
    quantity int NOT NULL,
    open int NOT NULL,
    eta timestamptz,
    revision int NOT NULL CHECK (revision >= 0),
    whole boolean NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (backorder_id),
    CONSTRAINT open_within_quantity CHECK (open >= 0 AND open <= quantity AND quantity > 0)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX backorders_queue ON backorders (sku, placed_at, order_id) WHERE open > 0;
CREATE INDEX backorders_of_order ON backorders (order_id) WHERE open > 0;
COMMENT ON TABLE backorders IS 'The queue for goods, by sku: first placed, first filled, then by order id.';
COMMENT ON COLUMN backorders.open IS 'units that still wait; what is filled or cancelled waits no longer';
COMMENT ON COLUMN backorders.whole IS 'the order takes its backordered units all at once or not at all';
COMMENT ON COLUMN backorders.changed_at IS 'when what last changed it happened';
COMMENT ON CONSTRAINT open_within_quantity ON backorders IS 'I2: no more is filled or cancelled than waits';

CREATE TABLE stock (
    sku text COLLATE "C" NOT NULL,
    location text COLLATE "C" NOT NULL,
    on_hand int NOT NULL DEFAULT 0,
    allocated int NOT NULL DEFAULT 0,
    incoming int NOT NULL DEFAULT 0,
    eta timestamptz,
    announced bigint NOT NULL DEFAULT 0,
    heeded bigint NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (sku, location),
    CONSTRAINT never_oversold CHECK (allocated >= 0 AND allocated <= on_hand),
    CONSTRAINT incoming_not_below_zero CHECK (incoming >= 0),
    CONSTRAINT heeded_after_announced CHECK (heeded <= announced)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE stock IS 'Shelves: the sum of the stock facts in the journal. Locked in (sku, location) order.';
COMMENT ON COLUMN stock.incoming IS 'announced and not yet here; eta is when, if known';
COMMENT ON COLUMN stock.announced IS 'how often goods came in or were announced; heeded is up to which of it backorders were looked at';
COMMENT ON COLUMN stock.changed_at IS 'when the latest of what added units or dates to it happened';
COMMENT ON CONSTRAINT never_oversold ON stock IS 'allocation never oversells';

CREATE TABLE receipts (
    shelf text NOT NULL,
    receipt_id text NOT NULL,
    quantity int NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (shelf, receipt_id)
);
COMMENT ON TABLE receipts IS 'Goods received count once per receipt and shelf, whatever messages bring them.';

CREATE TABLE parcels (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    carrier text NOT NULL,
    tracking text NOT NULL,
    order_id text NOT NULL,
    shipment_id text NOT NULL,
    UNIQUE (carrier, tracking, shipment_id)
);
COMMENT ON TABLE parcels IS 'Where a scan belongs. A carrier may use a number again: the newest place counts.';

CREATE TABLE policies (
    policy_id text NOT NULL,
    version int NOT NULL CHECK (version > 0),
    effective_from timestamptz NOT NULL,
    location_priority text[] NOT NULL,
    consent_after_days int NOT NULL CHECK (consent_after_days >= 0),
    consent_hours int NOT NULL CHECK (consent_hours > 0),
    consent_options text[] NOT NULL,
    silence text NOT NULL CHECK (silence IN ('wait', 'cancel', 'ship_available')),
    PRIMARY KEY (policy_id, version)
);
COMMENT ON TABLE policies IS 'What fulfillment decides by, by version; no row ever changes. The one in force at placement binds.';
COMMENT ON COLUMN policies.location_priority IS 'among equally few shipments, the locations named first ship; the others follow by name';
COMMENT ON COLUMN policies.consent_after_days IS 'a backorder whose date slips by more asks for the customer''s consent';
COMMENT ON COLUMN policies.silence IS 'what happens when nobody answers within consent_hours';
CREATE FUNCTION refuse_policy_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a published policy never changes: add a version'; END $$;
CREATE TRIGGER never_changes BEFORE UPDATE OR DELETE ON policies EXECUTE FUNCTION refuse_policy_change();
INSERT INTO policies VALUES
    ('fulfillment', 1, '2000-01-01T00:00:00Z', '{}', 7, 72, '{wait,cancel,substitute,ship_available}', 'wait');
"""


def upgrade() -> None:
    op.execute(PLUMBING)
    op.execute(TABLES)
