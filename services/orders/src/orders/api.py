"""The HTTP API of orders: storefronts place orders and cancel, support holds and releases; everyone reads."""

from datetime import date, datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Request, Response
from pydantic import AwareDatetime, BaseModel, EmailStr, Field
from uuid_utils.compat import uuid7

from orders.domain.decide import (
    ChangeAddress,
    Command,
    GiveConsent,
    Place,
    PlaceHold,
    ReleaseHold,
    RequestCancellation,
)
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest
from orders.domain.rollups import Rollups, rollups
from orders.domain.state import Order, Status
from orders.store import ORDERS, find, is_known
from shared.contracts.base import (
    Bucket,
    Id,
    Input,
    LineQuantity,
    Name,
    PolicyRef,
    Quantity,
    TenderKind,
    Text,
)
from shared.contracts.orders import (
    HIDDEN,
    Address,
    BackorderChoice,
    Customer,
    Hold,
    RefundStep,
    ReturnStep,
    ShippingPreference,
    TenderStep,
    masked_email,
)
from shared.core.machine import Invalid
from shared.core.money import ActiveCountry, ActiveCurrency, Minor
from shared.web.auth import Caller, Role
from shared.web.callers import needs
from shared.web.commands import CommandRequest, OccurredAt, asks, business_time

router = APIRouter(tags=["orders"])

MAX_LINES = 200
MAX_TENDERS = 10

M = TypeVar("M", bound=BaseModel)


OrderId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=40,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="short, since the ids of shipments, refunds and the like are this and a suffix",
    ),
]
Token = Annotated[Text, Field(min_length=1, max_length=200)]


class CustomerIn(Input):
    customer_id: Id
    email: EmailStr
    name: Name
    locale: str = Field(default="en", pattern=r"^[a-z]{2}(-[A-Z]{2})?$")


class AddressIn(Input):
    name: Name
    street: Name
    city: Name
    postal_code: Annotated[Name, Field(max_length=20)]
    country: ActiveCountry


class LineIn(Input):
    """`discount_minor` and `tax_minor` are this line's own, for all its units."""

    line_id: Id | None = Field(default=None, description='by default its place: "1", "2"')
    sku: Id
    title: Name
    category: Id = "general"
    quantity: Quantity
    unit_price_minor: Minor
    discount_minor: Minor = 0
    tax_minor: Minor = 0
    final_sale: bool = False
    promised_on: date | None = None


class TenderIn(Input):
    tender_id: Id | None = Field(default=None, description='by default its place: "t1", "t2"')
    kind: TenderKind
    token: Token = Field(description="the provider's; never a card number")
    amount_minor: Minor
    currency: ActiveCurrency | None = Field(default=None, description="the order's, where it is said")


class PreferenceIn(Input):
    rule: Annotated[str, Field(pattern="^(as_available|complete_only|max_n_shipments)$")] = "as_available"
    max_shipments: Annotated[int, Field(ge=1, le=100, strict=True)] | None = None


class PolicyIn(Input):
    policy_id: Id
    version: int = Field(ge=1, le=1_000_000, strict=True)


class PlaceOrder(Input):
    """An order with its prices. The order's own discount, tax and shipping are split to its lines once, to the minor unit."""

    order_id: OrderId | None = Field(default=None, description="the storefront's; else one is made")
    placed_at: AwareDatetime | None = Field(default=None, description="when, if not now; must have an offset")
    customer: CustomerIn
    ship_to: AddressIn
    currency: ActiveCurrency
    lines: Annotated[tuple[LineIn, ...], Field(min_length=1, max_length=MAX_LINES)]
    discount_minor: Minor = 0
    tax_minor: Minor = 0
    shipping_minor: Minor = 0
    tenders: Annotated[tuple[TenderIn, ...], Field(max_length=MAX_TENDERS)]
    preference: PreferenceIn = PreferenceIn()
    terms: bool = Field(default=False, description="goods may leave before all of it is authorized")
    return_policy: PolicyIn | None = Field(default=None, description="the one in force, where none is named")


class LineQuantityIn(Input):
    line_id: Id
    quantity: Quantity


class RequestCancellationIn(Input):
    """A request without lines asks for everything that has not arrived."""

    lines: Annotated[tuple[LineQuantityIn, ...], Field(min_length=1, max_length=MAX_LINES)] | None = None
    detail: Text = ""
    occurred_at: OccurredAt


class PlaceHoldIn(Input):
    hold: Hold
    detail: Text
    occurred_at: OccurredAt


class ReleaseHoldIn(Input):
    detail: Text
    occurred_at: OccurredAt


class ChangeAddressIn(Input):
    ship_to: AddressIn
    occurred_at: OccurredAt


class GiveConsentIn(Input):
    """A substitute must be an article that is known to fulfillment; its title and price are what the customer is told."""

    choice: BackorderChoice
    substitute_sku: Id | None = None
    substitute_title: Name | None = None
    substitute_unit_price_minor: Minor | None = Field(
        default=None,
        description="what the customer pays for one, tax included; none: the line's own price, which it must not exceed",
    )
    occurred_at: OccurredAt


class LineOut(BaseModel):
    line_id: str
    sku: str
    title: str
    category: str
    quantity: int
    unit_price_minor: int
    discount_minor: int
    tax_minor: int
    shipping_minor: int
    goods_minor: int
    final_sale: bool
    promised_on: date | None
    owed: int = Field(description="ordered, and owed again as replacements")
    units: dict[Bucket, int] = Field(description="units by forward bucket; empty buckets are left out")


class HoldOut(BaseModel):
    hold: Hold
    detail: str


class BackorderOut(BaseModel):
    backorder_id: str
    line_id: str
    quantity: int


class ShipmentOut(BaseModel):
    shipment_id: str
    units: dict[str, int] = Field(description="units by line")
    is_packed: bool
    is_handed_over: bool
    has_exception: bool


class CancellationOut(BaseModel):
    """A cancellation says, by line, how many units were asked for and how they were answered."""

    cancellation_id: str
    whole: bool
    detail: str
    asked: dict[str, int]
    cancelled: dict[str, int]
    refused: dict[str, int]
    is_answered: bool


class OrderOut(BaseModel):
    """An order: what was promised, and beside it what the other services reported; none masks another."""

    order_id: str
    status: Status
    version: int = Field(description="the sequence of its last fact; the ETag, and what If-Match compares")
    placed_at: datetime
    customer: Customer = Field(description="the e-mail is whole for the storefront alone")
    ship_to: Address = Field(description="street and postal code are for the storefront and the warehouse")
    currency: str
    shipping_minor: int
    total_minor: int
    due_minor: int = Field(description="what is left of the total after cancellations")
    authorized_minor: int
    captured_minor: int
    refunded_minor: int
    rollups: Rollups
    lines: list[LineOut]
    holds: list[HoldOut]
    tenders: list[TenderStep]
    shipments: list[ShipmentOut]
    backorders: list[BackorderOut]
    refunds: list[RefundStep]
    returns: list[ReturnStep]
    cancellations: list[CancellationOut]
    preference: ShippingPreference
    return_policy: PolicyRef | None
    closes_at: datetime | None


def shown(order: Order, who: Caller) -> OrderOut:
    """Return what this caller may see of it: support reveals a contact in its own view, where that is recorded with a reason."""
    customer, ship_to = order.customer, order.ship_to
    if Role.STOREFRONT not in who.roles:
        customer = customer.model_copy(update={"email": masked_email(customer.email)})
    if who.roles.isdisjoint({Role.STOREFRONT, Role.WAREHOUSE}):
        ship_to = ship_to.model_copy(update={"street": HIDDEN, "postal_code": HIDDEN})
    return OrderOut(
        order_id=order.order_id,
        status=order.status,
        version=order.version,
        placed_at=order.placed_at,
        customer=customer,
        ship_to=ship_to,
        currency=order.currency,
        shipping_minor=order.shipping_minor,
        total_minor=order.total_minor,
        due_minor=order.due_minor,
        authorized_minor=order.authorized_minor,
        captured_minor=order.captured_minor,
        refunded_minor=order.paid_back_minor,
        rollups=rollups(order),
        lines=[
            LineOut(
                **line.placed.model_dump(),
                owed=line.owed,
                units={bucket: quantity for bucket, quantity in line.units.items() if quantity},
            )
            for line in order.lines.values()
        ],
        holds=[HoldOut(hold=hold, detail=detail) for hold, detail in order.holds.items()],
        tenders=list(order.tenders.values()),
        shipments=[
            ShipmentOut(
                shipment_id=id,
                units=dict(s.units),
                is_packed=s.stage is not Bucket.ALLOCATED,
                is_handed_over=s.stage is Bucket.IN_TRANSIT,
                has_exception=bool(s.troubled),
            )
            for id, s in order.shipments.items()
        ],
        backorders=[
            BackorderOut(backorder_id=id, line_id=b.line_id, quantity=b.quantity) for id, b in order.backorders.items()
        ],
        refunds=list(order.refunds.values()),
        returns=list(order.returns.values()),
        cancellations=[
            CancellationOut(
                cancellation_id=id,
                whole=c.whole,
                detail=c.detail,
                asked=dict(c.asked),
                cancelled=dict(c.cancelled),
                refused=dict(c.refused),
                is_answered=c.is_answered,
            )
            for id, c in order.cancellations.items()
        ],
        preference=order.preference,
        return_policy=order.return_policy,
        closes_at=order.closes_at,
    )


def _answer(status: int, who: Caller) -> Any:
    def answer(order: Order | None, _: Any) -> tuple[int, OrderOut]:
        assert order is not None
        return status, shown(order, who)

    return answer


IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        pattern=r'^"[0-9]{1,18}"$',
        description="the ETag read before; the request is refused when the order has changed since",
    ),
]


def _version(if_match: str | None) -> int | None:
    return None if if_match is None else int(if_match.strip('"'))


async def _known(request: Request, order_id: Annotated[OrderId, Path()]) -> str:
    if not await is_known(request.app.state.pool, order_id):
        raise HTTPException(404, f"order {order_id} is not known")
    return order_id


KnownOrder = Annotated[str, Depends(_known)]
Buyer = Annotated[CommandRequest, asks(Role.STOREFRONT, Role.AGENT, Role.SUPERVISOR)]
Holder = Annotated[CommandRequest, asks(Role.AGENT, Role.SUPERVISOR, Role.WAREHOUSE, Role.STOREFRONT)]
Releaser = Annotated[CommandRequest, asks(Role.AGENT, Role.SUPERVISOR)]
Reader = Annotated[Caller, needs(*Role)]


async def _changed(by: CommandRequest, order_id: str, command: Command, reason: str, status: int) -> Response:
    return await by.tell(ORDERS, order_id, command, _answer(status, by.caller), reason=reason, at=command.at)


@router.post("/orders", status_code=201, response_model=OrderOut)
async def place_order(body: PlaceOrder, by: Buyer) -> Response:
    """Place an order. Tenders must sum to its total; what it costs is split to its lines and never computed again."""
    try:
        at = business_time(body.placed_at)
    except Invalid as error:
        raise Invalid("placed_at", error.rule) from None
    order_id = body.order_id or f"o-{uuid7().hex}"
    wanted = PlacementRequest(
        placed_at=at,
        customer=Customer(**body.customer.model_dump()),
        ship_to=Address(**body.ship_to.model_dump()),
        currency=body.currency,
        lines=tuple(LineRequest(**line.model_dump()) for line in body.lines),
        tenders=tuple(TenderRequest(**tender.model_dump()) for tender in body.tenders),
        preference=ShippingPreference.model_validate(body.preference.model_dump()),
        discount_minor=body.discount_minor,
        tax_minor=body.tax_minor,
        shipping_minor=body.shipping_minor,
        terms=body.terms,
        return_policy=PolicyRef(**body.return_policy.model_dump()) if body.return_policy else None,
    )
    return await by.tell(
        ORDERS, order_id, Place(order_id, wanted, at), _answer(201, by.caller), reason="place order", at=at
    )


@router.get("/orders/{order_id}", response_model=OrderOut)
async def read_order(order_id: Annotated[OrderId, Path()], request: Request, who: Reader) -> Response:
    """The order as it is now. The ETag is its version."""
    order = await find(request.app.state.pool, order_id)
    if order is None:
        raise HTTPException(404, f"order {order_id} is not known")
    etag = f'"{order.version}"'
    if request.headers.get("If-None-Match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(shown(order, who).model_dump_json(), media_type="application/json", headers={"ETag": etag})


@router.post("/orders/{order_id}/cancellations", status_code=202, response_model=OrderOut)
async def request_cancellation(
    order_id: KnownOrder, body: RequestCancellationIn, by: Buyer, if_match: IfMatch = None
) -> Response:
    """Ask for units not to be sent. Fulfillment answers for each: cancelled, or refused because it was handed over."""
    at = business_time(body.occurred_at)
    lines = None if body.lines is None else tuple(LineQuantity(**line.model_dump()) for line in body.lines)
    command = RequestCancellation(at=at, version=_version(if_match), lines=lines, detail=body.detail)
    return await _changed(by, order_id, command, body.detail or "request cancellation", 202)


@router.post("/orders/{order_id}/holds", status_code=201, response_model=OrderOut)
async def place_hold(order_id: KnownOrder, body: PlaceHoldIn, by: Holder, if_match: IfMatch = None) -> Response:
    """Stop the hand-over of the order's units until it is released. Several holds may stand at once."""
    at = business_time(body.occurred_at)
    command = PlaceHold(at=at, version=_version(if_match), hold=body.hold, detail=body.detail)
    return await _changed(by, order_id, command, body.detail or "place hold", 201)


@router.post("/orders/{order_id}/holds/{hold}/release", response_model=OrderOut)
async def release_hold(
    order_id: KnownOrder, hold: Hold, body: ReleaseHoldIn, by: Releaser, if_match: IfMatch = None
) -> Response:
    """Take one hold off; the others stay."""
    at = business_time(body.occurred_at)
    command = ReleaseHold(at=at, version=_version(if_match), hold=hold, detail=body.detail)
    return await _changed(by, order_id, command, body.detail or "release hold", 200)


@router.put("/orders/{order_id}/address", response_model=OrderOut)
async def change_address(order_id: KnownOrder, body: ChangeAddressIn, by: Buyer, if_match: IfMatch = None) -> Response:
    """Send what has not left yet elsewhere."""
    at = business_time(body.occurred_at)
    command = ChangeAddress(at=at, version=_version(if_match), ship_to=Address(**body.ship_to.model_dump()))
    return await _changed(by, order_id, command, "change address", 200)


@router.post("/orders/{order_id}/backorders/{backorder_id}/consent", response_model=OrderOut)
async def give_consent(
    order_id: KnownOrder,
    backorder_id: Annotated[Id, Path()],
    body: GiveConsentIn,
    by: Buyer,
    if_match: IfMatch = None,
) -> Response:
    """What the customer wants done about goods that come late."""
    at = business_time(body.occurred_at)
    command = GiveConsent(
        at=at,
        version=_version(if_match),
        backorder_id=backorder_id,
        choice=body.choice,
        substitute_sku=body.substitute_sku,
        substitute_title=body.substitute_title,
        substitute_unit_price_minor=body.substitute_unit_price_minor,
    )
    return await _changed(by, order_id, command, f"consent to {body.choice}", 200)
