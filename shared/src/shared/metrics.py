"""Prometheus gauges that the libraries do not have: lag per group and partition, outbox, parked, relay."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shared.consumer import Consumer
from shared.database import Pool
from shared.operations import UNPUBLISHED
from shared.relay import Relay


class _Snapshot:
    """A collector of families that were read a moment ago."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def exposition(
    service: str, pool: Pool, consumers: Sequence[Consumer], relay: Relay | None, registry: CollectorRegistry
) -> bytes:
    """The text of `/metrics`. Raises an outage when the database is away: a scrape that fails is an alert too."""
    labels = ["service", "group", "topic", "partition"]
    lag = GaugeMetricFamily("oms_consumer_lag_messages", "records not yet processed", labels=labels)
    age = GaugeMetricFamily(
        "oms_consumer_lag_seconds", "age of the last record processed, while some wait", labels=labels
    )
    records = CounterMetricFamily("oms_consumer_records", "records processed", labels=["service", "group"])
    batches = CounterMetricFamily("oms_consumer_batches", "batches committed", labels=["service", "group"])
    parked_by = CounterMetricFamily("oms_consumer_parked", "records parked", labels=["service", "group"])
    uncommitted = CounterMetricFamily(
        "oms_consumer_offset_commit_errors",
        "commits of offsets to the broker that failed; reading does not depend on them",
        labels=["service", "group"],
    )
    families: list[Metric] = [lag, age, records, batches, parked_by, uncommitted]
    for consumer in consumers:
        for (topic, partition), (behind, seconds) in (await consumer.lag()).items():
            place = [service, consumer.group, topic, str(partition)]
            lag.add_metric(place, behind)
            age.add_metric(place, seconds)
        records.add_metric([service, consumer.group], consumer.progress.records)
        batches.add_metric([service, consumer.group], consumer.progress.batches)
        parked_by.add_metric([service, consumer.group], consumer.progress.parked)
        uncommitted.add_metric([service, consumer.group], consumer.progress.commit_errors)
    async with pool.acquire(timeout=5) as db:
        unpublished, oldest, keys, parked, withheld = await db.fetchrow(UNPUBLISHED) or (0, 0, 0, 0, 0)
    for name, text, value in (
        ("oms_outbox_events", "facts not yet acknowledged by the broker", unpublished),
        ("oms_outbox_oldest_seconds", "age of the oldest of them that is not withheld", oldest),
        ("oms_outbox_withheld_keys", "keys not published, since the broker refused one of their facts", withheld),
        ("oms_parked_messages", "messages parked and open", parked),
        ("oms_parked_keys", "keys with a parked message", keys),
    ):
        family = GaugeMetricFamily(name, text, labels=["service"])
        family.add_metric([service], float(value))
        families.append(family)
    if relay is not None:
        leads = GaugeMetricFamily("oms_relay_leads", "1 where this replica publishes", labels=["service"])
        leads.add_metric([service], float(relay.progress.is_leader))
        published = CounterMetricFamily("oms_relay_published", "facts published by this replica", labels=["service"])
        published.add_metric([service], relay.progress.published)
        families += [leads, published]
    fresh = CollectorRegistry()
    fresh.register(_Snapshot(families))
    return generate_latest(registry) + generate_latest(fresh)
