"""Who must look: escalations, and the policy by which they are raised."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
INSERT INTO support_policies (policy_id, version, effective_from, document, published_by, reason)
SELECT 'escalations', 1, effective_from, json_build_object('calendar', document -> 'calendar', 'contacts_within', 'P14D',
    'rules', $json${
        "refund_unknown": {"after": {"amount": 30, "unit": "minutes"}, "level": 1,
            "to_do": "Ask the processor what became of it, or reconcile by hand."},
        "refund_late": {"after": {"amount": 0, "unit": "minutes"}, "level": 2,
            "to_do": "Tell the customer, and find out with the processor or bank where the money is."},
        "policy_exception": {"after": {"amount": 0, "unit": "minutes"}, "level": 1,
            "to_do": "Approve or reject the refund."},
        "dispute_open": {"after": {"amount": 0, "unit": "minutes"}, "level": 2,
            "to_do": "Answer the dispute with the proof of delivery and what was agreed."},
        "books_differ": {"after": {"amount": 0, "unit": "minutes"}, "level": 3,
            "to_do": "Compare both books by oms verify, set them right, and acknowledge this."},
        "return_uninspected": {"after": {"amount": 2, "unit": "business_days"}, "level": 1,
            "to_do": "Ask the warehouse to inspect it."},
        "return_silent": {"after": {"amount": 10, "unit": "days"}, "level": 0,
            "to_do": "Ask the customer whether it was sent, and by whom."},
        "backorder_slipped": {"after": {"amount": 0, "unit": "minutes"}, "limit": 2, "level": 1,
            "to_do": "Offer the customer a substitute, or to cancel."},
        "backorder_unconsented": {"after": {"amount": 48, "unit": "hours"}, "level": 1,
            "to_do": "Ask the customer again, by another way."},
        "shipment_exception": {"after": {"amount": 3, "unit": "days"}, "level": 1,
            "to_do": "Ask the carrier; tell the customer what happens next."},
        "shipment_silent": {"after": {"amount": 5, "unit": "days"}, "level": 1,
            "to_do": "Start a search with the carrier."},
        "message_untrue": {"after": {"amount": 4, "unit": "hours"}, "level": 1,
            "to_do": "Tell the customer what is true now."},
        "cancellation_pending": {"after": {"amount": 2, "unit": "hours"}, "level": 1,
            "to_do": "Ask the warehouse for its answer."},
        "contact_repeated": {"after": {"amount": 0, "unit": "minutes"}, "limit": 3, "level": 1,
            "to_do": "Call the customer, and see it through to the end."},
        "reopened": {"after": {"amount": 0, "unit": "minutes"}, "limit": 2, "level": 2,
            "to_do": "Give it to somebody senior: what was tried did not help."},
        "first_response_late": {"after": {"amount": 0, "unit": "minutes"}, "level": 1,
            "to_do": "Answer the customer now."},
        "next_response_late": {"after": {"amount": 0, "unit": "minutes"}, "level": 1,
            "to_do": "Answer the customer now."},
        "resolution_late": {"after": {"amount": 0, "unit": "minutes"}, "level": 1,
            "to_do": "See what it waits for, and end it."}
}$json$::json), published_by, reason
FROM support_policies WHERE policy_id = 'cases' AND version = 1;

CREATE TABLE escalations (
    escalation_id text PRIMARY KEY,
    subject text COLLATE "C" NOT NULL,
    service text COLLATE "C" NOT NULL,
    customer text,
    rule text NOT NULL,
    item text NOT NULL,
    since timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    level int NOT NULL CHECK (level BETWEEN 0 AND 3),
    episode int NOT NULL CHECK (episode > 0),
    why text NOT NULL,
    to_do text NOT NULL,
    status text NOT NULL CHECK (status IN ('raised', 'acknowledged', 'cleared')),
    assignee text,
    raised_at timestamptz NOT NULL DEFAULT now(),
    cleared_at timestamptz,
    CHECK ((status = 'cleared') = (cleared_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX raised_once ON escalations (subject, rule, item) WHERE status <> 'cleared';
CREATE INDEX escalations_queue ON escalations ((-level), raised_at, escalation_id) WHERE status <> 'cleared';
CREATE INDEX escalations_of_subject ON escalations (subject);
COMMENT ON TABLE escalations IS 'One row per escalation, as in the state. Those that are over are kept.';
COMMENT ON COLUMN escalations.service IS 'whose facts it is about';
COMMENT ON COLUMN escalations.since IS 'when what it rests on began';
COMMENT ON COLUMN escalations.due_at IS 'when the patience of its rule was over';
COMMENT ON INDEX raised_once IS 'one open escalation per subject, rule and item';
"""


def upgrade() -> None:
    op.execute(TABLES)
