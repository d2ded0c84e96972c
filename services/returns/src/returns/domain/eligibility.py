"""Eligibility says whether units may come back: a pure function of policy, order facts, unit facts and request, with every
reason.

The same inputs give the same verdicts and the same hash, for ever: nothing here asks the time or the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from hashlib import sha256
from typing import Final, Literal

from pydantic import TypeAdapter

from returns.domain.policies import canonical, document
from shared.contracts.returns import DeclaredCondition, Resolution, ReturnLine, ReturnPolicy, Verdict, Why, WindowTier

Outcome = Literal["approve", "review", "decline"]
MAX_SHIFT_DAYS: Final = 366
"""A calendar of holidays without a gap must not make the search for a business day endless."""


@dataclass(frozen=True, slots=True)
class LineFacts:
    category: str
    final_sale: bool


@dataclass(frozen=True, slots=True)
class OrderFacts:
    placed_at: datetime
    has_open_dispute: bool
    lines: Mapping[str, LineFacts]


@dataclass(frozen=True, slots=True)
class UnitGroup:
    """A group has units of a line with one history. `delivered_at` None: they have not reached the customer."""

    line_id: str
    quantity: int
    shipped_at: datetime | None
    delivered_at: datetime | None
    is_claimed: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    requested_at: datetime
    resolution: Resolution
    lines: tuple[ReturnLine, ...]
    membership: str | None = None
    abuse_score: int = 0


Inputs = tuple[ReturnPolicy, OrderFacts, Sequence[UnitGroup], Request]
_INPUTS: Final = TypeAdapter(Inputs)


def inputs_hash(policy: ReturnPolicy, order: OrderFacts, units: Sequence[UnitGroup], request: Request) -> str:
    """Return SHA-256 of the canonical JSON of all that a verdict depends on."""
    inputs = _INPUTS.dump_python((policy, order, units, request), mode="json")
    named = dict(zip(("policy", "order", "units", "request"), inputs, strict=True)) | {"policy": document(policy)}
    return sha256(canonical(named).encode()).hexdigest()


def evaluate(
    policy: ReturnPolicy, order: OrderFacts, units: Sequence[UnitGroup], request: Request
) -> tuple[Verdict, ...]:
    """Return one verdict per group of units, in the order given."""
    asked = {line.line_id: line for line in request.lines}
    return tuple(_judge(policy, order, group, asked[group.line_id], request) for group in units)


def _judge(policy: ReturnPolicy, order: OrderFacts, group: UnitGroup, line: ReturnLine, request: Request) -> Verdict:
    facts = order.lines[group.line_id]
    ends_at = window_end(policy, order, group, line.condition, request.membership)
    against = [*_about_units(group, request, ends_at), *_about_goods(policy, facts, line)]
    if request.resolution not in policy.resolutions:
        offered = ", ".join(policy.resolutions)
        against.append(Why(code="resolution_not_offered", text=f"{request.resolution} is not offered; {offered} are"))
    doubts = list(_doubts(policy, order, line, request))
    outcome: Outcome = "decline" if against else "review" if doubts else "approve"
    reasons = [*against, *doubts]
    if not reasons and ends_at is not None:
        reasons.append(Why(code="within_window", text=f"Requested before the window ends on {_said(ends_at)}"))
    return Verdict(
        line_id=group.line_id,
        quantity=group.quantity,
        outcome=outcome,
        reasons=tuple(reasons),
        delivered_at=group.delivered_at,
        window_ends_at=ends_at,
        allowed_resolutions=policy.resolutions,
        return_shipping_fee_minor=0 if against else return_shipping_fee(policy, line, request.resolution),
    )


def _about_units(group: UnitGroup, request: Request, ends_at: datetime | None) -> list[Why]:
    reasons = []
    if group.delivered_at is None or group.delivered_at > request.requested_at:
        reasons.append(Why(code="not_delivered", text="Not delivered when the return was requested"))
    if group.is_claimed:
        reasons.append(Why(code="already_claimed", text="A claim for these units is open or settled"))
    if ends_at is not None and request.requested_at > ends_at:
        reasons.append(Why(code="window_over", text=f"Requested after the window ended on {_said(ends_at)}"))
    return reasons


def _about_goods(policy: ReturnPolicy, facts: LineFacts, line: ReturnLine) -> list[Why]:
    reasons = []
    if facts.final_sale and not policy.final_sale_returnable:
        reasons.append(Why(code="final_sale", text="Sold as final sale"))
    if facts.category in policy.excluded_categories:
        reasons.append(Why(code="category_excluded", text=f"Goods of category {facts.category} cannot be returned"))
    if line.condition in policy.declined_conditions:
        reasons.append(Why(code="condition_declined", text=f"Goods declared {line.condition} cannot be returned"))
    return reasons


def _doubts(policy: ReturnPolicy, order: OrderFacts, line: ReturnLine, request: Request) -> list[Why]:
    reasons = []
    if line.condition in policy.review_conditions:
        reasons.append(Why(code="condition_review", text=f"Goods declared {line.condition} need a review"))
    if request.abuse_score >= policy.review_abuse_score:
        limit = policy.review_abuse_score
        reasons.append(Why(code="abuse_score", text=f"The abuse score {request.abuse_score} reaches {limit}"))
    if order.has_open_dispute:
        reasons.append(Why(code="dispute_open", text="A payment of the order is disputed"))
    return reasons


def return_shipping_fee(policy: ReturnPolicy, line: ReturnLine, resolution: Resolution) -> int:
    """Return what sending it back costs the customer, once per return: nothing where the shop is at fault, or where no refund
    is due that it could be taken of."""
    if line.reason in policy.free_return_reasons or resolution not in (Resolution.REFUND, Resolution.STORE_CREDIT):
        return 0
    return policy.return_shipping_fee_minor


def window_end(
    policy: ReturnPolicy, order: OrderFacts, group: UnitGroup, condition: DeclaredCondition, membership: str | None
) -> datetime | None:
    """Return the last instant at which these units may be returned; None while it has not begun."""
    anchors = {"delivered": group.delivered_at, "shipped": group.shipped_at, "ordered": order.placed_at}
    anchor = anchors[policy.window_anchor]
    if anchor is None:
        return None
    category = order.lines[group.line_id].category
    placed_on = order.placed_at.astimezone(timezone.utc).date()
    tiers = [t.days for t in policy.tiers if _matches(t, category, condition, membership, placed_on)]
    days = max(tiers, default=policy.window_days)
    end = anchor + timedelta(days=days + policy.grace_days)
    if condition is DeclaredCondition.UNOPENED and group.delivered_at is not None:
        end = max(end, group.delivered_at + timedelta(days=policy.statutory_days))
    return _open_day(policy, end)


def _matches(
    tier: WindowTier, category: str, condition: DeclaredCondition, membership: str | None, placed_on: date
) -> bool:
    return (
        (tier.category is None or tier.category == category)
        and (tier.condition is None or tier.condition is condition)
        and (tier.membership is None or tier.membership == membership)
        and (tier.placed_from is None or tier.placed_from <= placed_on)
        and (tier.placed_to is None or placed_on <= tier.placed_to)
    )


def _open_day(policy: ReturnPolicy, end: datetime) -> datetime:
    """Move to an open day: a window never ends on a holiday, nor, where policy says so, on a weekend (UTC days)."""
    for _ in range(MAX_SHIFT_DAYS):
        on = end.astimezone(timezone.utc).date()
        if on not in policy.holidays and not (policy.extend_to_business_day and on.weekday() >= 5):
            break
        end += timedelta(days=1)
    return end


def _said(instant: datetime) -> str:
    """Write the day as a person says it."""
    on = instant.astimezone(timezone.utc)
    return f"{on.day} {on:%B %Y}"
