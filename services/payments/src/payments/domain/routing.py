"""Where a refund goes: a pure function of a versioned policy and what is left on each tender, with its reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from payments.domain.policy import Policy
from shared.contracts.base import PREPAID, Input, TenderKind
from shared.contracts.payments import RefundChannel, TenderExcluded
from shared.core.machine import replace
from shared.core.money import largest_remainder

Days = Annotated[int, Field(ge=0, le=3650, strict=True)]


class Strategy(StrEnum):
    PRO_RATA = "pro_rata"
    STORE_CREDIT_FIRST = "store_credit_first"
    LAST_PAID_FIRST = "last_paid_first"
    CARD_FIRST = "card_first"


class Fallback(Input):
    """A channel for what cannot go back the way it came. `days` is what the customer is promised."""

    channel: RefundChannel
    needs_consent: bool = Field(strict=True)
    days: Days


class RoutingPolicy(Policy):
    """How refunds are routed. The version in force at purchase binds an order."""

    policy_id: Literal["refund-routing"] = "refund-routing"
    strategy: Strategy = Strategy.PRO_RATA
    limit_days: dict[TenderKind, Days] = Field(description="schemes take no refunds of captures older than this")
    no_refunds_to: tuple[TenderKind, ...] = Field(max_length=8, description="tenders that money cannot go back to")
    fallbacks: tuple[Fallback, ...] = Field(max_length=2, description="in the order they are tried")
    promise_days: dict[TenderKind, Days] = Field(description="until money that goes back to a tender has arrived")
    at_once_hours: Annotated[int, Field(ge=1, le=240, strict=True)] = Field(
        default=24, description="what is promised within 0 days has arrived after so many hours"
    )

    def promised(self, since: datetime, days: int) -> datetime:
        return since + (timedelta(days=days) or timedelta(hours=self.at_once_hours))


@dataclass(frozen=True, slots=True)
class Source:
    """What can be drawn from one authorization of a tender. `reference` is the provider's."""

    tender_id: str
    kind: TenderKind
    reference: str
    left_minor: int
    captured_at: datetime


@dataclass(frozen=True, slots=True)
class Share:
    """One payout to be made. `authorization` is set where it goes back to it."""

    tender_id: str
    tender_kind: TenderKind
    channel: RefundChannel
    amount_minor: int
    authorization: str | None
    reasons: tuple[str, ...]
    promised_at: datetime


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be routed. `channel` other than original is where the customer wants all of it."""

    amount_minor: int
    channel: RefundChannel
    consents: frozenset[RefundChannel]
    trigger_at: datetime
    at: datetime
    disputed: Sequence[str] = ()
    """Tenders that are out because of a dispute."""


@dataclass(frozen=True, slots=True)
class Route:
    shares: tuple[Share, ...]
    excluded: tuple[TenderExcluded, ...]


@dataclass(frozen=True, slots=True)
class Unroutable:
    """Why there is no route, as a code, and how much has none."""

    reason: str
    outstanding_minor: int
    excluded: tuple[TenderExcluded, ...]


NOTHING_LEFT: Final = "nothing_captured_is_left"
NO_CHANNEL: Final = "no_channel_with_consent"
CARDS: Final = (TenderKind.CARD, TenderKind.WALLET, TenderKind.BANK_DEBIT)


def route(policy: RoutingPolicy, sources: Sequence[Source], request: Request) -> Route | Unroutable:
    """Draw the amount from the sources, in the order they are given, as the policy's strategy says.

    The shares sum up to the amount to the minor unit, and none is above what its source has left. A refund is routed as
    a whole or not at all.
    """
    out = set(request.disputed)
    excluded = tuple(TenderExcluded(tender_id=id, reason="disputed") for id in request.disputed)
    usable = [s for s in sources if s.tender_id not in out and s.left_minor > 0]
    left = sum(s.left_minor for s in usable)
    if left < request.amount_minor:
        return Unroutable("disputed" if excluded else NOTHING_LEFT, request.amount_minor - left, excluded)
    shares = []
    for source, amount in _drawn(policy.strategy, usable, request.amount_minor):
        share = _paid_out(policy, source, amount, request)
        if share is None:
            return Unroutable(NO_CHANNEL, request.amount_minor, excluded)
        shares.append(share)
    return Route(tuple(shares), excluded)


def next_channel(policy: RoutingPolicy, after: RefundChannel, consents: frozenset[RefundChannel]) -> Fallback | None:
    """The fallback to try when `after` has failed for good: the next on the list that the customer agrees to."""
    channels = [f.channel for f in policy.fallbacks]
    start = channels.index(after) + 1 if after in channels else 0
    return next((f for f in policy.fallbacks[start:] if not f.needs_consent or f.channel in consents), None)


def fall_back(policy: RoutingPolicy, failed: Share, code: str, request: Request) -> Share | None:
    """The same money by the next channel, or None when there is none that the customer agrees to."""
    fallback = next_channel(policy, failed.channel, request.consents)
    if fallback is None:
        return None
    return replace(
        failed,
        channel=fallback.channel,
        authorization=None,
        reasons=(f"{failed.channel} failed: {code}", f"{fallback.channel} is next on the list"),
        promised_at=policy.promised(request.at, fallback.days),
    )


def _drawn(strategy: Strategy, sources: Sequence[Source], amount: int) -> list[tuple[Source, int]]:
    if strategy is Strategy.PRO_RATA:
        parts = largest_remainder(amount, [s.left_minor for s in sources]) if sources else []
        return [(source, part) for source, part in zip(sources, parts, strict=True) if part]
    drawn = []
    for source in _in_order(strategy, sources):
        part = min(amount, source.left_minor)
        if part:
            drawn.append((source, part))
            amount -= part
    return drawn


def _in_order(strategy: Strategy, sources: Sequence[Source]) -> list[Source]:
    """Stable: sources that a strategy does not tell apart stay in the order of the order's tenders."""
    match strategy:
        case Strategy.STORE_CREDIT_FIRST:
            return sorted(sources, key=lambda s: s.kind not in PREPAID)
        case Strategy.CARD_FIRST:
            return sorted(sources, key=lambda s: CARDS.index(s.kind) if s.kind in CARDS else len(CARDS))
        case _:
            return sorted(reversed(sources), key=lambda s: s.captured_at, reverse=True)


def _paid_out(policy: RoutingPolicy, source: Source, amount: int, request: Request) -> Share | None:
    reasons = [f"strategy {policy.strategy}"]

    def by(fallback: Fallback) -> Share:
        promised_at = policy.promised(request.trigger_at, fallback.days)
        return Share(source.tender_id, source.kind, fallback.channel, amount, None, tuple(reasons), promised_at)

    if request.channel is not RefundChannel.ORIGINAL:
        wanted = next((f for f in policy.fallbacks if f.channel is request.channel), None)
        reasons.append(f"{request.channel} was chosen")
        return by(wanted) if wanted else None
    obstacle = _obstacle(policy, source, request.at)
    if obstacle is None:
        promised_at = policy.promised(request.trigger_at, policy.promise_days.get(source.kind, 0))
        return Share(
            source.tender_id,
            source.kind,
            RefundChannel.ORIGINAL,
            amount,
            source.reference,
            (*reasons, "back to where it came from"),
            promised_at,
        )
    reasons.append(obstacle)
    fallback = next_channel(policy, RefundChannel.ORIGINAL, request.consents)
    return by(fallback) if fallback else None


def _obstacle(policy: RoutingPolicy, source: Source, at: datetime) -> str | None:
    """Why the money cannot go back the way it came, in words."""
    if source.kind in policy.no_refunds_to:
        return f"{source.kind} takes no refunds"
    limit = policy.limit_days.get(source.kind)
    if limit is not None and at > source.captured_at + timedelta(days=limit):
        return f"{source.kind} was captured more than {limit} days ago"
    return None
