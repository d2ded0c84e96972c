"""What the provider did by itself is booked: movements, disputes, notices that fit nothing here, and differences of books."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
ALTER TABLE tenders ADD overdrawn_minor bigint NOT NULL DEFAULT 0 CHECK (overdrawn_minor >= 0),
    DROP CONSTRAINT refunds_within_captured,
    ADD CONSTRAINT refunds_within_captured
        CHECK (refunded_minor + refunding_minor + disputed_minor <= captured_minor + overdrawn_minor);
COMMENT ON COLUMN tenders.overdrawn_minor IS 'what the provider let go beyond what was captured, without having been asked';
COMMENT ON COLUMN tenders.refunded_minor IS 'by refunds of ours, and by the provider without having been asked';
COMMENT ON CONSTRAINT refunds_within_captured ON tenders IS
    'I6: refunds succeeded + in flight + disputes open or lost <= captured; what the provider did beyond it is booked apart';
ALTER TABLE accounts ADD overdrawn_minor bigint NOT NULL DEFAULT 0 CHECK (overdrawn_minor >= 0),
    DROP CONSTRAINT refunds_within_captured,
    ADD CONSTRAINT refunds_within_captured CHECK (refunded_minor + refunding_minor <= captured_minor + overdrawn_minor);
COMMENT ON CONSTRAINT refunds_within_captured ON accounts IS 'I7: all refunds, store credit included, <= captured';

ALTER TABLE operations
    ADD failures int NOT NULL DEFAULT 0,
    ADD failure text;
COMMENT ON COLUMN operations.failures IS 'times that a worker could not deal with it, since its status changed';
COMMENT ON COLUMN operations.failure IS 'why, the last time';
CREATE INDEX operations_failing ON operations (order_id) WHERE failures > 0;

CREATE TABLE payout_accounts (
    account_id text PRIMARY KEY,
    order_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('iban', 'reference')),
    number text NOT NULL CHECK (number <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE payout_accounts IS
    'Where bank transfers go to. Facts name the id and a masked form: a number of somebody''s account is in no journal.';
COMMENT ON COLUMN payout_accounts.number IS 'an IBAN without blanks, or the partner''s own reference of a payee';
ALTER TABLE operations ADD account_id text;

CREATE TABLE movements (
    order_id text NOT NULL,
    movement_id text PRIMARY KEY,
    tender_id text,
    kind text NOT NULL CHECK (kind IN ('capture', 'refund', 'refund_reversed', 'void', 'authorization')),
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    currency text NOT NULL,
    reference text NOT NULL,
    operation_id text,
    CONSTRAINT booked_once UNIQUE (order_id, kind, reference)
);
COMMENT ON TABLE movements IS 'Money that the provider moved without having been asked to, or not so.';
COMMENT ON COLUMN movements.operation_id IS 'the operation of ours that had failed, and happened after all';

CREATE TABLE disputes (
    order_id text NOT NULL,
    dispute_id text NOT NULL,
    tender_id text NOT NULL,
    status text NOT NULL CHECK (status IN ('open', 'won', 'lost')),
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    PRIMARY KEY (order_id, dispute_id)
);
COMMENT ON TABLE disputes IS 'Each dispute with its amount; a tender may have several.';

CREATE TABLE provider_notices (
    notice_id text PRIMARY KEY,
    type text NOT NULL,
    order_id text NOT NULL,
    body text NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL CHECK (reason <> ''),
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz DEFAULT now(),
    settled_at timestamptz,
    settled_by text,
    CONSTRAINT open_ones_are_attempted CHECK ((settled_at IS NULL) = (next_attempt_at IS NOT NULL))
);
CREATE INDEX provider_notices_due ON provider_notices (next_attempt_at) WHERE settled_at IS NULL;
COMMENT ON TABLE provider_notices IS
    'Signed notices of the provider that fit nothing here yet: an order nobody placed, or books that contradict them. Tried again.';
COMMENT ON COLUMN provider_notices.settled_by IS 'who settled it: the service, once its order was known, or a person';

CREATE TABLE reconciliation (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    after text NOT NULL DEFAULT '',
    next_at timestamptz NOT NULL DEFAULT now(),
    failures int NOT NULL DEFAULT 0,
    ended_at timestamptz
);
INSERT INTO reconciliation DEFAULT VALUES;
COMMENT ON TABLE reconciliation IS 'How far the comparison with the provider''s books has come, and when its next page is due.';
COMMENT ON COLUMN reconciliation.ended_at IS 'when all orders had last been compared';

CREATE TABLE differences (
    order_id text NOT NULL,
    subject text NOT NULL,
    difference text NOT NULL,
    ours text,
    theirs text,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    PRIMARY KEY (order_id, subject, difference)
);
CREATE INDEX differences_open ON differences (first_seen_at) WHERE resolved_at IS NULL;
COMMENT ON TABLE differences IS 'What our books and the provider''s did not have alike when they were last compared.';
COMMENT ON COLUMN differences.subject IS 'the operation''s key, or the dispute''s id';

INSERT INTO policies (policy_id, version, effective_from, policy, published_by, reason) VALUES
('refund-approval', 2, '2000-01-02T00:00:00Z', '{
    "policy_id": "refund-approval", "version": 2, "effective_from": "2000-01-02T00:00:00Z",
    "threshold_minor": {"EUR": 50000, "USD": 50000, "GBP": 50000, "CHF": 50000, "CAD": 75000, "AUD": 75000,
        "SEK": 500000, "DKK": 350000, "PLN": 200000, "JPY": 75000, "KWD": 150000},
    "always": ["goodwill"], "window_days": 30
}', 'service:payments', 'a threshold counts for an order and a month, not for each request');
"""


def upgrade() -> None:
    op.execute(TABLES)
