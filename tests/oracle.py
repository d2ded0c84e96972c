"""Figures computed a second time: by SQL over the services' journals, with nothing of the view.

What is counted is made here from the facts themselves by joins and windows, where the view folds them one by one; ranks
are counted out, where the view asks for percentiles. The two agree to the digit, or one of them is wrong.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from typing import Any, Final, TypeAlias, get_args
from uuid import UUID

import asyncpg

from support_view.domain.timeline import Entry
from support_view.figures.api import Amounts, FigureView, asked, read_figure, read_rows
from support_view.figures.definitions import FIGURES, Kind
from support_view.figures.store import By

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

JOURNAL: Final = """
CREATE TEMP TABLE journal (service text, id uuid PRIMARY KEY, subject text, sequence bigint, type text, data jsonb,
    occurred_at timestamptz, actor text, UNIQUE (service, subject, sequence))"""
WRITE: Final = """
INSERT INTO journal SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::jsonb[],
    $7::timestamptz[], $8::text[])"""

# Every thing is told by: id, began, ended, values of dimensions, and why it is left out.

RETURNS: Final = """
WITH told AS NOT MATERIALIZED (
    SELECT *, data ->> 'return_id' AS thing FROM journal WHERE service = 'returns' AND data ->> 'return_id' IS NOT NULL
), requested AS (
    -- Goods that came unannounced are a return of what is not wanted, from when the last of them came.
    SELECT DISTINCT ON (subject, thing) subject, thing, sequence,
        coalesce((data ->> 'requested_at')::timestamptz, occurred_at) AS at,
        ARRAY(SELECT DISTINCT coalesce(line ->> 'reason', 'unwanted')
            FROM jsonb_array_elements(data -> 'lines') AS line) AS reasons
    FROM told WHERE type IN ('return.requested', 'return.received_unannounced') ORDER BY subject, thing, sequence DESC
), ruled AS (
    SELECT DISTINCT ON (subject, thing) subject, thing,
        concat(data -> 'policy' ->> 'policy_id', ' v', data -> 'policy' ->> 'version') AS policy
    FROM told WHERE type IN ('return.eligibility_evaluated', 'return.approved', 'return.declined')
    ORDER BY subject, thing, sequence DESC
), opened AS (
    -- What opens a return again, or takes it on: after it, it is not over.
    SELECT subject, thing, max(sequence) AS sequence FROM told
    WHERE type IN ('return.requested', 'return.received_unannounced', 'return.sent_to_review', 'return.approved',
        'return.exception_granted',
        'return.items_received', 'return.items_inspected', 'return.inspection_revised', 'return.reopened')
    GROUP BY subject, thing
), done AS (
    SELECT DISTINCT ON (t.subject, t.thing) t.subject, t.thing, t.type, t.occurred_at
    FROM told AS t JOIN opened AS o USING (subject, thing)
    WHERE t.sequence > o.sequence AND (t.type IN ('return.resolved', 'return.declined', 'return.cancelled', 'return.closed')
        OR t.type = 'return.expired' AND NOT EXISTS (SELECT FROM told AS r WHERE r.subject = t.subject
            AND r.thing = t.thing AND r.type = 'return.items_received' AND r.sequence < t.sequence))
    ORDER BY t.subject, t.thing, (t.type <> 'return.resolved'), t.sequence DESC
), things AS (
    SELECT r.subject, r.thing, r.at AS began, v.occurred_at AS ended, r.reasons, coalesce(p.policy, '') AS policy,
        CASE WHEN v.type NOT IN ('return.resolved', 'return.closed') THEN substr(v.type, 8) END AS left_out
    FROM requested AS r LEFT JOIN ruled AS p USING (subject, thing) LEFT JOIN done AS v USING (subject, thing)
)"""
STAGES: Final = (
    RETURNS
    + """, marks AS (
    SELECT subject, thing, 0 AS place, 'requested' AS stage, sequence, at FROM requested
    UNION ALL
    SELECT * FROM (
        SELECT DISTINCT ON (t.subject, t.thing, s.place) t.subject, t.thing, s.place, s.stage, t.sequence, t.occurred_at
        FROM told AS t JOIN (VALUES (1, 'decided', 'return.approved'), (1, 'decided', 'return.declined'),
            (3, 'received', 'return.items_received'), (4, 'inspected', 'return.items_inspected'),
            (4, 'inspected', 'return.inspection_revised'), (5, 'resolved', 'return.resolved')) AS s (place, stage, type)
            ON s.type = t.type
        ORDER BY t.subject, t.thing, s.place, t.sequence DESC) AS last
    UNION ALL
    SELECT * FROM (
        SELECT DISTINCT ON (subject, thing) subject, thing, 2, 'sent', sequence, occurred_at
        FROM told WHERE type = 'return.in_transit' ORDER BY subject, thing, sequence) AS first
), standing AS (
    -- A mark stands unless one of an earlier stage was set after it, or the return was opened again since.
    SELECT m.* FROM marks AS m WHERE NOT EXISTS (SELECT FROM marks AS e WHERE e.subject = m.subject AND e.thing = m.thing
        AND e.place < m.place AND e.sequence > m.sequence)
    AND NOT (m.stage = 'resolved' AND EXISTS (SELECT FROM told AS t WHERE t.subject = m.subject AND t.thing = m.thing
        AND t.type = 'return.reopened' AND t.sequence > m.sequence))
), stages AS (
    SELECT s.subject, s.thing, s.place, s.stage,
        lag(s.at) OVER (PARTITION BY s.subject, s.thing ORDER BY s.place) AS began, s.at AS ended
    FROM standing AS s
), things_staged AS (
    SELECT t.subject, t.thing || '/' || s.stage AS thing, s.began, s.ended, ARRAY[s.stage] AS stages, NULL AS left_out
    FROM stages AS s JOIN things AS t USING (subject, thing) WHERE s.place > 0
    UNION ALL
    SELECT t.subject, t.thing || '/' || n.stage, last.ended, NULL, ARRAY[n.stage], NULL
    FROM things AS t
    JOIN (SELECT DISTINCT ON (subject, thing) * FROM stages ORDER BY subject, thing, place DESC) AS last USING (subject, thing)
    JOIN (VALUES (0, 'decided'), (1, 'sent'), (2, 'received'), (3, 'inspected'), (4, 'resolved')) AS n (after, stage)
        ON n.after = last.place
    WHERE t.ended IS NULL
)"""
)

REFUNDS: Final = """
WITH told AS NOT MATERIALIZED (
    SELECT *, data ->> 'refund_id' AS thing FROM journal WHERE service = 'payments' AND type LIKE 'refund.%'
), requested AS (
    SELECT DISTINCT ON (subject, thing) subject, thing, (data ->> 'trigger_at')::timestamptz AS at, data ->> 'kind' AS kind
    FROM told WHERE type = 'refund.requested' ORDER BY subject, thing, sequence DESC
), legs AS (
    SELECT DISTINCT ON (subject, thing, data ->> 'leg_id') subject, thing, data ->> 'leg_id' AS leg, type, sequence, occurred_at
    FROM told WHERE type IN ('refund.leg_submitted', 'refund.leg_succeeded', 'refund.leg_failed', 'refund.leg_reversed')
    ORDER BY subject, thing, data ->> 'leg_id', sequence DESC
), paid AS (
    SELECT subject, thing, max(occurred_at) AS at FROM legs WHERE type = 'refund.leg_succeeded' GROUP BY subject, thing
), completed AS (
    SELECT DISTINCT ON (subject, thing) c.subject, c.thing, c.occurred_at AS at FROM told AS c
    WHERE c.type = 'refund.completed' AND NOT EXISTS (SELECT FROM told AS b WHERE b.subject = c.subject AND b.thing = c.thing
        AND b.type = 'refund.leg_reversed' AND b.sequence > c.sequence)
    ORDER BY subject, thing, sequence DESC
), dropped AS (
    SELECT subject, thing, substr(type, 8) AS why, occurred_at AS at FROM told
    WHERE type IN ('refund.rejected', 'refund.cancelled')
), things AS (
    SELECT r.subject, r.thing, r.at AS began, coalesce(d.at, CASE WHEN c.at IS NOT NULL THEN coalesce(p.at, c.at) END) AS ended,
        ARRAY[r.kind] AS kinds, d.why AS left_out
    FROM requested AS r LEFT JOIN completed AS c USING (subject, thing) LEFT JOIN paid AS p USING (subject, thing)
    LEFT JOIN dropped AS d USING (subject, thing)
)"""
PAYOUTS: Final = (
    REFUNDS
    + """, routed AS (
    SELECT DISTINCT ON (t.subject, t.thing, leg ->> 'leg_id') t.subject, t.thing, leg ->> 'leg_id' AS leg,
        CASE leg ->> 'channel' WHEN 'original' THEN leg ->> 'tender_kind' ELSE leg ->> 'channel' END AS channel
    FROM told AS t, jsonb_array_elements(t.data -> 'legs') AS leg WHERE t.type = 'refund.routed'
), ways AS (
    SELECT r.subject, r.thing, r.channel, l.occurred_at, coalesce(l.type = 'refund.leg_succeeded', false) AS is_paid
    FROM routed AS r LEFT JOIN legs AS l USING (subject, thing, leg)
    WHERE l.type IS NULL OR l.type NOT IN ('refund.leg_failed', 'refund.leg_reversed') OR NOT EXISTS (
        SELECT FROM told AS again WHERE again.subject = l.subject AND again.thing = l.thing
            AND again.type = 'refund.routed' AND again.sequence > l.sequence)
), things_paid AS (
    SELECT subject, thing || '/' || channel AS thing, min(r.at) AS began,
        CASE WHEN bool_and(w.is_paid) THEN max(w.occurred_at) END AS ended, ARRAY[channel] AS channels, NULL AS left_out
    FROM ways AS w JOIN requested AS r USING (subject, thing)
    WHERE w.is_paid OR NOT EXISTS (SELECT FROM dropped AS d WHERE d.subject = w.subject AND d.thing = w.thing)
    GROUP BY subject, thing, channel
)"""
)

# Shares are told by: id, when, how many of how many, values, and what is not decided or left out.

MESSAGES: Final = """
WITH told AS NOT MATERIALIZED (
    SELECT *, data ->> 'notification_id' AS thing FROM journal WHERE service = 'notifications'
), said AS (
    SELECT DISTINCT ON (subject, thing) subject, thing, data -> 'statements' AS statements
    FROM told WHERE type IN ('notification.queued', 'notification.restated', 'notification.sent')
    ORDER BY subject, thing, sequence DESC
), untrue AS (
    SELECT subject, thing, sum((data -> 'statement' ->> 'quantity')::int) AS units
    FROM told WHERE type = 'notification.contradicted' GROUP BY subject, thing
), ended AS (
    SELECT DISTINCT ON (subject, thing) subject, thing, type, CASE
        WHEN type = 'notification.coalesced' THEN 'told in another message'
        WHEN type = 'notification.suppressed' AND actor <> 'service:notifications' THEN 'held back' END AS left_out
    FROM told WHERE type IN ('notification.sent', 'notification.failed', 'notification.bounced', 'notification.suppressed',
        'notification.coalesced') ORDER BY subject, thing, sequence DESC
), things AS (
    SELECT q.subject, q.thing, coalesce((q.data ->> 'queued_at')::timestamptz, q.occurred_at) AS at,
        CASE WHEN e.type = 'notification.sent' THEN greatest(0, n.units - coalesce(u.units, 0)) ELSE 0 END AS part,
        n.units AS whole, ARRAY[q.data ->> 'kind'] AS kinds, e.left_out, e.type IS NULL AS is_waiting
    FROM told AS q JOIN said AS s USING (subject, thing) LEFT JOIN untrue AS u USING (subject, thing)
    LEFT JOIN ended AS e USING (subject, thing), LATERAL (
        SELECT greatest(1, coalesce(sum((one ->> 'quantity')::int), 0)) AS units FROM jsonb_array_elements(s.statements) AS one
        WHERE one ->> 'line_id' IS NOT NULL) AS n
    WHERE q.type = 'notification.queued'
        AND q.data ->> 'kind' IN ('shipment', 'backorder', 'backorder_revised', 'cancellation', 'delivery')
    UNION ALL
    SELECT f.subject, f.id::text, f.occurred_at, 0, coalesce((f.data ->> 'quantity')::int, n.units, 1), ARRAY[d.kind], NULL, true
    FROM journal AS f JOIN (VALUES ('shipment.shipped', 'shipment'), ('shipment.delivered', 'delivery'),
        ('backorder.created', 'backorder'), ('backorder.eta_revised', 'backorder_revised'),
        ('backorder.consent_requested', 'backorder_revised'), ('fulfillment.lines_cancelled', 'cancellation')
    ) AS d (type, kind) USING (type) LEFT JOIN told AS q ON q.type = 'notification.queued'
        AND q.data ->> 'trigger_id' = f.id::text,
        LATERAL (SELECT sum((one ->> 'quantity')::int) AS units FROM jsonb_array_elements(f.data -> 'lines') AS one) AS n
    WHERE f.service = 'fulfillment' AND q.thing IS NULL
)"""
DECISIONS: Final = (
    RETURNS
    + """, things_decided AS (
    SELECT DISTINCT ON (d.subject, d.thing) d.subject, d.thing, d.occurred_at AS at, 1 AS whole,
        EXISTS (SELECT FROM told AS e WHERE e.subject = d.subject AND e.thing = d.thing
            AND e.type = 'return.exception_granted')::int AS part,
        ARRAY[t.policy] AS policies, NULL AS left_out, false AS is_waiting
    FROM told AS d JOIN things AS t USING (subject, thing) WHERE d.type IN ('return.approved', 'return.declined')
    ORDER BY d.subject, d.thing, d.sequence DESC
)"""
)
RESOLUTIONS: Final = """
WITH told AS NOT MATERIALIZED (
    SELECT *, coalesce(data ->> 'return_id', data ->> 'case_id') AS thing, split_part(type, '.', 1) AS of
    FROM journal WHERE service IN ('returns', 'support')
), things AS (
    SELECT r.subject, r.thing || '/' || row_number() OVER (PARTITION BY r.subject, r.thing ORDER BY r.sequence) AS thing,
        coalesce((r.data ->> 'resolved_at')::timestamptz, r.occurred_at) AS at, 1 AS whole, ARRAY[r.of] AS ofs,
        NULL AS left_out, false AS is_waiting,
        EXISTS (SELECT FROM told AS u WHERE u.service = r.service AND u.subject = r.subject AND u.thing = r.thing
            AND u.sequence > r.sequence AND u.type IN ('return.reopened', 'return.inspection_revised', 'case.reopened')
            AND NOT EXISTS (SELECT FROM told AS b WHERE b.service = r.service AND b.subject = r.subject AND b.thing = r.thing
                AND b.type = r.type AND b.sequence > r.sequence AND b.sequence < u.sequence))::int AS part
    FROM told AS r WHERE r.type IN ('return.resolved', 'case.resolved')
)"""
# What a person says stands until it is withdrawn, and goes before what rules said last.
CAUSES: Final = """
WITH of_causes AS MATERIALIZED (
    SELECT *, data ->> 'tag' AS tag FROM journal WHERE service = 'support' AND starts_with(type, 'root_cause.')
), words AS (
    SELECT o.subject, o.sequence, o.occurred_at, o.tag AS no, o.data ->> 'replaced_by' AS yes,
        (o.data #>> '{{policy,version}}')::int AS version
    FROM of_causes AS o WHERE o.type = 'root_cause.overridden' AND NOT EXISTS (SELECT FROM of_causes AS w
        WHERE w.subject = o.subject AND w.type = 'root_cause.override_withdrawn'
            AND w.data ->> 'override_id' = o.data ->> 'override_id')
), last AS (
    SELECT DISTINCT ON (subject, tag) subject, tag, CASE WHEN type = 'root_cause.tagged' THEN NULL
        WHEN (data ->> 'is_switched_off')::boolean THEN 'rule switched off' ELSE 'refuted by later facts' END AS over
    FROM of_causes WHERE type IN ('root_cause.tagged', 'root_cause.refuted') ORDER BY subject, tag, sequence DESC
), borne AS (
    SELECT DISTINCT ON (subject, tag) subject, tag, (data ->> 'since')::timestamptz AS since, data -> 'about' AS about,
        (data #>> '{{policy,version}}')::int AS version
    FROM of_causes WHERE type = 'root_cause.tagged' ORDER BY subject, tag, sequence DESC
), attributed AS (
    SELECT t.subject, t.tag AS thing, coalesce(b.since, i.since, y.occurred_at) AS at, 0 AS part, 1 AS whole,
        false AS is_waiting, coalesce(b.about, i.about, '[]') AS about,
        CASE WHEN y.yes IS NULL THEN 'rules' ELSE 'person' END AS by,
        CASE WHEN n.no IS NOT NULL THEN 'a person said otherwise' WHEN y.yes IS NULL THEN l.over END AS left_out
    FROM (SELECT subject, tag FROM last UNION SELECT subject, no FROM words WHERE no IS NOT NULL
        UNION SELECT subject, yes FROM words WHERE yes IS NOT NULL) AS t
    LEFT JOIN last AS l USING (subject, tag) LEFT JOIN borne AS b USING (subject, tag)
    LEFT JOIN words AS n ON n.subject = t.subject AND n.no = t.tag
    LEFT JOIN words AS y ON y.subject = t.subject AND y.yes = t.tag
    LEFT JOIN borne AS i ON i.subject = y.subject AND i.tag = y.no
), judged AS (
    SELECT DISTINCT ON (f.subject, f.tag, f.data #> '{{policy,version}}') f.subject, f.occurred_at AS at, 1 AS whole,
        f.tag || '/' || (f.data #>> '{{policy,version}}') AS thing, false AS is_waiting,
        ARRAY[(f.data ->> 'rule') || ' v' || (f.data #>> '{{policy,version}}')] AS rules, ARRAY[f.tag] AS tags,
        (n.version IS DISTINCT FROM (f.data #>> '{{policy,version}}')::int)::int AS part,
        CASE WHEN n.version = (f.data #>> '{{policy,version}}')::int THEN NULL
            WHEN n.sequence < f.sequence THEN 'set aside before'
            WHEN (f.data #>> '{{policy,version}}')::int = b.version THEN l.over END AS left_out
    FROM of_causes AS f JOIN last AS l USING (subject, tag) JOIN borne AS b USING (subject, tag)
    LEFT JOIN words AS n ON n.subject = f.subject AND n.no = f.tag
    WHERE f.type = 'root_cause.tagged' ORDER BY f.subject, f.tag, f.data #> '{{policy,version}}', f.sequence
)"""
CONTACTS: Final = (
    CAUSES
    + """, told AS (
    SELECT subject, sequence, data ->> 'contact_id' AS thing, (data ->> 'received_at')::timestamptz AS at,
        data ->> 'customer' AS customer, CASE WHEN data ->> 'duplicate_of' IS NOT NULL THEN 'duplicate'
            WHEN (data ->> 'is_automated')::boolean THEN 'automated'
            WHEN data ->> 'direction' = 'outbound' THEN 'outbound' END AS left_out
    FROM journal WHERE service = 'support' AND type = 'contact.received' AND data ->> 'order_id' IS NOT NULL
), things AS (
    SELECT c.subject, c.thing, c.at, 1 AS whole, c.left_out, false AS is_waiting, coalesce((
            SELECT array_agg(a.thing) FROM attributed AS a WHERE a.subject = c.subject AND a.left_out IS NULL
        ), ARRAY['none']) AS causes,
        EXISTS (SELECT FROM told AS e WHERE e.subject = c.subject AND e.customer = c.customer AND e.left_out IS NULL
            AND c.left_out IS NULL AND (e.at, e.sequence) < (c.at, c.sequence)
            AND e.at >= c.at - interval '{days} days')::int AS part
    FROM told AS c
)"""
)
ESCALATIONS: Final = """
WITH told AS NOT MATERIALIZED (
    SELECT *, data ->> 'escalation_id' AS thing FROM journal WHERE service = 'support' AND type LIKE 'escalation.%'
), ends AS (
    SELECT subject, thing, bool_or(type IN ('escalation.acknowledged', 'escalation.assigned')) AS is_taken,
        bool_or(type = 'escalation.cleared') AS is_cleared,
        bool_or(type = 'escalation.cleared' AND (data ->> 'is_switched_off')::boolean) AS is_off
    FROM told GROUP BY subject, thing
), things AS (
    SELECT DISTINCT ON (r.subject, r.thing) r.subject, r.thing, r.occurred_at AS at, 1 AS whole, e.is_taken::int AS part,
        ARRAY[r.data ->> 'rule'] AS rules, NOT e.is_taken AND NOT e.is_cleared AS is_waiting,
        CASE WHEN e.is_off AND NOT e.is_taken THEN 'rule switched off' END AS left_out
    FROM told AS r JOIN ends AS e USING (subject, thing)
    WHERE r.type = 'escalation.raised' AND strpos(r.subject, ':') = 0
    ORDER BY r.subject, r.thing, r.sequence
)"""
ERRORS: Final = (
    REFUNDS
    + """, things_sent AS (
    SELECT s.subject, s.thing, min(s.occurred_at) AS at, 1 AS whole, t.kinds, NULL AS left_out, false AS is_waiting,
        EXISTS (SELECT FROM told AS e WHERE e.subject = s.subject AND e.thing = s.thing
            AND e.type IN ('refund.leg_failed', 'refund.leg_reversed', 'refund.attention_needed'))::int AS part
    FROM told AS s JOIN things AS t USING (subject, thing) WHERE s.type = 'refund.leg_submitted'
    GROUP BY s.subject, s.thing, t.kinds
)"""
)
DRIFT: Final = """
WITH things AS (
    SELECT a.subject, a.sequence::text AS thing, a.occurred_at AS at, 1 AS whole, NULL AS left_out, false AS is_waiting,
        abs(coalesce((a.data ->> 'observed_minor')::bigint, 0) - coalesce((a.data ->> 'expected_minor')::bigint, 0)) AS part,
        ARRAY[(SELECT o.data ->> 'currency' FROM journal AS o WHERE o.service = 'payments' AND o.subject = a.subject
            AND o.type = 'payment.opened')] AS currencies
    FROM journal AS a WHERE a.service = 'payments' AND a.type = 'payment.anomaly_detected'
)"""
SHARED: Final = """
, chosen AS (
    SELECT {split} AS split, part, whole FROM {things} {join}
    WHERE at >= $1 AND at < $2 AND left_out IS NULL AND (at < $3 OR NOT is_waiting)
)
SELECT split, count(*) AS n, count(*) FILTER (WHERE part = whole) AS right_things, sum(part)::bigint AS right_units,
    sum(whole)::bigint AS units FROM chosen GROUP BY split"""
NOT_SHARED: Final = """
SELECT CASE WHEN left_out IS NULL THEN '' ELSE left_out END AS why, count(*) AS n FROM {things}
WHERE at >= $1 AND at < $2 AND (left_out IS NOT NULL OR (is_waiting AND at >= $3)) GROUP BY 1"""

# The rank is counted out: of n in order of their length, the one at the smallest rank that is no less than n times p.
TOOK: Final = """
, taken AS (
    SELECT {split} AS split, greatest(extract(epoch FROM ended - began), 0) AS seconds FROM {things} {join}
    WHERE ended >= $1 AND ended < $2 AND left_out IS NULL
), ranked AS (
    SELECT split, seconds, row_number() OVER (PARTITION BY split ORDER BY seconds) AS rank,
        count(*) OVER (PARTITION BY split) AS n FROM taken
)
SELECT split, n, min(seconds) FILTER (WHERE rank = ceil(n * 0.5))::float AS p50,
    min(seconds) FILTER (WHERE rank = ceil(n * 0.9))::float AS p90
FROM ranked GROUP BY split, n"""
STILL_OPEN: Final = """
SELECT subject, thing, extract(epoch FROM $1 - began)::float AS age FROM {things}
WHERE began < $1 AND (ended IS NULL OR ended >= $1)"""
OUT: Final = """
SELECT left_out, count(*) AS n FROM {things} WHERE ended >= $1 AND ended < $2 AND left_out IS NOT NULL GROUP BY left_out"""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a figure is made: the SQL of its things, the name they have in it, and the column of each dimension."""

    things: str
    name: str
    split: str | None = None


RULES: Final[dict[tuple[str, str | None], Rule]] = {
    ("return-cycle-time", None): Rule(RETURNS, "things"),
    ("return-cycle-time", "reason"): Rule(RETURNS, "things", "reasons"),
    ("return-cycle-time", "policy"): Rule(RETURNS, "things", "ARRAY[policy]"),
    ("return-cycle-time", "stage"): Rule(STAGES, "things_staged", "stages"),
    ("refund-latency", None): Rule(REFUNDS, "things"),
    ("refund-latency", "kind"): Rule(REFUNDS, "things", "kinds"),
    ("refund-latency", "channel"): Rule(PAYOUTS, "things_paid", "channels"),
    ("message-accuracy", None): Rule(MESSAGES, "things"),
    ("message-accuracy", "kind"): Rule(MESSAGES, "things", "kinds"),
    ("unit-accuracy", None): Rule(MESSAGES, "things"),
    ("unit-accuracy", "kind"): Rule(MESSAGES, "things", "kinds"),
    ("exception-rate", None): Rule(DECISIONS, "things_decided"),
    ("exception-rate", "policy"): Rule(DECISIONS, "things_decided", "policies"),
    ("refund-errors", None): Rule(ERRORS, "things_sent"),
    ("refund-errors", "kind"): Rule(ERRORS, "things_sent", "kinds"),
    ("reopen-rate", None): Rule(RESOLUTIONS, "things"),
    ("reopen-rate", "of"): Rule(RESOLUTIONS, "things", "ofs"),
    ("escalation-precision", None): Rule(ESCALATIONS, "things"),
    ("escalation-precision", "rule"): Rule(ESCALATIONS, "things", "rules"),
    **{
        (f"repeat-contacts-{days}", dimension): Rule(CONTACTS.format(days=days), "things", split)
        for days in (7, 14, 45)
        for dimension, split in ((None, None), ("cause", "causes"))
    },
    ("root-causes", None): Rule(CAUSES.format(), "attributed"),
    ("root-causes", "cause"): Rule(CAUSES.format(), "attributed", "ARRAY[thing]"),
    ("root-causes", "by"): Rule(CAUSES.format(), "attributed", "ARRAY[by]"),
    **{
        ("root-causes", dimension): Rule(
            CAUSES.format(),
            "attributed",
            f"ARRAY(SELECT split_part(one, ':', 2) FROM jsonb_array_elements_text(about) AS one"
            f" WHERE starts_with(one, '{dimension}:'))",
        )
        for dimension in ("carrier", "location", "sku", "policy")
    },
    ("root-cause-precision", None): Rule(CAUSES.format(), "judged"),
    ("root-cause-precision", "rule"): Rule(CAUSES.format(), "judged", "rules"),
    ("root-cause-precision", "cause"): Rule(CAUSES.format(), "judged", "tags"),
    ("drift", None): Rule(DRIFT, "things"),
    ("drift", "currency"): Rule(DRIFT, "things", "currencies"),
}
"""By figure and dimension."""

Took: TypeAlias = tuple[int, float, float]
Shared: TypeAlias = tuple[int, int, int, int]


@dataclass(slots=True)
class Oracle:
    """Asks the journals that were written into it; on a connection of its own, whose end is theirs."""

    db: Connection

    async def begin(self) -> None:
        await self.db.execute(JOURNAL)

    async def write(self, entries: Iterable[Entry]) -> None:
        rows = [
            (
                e.service,
                UUID(e.id),
                e.subject,
                e.sequence,
                e.fact.type,
                e.fact.model_dump_json(),
                e.occurred_at,
                e.actor,
            )
            for e in entries
        ]
        await self.db.execute(WRITE, *map(list, zip(*rows, strict=True)))
        await self.db.execute("ANALYZE journal")

    async def copy(self, service: str, source: Connection) -> None:
        """The journal of a running service."""
        rows = await source.fetch("SELECT id, subject, sequence, type, data::text, occurred_at, actor FROM events")
        columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)] or [[]] * 7
        await self.db.execute(WRITE, [service] * len(rows), *columns)

    def _split(self, rule: Rule, by: str, at: str) -> tuple[str, str]:
        """What is grouped by, and the join it takes: a period, each value of the dimension, or nothing."""
        if by:
            return f"date_trunc('{by}', {at}, 'UTC')", ""
        return ("value", f", unnest({rule.split}) AS value") if rule.split else ("NULL::text", "")

    async def took(
        self, key: str, dimension: str | None, start: datetime, end: datetime, by: str = ""
    ) -> dict[Any, Took]:
        """How many took how long: p50 and p90, by value of the dimension, or by period where `by` is day or week."""
        rule = RULES[key, dimension]
        split, join = self._split(rule, by, "ended")
        sql = rule.things + TOOK.format(split=split, things=rule.name, join=join)
        return {row["split"]: (row["n"], row["p50"], row["p90"]) for row in await self.db.fetch(sql, start, end)}

    async def shared(
        self, key: str, dimension: str | None, start: datetime, end: datetime, decided: datetime, by: str = ""
    ) -> dict[Any, Shared]:
        """How many there are; how many of them, and units of theirs of how many, are what the share asks for."""
        rule = RULES[key, dimension]
        split, join = self._split(rule, by, "at")
        sql = rule.things + SHARED.format(split=split, things=rule.name, join=join)
        rows = await self.db.fetch(sql, start, end, decided)
        return {row["split"]: (row["n"], row["right_things"], row["right_units"], row["units"]) for row in rows}

    async def not_shared(self, key: str, start: datetime, end: datetime, decided: datetime) -> dict[str, int]:
        rule = RULES[key, None]
        rows = await self.db.fetch(rule.things + NOT_SHARED.format(things=rule.name), start, end, decided)
        return {row["why"]: row["n"] for row in rows}

    async def still_open(self, key: str, dimension: str | None, at: datetime) -> list[tuple[str, str, float]]:
        """Their orders, ids and ages in seconds."""
        rule = RULES[key, dimension]
        rows = await self.db.fetch(rule.things + STILL_OPEN.format(things=rule.name), at)
        return [(row["subject"], row["thing"], row["age"]) for row in rows]

    async def left_out(self, key: str, start: datetime, end: datetime) -> dict[str, int]:
        rule = RULES[key, None]
        rows = await self.db.fetch(rule.things + OUT.format(things=rule.name), start, end)
        return {row["left_out"]: row["n"] for row in rows}


async def see(
    pool: Pool, key: str, start: datetime, end: datetime, *, by: By = "day", dimension: str | None = None
) -> FigureView:
    async with pool.acquire() as db:
        return await read_figure(db, FIGURES[key], asked(start.date(), end.date(), end), by, dimension)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), timezone.utc)


def _shared(kind: Kind, counts_units: bool, told: tuple[int, int, int, int]) -> Amounts:
    count, things, units, whole = told
    if kind is Kind.AMOUNT:
        return Amounts(count=count, amount_minor=units)
    if kind is Kind.COUNT:
        return Amounts(count=count)
    part, whole = (units, whole) if counts_units else (things, count)
    return Amounts(count=count, part=part, whole=whole, share=round(part / whole, 4))


def _bare(amounts: Amounts) -> Amounts:
    return Amounts.model_validate(amounts.model_dump(include=set(Amounts.model_fields)))


async def agree(pool: Pool, oracle: Oracle, start: datetime, end: datetime) -> None:
    """Every figure, by day and week, by every dimension, with what is open and what is left out."""
    since = _midnight(start.date())
    days = asked(start.date(), end.date(), end)
    for key, dimension in RULES:
        figure = FIGURES[key]

        async def truth(dimension: str | None, by: str = "", key: str = key) -> dict[Any, Amounts]:
            figure = FIGURES[key]
            if figure.kind is Kind.DURATION:
                took = await oracle.took(key, dimension, since, end, by)
                return {at: Amounts(count=n, p50_seconds=p50, p90_seconds=p90) for at, (n, p50, p90) in took.items()}
            told = await oracle.shared(key, dimension, since, end, end - figure.patience, by)
            return {at: _shared(figure.kind, figure.counts_units, one) for at, one in told.items()}

        for by in get_args(By):
            view = await see(pool, key, start, end, by=by, dimension=dimension)
            periods = {_midnight(period.starts_on): _bare(period) for period in view.periods if period.count}
            assert periods == await truth(None, by), (key, by)
        assert ({None: _bare(view.total)} if view.total.count else {}) == await truth(None), key
        if dimension:
            assert {group.value: _bare(group) for group in view.groups} == await truth(dimension), (key, dimension)
        elif figure.kind is Kind.DURATION:
            assert view.coverage.left_out == await oracle.left_out(key, since, end), key
        else:
            out = await oracle.not_shared(key, since, end, end - figure.patience)
            assert (view.coverage.open, view.coverage.left_out) == (out.pop("", 0), out), key
        if figure.kind is Kind.DURATION:
            async with pool.acquire() as db:
                rows = (await read_rows(db, figure, days, "open", dimension, None, None, 100_000)).rows
            ages = await oracle.still_open(key, dimension, end)
            assert sorted((row.order_id, row.id, row.seconds) for row in rows) == sorted(ages), (key, dimension)
