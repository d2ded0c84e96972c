"""Support's own journal and what is read of it: contacts, cases, and the policies that support goes by."""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
CREATE TABLE support_policies (
    policy_id text NOT NULL,
    version int NOT NULL CHECK (version > 0),
    effective_from timestamptz NOT NULL,
    document json NOT NULL,
    published_by text NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (policy_id, version)
);
COMMENT ON TABLE support_policies IS 'What support goes by, by version; a version never changes, a new one is a new row.';
CREATE FUNCTION refuse_policy_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a published policy never changes: add a version'; END $$;
CREATE TRIGGER never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON support_policies
    EXECUTE FUNCTION refuse_policy_change();
INSERT INTO support_policies (policy_id, version, effective_from, document, published_by, reason)
VALUES ('cases', 1, '2000-01-01T00:00:00Z', $json${
    "calendar": {
        "zone": "Europe/Berlin",
        "week": {
            "0": [{"opens": "08:00", "closes": "18:00"}], "1": [{"opens": "08:00", "closes": "18:00"}],
            "2": [{"opens": "08:00", "closes": "18:00"}], "3": [{"opens": "08:00", "closes": "18:00"}],
            "4": [{"opens": "08:00", "closes": "18:00"}]
        },
        "holidays": ["2026-01-01", "2026-04-03", "2026-04-06", "2026-05-01", "2026-05-14", "2026-05-25", "2026-12-25",
            "2027-01-01", "2027-03-26", "2027-03-29", "2027-05-06", "2027-05-17"]
    },
    "first_response": "PT4H",
    "next_response": "PT8H",
    "resolve": "PT30H",
    "grace": "PT72H",
    "merge_within": "PT10M"
}$json$, 'system', 'the first of its kind');

CREATE TABLE contacts (
    contact_id text PRIMARY KEY,
    subject text COLLATE "C" NOT NULL,
    customer text NOT NULL,
    channel text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('inbound', 'outbound')),
    topic text NOT NULL,
    is_automated boolean NOT NULL,
    duplicate_of text REFERENCES contacts,
    case_id text,
    received_at timestamptz NOT NULL
);
CREATE INDEX contacts_of_customer ON contacts (customer, received_at);
CREATE INDEX contacts_of_case ON contacts (case_id) WHERE case_id IS NOT NULL;
COMMENT ON TABLE contacts IS 'One row per contact, as in the state. What was said stands in the journal.';
COMMENT ON COLUMN contacts.customer IS 'keyed hash of the identity';

CREATE TABLE cases (
    case_id text PRIMARY KEY,
    subject text COLLATE "C" NOT NULL,
    customer text NOT NULL,
    status text NOT NULL
        CHECK (status IN ('open', 'in_progress', 'waiting_customer', 'waiting_internal', 'resolved', 'closed')),
    topic text NOT NULL,
    assignee text,
    opened_at timestamptz NOT NULL,
    first_response_due timestamptz,
    next_response_due timestamptz,
    resolve_due timestamptz,
    closes_at timestamptz,
    reopened int NOT NULL,
    linked_to text
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX one_case_at_once ON cases (subject, customer) WHERE status <> 'closed';
CREATE INDEX cases_by_age ON cases (opened_at, case_id);
CREATE INDEX cases_live ON cases (opened_at, case_id) WHERE status NOT IN ('resolved', 'closed');
COMMENT ON TABLE cases IS 'One row per case, as in the state.';
"""


def upgrade() -> None:
    op.execute(TABLES)
