"""The timeline, what it adds up to per order and service, and what orders are found by."""

from alembic import op

from shared.migrations.plumbing import PLUMBING

revision = "0001"
down_revision = None

TIMELINE = """
CREATE TABLE timeline (
    id uuid PRIMARY KEY,
    subject text COLLATE "C" NOT NULL,
    service text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL CHECK (sequence > 0),
    type text NOT NULL,
    data json NOT NULL,
    occurred_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    reason text NOT NULL,
    correlation_id text NOT NULL,
    causation_id text,
    trace_id text
);
CREATE INDEX timeline_place ON timeline (subject, service, sequence);
-- The table grows in this order, so its index is a few pages however large it gets: what was seen since an instant.
CREATE INDEX timeline_seen ON timeline USING brin (seen_at) WITH (autosummarize = on, pages_per_range = 16);
COMMENT ON TABLE timeline IS 'One row per fact that was seen, once (I12). Everything else here can be made again from it.';
COMMENT ON COLUMN timeline.id IS 'id of the fact; a second delivery finds it here and adds nothing';
COMMENT ON COLUMN timeline.subject IS 'the order, or stock:<sku>@<location>, or policy:<id>';
COMMENT ON COLUMN timeline.sequence IS 'rises by one per service and subject (I14); should two facts have one sequence, both are kept';
COMMENT ON COLUMN timeline.trace_id IS 'of the W3C trace context it came with: one from the request to here';
COMMENT ON COLUMN timeline.data IS 'as it travelled, byte for byte';

CREATE TABLE sections (
    subject text COLLATE "C" NOT NULL,
    service text COLLATE "C" NOT NULL,
    next bigint NOT NULL DEFAULT 1 CHECK (next > 0),
    waiting bigint[] NOT NULL DEFAULT '{}',
    state json NOT NULL DEFAULT '{}',
    PRIMARY KEY (subject, service)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE sections IS 'Per order and service: the fold of its facts in sequence, a pure function of the set of timeline rows.';
COMMENT ON COLUMN sections.next IS 'the sequence expected next; all below it are folded';
COMMENT ON COLUMN sections.waiting IS 'sequences on the timeline beyond a hole';

CREATE INDEX sections_waiting ON sections (subject) WHERE waiting <> '{}';

CREATE TABLE finds (
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('order', 'email', 'tracking', 'return')),
    value text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, value, subject)
);

CREATE TABLE generations (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    state text NOT NULL DEFAULT 'none' CHECK (state IN ('none', 'building', 'ready', 'previous')),
    after_subject text COLLATE "C" NOT NULL DEFAULT '',
    after_service text COLLATE "C" NOT NULL DEFAULT '',
    caught_up_to timestamptz,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO generations DEFAULT VALUES;
COMMENT ON TABLE generations IS 'How far the generation beside the live one is: a rebuild that was killed goes on from here.';
COMMENT ON COLUMN generations.caught_up_to IS 'all facts seen before are folded in it';

CREATE TABLE reveals (
    id uuid PRIMARY KEY,
    order_id text COLLATE "C" NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    revealed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX reveals_of_order ON reveals (order_id);
COMMENT ON TABLE reveals IS 'Who saw the e-mail and address of an order''s customer, and why. Kept, and made again from nothing.';
COMMENT ON TABLE finds IS 'What an order is found by, in lower case.';
"""


def upgrade() -> None:
    op.execute(PLUMBING)
    op.execute(TIMELINE)
