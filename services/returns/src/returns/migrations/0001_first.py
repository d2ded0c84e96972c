"""Returns' own tables beside the plumbing: lines carry the laws of units and money, policies what was published."""

from alembic import op

from shared.migrations.plumbing import PLUMBING

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE lines (
    order_id text NOT NULL,
    line_id text NOT NULL,
    ordered int,
    delivered int NOT NULL,
    lost int NOT NULL,
    undone int NOT NULL,
    contested int NOT NULL,
    lost_claimed int NOT NULL,
    refunded int NOT NULL,
    in_advance int NOT NULL,
    restocked int NOT NULL,
    stated_minor bigint NOT NULL,
    value_minor bigint,
    with_customer int NOT NULL,
    return_open int NOT NULL,
    return_in_transit int NOT NULL,
    received_uninspected int NOT NULL,
    accepted int NOT NULL,
    rejected_held int NOT NULL,
    rejected_sent_back int NOT NULL,
    kept_by_customer int NOT NULL,
    PRIMARY KEY (order_id, line_id),
    CONSTRAINT no_bucket_below_zero CHECK (least(delivered, lost, undone, contested, lost_claimed, refunded, in_advance,
        restocked, stated_minor, with_customer, return_open, return_in_transit, received_uninspected, accepted,
        rejected_held, rejected_sent_back, kept_by_customer) >= 0),
    CONSTRAINT every_delivered_unit_in_one_bucket CHECK (delivered + contested = with_customer + return_open
        + return_in_transit + received_uninspected + accepted + rejected_held + rejected_sent_back + kept_by_customer),
    CONSTRAINT contested_once_delivered CHECK (contested <= lost + undone),
    CONSTRAINT returned_within_delivered_and_lost CHECK (return_open + return_in_transit + received_uninspected
        + accepted + kept_by_customer + lost_claimed <= delivered + lost + undone),
    CONSTRAINT refunded_for_a_ground CHECK (refunded <= accepted + kept_by_customer + lost_claimed + in_advance),
    CONSTRAINT restocked_within_accepted CHECK (restocked <= accepted),
    CONSTRAINT stated_within_worth CHECK (stated_minor <= value_minor)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE lines IS 'Units of each line that was sent, by reverse bucket, and the money stated for them; the same as in the state.';
COMMENT ON COLUMN lines.ordered IS 'null while only fulfillment has told of the line';
COMMENT ON COLUMN lines.undone IS 'delivered or lost once, and neither as is said now';
COMMENT ON COLUMN lines.contested IS 'held by returns and, as is said now, not delivered';
COMMENT ON COLUMN lines.in_advance IS 'refunded before their inspection, by the policy''s trigger';
COMMENT ON COLUMN lines.value_minor IS 'goods and shipping of the line as placed';
COMMENT ON CONSTRAINT no_bucket_below_zero ON lines IS 'I2';
COMMENT ON CONSTRAINT every_delivered_unit_in_one_bucket ON lines IS 'I3: delivered = sum of reverse buckets';
COMMENT ON CONSTRAINT contested_once_delivered ON lines IS 'I3: a return holds only what was delivered once';
COMMENT ON CONSTRAINT returned_within_delivered_and_lost ON lines IS 'I5: open + accepted + kept <= delivered + lost, lost only by claim';
COMMENT ON CONSTRAINT refunded_for_a_ground ON lines IS 'I8: refunded units <= accepted + kept + lost, those in advance aside';
COMMENT ON CONSTRAINT restocked_within_accepted ON lines IS 'I9, as far as returns go';
COMMENT ON CONSTRAINT stated_within_worth ON lines IS 'I10: what is stated as due never exceeds what the line cost';

CREATE TABLE policies (
    policy_id text NOT NULL,
    version int NOT NULL CHECK (version > 0),
    effective_from timestamptz NOT NULL,
    digest text NOT NULL,
    document json NOT NULL,
    retired_at timestamptz,
    PRIMARY KEY (policy_id, version)
);
COMMENT ON TABLE policies IS 'Published return policies. A version never changes; a retired one binds no purchase from then on.';
COMMENT ON COLUMN policies.digest IS 'SHA-256 of the canonical JSON of the document';
CREATE FUNCTION refuse_policy_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a published policy never changes: publish the next version'; END $$;
CREATE TRIGGER never_changes BEFORE UPDATE ON policies FOR EACH ROW
WHEN (OLD.policy_id <> NEW.policy_id OR OLD.version <> NEW.version OR OLD.effective_from <> NEW.effective_from
    OR OLD.document::text <> NEW.document::text OR OLD.retired_at IS NOT NULL)
EXECUTE FUNCTION refuse_policy_change();
CREATE TRIGGER never_goes BEFORE DELETE OR TRUNCATE ON policies EXECUTE FUNCTION refuse_policy_change();
"""


def upgrade() -> None:
    op.execute(PLUMBING)
    op.execute(TABLES)
