"""Notifications' own tables beside the plumbing: messages with their words and attempts, and the policy of sending."""

from alembic import op

from shared.migrations.plumbing import PLUMBING

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE sending_policies (
    policy_id text NOT NULL,
    version int NOT NULL CHECK (version > 0),
    effective_from timestamptz NOT NULL,
    gather interval NOT NULL CHECK (gather >= '0'),
    first_pause interval NOT NULL CHECK (first_pause > '0'),
    longest_pause interval NOT NULL CHECK (longest_pause >= first_pause),
    max_attempts int NOT NULL CHECK (max_attempts > 0),
    stale_after interval NOT NULL CHECK (stale_after > '0'),
    PRIMARY KEY (policy_id, version)
);
COMMENT ON TABLE sending_policies IS 'How messages are sent, by version; a version never changes, a new one is a new row.';
COMMENT ON COLUMN sending_policies.gather IS 'how long a message waits for what belongs in it, such as the charge of a shipment';
COMMENT ON COLUMN sending_policies.stale_after IS 'what happened longer ago is told to nobody';
CREATE FUNCTION refuse_policy_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a published policy never changes: add a version'; END $$;
CREATE TRIGGER never_changes BEFORE UPDATE OR DELETE ON sending_policies
    EXECUTE FUNCTION refuse_policy_change();
INSERT INTO sending_policies VALUES
    ('sending', 1, '2000-01-01T00:00:00Z', '2 seconds', '2 seconds', '1 hour', 24, '365 days');
CREATE VIEW sending_policy AS
SELECT * FROM sending_policies WHERE effective_from <= now() ORDER BY effective_from DESC, version DESC LIMIT 1;
COMMENT ON VIEW sending_policy IS 'The version in force.';

CREATE TABLE notifications (
    notification_id text PRIMARY KEY,
    order_id text NOT NULL,
    dedupe_key text NOT NULL,
    kind text NOT NULL,
    audience text NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'sent', 'delivered', 'bounced', 'failed', 'suppressed')),
    queued_at timestamptz NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    last_error text,
    traceparent text,
    recipient text,
    recipient_name text,
    title text,
    body text,
    CONSTRAINT told_once UNIQUE (dedupe_key),
    CONSTRAINT composed_before_sent CHECK (status NOT IN ('sent', 'delivered', 'bounced') OR body IS NOT NULL)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX notifications_of_order ON notifications (order_id);
CREATE INDEX notifications_due ON notifications (next_attempt_at) WHERE status = 'queued';
COMMENT ON TABLE notifications IS 'One row per message: its status as in the state, its words, and the attempts to send it.';
COMMENT ON COLUMN notifications.traceparent IS 'of what led to it: what becomes of it is told in the same trace';
COMMENT ON COLUMN notifications.status IS 'queued: to be sent or tried again; sent: the mail server took it; delivered, bounced: '
    'as the recipient''s server said; failed: given up; suppressed: not sent on purpose';
COMMENT ON COLUMN notifications.queued_at IS 'when the fact happened that it tells of';
COMMENT ON COLUMN notifications.next_attempt_at IS 'also the lease of the sender that is at it';
COMMENT ON COLUMN notifications.body IS 'composed before the first attempt, and the same in every attempt';
COMMENT ON CONSTRAINT told_once ON notifications IS 'one message per fact and audience';
COMMENT ON CONSTRAINT composed_before_sent ON notifications IS 'what was sent is kept';
"""


def upgrade() -> None:
    op.execute(PLUMBING)
    op.execute(TABLES)
