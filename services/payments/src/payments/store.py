"""All SQL of payments: rows that carry constraints, the operations that workers poll, policies, and reads for the API."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter

from payments.domain.decide import Command, deadlines, decide
from payments.domain.payout import Policies
from payments.domain.policy import Policy
from payments.domain.refund import ApprovalPolicy
from payments.domain.routing import RoutingPolicy
from payments.domain.state import Account, evolve, invariants
from shared.messaging.database import Pool
from shared.messaging.shell import Db, Flow, LockedAggregate, Message
from shared.web.metrics import Gauge

KEEP_TENDERS = """
INSERT INTO tenders (order_id, tender_id, kind, status, dispute, currency, authorized_minor, captured_minor, voided_minor,
    refunded_minor, refunding_minor, disputed_minor, overdrawn_minor)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[])
ON CONFLICT (order_id, tender_id) DO UPDATE SET status = excluded.status, dispute = excluded.dispute,
    authorized_minor = excluded.authorized_minor, captured_minor = excluded.captured_minor,
    voided_minor = excluded.voided_minor, refunded_minor = excluded.refunded_minor,
    refunding_minor = excluded.refunding_minor, disputed_minor = excluded.disputed_minor,
    overdrawn_minor = excluded.overdrawn_minor"""

KEEP_ACCOUNTS = """
INSERT INTO accounts (order_id, currency, total_minor, worth_minor, captured_minor, refunded_minor, refunding_minor,
    overdrawn_minor)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[])
ON CONFLICT (order_id) DO UPDATE SET worth_minor = excluded.worth_minor, captured_minor = excluded.captured_minor,
    refunded_minor = excluded.refunded_minor, refunding_minor = excluded.refunding_minor,
    overdrawn_minor = excluded.overdrawn_minor"""

KEEP_LINES = """
INSERT INTO lines (order_id, line_id, ordered, handed_over, cancelled, undelivered, due_back, refunded)
SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[])
ON CONFLICT (order_id, line_id) DO UPDATE SET handed_over = excluded.handed_over, cancelled = excluded.cancelled,
    undelivered = excluded.undelivered, due_back = excluded.due_back, refunded = excluded.refunded"""

# A change of status starts the workers' count anew: what is asked for is due at once, what was submitted is asked after
# when its answer should have come, what is unknown soon.
KEEP_OPERATIONS = """
INSERT INTO operations (operation_id, order_id, tender_id, kind, status, is_own, amount_minor, currency, token, tender_kind,
    authorization_ref, channel, final, requested_at, reference, code, traceparent, account_id, next_attempt_at)
SELECT n.*, CASE
    WHEN is_own OR status IN ('succeeded', 'failed', 'reversed') THEN NULL
    WHEN status = 'requested' THEN now()
    WHEN status = 'submitted' THEN now() + interval '30 seconds'
    ELSE now() + interval '500 milliseconds' END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::bigint[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::boolean[], $14::timestamptz[], $15::text[], $16::text[],
    $17::text[], $18::text[])
    AS n (operation_id, order_id, tender_id, kind, status, is_own, amount_minor, currency, token, tender_kind,
        authorization_ref, channel, final, requested_at, reference, code, traceparent, account_id)
ON CONFLICT (operation_id) DO UPDATE SET status = excluded.status, amount_minor = excluded.amount_minor,
    reference = excluded.reference, code = excluded.code,
    attempts = CASE WHEN operations.status = excluded.status THEN operations.attempts ELSE 0 END,
    failures = CASE WHEN operations.status = excluded.status OR excluded.status IN ('submitted', 'unknown')
        THEN operations.failures ELSE 0 END,
    next_attempt_at = CASE WHEN operations.status = excluded.status THEN operations.next_attempt_at
        ELSE excluded.next_attempt_at END"""

KEEP_REFUNDS = """
INSERT INTO refunds (refund_id, order_id, kind, status, cause_id, amount_minor, paid_minor, paying_minor, currency, requester,
    approver)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::text[], $10::text[], $11::text[])
ON CONFLICT (refund_id) DO UPDATE SET status = excluded.status, amount_minor = excluded.amount_minor, paid_minor = excluded.paid_minor,
    paying_minor = excluded.paying_minor, approver = excluded.approver"""

KEEP_MOVEMENTS = """
INSERT INTO movements (order_id, movement_id, tender_id, kind, amount_minor, currency, reference, operation_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[])"""

KEEP_DISPUTES = """
INSERT INTO disputes (order_id, dispute_id, tender_id, status, amount_minor)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
ON CONFLICT (order_id, dispute_id) DO UPDATE SET status = excluded.status, amount_minor = excluded.amount_minor"""

POLICIES = "SELECT policy_id, policy::text FROM policies ORDER BY policy_id, version"
PUBLISH = """
INSERT INTO policies (policy_id, version, effective_from, policy, published_by, reason) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING RETURNING true"""
PUBLISHED = "SELECT policy::text FROM policies WHERE policy_id = $1 AND version = $2"

# A lease: taken up by one worker, and by another if that one dies. The pauses grow to a minute, and to an hour for what no
# worker could deal with ten times.
CLAIM = """
UPDATE operations SET attempts = attempts + 1,
    next_attempt_at = now() + make_interval(secs => $3)
        + CASE WHEN failures >= 10 THEN interval '1 hour'
            ELSE least(interval '1 minute', interval '1 second' * 2 ^ least(attempts, 6)) END
WHERE operation_id IN (
    SELECT operation_id FROM operations WHERE next_attempt_at <= now() AND status = ANY($1::text[])
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING *"""
SUBMITTED = """
SELECT operations.*, payout_accounts.number AS account
FROM operations LEFT JOIN payout_accounts ON payout_accounts.account_id = operations.account_id
WHERE operation_id = ANY($1::text[]) AND status = 'submitted'"""
KEEP_ACCOUNT = """
INSERT INTO payout_accounts (account_id, order_id, kind, number) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"""
FAILED = "UPDATE operations SET failures = failures + 1, failure = $2 WHERE operation_id = $1 RETURNING failures"
ORDER_OF = "SELECT order_id, currency FROM operations WHERE operation_id = $1"
AUTHORIZED_BY = "SELECT order_id, currency FROM operations WHERE reference = $1 AND kind = 'authorize'"

READ = "SELECT state, sequence FROM states WHERE key = $1 AND sequence > 0"
EXISTS = "SELECT EXISTS (SELECT FROM states WHERE key = $1 AND sequence > 0)"
HAS_REFUND = "SELECT EXISTS (SELECT FROM refunds WHERE order_id = $1 AND refund_id = $2)"
OPENED = "SELECT currency FROM accounts WHERE order_id = $1"
ORDERS = "SELECT order_id FROM accounts WHERE order_id > $1 ORDER BY order_id LIMIT $2"
OPERATIONS = """
SELECT operation_id, order_id, kind, status, amount_minor, code FROM operations
WHERE order_id = ANY($1::text[]) AND NOT is_own ORDER BY operation_id"""

MOVED = "SELECT reference FROM movements WHERE order_id = ANY($1::text[])"
DISPUTES = "SELECT dispute_id, order_id, status, amount_minor FROM disputes WHERE order_id = ANY($1::text[])"

KEEP_NOTICE = """
INSERT INTO provider_notices (notice_id, type, order_id, body, occurred_at, reason) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (notice_id) DO UPDATE SET reason = excluded.reason"""
NOTICES = """
SELECT notice_id, type, order_id, occurred_at, received_at, reason, attempts, body FROM provider_notices
WHERE settled_at IS NULL ORDER BY received_at LIMIT $1"""
# The pauses grow to an hour: the order may be on its way, or be nobody's.
CLAIM_NOTICES = """
UPDATE provider_notices SET attempts = attempts + 1,
    next_attempt_at = now() + least(interval '1 hour', interval '1 second' * 2 ^ least(attempts + 1, 12))
WHERE notice_id IN (
    SELECT notice_id FROM provider_notices WHERE next_attempt_at <= now() AND settled_at IS NULL
    ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING notice_id, body"""
SETTLE_NOTICE = """
UPDATE provider_notices SET settled_at = now(), next_attempt_at = NULL, settled_by = $2, reason = coalesce($3, reason)
WHERE notice_id = $1 AND settled_at IS NULL RETURNING true"""

CLAIM_PAGE = """
UPDATE reconciliation SET next_at = now() + make_interval(secs => $1) WHERE next_at <= now() RETURNING after, failures"""
END_PAGE = """
UPDATE reconciliation SET after = $1, next_at = now() + make_interval(secs => $2), failures = $3,
    ended_at = CASE WHEN $1 = '' AND $3 = 0 THEN now() ELSE ended_at END"""
KEEP_DIFFERENCES = """
INSERT INTO differences (order_id, subject, difference, ours, theirs)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
ON CONFLICT (order_id, subject, difference) DO UPDATE SET ours = excluded.ours, theirs = excluded.theirs,
    last_seen_at = now(), resolved_at = NULL"""
RESOLVE_DIFFERENCES = """
UPDATE differences SET resolved_at = now()
WHERE resolved_at IS NULL AND order_id = ANY($1::text[]) AND (order_id, subject, difference) NOT IN
    (SELECT * FROM unnest($2::text[], $3::text[], $4::text[]))"""

UNANSWERED = "FROM operations WHERE next_attempt_at IS NOT NULL AND status IN ('submitted', 'unknown')"
GAUGES: Final = (
    Gauge(
        "oms_operations_unanswered",
        "operations that the provider has not answered",
        f"SELECT count(*) {UNANSWERED}",
    ),
    Gauge(
        "oms_operations_unanswered_seconds",
        "age of the oldest of them, by its business time",
        f"SELECT coalesce(extract(epoch FROM now() - min(requested_at)), 0) {UNANSWERED}",  # noqa: S608
    ),
    Gauge(
        "oms_operations_failing",
        "open operations that a worker could not deal with",
        "SELECT count(*) FROM operations WHERE failures > 0 AND next_attempt_at IS NOT NULL",
    ),
    Gauge(
        "oms_provider_notices_unmatched",
        "notices of the provider that fit no order or contradict our books",
        "SELECT count(*) FROM provider_notices WHERE settled_at IS NULL",
    ),
    Gauge(
        "oms_reconciliation_differences",
        "what our books and the provider's do not have alike",
        "SELECT count(*) FROM differences WHERE resolved_at IS NULL",
    ),
    Gauge(
        "oms_reconciliation_age_seconds",
        "since all orders had last been compared with the provider's books",
        "SELECT coalesce(extract(epoch FROM now() - ended_at), 0) FROM reconciliation",
    ),
)

STATE: Final[TypeAdapter[Account]] = TypeAdapter(Account)


@dataclass(frozen=True, slots=True)
class Call:
    """It is an operation as the provider is asked for it: the same in every attempt."""

    operation_id: str
    order_id: str
    tender_kind: str
    kind: str
    token: str
    amount_minor: int
    currency: str
    authorization: str | None
    channel: str | None
    final: bool
    requested_at: datetime
    traceparent: str | None = None
    account: str | None = None
    """Where a bank transfer goes to."""


@dataclass(frozen=True, slots=True)
class Booked:
    """It is an operation as our books have it."""

    operation_id: str
    order_id: str
    kind: str
    status: str
    amount_minor: int
    code: str | None


@dataclass(frozen=True, slots=True)
class BookedDispute:
    dispute_id: str
    order_id: str
    status: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class OurBooks:
    """It is the provider's side of some orders as our books have it; `moved` are its references of what we did not ask for."""

    operations: list[Booked]
    disputes: list[BookedDispute]
    moved: frozenset[str]


async def policies(db: Db, messages: Sequence[Message[Command]], states: Mapping[str, Account]) -> Policies:
    """Read every version there is; the decision says which one binds."""
    return _policies([(row[0], row[1]) for row in await db.fetch(POLICIES)])


def _policies(rows: Sequence[tuple[str, str]]) -> Policies:
    return Policies(
        routing=tuple(RoutingPolicy.model_validate_json(text) for id, text in rows if id == "refund-routing"),
        approval=tuple(ApprovalPolicy.model_validate_json(text) for id, text in rows if id == "refund-approval"),
    )


async def save_tables(db: Db, touched: Sequence[LockedAggregate[Account]], _: Policies) -> None:
    """Save rows of accounts that are open; those heard of early have units only, and wait for their order."""
    tenders: list[tuple[Any, ...]] = []
    accounts: list[tuple[Any, ...]] = []
    lines: list[tuple[Any, ...]] = []
    operations: list[tuple[Any, ...]] = []
    refunds: list[tuple[Any, ...]] = []
    movements: list[tuple[Any, ...]] = []
    disputes: list[tuple[Any, ...]] = []
    for held in touched:
        now, before = held.state, held.before
        refunds += _refunds(now, before)
        if not now.is_open:
            continue
        moved = now.operations is not before.operations or now.tenders is not before.tenders
        accounts += _changed(_accounts, now, before)
        if now.movements is not before.movements:
            movements += _changed(_movements, now, before)
        if now.tenders is not before.tenders:
            disputes += _changed(_disputes, now, before)
        if moved or movements:
            tenders += _changed(_tenders, now, before)
            operations += _operations(held)
        if now.units is not before.units or now.refunds is not before.refunds or not before.is_open:
            lines += _changed(_lines, now, before)
    for statement, rows in (
        (KEEP_TENDERS, tenders),
        (KEEP_ACCOUNTS, accounts),
        (KEEP_LINES, lines),
        (KEEP_OPERATIONS, operations),
        (KEEP_REFUNDS, refunds),
        (KEEP_MOVEMENTS, movements),
        (KEEP_DISPUTES, disputes),
    ):
        if rows:
            await db.execute(statement, *zip(*rows, strict=True))


def _changed(rows: Callable[[Account], list[tuple[Any, ...]]], now: Account, before: Account) -> list[tuple[Any, ...]]:
    """Return those that are not stored as they are now."""
    there = set(rows(before)) if before.is_open else set()
    return [row for row in rows(now) if row not in there]


def _accounts(now: Account) -> list[tuple[Any, ...]]:
    return [
        (
            now.order_id,
            now.currency,
            now.total_minor,
            now.worth_minor,
            now.captured_minor,
            now.refunded_minor(),
            now.refunding_minor(),
            sum(t.overdrawn_minor for t in now.tenders.values()),
        )
    ]


def _movements(now: Account) -> list[tuple[Any, ...]]:
    return [
        (now.order_id, m.id, m.tender_id, m.kind, m.amount_minor, now.currency, m.reference, m.operation_id)
        for m in now.movements.values()
    ]


def _disputes(now: Account) -> list[tuple[Any, ...]]:
    return [
        (now.order_id, id, t.id, d.status, d.amount_minor)
        for t in now.tenders.values()
        for id, d in t.all_disputes.items()
    ]


def _tenders(now: Account) -> list[tuple[Any, ...]]:
    return [
        (
            now.order_id,
            t.id,
            t.kind,
            t.status,
            t.dispute,
            now.currency,
            t.authorized_minor,
            t.captured_minor,
            t.voided_minor,
            now.refunded_minor(t.id),
            now.refunding_minor(t.id),
            now.held_minor(t),
            t.overdrawn_minor,
        )
        for t in now.tenders.values()
    ]


def _lines(now: Account) -> list[tuple[Any, ...]]:
    rows = []
    for id, line in now.lines.items():
        u = now.of_line(id)
        refunded = now.refunded_units(id)
        rows.append((now.order_id, id, line.quantity, u.handed_over, u.cancelled, u.undelivered, u.due_back, refunded))
    return rows


def _operations(held: LockedAggregate[Account]) -> list[tuple[Any, ...]]:
    now, before = held.state, held.before
    rows = []
    for o in now.operations.values():
        if before.operations.get(o.id) == o:
            continue
        tender = now.tenders[o.tender_id]
        # What goes back to a tender of our own has nowhere to go but a channel, and that is the provider's.
        is_own = tender.is_own and o.kind != "refund"
        rows.append(
            (
                o.id,
                now.order_id,
                o.tender_id,
                o.kind,
                o.status,
                is_own,
                o.amount_minor,
                now.currency,
                tender.token,
                tender.kind,
                o.authorization,
                o.channel,
                o.final,
                o.requested_at,
                o.reference,
                o.code,
                None if o.id in before.operations else held.cause_of("operation_id", o.id).traceparent,
                o.account_id,
            )
        )
    return rows


def _refunds(now: Account, before: Account) -> list[tuple[Any, ...]]:
    if now.refunds is before.refunds and now.operations is before.operations:
        return []
    return [
        (
            r.id,
            now.order_id,
            r.kind,
            r.status,
            r.cause_id,
            r.amount_minor,
            now.paid_out_minor(r),
            now.paying_out_minor(r),
            r.currency,
            r.requester,
            r.approver,
        )
        for r in now.refunds.values()
    ]


async def claim(pool: Pool, statuses: Sequence[str], most: int, lease_seconds: float) -> list[Call]:
    """Claim what is due, so that no other worker does before the lease is over."""
    async with pool.acquire(timeout=5) as db:
        return [_call(row) for row in await db.fetch(CLAIM, list(statuses), most, lease_seconds)]


async def submitted(pool: Pool, operation_ids: Sequence[str]) -> list[Call]:
    async with pool.acquire(timeout=5) as db:
        return [replace(_call(row), account=row["account"]) for row in await db.fetch(SUBMITTED, list(operation_ids))]


def _call(row: Any) -> Call:
    return Call(
        operation_id=row["operation_id"],
        order_id=row["order_id"],
        tender_kind=row["tender_kind"],
        kind=row["kind"],
        token=row["token"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        authorization=row["authorization_ref"],
        channel=row["channel"],
        final=row["final"],
        requested_at=row["requested_at"],
        traceparent=row["traceparent"],
    )


async def keep_account(pool: Pool, account_id: str, order_id: str, kind: str, number: str) -> None:
    async with pool.acquire(timeout=5) as db:
        await db.execute(KEEP_ACCOUNT, account_id, order_id, kind, number)


async def order_of(pool: Pool, operation_id: str | None, authorization: str | None) -> tuple[str, str] | None:
    """Return whose operation or authorization it is and in which currency, or None for one we never asked for."""
    async with pool.acquire(timeout=5) as db:
        if operation_id is not None:
            row = await db.fetchrow(ORDER_OF, operation_id)
        else:
            row = await db.fetchrow(AUTHORIZED_BY, authorization)
    return None if row is None else (row["order_id"], row["currency"])


async def currency_of(pool: Pool, order_id: str) -> str | None:
    """Return the currency of an order whose payments are open, or None."""
    async with pool.acquire(timeout=5) as db:
        found: str | None = await db.fetchval(OPENED, order_id)
        return found


async def failed(pool: Pool, operation_id: str, why: str) -> int:
    """Store with the operation why a worker could not deal with it. Returns how often none could."""
    async with pool.acquire(timeout=5) as db:
        failures: int = await db.fetchval(FAILED, operation_id, why[:2000]) or 0
        return failures


async def find(pool: Pool, order_id: str) -> tuple[Account, int] | None:
    """Return the account and its version, or None where the order is not known."""
    async with pool.acquire(timeout=5) as db:
        row = await db.fetchrow(READ, order_id)
    return None if row is None else (STATE.validate_json(row["state"]), row["sequence"])


async def is_known(pool: Pool, order_id: str, refund_id: str | None = None) -> bool:
    async with pool.acquire(timeout=5) as db:
        if refund_id is None:
            return bool(await db.fetchval(EXISTS, order_id))
        return bool(await db.fetchval(HAS_REFUND, order_id, refund_id))


async def all_policies(pool: Pool) -> Policies:
    async with pool.acquire(timeout=5) as db:
        return _policies([(row[0], row[1]) for row in await db.fetch(POLICIES)])


async def publish(pool: Pool, policy: Policy, by: str, reason: str) -> bool:
    """Store the version; return False when this very version is published already. Raises ValueError when it is, and says
    something else."""
    text = policy.model_dump_json()
    async with pool.acquire(timeout=5) as db:
        made = await db.fetchval(PUBLISH, policy.policy_id, policy.version, policy.effective_from, text, by, reason)
        if made:
            return True
        published = await db.fetchval(PUBLISHED, policy.policy_id, policy.version)
    if type(policy).model_validate_json(published) != policy:
        raise ValueError("is published and never changes: take the next number")
    return False


async def orders_after(pool: Pool, after: str, most: int) -> list[str]:
    """Return a page of orders in order of their ids."""
    async with pool.acquire(timeout=5) as db:
        return [row["order_id"] for row in await db.fetch(ORDERS, after, most)]


async def booked(pool: Pool, orders: Sequence[str]) -> OurBooks:
    """Return the orders' operations with the provider, their disputes, and what it moved by itself."""
    async with pool.acquire(timeout=5) as db:
        return OurBooks(
            operations=[Booked(**row) for row in await db.fetch(OPERATIONS, orders)],
            disputes=[BookedDispute(**row) for row in await db.fetch(DISPUTES, orders)],
            moved=frozenset(row["reference"] for row in await db.fetch(MOVED, orders)),
        )


@dataclass(frozen=True, slots=True)
class KeptNotice:
    """It is a notice of the provider that fits nothing here yet."""

    notice_id: str
    body: str


async def keep_notice(
    pool: Pool, notice_id: str, kind: str, order_id: str, body: str, at: datetime, reason: str
) -> None:
    async with pool.acquire(timeout=5) as db:
        await db.execute(KEEP_NOTICE, notice_id, kind, order_id, body, at, reason[:2000])


async def kept_notices(pool: Pool, most: int) -> list[Mapping[str, Any]]:
    """Return the open ones, the oldest first."""
    async with pool.acquire(timeout=5) as db:
        return [dict(row) for row in await db.fetch(NOTICES, most)]


async def claim_notices(pool: Pool, most: int) -> list[KeptNotice]:
    async with pool.acquire(timeout=5) as db:
        return [KeptNotice(**row) for row in await db.fetch(CLAIM_NOTICES, most)]


async def settle_notice(pool: Pool, notice_id: str, by: str, reason: str | None = None) -> bool:
    async with pool.acquire(timeout=5) as db:
        return bool(await db.fetchval(SETTLE_NOTICE, notice_id, by, reason))


async def claim_page(pool: Pool, lease_seconds: float) -> tuple[str, int] | None:
    """Return after which order the next page to compare begins, and how often it has failed; None where it is not due, or
    another's."""
    async with pool.acquire(timeout=5) as db:
        row = await db.fetchrow(CLAIM_PAGE, lease_seconds)
    return None if row is None else (row["after"], row["failures"])


async def end_page(pool: Pool, after: str, pause_seconds: float, failures: int = 0) -> None:
    async with pool.acquire(timeout=5) as db:
        await db.execute(END_PAGE, after, pause_seconds, failures)


async def keep_differences(
    pool: Pool, orders: Sequence[str], found: Sequence[tuple[str, str, str, str | None, str | None]]
) -> None:
    """Store the differences; those of the orders that were not found again are resolved."""
    columns: list[list[Any]] = (
        [list(column) for column in zip(*found, strict=True)] if found else [[] for _ in range(5)]
    )
    async with pool.acquire(timeout=5) as db, db.transaction():
        if found:
            await db.execute(KEEP_DIFFERENCES, *columns)
        await db.execute(RESOLVE_DIFFERENCES, list(orders), *columns[:3])


def _unopened(order_id: str) -> Account:
    return Account(order_id)


PAYMENTS: Final[Flow[Account, Command, Policies]] = Flow(
    service="payments",
    state=STATE,
    initial=_unopened,
    decide=decide,
    evolve=evolve,
    load_context=policies,
    save_tables=save_tables,
    deadlines=deadlines,
    invariants=invariants,
)
