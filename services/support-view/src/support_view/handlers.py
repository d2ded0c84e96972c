"""Kafka in: every fact of every service goes on the timeline; what cannot be read is parked, and leaves a hole till then."""

from collections.abc import Sequence
from typing import Final

import structlog

from shared.messaging.envelope import Undecodable, context_of, fact_of, source_of
from shared.messaging.parking import Parked, Record
from shared.messaging.shell import Db, one_batch_at_a_time, yielding_every
from support_view import store
from support_view.casebook import schedule_checks
from support_view.domain.shelves import READ
from support_view.domain.timeline import SERVICES, Entry

TOPICS: Final = [f"{service}.events" for service in SERVICES]

HIGHEST: Final = 2**63 - 1

log = structlog.get_logger()


def read(record: Record) -> store.StoredFact:
    """Raises Undecodable, naming the header or field."""
    context = context_of(record.key, record.headers)
    fact = fact_of(context, record.value)
    subject, service, sequence = fact.subject, fact.service, context.sequence
    if context.source != source_of(service):
        raise Undecodable("bad_header", f"header ce_source: {context.source} does not tell {fact.type}")
    if context.subject != subject:
        raise Undecodable("bad_header", f"header ce_subject: must be {subject}, as in the data")
    if sequence is None or not 0 < sequence <= HIGHEST:
        raise Undecodable("bad_header", "header ce_sequence: is required, and from 1 on")
    if "\x00" in f"{context.actor}{context.reason}{context.correlation_id}{context.causation_id}":
        said = context._asdict()
        names = ("actor", "reason", "correlation_id", "causation_id")
        name = next(name for name in names if "\x00" in (said[name] or ""))
        raise Undecodable("bad_header", f"header of {name}: must not contain NUL")
    assert record.value is not None
    entry = Entry(
        str(context.message_id),
        service,
        subject,
        sequence,
        fact,
        context.time,
        context.actor,
        context.reason,
        context.correlation_id,
        context.causation_id,
        context.traceparent and context.traceparent.split("-")[1],
    )
    return store.StoredFact(entry, record.value.decode())


async def process(db: Db, records: Sequence[Record]) -> list[Parked]:
    """One transaction's worth. Nothing queues behind what is parked: a section waits for its hole by itself."""
    stored: list[store.StoredFact] = []
    parked: list[Parked] = []
    async with one_batch_at_a_time(len(records)):
        async for record in yielding_every(records):
            try:
                stored.append(read(record))
            except Undecodable as error:
                log.error("message.parked", key=record.parking_key(), topic=record.topic, error=str(error))
                parked.append(Parked(record, record.parking_key(), error.reason, str(error)))
    contradicted = {one.entry.subject for one in stored if isinstance(one.entry.fact, READ)}
    await schedule_checks(db, *await store.add(db, stored), contradicted)
    return parked
