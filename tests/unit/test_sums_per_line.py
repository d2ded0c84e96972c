"""Every request that names lines is checked on the sum per line: entries that fit one by one and not together are refused."""

from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from fulfillment.api import router as fulfillment
from fulfillment.domain.decide import Pack, Plan, ShortPick
from orders.api import router as orders
from payments.api import router as payments
from payments.domain.payout import Asked
from returns.api import router as returns
from returns.domain.decide import ApproveReturn, GrantException, OpenClaim
from returns.handlers import summed
from shared.contracts.base import LineQuantity, TenderKind
from shared.contracts.partners import PartnerLine
from shared.contracts.returns import ReturnReason
from shared.core.machine import Invalid, NotAllowed
from tests.returns_story import asking, day, delivered, looked_at, parcel
from tests.unit import fulfillment_world, orders_story, payments_story

HELD_BY = {
    "PlaceOrder.lines": "each line has an id of its own",
    "RequestCancellationIn.lines": "orders, a line there twice",
    "RefundIn.lines": "EachLineOnce, and payments, a line named twice",
    "PackShipment.parcels": "fulfillment, the sum over all parcels",
    "WarehouseParcel.lines": "fulfillment, the sum over all parcels",
    "ShortPickShipment.lines": "fulfillment, the sum",
    "ReshipShipment.lines": "fulfillment, the sum",
    "RequestReturnIn.lines": "returns, a line named twice",
    "ApproveIn.lines": "returns, summed first",
    "ExceptionIn.lines": "returns, summed first",
    "ReceiptIn.lines": "returns, what is observed is recorded as it is",
    "InspectionIn.lines": "returns, one entry after the other against what is left",
    "RevisionIn.lines": "returns, the lines account for all units",
    "ClaimIn.lines": "returns, summed first",
}
"""What checks each list. A list that is new here has no check yet: give it one, and a test below."""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) in (Annotated, tuple, list, Union, UnionType):
        for part in get_args(annotation):
            yield from models_in(part)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def lists_of_lines(model: type[BaseModel]) -> Iterator[str]:
    for name, told in model.model_fields.items():
        for part in models_in(told.annotation):
            if "line_id" in part.model_fields and "quantity" in part.model_fields:
                yield f"{model.__name__}.{name}"
            else:
                inside = list(lists_of_lines(part))
                yield from ([f"{model.__name__}.{name}", *inside] if inside else ())


def test_every_list_of_lines_that_a_request_may_have_is_checked_by_somebody() -> None:
    found: set[str] = set()
    for router in (orders, payments, fulfillment, returns):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            if route.body_field is not None:
                for model in models_in(route.body_field.field_info.annotation):
                    found.update(lists_of_lines(model))
    assert found - HELD_BY.keys() == set()


def twice(line_id: str, quantity: int) -> tuple[LineQuantity, ...]:
    """Each fits; together they do not."""
    return (LineQuantity(line_id=line_id, quantity=quantity), LineQuantity(line_id=line_id, quantity=quantity))


def refund() -> None:
    story = payments_story.paid(
        payments_story.tender("t1", TenderKind.CARD, 9_000),
        lines=[payments_story.line("a", 1, 5_000), payments_story.line("b", 1, 4_000)],
    )
    story.handed_over("S1", a=1, b=1)
    story.all_succeed()
    story.tell(payments_story.refund(6_000, lines=(Asked("a", 0, 3_000), Asked("a", 0, 3_000))))


def cancellation() -> None:
    orders_story.confirmed().when(orders_story.cancel(("1", 3), ("1", 3)))


def packed() -> fulfillment_world.World:
    world = fulfillment_world.World()
    world.shelf("mug", "berlin", 4)
    world.placed("o1", mug=3)
    world.when("o1", Plan())
    return world


def pack() -> None:
    packed().when("o1", Pack("o1-S1", (("p1", twice("mug", 2)),)))


def pack_in_two_parcels() -> None:
    packed().when("o1", Pack("o1-S1", (("p1", twice("mug", 2)[:1]), ("p2", twice("mug", 2)[:1]))))


def short_pick() -> None:
    packed().when("o1", ShortPick("o1-S1", twice("mug", 2)))


def returned() -> None:
    once = asking(day(5), mug=2)
    delivered().then(once.__class__(once.lines * 2, once.resolution, "", (), day(5)))


def approval() -> None:
    story = delivered()
    story.then(asking(day(5), mug=2))
    story.then(ApproveReturn("A1-RMA1", summed(partner("mug", 2)), "supervisor:ben", day(6)))


def exception() -> None:
    story = delivered()
    story.then(asking(day(5), mug=2))
    story.then(GrantException("A1-RMA1", summed(partner("mug", 2)), "supervisor:ben", "kind", day(6)))


def claim() -> None:
    delivered().then(OpenClaim(summed(partner("mug", 2)), ReturnReason.DAMAGED_IN_TRANSIT, (), day(5)))


def partner(line_id: str, quantity: int) -> tuple[PartnerLine, ...]:
    return (PartnerLine(line_id=line_id, quantity=quantity),) * 2


@pytest.mark.parametrize(
    "request_", [refund, cancellation, pack, pack_in_two_parcels, short_pick, returned, approval, exception, claim]
)
def test_entries_that_fit_one_by_one_and_not_together_are_refused(request_: Callable[[], None]) -> None:
    with pytest.raises((Invalid, NotAllowed)):
        request_()


def test_units_are_inspected_once_however_the_entries_are_cut() -> None:
    story = delivered()
    story.then(asking(day(5), mug=2), parcel("R1", day(7), mug=2))
    story.then(looked_at("I1", day(8), ("mug", 2, "as_new"), ("mug", 2, "defective")))
    refunded = sum(f.amount_minor for f in story.facts if f.type == "return.refund_due")  # type: ignore[attr-defined]
    worth = story.state.purchase.lines["mug"] if story.state.purchase else None
    assert worth is not None and refunded <= worth.goods_minor
