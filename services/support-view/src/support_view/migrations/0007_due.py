"""What was due to be told and is not, and contacts of no order, are found by an index."""

from alembic import op

revision = "0007"
down_revision = "0006"

INDEXES = """
CREATE INDEX timeline_due ON timeline (occurred_at) WHERE service = 'fulfillment' AND type IN ('shipment.shipped',
    'shipment.delivered', 'backorder.created', 'backorder.eta_revised', 'backorder.consent_requested',
    'fulfillment.lines_cancelled');
CREATE INDEX timeline_told ON timeline ((data ->> 'trigger_id'))
    WHERE service = 'notifications' AND type = 'notification.queued';
CREATE INDEX contacts_of_no_order ON contacts (received_at) WHERE strpos(subject, ':') > 0 AND direction = 'inbound'
    AND NOT is_automated AND duplicate_of IS NULL;
COMMENT ON INDEX timeline_due IS 'facts that each lead to a message about what comes when';
COMMENT ON INDEX timeline_told IS 'which fact a message tells of';
"""


def upgrade() -> None:
    op.execute(INDEXES)
