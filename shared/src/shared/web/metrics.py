"""Gauges for Prometheus that the libraries do not have: lag per group and partition, outbox, parked, relay, timers, and what
a service counts of its own; one statement a scrape."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shared.messaging.consumer import Consumer
from shared.messaging.database import Pool
from shared.messaging.relay import Relay
from shared.web.operations import UNPUBLISHED


@dataclass(frozen=True, slots=True)
class Gauge:
    """A gauge is a number that only one service has; `select` is a cheap scalar query on its database."""

    name: str
    text: str
    select: str


OF_ALL = """
SELECT plumbing.*,
    (SELECT coalesce(json_object_agg(reason, messages), '{{}}') FROM (
        SELECT reason, count(*) AS messages FROM parked WHERE status = 'open' GROUP BY reason) AS open) AS parked_by_reason,
    coalesce((SELECT greatest(extract(epoch FROM now() - min(due_at)), 0)
        FROM deadlines WHERE given_up_at IS NULL), 0)::float AS overdue,
    ARRAY[{gauges}]::float[] AS gauges
FROM ({plumbing}) AS plumbing"""


class _Snapshot:
    """A collector of families that were read a moment ago."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _seconds_since(instant: float | None) -> float:
    return 0.0 if instant is None else time.monotonic() - instant


async def exposition(
    service: str,
    pool: Pool,
    consumers: Sequence[Consumer],
    relay: Relay | None,
    registry: CollectorRegistry,
    gauges: Sequence[Gauge] = (),
) -> bytes:
    """Return the text of `/metrics`. Raises an outage when the database is away: a scrape that fails is an alert too."""
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
    assigned = GaugeMetricFamily(
        "oms_consumer_assigned", "1 where the group has given this replica its partitions", labels=["service", "group"]
    )
    failing = GaugeMetricFamily(
        "oms_consumer_failing_seconds", "for how long no batch could be committed", labels=["service", "group"]
    )
    families: list[Metric] = [lag, age, records, batches, parked_by, uncommitted, assigned, failing]
    for consumer in consumers:
        for (topic, partition), (behind, seconds) in (await consumer.lag()).items():
            place = [service, consumer.group, topic, str(partition)]
            lag.add_metric(place, behind)
            age.add_metric(place, seconds)
        records.add_metric([service, consumer.group], consumer.progress.records)
        batches.add_metric([service, consumer.group], consumer.progress.batches)
        parked_by.add_metric([service, consumer.group], consumer.progress.parked)
        uncommitted.add_metric([service, consumer.group], consumer.progress.commit_errors)
        assigned.add_metric([service, consumer.group], float(consumer.progress.is_assigned))
        failing.add_metric([service, consumer.group], _seconds_since(consumer.progress.failing_since))
    statement = OF_ALL.format(plumbing=UNPUBLISHED, gauges=", ".join(f"({gauge.select})" for gauge in gauges))
    async with pool.acquire(timeout=5) as db:
        row = await db.fetchrow(statement)
    assert row is not None
    parked = GaugeMetricFamily("oms_parked_messages", "messages parked and open", labels=["service", "reason"])
    for reason, messages in json.loads(row["parked_by_reason"]).items():
        parked.add_metric([service, reason], messages)
    families.append(parked)
    own = [(gauge.name, gauge.text, value) for gauge, value in zip(gauges, row["gauges"], strict=True)]
    for name, text, value in (
        ("oms_outbox_events", "facts not yet acknowledged by the broker", row["unpublished"]),
        ("oms_outbox_oldest_seconds", "age of the oldest of them that is not withheld", row["oldest"]),
        ("oms_outbox_withheld_keys", "keys not published: the broker refused a fact", row["withheld_keys"]),
        ("oms_parked_keys", "keys with a parked message", row["parked_keys"]),
        ("oms_locked_keys", "keys that wait for a row which another session holds, at most 20", len(row["locked"])),
        ("oms_deadlines_given_up", "deadlines that failed so often that they are not tried any more", row["given_up"]),
        ("oms_deadlines_overdue_seconds", "for how long the oldest deadline due has not fired", row["overdue"]),
        *own,
    ):
        family = GaugeMetricFamily(name, text, labels=["service"])
        family.add_metric([service], float(value))
        families.append(family)
    if relay is not None:
        leads = GaugeMetricFamily("oms_relay_leads", "1 where this replica publishes", labels=["service"])
        leads.add_metric([service], float(relay.progress.is_leader))
        published = CounterMetricFamily("oms_relay_published", "facts published by this replica", labels=["service"])
        published.add_metric([service], relay.progress.published)
        stands = GaugeMetricFamily(
            "oms_relay_failing_seconds", "for how long this replica could not publish", labels=["service"]
        )
        stands.add_metric([service], _seconds_since(relay.progress.failing_since))
        families += [leads, published, stands]
    fresh = CollectorRegistry()
    fresh.register(_Snapshot(families))
    return generate_latest(registry) + generate_latest(fresh)
