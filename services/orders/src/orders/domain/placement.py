"""Placement splits every amount of an order to its lines once, to the minor unit; it is never computed again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from shared.contracts.base import PolicyRef, TenderKind
from shared.contracts.orders import Address, Customer, OrderLine, OrderPlaced, ShippingPreference, TenderSpec
from shared.core.machine import Invalid
from shared.core.money import MAX_MINOR, largest_remainder


@dataclass(frozen=True, slots=True)
class LineRequest:
    sku: str
    title: str
    quantity: int
    unit_price_minor: int
    line_id: str | None = None
    category: str = "general"
    discount_minor: int = 0
    tax_minor: int = 0
    final_sale: bool = False
    promised_on: date | None = None


@dataclass(frozen=True, slots=True)
class TenderRequest:
    """`currency`, where it is said, must be the order's."""

    kind: TenderKind
    token: str
    amount_minor: int
    tender_id: str | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """It is what the storefront asks for. `discount_minor`, `tax_minor` and `shipping_minor` are the order's, beside the
    lines' own."""

    placed_at: datetime
    customer: Customer
    ship_to: Address
    currency: str
    lines: tuple[LineRequest, ...]
    tenders: tuple[TenderRequest, ...]
    preference: ShippingPreference
    discount_minor: int = 0
    tax_minor: int = 0
    shipping_minor: int = 0
    terms: bool = False
    return_policy: PolicyRef | None = None


def placed(order_id: str, request: PlacementRequest) -> OrderPlaced:
    """Price the request. Raises Invalid naming the field and the rule.

    Discount is split by the lines' prices after their own discounts, tax and shipping by what remains then; each by
    largest remainder.
    """
    if not request.lines:
        raise Invalid("lines", "must name at least one line")
    line_ids = _ids(request.lines, lambda line: line.line_id, "lines", "line_id", prefix="")
    gross = [line.quantity * line.unit_price_minor for line in request.lines]
    for i, line in enumerate(request.lines):
        if line.discount_minor > gross[i]:
            raise Invalid(f"lines.{i}.discount_minor", f"must not exceed quantity x unit price, {gross[i]}")
    after_own = [whole - line.discount_minor for whole, line in zip(gross, request.lines, strict=True)]
    if request.discount_minor > sum(after_own):
        raise Invalid("discount_minor", f"must not exceed what the lines cost, {sum(after_own)}")
    shares = largest_remainder(request.discount_minor, after_own)
    net = [price - share for price, share in zip(after_own, shares, strict=True)]
    taxes = largest_remainder(request.tax_minor, net)
    shipping = largest_remainder(request.shipping_minor, net)
    lines = tuple(
        OrderLine(
            line_id=line_ids[i],
            sku=line.sku,
            title=line.title,
            category=line.category,
            quantity=line.quantity,
            unit_price_minor=line.unit_price_minor,
            discount_minor=line.discount_minor + shares[i],
            tax_minor=line.tax_minor + taxes[i],
            shipping_minor=shipping[i],
            goods_minor=_bounded(f"lines.{i}", net[i] + line.tax_minor + taxes[i]),
            final_sale=line.final_sale,
            promised_on=line.promised_on,
        )
        for i, line in enumerate(request.lines)
    )
    goods = sum(line.goods_minor for line in lines)
    total = _bounded("lines", goods + request.shipping_minor)
    if (request.preference.rule == "max_n_shipments") != (request.preference.max_shipments is not None):
        raise Invalid("preference.max_shipments", "is required with max_n_shipments, and with nothing else")
    return OrderPlaced(
        order_id=order_id,
        placed_at=request.placed_at,
        customer=request.customer,
        ship_to=request.ship_to,
        currency=request.currency,
        lines=lines,
        goods_minor=goods,
        shipping_minor=request.shipping_minor,
        total_minor=total,
        tenders=_tenders(request, total),
        preference=request.preference,
        terms=request.terms,
        return_policy=request.return_policy,
    )


def _tenders(request: PlacementRequest, total: int) -> tuple[TenderSpec, ...]:
    ids = _ids(request.tenders, lambda tender: tender.tender_id, "tenders", "tender_id", prefix="t")
    for i, tender in enumerate(request.tenders):
        if tender.currency not in (None, request.currency):
            raise Invalid(f"tenders.{i}.currency", f"must be the order's, {request.currency}")
        if not tender.amount_minor:
            raise Invalid(f"tenders.{i}.amount_minor", "must be above zero")
    paid = sum(tender.amount_minor for tender in request.tenders)
    if paid != total:
        raise Invalid("tenders", f"must sum to the total, {total}, not to {paid}")
    return tuple(
        TenderSpec(tender_id=id, kind=tender.kind, token=tender.token, amount_minor=tender.amount_minor)
        for id, tender in zip(ids, request.tenders, strict=True)
    )


def _ids(
    parts: Sequence[LineRequest] | Sequence[TenderRequest],
    given: Callable[..., str | None],
    of: str,
    name: str,
    prefix: str,
) -> list[str]:
    """Return the ids as given, else by place: "1", "2" for lines, "t1", "t2" for tenders."""
    ids = [given(part) or f"{prefix}{i}" for i, part in enumerate(parts, start=1)]
    for i, id in enumerate(ids):
        if ids.index(id) != i:
            raise Invalid(f"{of}.{i}.{name}", f"must be unique in the order, {id} is there twice")
    return ids


def _bounded(field: str, minor: int) -> int:
    if minor > MAX_MINOR:
        raise Invalid(field, f"must not cost more than {MAX_MINOR} minor units")
    return minor
