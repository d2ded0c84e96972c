"""What fulfillment says of a parcel, as returns take it: by article, and with the units that the customer has twice."""

from datetime import datetime, timezone
from uuid import UUID

from returns.domain.decide import RecordUnits
from returns.handlers import moved
from shared.contracts.base import LineQuantity
from shared.contracts.fulfillment import ShipmentDelivered, SubstitutedUnits
from shared.contracts.returns import RecordedUnits
from shared.messaging.envelope import Cause

AT = datetime(2026, 6, 3, tzinfo=timezone.utc)


def test_a_parcels_units_are_told_apart_by_article_and_those_sent_twice_are_named() -> None:
    fact = ShipmentDelivered(
        order_id="A1",
        shipment_id="A1-S1",
        scan=None,
        lines=(LineQuantity(line_id="mug", quantity=3), LineQuantity(line_id="tea", quantity=1)),
        substituted=(SubstitutedUnits(line_id="mug", quantity=1, sku="cup-9"),),
        replaced=(LineQuantity(line_id="mug", quantity=2),),
    )
    told = moved("delivered")(fact, Cause(UUID(int=1), AT, "service:fulfillment", "delivered", "c1"))
    assert isinstance(told.command, RecordUnits)
    assert told.command.lines == (
        RecordedUnits(line_id="mug", quantity=1, sku="cup-9"),
        RecordedUnits(line_id="mug", quantity=2),
        RecordedUnits(line_id="tea", quantity=1),
    )
    assert told.command.replaced == fact.replaced
