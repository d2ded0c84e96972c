"""The card processor's books: one effect per key, and no authorization is captured or refunded beyond what it holds."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

from pydantic import AwareDatetime

from sandbox.faults import FAULTS, GOOD, Answer, Fault, Kind, Notices, Sequel, fault_for
from sandbox.ledger import UnknownSubject, new_id
from sandbox.notices import Receiver, enqueue
from shared.contracts.base import Model, TenderKind
from shared.core.machine import Invalid, NotAllowed

SCHEMA = """
create table if not exists authorizations (
    id text primary key,
    order_id text not null,
    token text not null,
    channel text not null,
    currency text not null,
    amount_minor integer not null check (amount_minor > 0),
    captured_minor integer not null default 0 check (captured_minor >= 0),
    voided_minor integer not null default 0 check (voided_minor >= 0),
    refund_pending_minor integer not null default 0 check (refund_pending_minor >= 0),
    refunded_minor integer not null default 0 check (refunded_minor >= 0),
    disputed_minor integer not null default 0 check (disputed_minor >= 0),  -- open or lost
    dispute text not null default 'none' check (dispute in ('none', 'opened', 'won', 'lost')),
    dispute_id text,
    processed_at text not null,
    expires_at text not null,
    check (captured_minor + voided_minor <= amount_minor),
    check (refund_pending_minor + refunded_minor + disputed_minor <= captured_minor)
) strict;
create index if not exists authorizations_of_order on authorizations (order_id);
create table if not exists operations (
    seq integer primary key,
    operation_key text not null unique,  -- the caller's Idempotency-Key, for life
    id text not null unique,
    kind text not null,
    status text not null,
    code text,                           -- why it failed, was declined or bounced
    authorization_id text,
    order_id text not null,
    channel text not null,
    token text not null,
    amount_minor integer not null,
    released_minor integer not null,     -- what a final capture gave back of the authorization
    currency text not null,
    requested_at text not null,
    processed_at text not null,
    expires_at text,
    metadata text not null,
    fingerprint text not null,           -- of the request, to tell a repeat from a reused key
    answer text not null,                -- what a repeat is told
    is_answer_lost integer not null
) strict;
create index if not exists operations_of_order on operations (order_id);
create table if not exists disputes (
    id text primary key,
    authorization_id text not null references authorizations (id),
    order_id text not null,
    outcome text not null check (outcome in ('opened', 'won', 'lost')),
    amount_minor integer not null check (amount_minor > 0),
    occurred_at text not null
) strict;
create index if not exists disputes_of_order on disputes (order_id);
create table if not exists unheard (
    operation_key text primary key       -- requests that were dropped once, and are heard the next time
) strict;
create table if not exists sequels (
    operation_key text primary key references operations (operation_key),
    sequel text not null,
    due_at real not null                 -- seconds since the epoch
) strict;
"""

OPERATION = "select * from operations where operation_key = ?"
AUTHORIZATION = "select * from authorizations where id = ?"
ADD_AUTHORIZATION = """
insert into authorizations (id, order_id, token, channel, currency, amount_minor, processed_at, expires_at)
values (:id, :order_id, :token, :channel, :currency, :amount_minor, :processed_at, :expires_at)
"""
AUTHORIZED_BEFORE = "select 1 from authorizations where order_id = ? and token = ?"
SAVE_AUTHORIZATION = """
update authorizations set captured_minor = :captured_minor, voided_minor = :voided_minor,
    refund_pending_minor = :refund_pending_minor, refunded_minor = :refunded_minor,
    disputed_minor = :disputed_minor, dispute = :dispute, dispute_id = :dispute_id
where id = :id
"""
ADD_OPERATION = """
insert into operations (operation_key, id, kind, status, code, authorization_id, order_id, channel, token,
    amount_minor, released_minor, currency, requested_at, processed_at, expires_at, metadata, fingerprint, answer,
    is_answer_lost)
values (:operation_key, :id, :kind, :status, :code, :authorization_id, :order_id, :channel, :token,
    :amount_minor, :released_minor, :currency, :requested_at, :processed_at, :expires_at, :metadata, :fingerprint,
    :answer, :is_answer_lost)
"""
SET_STATUS = "update operations set status = ?, code = ? where operation_key = ?"
DROP_ONCE = "insert into unheard (operation_key) values (?) on conflict do nothing"
ADD_SEQUEL = "insert into sequels (operation_key, sequel, due_at) values (?, ?, ?)"
NEXT_SEQUEL = "select operation_key, sequel, due_at from sequels order by due_at limit 1"
END_SEQUEL = "delete from sequels where operation_key = ?"
DISPUTES_ON = "select * from disputes where authorization_id = ? order by id"
DISPUTES_OF = "select * from disputes where order_id in (select value from json_each(?)) order by id"
SAVE_DISPUTE = """
insert into disputes (id, authorization_id, order_id, outcome, amount_minor, occurred_at)
values (:id, :authorization_id, :order_id, :outcome, :amount_minor, :occurred_at)
on conflict (id) do update set outcome = excluded.outcome, amount_minor = excluded.amount_minor,
    occurred_at = excluded.occurred_at
"""
AUTHORIZATIONS_OF = "select * from authorizations where order_id in (select value from json_each(?)) order by id"
OPERATIONS_OF = "select * from operations where order_id in (select value from json_each(?)) order by seq"
TOTALS = """
select currency, sum(authorized) as authorized_minor, sum(captured) as captured_minor, sum(voided) as voided_minor,
    sum(pending) as refund_pending_minor, sum(refunded) as refunded_minor, sum(paid_out) as paid_out_minor,
    sum(disputed) as disputed_minor
from (
    select currency, amount_minor as authorized, captured_minor as captured, voided_minor as voided,
        refund_pending_minor as pending, refunded_minor as refunded, 0 as paid_out, disputed_minor as disputed
    from authorizations
    union all
    select currency, 0, 0, 0, case status when 'pending' then amount_minor else 0 end, 0,
        case status when 'succeeded' then amount_minor else 0 end, 0
    from operations where kind = 'payout'
) group by currency order by currency
"""

AUTHORIZATION_LIFE: Final = timedelta(days=30)


class Status(StrEnum):
    AUTHORIZED = "authorized"
    DECLINED = "declined"
    SUCCEEDED = "succeeded"
    PENDING = "pending"
    FAILED = "failed"
    BOUNCED = "bounced"


DisputeOutcome = Literal["opened", "won", "lost"]


class Dispute(Model):
    """One of the disputes about an authorization; `occurred_at` is when it came to its outcome."""

    id: str
    authorization_id: str
    order_id: str
    outcome: DisputeOutcome
    amount_minor: int
    occurred_at: AwareDatetime


class Operation(Model):
    """What the processor was asked to do, once, and what came of it."""

    id: str
    operation_key: str
    kind: Kind
    status: Status
    code: str | None
    authorization_id: str | None
    order_id: str
    channel: TenderKind
    amount_minor: int
    released_minor: int
    currency: str
    requested_at: AwareDatetime
    processed_at: AwareDatetime
    expires_at: AwareDatetime | None


class Authorization(Model):
    """An authorization and what became of its amount."""

    id: str
    order_id: str
    channel: TenderKind
    currency: str
    amount_minor: int
    captured_minor: int
    voided_minor: int
    refund_pending_minor: int
    refunded_minor: int
    disputed_minor: int
    dispute: Literal["none", "opened", "won", "lost"]
    dispute_id: str | None
    processed_at: AwareDatetime
    expires_at: AwareDatetime

    @property
    def remaining_minor(self) -> int:
        return self.amount_minor - self.captured_minor - self.voided_minor

    @property
    def refundable_minor(self) -> int:
        return self.captured_minor - self.refund_pending_minor - self.refunded_minor - self.disputed_minor


class CurrencyTotals(Model):
    currency: str
    authorized_minor: int
    captured_minor: int
    voided_minor: int
    refund_pending_minor: int
    refunded_minor: int
    paid_out_minor: int
    disputed_minor: int


@dataclass(frozen=True, slots=True)
class Terms:
    """Whose money it is: given with an authorization or a payout, and the authorization's for all that follows."""

    order_id: str
    channel: TenderKind
    currency: str
    token: str


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked under a key. `amount_minor` None: whatever remains. `subject`: an authorization, or new terms."""

    kind: Kind
    key: str
    fingerprint: str
    requested_at: datetime
    subject: str | Terms
    amount_minor: int | None = None
    final: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds until late notices are sent, pending refunds settle, and refunds bounce (0: only when told to)."""

    late: float
    settle: float
    bounce: float


@dataclass(frozen=True, slots=True)
class Reply:
    """`operation` None: the request was never heard. `is_lost`: performed, but the caller must not get to know."""

    operation: Operation | None
    is_replayed: bool = False
    is_lost: bool = False


def perform(db: sqlite3.Connection, request: Request, pace: Pace, now: datetime) -> Reply:
    """One effect per key, and the same reply to the same request for ever.

    What the books do not admit is an operation that failed, under its key like any other. Raises Invalid for
    a reused key, and UnknownSubject.
    """
    known = db.execute(OPERATION, (request.key,)).fetchone()
    if known:
        if known["fingerprint"] != request.fingerprint:
            raise Invalid("Idempotency-Key", "was used with another request")
        answer = Operation.model_validate_json(known["answer"])
        return Reply(answer, is_replayed=True, is_lost=bool(known["is_answer_lost"]))
    account = None
    if isinstance(request.subject, Terms):
        terms = request.subject
    else:
        account, token = find_authorization(db, request.subject)
        terms = Terms(account.order_id, account.channel, account.currency, token)
    fault = fault_for(terms.token, request.kind)
    if fault.is_first_spared and not db.execute(AUTHORIZED_BEFORE, (terms.order_id, terms.token)).fetchone():
        fault = FAULTS[GOOD]
    if fault.answer is Answer.UNHEARD and db.execute(DROP_ONCE, (request.key,)).rowcount:
        return Reply(None)
    operation = _judge(request, terms, account, fault, now)
    is_lost = fault.answer is Answer.LOST
    row = operation.model_dump(mode="json") | {
        "token": terms.token,
        "metadata": json.dumps(dict(request.metadata)),
        "fingerprint": request.fingerprint,
        "answer": operation.model_dump_json(),
        "is_answer_lost": is_lost,
    }
    if operation.status is Status.AUTHORIZED:
        db.execute(ADD_AUTHORIZATION, row)
    db.execute(ADD_OPERATION, row)
    if account:
        _save(db, booked(account, operation))
    manner = Notices.LATE if is_lost else FAULTS[terms.token].notices
    _tell(db, operation, operation.processed_at, manner, pace)
    _follow_up(db, operation, fault, pace, now)
    return Reply(operation, is_lost=is_lost)


def _judge(request: Request, terms: Terms, account: Authorization | None, fault: Fault, now: datetime) -> Operation:
    """What comes of the request: the books' objection goes before the fault that was chosen."""
    processed_at = min(request.requested_at, now)
    amount = request.amount_minor
    if amount is None:
        amount = account.remaining_minor if account else 0
    code = (account and objection(account, request.kind, amount, processed_at)) or fault.code
    if request.kind is Kind.AUTHORIZATION:
        status = Status.DECLINED if code else Status.AUTHORIZED
    elif fault.sequel is Sequel.SETTLE and not code:
        status = Status.PENDING
    else:
        status = Status.FAILED if code else Status.SUCCEEDED
    identifier = new_id(request.kind[:4])
    is_authorized = status is Status.AUTHORIZED
    return Operation(
        id=identifier,
        operation_key=request.key,
        kind=request.kind,
        status=status,
        code=code,
        authorization_id=account.id if account else identifier if request.kind is Kind.AUTHORIZATION else None,
        order_id=terms.order_id,
        channel=terms.channel,
        amount_minor=amount,
        released_minor=account.remaining_minor - amount if account and request.final and not code else 0,
        currency=terms.currency,
        requested_at=request.requested_at,
        processed_at=processed_at,
        expires_at=processed_at + (timedelta() if fault.expires else AUTHORIZATION_LIFE) if is_authorized else None,
    )


def objection(account: Authorization, kind: Kind, amount: int, at: datetime) -> str | None:
    """Why the books do not admit this operation, if they do not."""
    match kind:
        case Kind.CAPTURE if at >= account.expires_at:
            return "authorization_expired"
        case Kind.CAPTURE if account.remaining_minor == 0:
            return "nothing_to_capture"
        case Kind.CAPTURE if amount > account.remaining_minor:
            return "exceeds_authorization"
        case Kind.VOID if account.remaining_minor == 0:
            return "nothing_to_void"
        case Kind.REFUND if account.dispute == "opened":
            return "disputed"
        case Kind.REFUND if amount > account.refundable_minor:
            return "exceeds_captured"
    return None


def booked(account: Authorization, operation: Operation) -> Authorization:
    """The authorization after the operation; one that failed changes nothing."""
    amount = operation.amount_minor
    match operation.kind, operation.status:
        case Kind.CAPTURE, Status.SUCCEEDED:
            captured = {"captured_minor": account.captured_minor + amount}
            return account.model_copy(
                update=captured | {"voided_minor": account.voided_minor + operation.released_minor}
            )
        case Kind.VOID, Status.SUCCEEDED:
            return account.model_copy(update={"voided_minor": account.voided_minor + amount})
        case Kind.REFUND, Status.SUCCEEDED:
            return account.model_copy(update={"refunded_minor": account.refunded_minor + amount})
        case Kind.REFUND, Status.PENDING:
            return account.model_copy(update={"refund_pending_minor": account.refund_pending_minor + amount})
    return account


def _follow_up(db: sqlite3.Connection, operation: Operation, fault: Fault, pace: Pace, now: datetime) -> None:
    match fault.sequel, operation.status:
        case Sequel.SETTLE, Status.PENDING:
            db.execute(ADD_SEQUEL, (operation.operation_key, Sequel.SETTLE, now.timestamp() + pace.settle))
        case Sequel.BOUNCE, Status.SUCCEEDED if pace.bounce:
            db.execute(ADD_SEQUEL, (operation.operation_key, Sequel.BOUNCE, now.timestamp() + pace.bounce))
        case Sequel.DISPUTE, Status.SUCCEEDED if operation.authorization_id:
            account, _ = find_authorization(db, operation.authorization_id)
            if account.dispute == "none":
                dispute(db, account.id, "opened", operation.amount_minor, operation.processed_at, pace)


def play_sequels(db: sqlite3.Connection, pace: Pace, now: datetime) -> float | None:
    """Let happen what is due by itself; returns the seconds until the next is, or None when nothing is to come."""
    while True:
        row = db.execute(NEXT_SEQUEL).fetchone()
        if row is None:
            return None
        if row["due_at"] > now.timestamp():
            return float(row["due_at"] - now.timestamp())
        if row["sequel"] == Sequel.SETTLE:
            settle(db, row["operation_key"], pace, now)
        else:
            bounce(db, row["operation_key"], None, pace, now)
        db.execute(END_SEQUEL, (row["operation_key"],))


def settle(db: sqlite3.Connection, key: str, pace: Pace, now: datetime) -> None:
    """A pending refund has arrived, a day after it was made."""
    operation, token = find_operation(db, key)
    if operation.status is not Status.PENDING:
        return
    settled = _mark(db, operation, Status.SUCCEEDED, None)
    if operation.authorization_id:
        account, _ = find_authorization(db, operation.authorization_id)
        pending = account.refund_pending_minor - operation.amount_minor
        _save(db, booked(account.model_copy(update={"refund_pending_minor": pending}), settled))
    at = min(operation.processed_at + timedelta(days=1), now)
    _tell(db, settled, at, FAULTS[token].notices, pace)


def bounce(db: sqlite3.Connection, key: str, occurred_at: datetime | None, pace: Pace, now: datetime) -> Operation:
    """Money that was paid out came back, three days later unless said otherwise; it can be refunded again.

    Raises NotAllowed unless it is a refund or payout that succeeded, and UnknownSubject.
    """
    operation, token = find_operation(db, key)
    if operation.status is Status.BOUNCED:
        return operation
    if operation.kind not in (Kind.REFUND, Kind.PAYOUT) or operation.status is not Status.SUCCEEDED:
        raise NotAllowed(
            operation.status, "bounce", detail=f"{operation.kind} is {operation.status}: only money paid out can bounce"
        )
    bounced = _mark(db, operation, Status.BOUNCED, "returned_by_bank")
    if operation.authorization_id:
        account, _ = find_authorization(db, operation.authorization_id)
        _save(db, account.model_copy(update={"refunded_minor": account.refunded_minor - operation.amount_minor}))
    at = min(occurred_at or operation.processed_at + timedelta(days=3), now)
    _tell(db, bounced, at, FAULTS[token].notices, pace)
    return bounced


def dispute(
    db: sqlite3.Connection,
    authorization_id: str,
    outcome: DisputeOutcome,
    amount_minor: int | None,
    occurred_at: datetime,
    pace: Pace,
    dispute_id: str | None = None,
) -> Authorization:
    """The cardholder disputes what was captured; while a dispute is open or lost, its money is held.

    Without `dispute_id` it is the authorization's newest, and the first that is opened. With a new one there are several; one
    that was won may be opened or lost again. `amount_minor` counts when it opens and when it is lost; None: all that is
    refundable, or all that it is about. Raises NotAllowed and UnknownSubject.
    """
    account, token = find_authorization(db, authorization_id)
    known = {row["id"]: Dispute.model_validate(dict(row)) for row in db.execute(DISPUTES_ON, (account.id,))}
    before = known.get(dispute_id or account.dispute_id or "")
    if before is not None and before.outcome == outcome:
        return account
    if outcome != "opened" and before is None:
        raise NotAllowed(account.dispute, "dispute", detail="only a dispute that was opened is won or lost")
    if outcome == "opened" and before is not None and dispute_id is None:
        raise NotAllowed(
            account.dispute, "dispute", detail="it was disputed before: name the dispute, this one or a new one"
        )
    held = before.amount_minor if before is not None and before.outcome != "won" else 0
    free = account.refundable_minor + held
    amount = amount_minor or (before.amount_minor if before is not None else free)
    if outcome != "won" and not 0 < amount <= free:
        detail = f"dispute is {account.dispute}; {free} can be disputed, not {amount}"
        raise NotAllowed(account.dispute, "dispute", detail=detail)
    told = Dispute(
        id=before.id if before else dispute_id or new_id("disp"),
        authorization_id=account.id,
        order_id=account.order_id,
        outcome=outcome,
        amount_minor=amount,
        occurred_at=occurred_at,
    )
    db.execute(SAVE_DISPUTE, told.model_dump(mode="json"))
    outcomes = {d.outcome for d in {**known, told.id: told}.values()}
    weighed = next(o for o in ("opened", "lost", "won") if o in outcomes)
    now_held = account.disputed_minor - held + (0 if outcome == "won" else amount)
    account = account.model_copy(update={"dispute": weighed, "dispute_id": told.id, "disputed_minor": now_held})
    _save(db, account)
    data = {
        "operation_key": None,
        "reference": told.id,
        "authorization_id": account.id,
        "order_id": account.order_id,
        "amount_minor": amount,
        "currency": account.currency,
    }
    _notify(db, account.id, f"dispute.{outcome}", occurred_at, data, FAULTS[token].notices, pace)
    return account


def succeed_after_all(db: sqlite3.Connection, key: str, pace: Pace, now: datetime) -> Operation:
    """A refund that had failed arrives nevertheless. Raises NotAllowed unless it is one and its money is there."""
    operation, token = find_operation(db, key)
    if operation.kind not in (Kind.REFUND, Kind.PAYOUT) or operation.status is not Status.FAILED:
        detail = f"{operation.kind} is {operation.status}: only a refund that failed can succeed after all"
        raise NotAllowed(operation.status, "succeed", detail=detail)
    done = _mark(db, operation, Status.SUCCEEDED, None)
    if operation.authorization_id:
        account, _ = find_authorization(db, operation.authorization_id)
        if operation.amount_minor > account.refundable_minor:
            raise NotAllowed(operation.status, "succeed", detail=f"only {account.refundable_minor} can be refunded")
        _save(db, booked(account, done))
    _tell(db, done, now, FAULTS[token].notices, pace)
    return done


def _tell(db: sqlite3.Connection, operation: Operation, at: datetime, manner: Notices, pace: Pace) -> None:
    """Queue the notice of the operation's status; a pending one, and a void that failed, have none."""
    kind = Kind.REFUND if operation.kind is Kind.PAYOUT else operation.kind
    status = Status.SUCCEEDED if operation.status is Status.AUTHORIZED else operation.status
    if status is Status.PENDING or (kind is Kind.VOID and status is Status.FAILED):
        return
    data = {
        "operation_key": operation.operation_key,
        "reference": operation.id,
        "authorization_id": operation.authorization_id,
        "order_id": operation.order_id,
        "amount_minor": operation.amount_minor,
        "currency": operation.currency,
    }
    if operation.code:
        data["code"] = operation.code
    _notify(db, operation.authorization_id or operation.id, f"{kind}.{status}", at, data, manner, pace)


def _notify(
    db: sqlite3.Connection,
    subject: str,
    kind: str,
    occurred_at: datetime,
    data: Mapping[str, str | int | None],
    manner: Notices,
    pace: Pace,
) -> None:
    notice_id = new_id("evt")
    body = json.dumps({"id": notice_id, "type": kind, "occurred_at": occurred_at.isoformat(), "data": data})
    enqueue(db, Receiver.PAYMENTS, subject, notice_id, body, manner=manner, late_seconds=pace.late)


def _mark(db: sqlite3.Connection, operation: Operation, status: Status, code: str | None) -> Operation:
    db.execute(SET_STATUS, (status, code, operation.operation_key))
    return operation.model_copy(update={"status": status, "code": code})


def _save(db: sqlite3.Connection, account: Authorization) -> None:
    db.execute(SAVE_AUTHORIZATION, account.model_dump(mode="json"))


def find_operation(db: sqlite3.Connection, key: str) -> tuple[Operation, str]:
    """The operation as it stands now, and its test token. Raises UnknownSubject."""
    row = db.execute(OPERATION, (key,)).fetchone()
    if row is None:
        raise UnknownSubject(f"no operation was ever seen under the key {key!r}")
    return Operation.model_validate(dict(row)), row["token"]


def find_authorization(db: sqlite3.Connection, authorization_id: str) -> tuple[Authorization, str]:
    """The authorization as it stands now, and its test token. Raises UnknownSubject."""
    row = db.execute(AUTHORIZATION, (authorization_id,)).fetchone()
    if row is None:
        raise UnknownSubject(f"there is no authorization {authorization_id!r}")
    return Authorization.model_validate(dict(row)), row["token"]


def books_of(
    db: sqlite3.Connection, order_ids: Sequence[str]
) -> tuple[list[Authorization], list[Operation], list[Dispute]]:
    orders = (json.dumps(list(order_ids)),)
    return (
        [Authorization.model_validate(dict(row)) for row in db.execute(AUTHORIZATIONS_OF, orders)],
        [Operation.model_validate(dict(row)) for row in db.execute(OPERATIONS_OF, orders)],
        [Dispute.model_validate(dict(row)) for row in db.execute(DISPUTES_OF, orders)],
    )


def totals(db: sqlite3.Connection) -> list[CurrencyTotals]:
    return [CurrencyTotals.model_validate(dict(row)) for row in db.execute(TOTALS)]
