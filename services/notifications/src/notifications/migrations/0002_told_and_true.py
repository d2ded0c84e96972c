"""Messages in HTML, found by Message-ID; what no sender is at; how much each states and how much of it became untrue."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
ALTER TABLE sending_policies ADD windows jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN sending_policies.windows IS 'seconds by kind of message, where not gather: what is about the same and comes '
    'meanwhile is told in one message';
INSERT INTO sending_policies VALUES
    ('sending', 2, '2000-01-02T00:00:00Z', '2 seconds', '2 seconds', '1 hour', 24, '365 days',
     '{"refund_submitted": 5, "refund_failed": 5, "refund_rerouted": 5, "backorder": 5, "backorder_revised": 5}');
CREATE OR REPLACE VIEW sending_policy AS
SELECT * FROM sending_policies WHERE effective_from <= now() ORDER BY effective_from DESC, version DESC LIMIT 1;

ALTER TABLE notifications
    ADD html text,
    ADD message_id text,
    ADD is_taken boolean NOT NULL DEFAULT false,
    ADD stated int NOT NULL DEFAULT 0,
    ADD stated_units int NOT NULL DEFAULT 0,
    ADD untrue int NOT NULL DEFAULT 0 CHECK (untrue <= stated),
    ADD untrue_units int NOT NULL DEFAULT 0 CHECK (untrue_units <= stated_units);
CREATE UNIQUE INDEX notifications_by_message_id ON notifications (message_id);
COMMENT ON COLUMN notifications.message_id IS 'of the mail, the same in every attempt; mail providers name it in their notices';
COMMENT ON COLUMN notifications.is_taken IS 'a sender is at it, or died at it: it may be on its way';
COMMENT ON COLUMN notifications.stated IS 'statements in it, each due to the customer: wrong too when it was never sent';
COMMENT ON COLUMN notifications.untrue IS 'statements in it that a fact made untrue while they stood';
"""


def upgrade() -> None:
    op.execute(TABLES)
