# /// script
# requires-python = ">=3.11"
# dependencies = ["quixstreams[postgresql]==3.28.1", "confluent-kafka==2.12.2", "psycopg2-binary==2.9.13", "pydantic==2.13.5"]
# ///
"""Quix Streams' own PostgreSQL sink. A script in an environment of its own: it does not go with our versions.

Arguments: broker, DSN, how many records, topics. It says that it is ready, and begins when it is told to.
"""

import sys
from tempfile import TemporaryDirectory
from uuid import uuid4

from psycopg2.extensions import parse_dsn
from quixstreams import Application
from quixstreams.sinks.community.postgresql import PostgreSQLSink


def row(value: bytes, key: str, timestamp: int, headers: list[tuple[str, bytes]]) -> dict[str, object]:
    """A record's columns of the timeline."""
    said = {name: text.decode() for name, text in headers}
    return {
        "id": said["ce_id"],
        "subject": said["ce_subject"],
        "service": said["ce_source"].rpartition(":")[2],
        "sequence": int(said["ce_sequence"]),
        "type": said["ce_type"],
        "data": value.decode(),
        "occurred_at": said["ce_time"],
        "actor": said["ce_actor"],
        "reason": said["ce_reason"],
        "correlation_id": said["ce_correlationid"],
        "causation_id": said.get("ce_causationid", ""),
    }


def main(state_dir: str, kafka: str, dsn: str, count: str, *topics: str) -> None:
    given = parse_dsn(dsn)
    app = Application(
        broker_address=kafka,
        consumer_group=f"quix-{uuid4()}",
        auto_offset_reset="earliest",
        commit_interval=1.0,
        commit_every=5_000,
        consumer_poll_timeout=0.1,
        auto_create_topics=False,
        use_changelog_topics=False,
        state_dir=state_dir,
        loglevel="WARNING",
    )
    sink = PostgreSQLSink(
        host=given["host"],
        port=int(given["port"]),
        dbname=given["dbname"],
        user=given["user"],
        password=given["password"],
        table_name="timeline",
        schema_auto_update=False,
        on_conflict_do_nothing=True,
        include_metadata=False,
    )
    for name in topics:
        app.dataframe(app.topic(name, value_deserializer="bytes")).apply(row, metadata=True).sink(sink)
    print("ready", flush=True)
    sys.stdin.readline()
    app.run(count=int(count), collect=False)


if __name__ == "__main__":
    with TemporaryDirectory() as state_dir:
        main(state_dir, *sys.argv[1:])
