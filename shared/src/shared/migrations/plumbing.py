"""The tables every service has: states, journal, outbox, inbox, parked, deadlines, answers."""

PLUMBING = """
-- By default a table is vacuumed when a fifth of it is dead: after two million updates of ten million rows. Those that
-- change with every fact are vacuumed by the twentieth, or by a count where they are small or empty most of the time.
CREATE TABLE states (
    key text PRIMARY KEY,
    state json NOT NULL,
    sequence bigint NOT NULL CHECK (sequence >= 0),
    chain bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE states IS 'One row per aggregate: the fold of its journal. Its row lock guards every rule of the aggregate.';
COMMENT ON COLUMN states.sequence IS 'sequence of the last fact in the journal; 0 only inside the transaction that makes the row';
COMMENT ON COLUMN states.chain IS 'hash of the last fact in the journal';

CREATE TABLE events (
    id uuid PRIMARY KEY,
    subject text NOT NULL,
    sequence bigint NOT NULL CHECK (sequence > 0),
    type text NOT NULL,
    schema_version int NOT NULL,
    data json NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL CHECK (actor <> ''),
    reason text NOT NULL CHECK (reason <> ''),
    correlation_id text NOT NULL,
    causation_id text,
    traceparent text,
    policy_id text,
    policy_version int,
    chain bytea NOT NULL,
    UNIQUE (subject, sequence)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
-- The table grows in this order, so its index is a few pages however large it gets: what was recorded since an instant.
CREATE INDEX events_recorded ON events USING brin (recorded_at) WITH (autosummarize = on);
COMMENT ON TABLE events IS 'The journal: append-only audit record. data is json, not jsonb, so that its bytes stay as they were hashed.';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the journal is append-only'; END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events EXECUTE FUNCTION refuse_change();

CREATE TABLE outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE outbox IS 'Facts not yet acknowledged by the broker. Published in position order, deleted after the acknowledgement.';
COMMENT ON COLUMN outbox.event_id IS 'written by the transaction that writes the event; a foreign key would look up and lock each again';

CREATE TABLE withheld (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject text NOT NULL,
    event_id uuid NOT NULL REFERENCES events,
    reason text NOT NULL CHECK (reason IN ('too_large')),
    detail text NOT NULL,
    withheld_at timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,
    released_by text,
    CHECK ((released_at IS NULL) = (released_by IS NULL))
);
CREATE UNIQUE INDEX withheld_open ON withheld (subject) WHERE released_at IS NULL;
COMMENT ON TABLE withheld IS 'Keys whose facts stay in the outbox, in order: the broker refused one. The other keys are published.';
COMMENT ON COLUMN withheld.released_at IS 'when an operator let the relay try again; refused again, the key gets another row';

CREATE TABLE topics (
    name text PRIMARY KEY,
    partitions int NOT NULL CHECK (partitions > 0),
    seen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE topics IS 'How many partitions a topic had when it was first seen. With another number the process stops.';

CREATE TABLE positions (
    consumer_group text NOT NULL,
    topic text NOT NULL,
    partition int NOT NULL,
    next bigint NOT NULL CHECK (next >= 0),
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE positions IS
    'Where reading goes on, committed with the effects of what was read. Offsets in Kafka are for others to look at.';

CREATE TABLE inbox (
    id uuid PRIMARY KEY,
    claimed_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- A batch has one instant, so this index has one entry for it and a list of places.
CREATE INDEX inbox_by_age ON inbox (claimed_at);
COMMENT ON TABLE inbox IS 'Messages that have had their effect. A second delivery finds its id here and does nothing.';

CREATE TABLE parked (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL,
    topic text NOT NULL,
    partition int NOT NULL,
    position bigint NOT NULL,
    header_names text[] NOT NULL,
    header_values bytea[] NOT NULL,
    record_key bytea,
    value bytea,
    reason text NOT NULL,
    detail text NOT NULL,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'redriven', 'discarded')),
    parked_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    settled_by text,
    settled_reason text,
    CHECK ((status = 'open') = (settled_at IS NULL)),
    CHECK ((settled_at IS NULL) = (settled_by IS NULL AND settled_reason IS NULL)),
    UNIQUE (topic, partition, position)
);
CREATE INDEX parked_open ON parked (key, id) WHERE status = 'open';
CREATE INDEX parked_by_age ON parked (settled_at) WHERE settled_at IS NOT NULL;
COMMENT ON TABLE parked IS 'Messages that could not be decoded or decided, and those of their key that came later, in order.';
COMMENT ON COLUMN parked.reason IS 'why, as a code; behind: an earlier message of this key is parked';

CREATE TABLE deadlines (
    key text NOT NULL,
    name text NOT NULL,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (key, name)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX deadlines_due ON deadlines (due_at);
COMMENT ON TABLE deadlines IS 'What must fire and when, as the aggregate''s state says it; set and dropped with the state.';

CREATE TABLE answers (
    scope text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status int,
    body json,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX answers_by_age ON answers (created_at);
COMMENT ON TABLE answers IS 'Idempotency keys and the answers they got; scope = caller and route, fingerprint = SHA-256 of the request.';
"""
