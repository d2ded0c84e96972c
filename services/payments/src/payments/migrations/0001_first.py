"""Payments' own tables beside the plumbing: tenders, accounts, lines and refunds carry the laws, operations the work."""

from alembic import op

from shared.migrations.plumbing import PLUMBING

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE tenders (
    order_id text NOT NULL,
    tender_id text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    dispute text NOT NULL,
    currency text NOT NULL,
    authorized_minor bigint NOT NULL,
    captured_minor bigint NOT NULL,
    voided_minor bigint NOT NULL,
    refunded_minor bigint NOT NULL,
    refunding_minor bigint NOT NULL,
    disputed_minor bigint NOT NULL,
    PRIMARY KEY (order_id, tender_id),
    CONSTRAINT nothing_below_zero CHECK (authorized_minor >= 0 AND captured_minor >= 0 AND voided_minor >= 0
        AND refunded_minor >= 0 AND refunding_minor >= 0 AND disputed_minor >= 0),
    CONSTRAINT captured_within_authorized CHECK (captured_minor + voided_minor <= authorized_minor),
    CONSTRAINT refunds_within_captured CHECK (refunded_minor + refunding_minor + disputed_minor <= captured_minor)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE tenders IS 'What each tender of an order has authorized, captured and given back; the same as in the state.';
COMMENT ON COLUMN tenders.authorized_minor IS 'of all its authorizations, less what lapsed with those that ran out';
COMMENT ON COLUMN tenders.refunding_minor IS 'refund legs asked for, submitted or unknown: their money is spoken for';
COMMENT ON COLUMN tenders.disputed_minor IS 'what an open or lost dispute holds of what refunds have left';
COMMENT ON CONSTRAINT captured_within_authorized ON tenders IS 'I6: captured <= authorized';
COMMENT ON CONSTRAINT refunds_within_captured ON tenders IS
    'I6: refunds succeeded + in flight + disputes open or lost <= captured';

CREATE TABLE accounts (
    order_id text PRIMARY KEY,
    currency text NOT NULL,
    total_minor bigint NOT NULL,
    worth_minor bigint NOT NULL,
    captured_minor bigint NOT NULL,
    refunded_minor bigint NOT NULL,
    refunding_minor bigint NOT NULL,
    CONSTRAINT refunds_within_captured CHECK (refunded_minor + refunding_minor <= captured_minor)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE accounts IS 'The sums of an order.';
COMMENT ON COLUMN accounts.worth_minor IS 'the total less what was cancelled';
COMMENT ON CONSTRAINT refunds_within_captured ON accounts IS 'I7: all refunds, store credit included, <= captured';

CREATE TABLE lines (
    order_id text NOT NULL,
    line_id text NOT NULL,
    ordered int NOT NULL CHECK (ordered > 0),
    handed_over int NOT NULL,
    cancelled int NOT NULL,
    undelivered int NOT NULL,
    due_back int NOT NULL,
    refunded int NOT NULL,
    PRIMARY KEY (order_id, line_id),
    CONSTRAINT nothing_below_zero CHECK (handed_over >= 0 AND cancelled >= 0 AND undelivered >= 0 AND due_back >= 0
        AND refunded >= 0),
    CONSTRAINT refunded_for_a_reason CHECK (refunded <= due_back + cancelled + undelivered)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE lines IS 'Units of a line as payments has been told of them.';
COMMENT ON COLUMN lines.handed_over IS 'ever, replacements aside';
COMMENT ON COLUMN lines.undelivered IS 'ever lost, or returned to the sender';
COMMENT ON COLUMN lines.due_back IS 'units that returns has stated a refund for';
COMMENT ON CONSTRAINT refunded_for_a_reason ON lines IS
    'I8, as far as payments sees units: refunded <= stated by returns + cancelled + lost';

CREATE TABLE operations (
    operation_id text PRIMARY KEY,
    order_id text NOT NULL,
    tender_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('authorize', 'capture', 'void', 'refund')),
    status text NOT NULL CHECK (status IN ('requested', 'submitted', 'unknown', 'succeeded', 'failed', 'reversed')),
    is_own boolean NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    token text NOT NULL,
    tender_kind text NOT NULL,
    authorization_ref text,
    channel text,
    final boolean NOT NULL,
    requested_at timestamptz NOT NULL,
    reference text,
    code text,
    traceparent text,
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    CONSTRAINT open_ones_are_attempted CHECK (is_own OR (next_attempt_at IS NOT NULL)
        = (status IN ('requested', 'submitted', 'unknown')))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX operations_due ON operations (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX operations_of_order ON operations (order_id);
CREATE INDEX tenders_by_authorization ON operations (reference) WHERE kind = 'authorize';
COMMENT ON TABLE operations IS 'What is asked of the provider, each once under its id as the idempotency key, for life. Workers poll it.';
COMMENT ON COLUMN operations.status IS
    'requested: to be submitted; submitted: may have reached the provider; unknown: it did not answer, and is asked';
COMMENT ON COLUMN operations.is_own IS 'performed by ourselves (cash on delivery, invoice): no provider knows of it';
COMMENT ON COLUMN operations.requested_at IS 'business time, told to the provider: the same in every attempt';
COMMENT ON COLUMN operations.traceparent IS 'of what led to it: the provider''s answer is told in the same trace';
COMMENT ON COLUMN operations.attempts IS 'of the workers, since the status changed; what they wait by, and no more';
COMMENT ON COLUMN operations.next_attempt_at IS 'when a worker takes it up: to submit it, or to ask what became of it';

CREATE TABLE refunds (
    refund_id text PRIMARY KEY,
    order_id text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    cause_id text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    paid_minor bigint NOT NULL CHECK (paid_minor >= 0),
    paying_minor bigint NOT NULL CHECK (paying_minor >= 0),
    currency text NOT NULL,
    requester text NOT NULL,
    approver text,
    CONSTRAINT paid_once CHECK (paid_minor + paying_minor <= amount_minor),
    CONSTRAINT four_eyes CHECK (split_part(approver, ':', 2) <> split_part(requester, ':', 2))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE UNIQUE INDEX refunds_once_per_cause ON refunds (order_id, cause_id) WHERE status NOT IN ('rejected', 'cancelled');
CREATE INDEX refunds_open ON refunds (status) WHERE status NOT IN ('succeeded', 'rejected', 'cancelled');
COMMENT ON TABLE refunds IS 'Every refund, its cause and how far it has come.';
COMMENT ON CONSTRAINT paid_once ON refunds IS 'I10: the legs of a refund never sum up to more than it';
COMMENT ON CONSTRAINT four_eyes ON refunds IS 'who approves is another person than who asked, whatever their roles';

CREATE TABLE policies (
    policy_id text NOT NULL,
    version int NOT NULL CHECK (version > 0),
    effective_from timestamptz NOT NULL,
    policy jsonb NOT NULL,
    published_by text NOT NULL CHECK (published_by <> ''),
    reason text NOT NULL CHECK (reason <> ''),
    published_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (policy_id, version)
);
COMMENT ON TABLE policies IS 'Refund routing and approval by version; a version never changes, a new one is a new row.';
CREATE FUNCTION refuse_policy_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a published policy never changes: publish a new version'; END $$;
CREATE TRIGGER never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON policies EXECUTE FUNCTION refuse_policy_change();
INSERT INTO policies (policy_id, version, effective_from, policy, published_by, reason) VALUES
('refund-routing', 1, '2000-01-01T00:00:00Z', '{
    "policy_id": "refund-routing", "version": 1, "effective_from": "2000-01-01T00:00:00Z",
    "strategy": "pro_rata",
    "limit_days": {"card": 180, "wallet": 180, "bank_debit": 91},
    "no_refunds_to": ["cash_on_delivery", "invoice"],
    "fallbacks": [
        {"channel": "bank_transfer", "needs_consent": true, "days": 3},
        {"channel": "store_credit", "needs_consent": true, "days": 0}
    ],
    "promise_days": {"card": 7, "wallet": 5, "bank_debit": 7, "bank_transfer": 3, "gift_card": 1, "store_credit": 0}
}', 'service:payments', 'first version'),
('refund-approval', 1, '2000-01-01T00:00:00Z', '{
    "policy_id": "refund-approval", "version": 1, "effective_from": "2000-01-01T00:00:00Z",
    "threshold_minor": {"EUR": 50000, "USD": 50000, "GBP": 50000, "CHF": 50000, "CAD": 75000, "AUD": 75000,
        "SEK": 500000, "DKK": 350000, "PLN": 200000, "JPY": 75000, "KWD": 150000},
    "always": ["goodwill"]
}', 'service:payments', 'first version');
"""


def upgrade() -> None:
    op.execute(PLUMBING)
    op.execute(TABLES)
