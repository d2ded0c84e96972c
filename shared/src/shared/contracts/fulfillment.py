"""What the fulfillment service tells: topic `fulfillment.events`."""

from datetime import datetime
from typing import Final, Literal, TypeAlias

from pydantic import Field

from shared.contracts.base import Bucket as Bucket
from shared.contracts.base import Count, Fact, Id, LineQuantity, Model, Name, OrderFact, PolicyRef, Quantity, Text
from shared.contracts.orders import Address, BackorderChoice, Hold, ShippingPreference
from shared.core.money import Minor


class FulfillmentFact(OrderFact, service="fulfillment"):
    """A fact of an order's units. These move them from bucket to bucket, and no other fact does:

    fulfillment.opened to unallocated; stock.allocated from unallocated to allocated; backorder.created from
    unallocated to backordered; backorder.filled from backordered to unallocated (stock.allocated follows for the same
    units); shipment.packed from allocated to packed; shipment.shipped from packed to in_transit; shipment.delivered,
    .lost and .returned_to_sender from in_transit; shipment.found from lost to in_transit; shipment.tracking_updated,
    if it has lines, from delivered to in_transit; fulfillment.lines_short_shipped from `was` to unallocated;
    backorder.consent_settled with `substitute` from backordered to unallocated; fulfillment.lines_cancelled from
    `was` to cancelled; fulfillment.withdrawn from unallocated to cancelled; replacement.created to unallocated, from
    where `moved` says, the rest being ordered on top.
    """


class PlannedShipment(Model):
    shipment_id: Id
    location: Id
    lines: tuple[LineQuantity, ...]


class PlannedBackorder(Model):
    backorder_id: Id
    line_id: Id
    sku: Id
    quantity: Quantity
    eta: datetime | None


class OpenedLine(Model):
    line_id: Id
    sku: Id
    quantity: Quantity


class SubstitutedUnits(Model):
    """Units of a line that are another article than the one ordered."""

    line_id: Id
    quantity: Quantity
    sku: Id
    title: Name | None = None
    unit_price_minor: Minor | None = Field(default=None, description="what the customer pays for one; none: as ordered")


class FulfillmentOpened(FulfillmentFact, type="fulfillment.opened"):
    """The order is known here: its units are unallocated until it is confirmed."""

    placed_at: datetime
    lines: tuple[OpenedLine, ...]
    preference: ShippingPreference


class FulfillmentWithdrawn(FulfillmentFact, type="fulfillment.withdrawn"):
    """The order was rejected before anything was planned: its unallocated units are cancelled."""

    lines: tuple[LineQuantity, ...]


class FulfillmentClaimRecorded(FulfillmentFact, type="fulfillment.claim_recorded"):
    """A private copy of a claim of units that never arrived: while it stands, they are neither cancelled nor sent again.

    No lines: it was rejected.
    """

    claim_id: Id
    lines: tuple[LineQuantity, ...]


class FulfillmentHoldsChanged(FulfillmentFact, type="fulfillment.holds_changed"):
    """The order's holds as fulfillment knows them now; none means that nothing blocks the hand-over."""

    holds: tuple[Hold, ...]


class FulfillmentPlanned(FulfillmentFact, type="fulfillment.planned"):
    """How the units are split, and why, in words."""

    shipments: tuple[PlannedShipment, ...]
    backorders: tuple[PlannedBackorder, ...]
    preference: ShippingPreference
    reasons: tuple[Text, ...]
    policy: PolicyRef | None = None
    funded_until: datetime | None = Field(default=None, description="until when it is paid for, by what is authorized")


class FulfillmentFundingChanged(FulfillmentFact, type="fulfillment.funding_changed"):
    """Until when what has not left is paid for, by what is authorized: not packed and not handed over after it."""

    funded_until: datetime | None


class FulfillmentReplanned(FulfillmentFact, type="fulfillment.replanned"):
    shipments: tuple[PlannedShipment, ...]
    backorders: tuple[PlannedBackorder, ...]
    reasons: tuple[Text, ...]
    policy: PolicyRef | None = None


class CancelledUnits(Model):
    line_id: Id
    quantity: Quantity
    was: Bucket


class FulfillmentLinesCancelled(FulfillmentFact, type="fulfillment.lines_cancelled"):
    """`cancellation_id` is the order's; or the backorder's id, where a choice (or silence) about it cancelled it."""

    cancellation_id: Id
    lines: tuple[CancelledUnits, ...]


class FulfillmentCancellationRefused(FulfillmentFact, type="fulfillment.cancellation_refused"):
    """These units were handed over: stop them by a recall, or take them back by a return."""

    cancellation_id: Id
    lines: tuple[LineQuantity, ...]
    reason_code: Literal["handed_over", "not_open"]


class FulfillmentLinesShortShipped(FulfillmentFact, type="fulfillment.lines_short_shipped"):
    """The warehouse could not find them, or left them out; they went back to unallocated and are planned again."""

    shipment_id: Id
    lines: tuple[LineQuantity, ...]
    was: Literal[Bucket.ALLOCATED, Bucket.PACKED] = Bucket.ALLOCATED


Contradiction: TypeAlias = Literal[
    "held",
    "cancelled",
    "unfunded",
    "old_label",
    "unknown_order",
    "unknown_shipment",
    "not_packed",
    "packed",
    "handed_over",
    "quantities",
    "parcels",
    "stock",
    "settled",
]
"""What an observation contradicts: the hold or cancellation of its shipment, a payment that has run out, a label that is no
longer right, an order or shipment that is not known, how far the shipment has come, what it holds, its parcels, what the
shelves hold, or units that are settled already."""


class FulfillmentDiscrepancyRecorded(FulfillmentFact, type="fulfillment.discrepancy_recorded"):
    """A partner says that something happened which contradicts the plan. It is recorded, and a person looks at it.

    `observation` is the type of the partner's message. What it did to units and stock, other facts say. `parcels`: of one that
    had left, under which numbers it is said to be now; what the carrier scans under them is of this shipment.
    """

    discrepancy_id: Id
    observation: Id
    contradicts: Contradiction
    shipment_id: Id | None = None
    lines: tuple[LineQuantity, ...] = ()
    detail: Text
    parcels: tuple["Parcel", ...] = ()


class StockFact(FulfillmentFact):
    sku: Id
    location: Id
    quantity: Quantity


class StockAllocated(StockFact, type="stock.allocated"):
    """`title` and price are of a substitute, as the customer was told them."""

    line_id: Id
    shipment_id: Id
    title: Name | None = None
    unit_price_minor: Minor | None = None


class StockReleased(StockFact, type="stock.released"):
    """Allocated units that are free again: `on_hand` says whether they are still on the shelf (a short pick is not)."""

    line_id: Id
    shipment_id: Id
    on_hand: bool = True


class StockShipped(StockFact, type="stock.shipped"):
    """Allocated units that left the building with their shipment."""

    line_id: Id
    shipment_id: Id


class StockRestocked(StockFact, type="stock.restocked"):
    """Sellable again, once per unit: an inspected return, a parcel that came back."""

    line_id: Id
    cause_id: Id


class StockWithdrawn(StockFact, type="stock.withdrawn"):
    """Units that are not to be sold after all: their inspection was revised, or they left although they were free."""

    line_id: Id
    cause_id: Id


class StockQuarantined(StockFact, type="stock.quarantined"):
    line_id: Id
    cause_id: Id


class StockScrapped(StockFact, type="stock.scrapped"):
    line_id: Id
    cause_id: Id


SHELF: Final = "stock"
"""What the subject of a shelf starts with, before a colon."""


def shelf_key(sku: str, location: str) -> str:
    """An `@` of the article's own is written `%40`, so that no two shelves share a key."""
    return f"{SHELF}:{sku.replace('@', '%40')}@{location}"


class ShelfFact(Fact, service="fulfillment"):
    """A fact of stock that concerns no order; its subject is the shelf, `stock:<sku>@<location>`."""

    sku: Id
    location: Id

    @property
    def subject(self) -> str:
        return shelf_key(self.sku, self.location)


class StockReceived(ShelfFact, type="stock.received"):
    quantity: Quantity
    receipt_id: Id


class StockCounted(ShelfFact, type="stock.counted"):
    """The shelf was counted, packed goods that have not left included: the books say so from now on.

    `change` is what that made of the units on hand. `missing` are allocated ones that were not found: they stay promised until
    the warehouse picks their shipments short, and nothing is free meanwhile.
    """

    counted: Count
    before: Count = Field(description="on hand, as the books said")
    change: int
    missing: Count
    detail: Text = Field(description="why it was counted, or what is thought to have happened")


class StockDiscrepancyRecorded(ShelfFact, type="stock.discrepancy_recorded"):
    """The warehouse says something of a shelf that contradicts what it said before. The shelf stays as it is until it
    is counted, and a person looks at it."""

    observation: Id
    contradicts: Literal["receipt"]
    reference: Id = Field(description="of the receipt")
    quantity: Count = Field(description="as told now")
    recorded: Count = Field(description="as told before")
    detail: Text


class StockExpected(ShelfFact, type="stock.expected"):
    """Goods announced by a supplier: what is incoming in all, and when."""

    incoming: Count
    eta: datetime | None


class BackorderFact(FulfillmentFact):
    backorder_id: Id
    line_id: Id
    sku: Id


class BackorderCreated(BackorderFact, type="backorder.created"):
    """`again`: its units replace others, all of them; otherwise none does. `title` and price are of a substitute."""

    quantity: Quantity
    eta: datetime | None
    revision: int = 0
    again: bool = False
    title: Name | None = None
    unit_price_minor: Minor | None = None


class BackorderEtaRevised(BackorderFact, type="backorder.eta_revised"):
    quantity: Quantity
    previous_eta: datetime | None
    eta: datetime | None
    revision: int = Field(ge=1)


class BackorderConsentRequested(BackorderFact, type="backorder.consent_requested"):
    quantity: Quantity
    eta: datetime | None
    options: tuple[str, ...]
    due_at: datetime
    silence: BackorderChoice | None = Field(default=None, description="what happens when nobody answers")
    policy: PolicyRef | None = None


class BackorderConsentSettled(BackorderFact, type="backorder.consent_settled"):
    """What the customer chose; `silent`: nobody answered, and the policy chose."""

    quantity: Quantity
    choice: BackorderChoice
    silent: bool
    substitute_sku: Id | None = None
    policy: PolicyRef | None = None
    substitute_title: Name | None = None
    substitute_unit_price_minor: Minor | None = Field(default=None, description="none: the line's own price")


class BackorderSubstituteRefused(BackorderFact, type="backorder.substitute_refused"):
    """The substitute that was chosen is no article that was ever on a shelf or announced: the choice stays open."""

    quantity: Quantity
    substitute_sku: Id
    reason_code: Literal["unknown_article"]


class BackorderFilled(BackorderFact, type="backorder.filled"):
    """`remaining` 0 closes it; otherwise it is partially filled."""

    quantity: Quantity
    remaining: Count
    shipment_id: Id


class BackorderCancelled(BackorderFact, type="backorder.cancelled"):
    """`remaining` 0 closes it. Where the units go, fulfillment.lines_cancelled or .consent_settled says."""

    quantity: Quantity
    remaining: Count


class ShipmentFact(FulfillmentFact):
    shipment_id: Id


class Scan(Model):
    """The carrier scan that a fact rests on: the same scan by all four."""

    carrier: Id
    tracking: Id
    code: Id
    at: datetime


class ScanFact(ShipmentFact):
    """A fact told by a carrier scan, about the scanned parcel: `lines` are the parcel's, not the whole shipment's."""

    scan: Scan | None = None


class Parcel(Model):
    parcel_id: Id
    lines: tuple[LineQuantity, ...]
    carrier: Id | None = None
    tracking: Id | None = None


class ShipmentCreated(ShipmentFact, type="shipment.created"):
    """`number` of `of`: of counts the live shipments and one more for what is still backordered.

    `again` are those of `lines` that replace others, whatever for and wherever they waited: they were paid for then.
    `substituted` are those that are another article than the one ordered.
    """

    location: Id
    lines: tuple[LineQuantity, ...]
    again: tuple[LineQuantity, ...] = ()
    number: int = Field(ge=1)
    of: int = Field(ge=1)
    replaces_shipment_id: Id | None = None
    substituted: tuple[SubstitutedUnits, ...] = ()


class ShipmentPacked(ShipmentFact, type="shipment.packed"):
    parcels: tuple[Parcel, ...]


class ShipmentRepacked(ShipmentFact, type="shipment.repacked"):
    """What was packed stands in other parcels now: these instead of those before."""

    parcels: tuple[Parcel, ...]


class ShipmentRelabelRequested(ShipmentFact, type="shipment.relabel_requested"):
    """The address changed before it left: what is on its parcels, or will be by an earlier word, is wrong. It is held until
    the warehouse says that it has a new label, or packs it anew."""

    ship_to: Address
    requested_at: datetime


class ShipmentRelabelled(ShipmentFact, type="shipment.relabelled"):
    """It carries a label of its new address. `parcel`: one that had left already is followed by another number from now on,
    instead of the one that it `replaces`; what is in it is in transit, and has not been scanned yet."""

    parcel: Parcel | None = None
    replaces: Id | None = Field(default=None, description="tracking number")


class ShipmentHeld(ShipmentFact, type="shipment.held"):
    holds: tuple[Hold, ...]


class ShipmentReleased(ShipmentFact, type="shipment.released"):
    """Back to where it was held from."""

    packed: bool


class ShipmentShipped(ShipmentFact, type="shipment.shipped"):
    """`again` are those of `lines` that replace others, `substituted` those that are another article than ordered."""

    carrier: Id
    parcels: tuple[Parcel, ...]
    lines: tuple[LineQuantity, ...]
    again: tuple[LineQuantity, ...] = ()
    number: int = Field(ge=1)
    of: int = Field(ge=1)
    substituted: tuple[SubstitutedUnits, ...] = ()


class ShipmentTrackingUpdated(ScanFact, type="shipment.tracking_updated"):
    """A carrier scan. `moved` says whether it changed the status; an older one is an entry and no more.

    `lines` are in transit again: the customer says that what was delivered was not received.
    """

    tracking: Id
    code: Literal["in_transit", "out_for_delivery", "address", "customs", "damaged", "not_received", "info"]
    moved: bool
    detail: Text
    lines: tuple[LineQuantity, ...] = ()


class ShipmentDelayed(ScanFact, type="shipment.delayed"):
    tracking: Id
    detail: Text


class ShipmentDeliveryAttempted(ScanFact, type="shipment.delivery_attempted"):
    tracking: Id
    detail: Text


class ShipmentDelivered(ScanFact, type="shipment.delivered"):
    """`replaced`: units of the parcel that others were sent for when it was lost; the customer has both now."""

    lines: tuple[LineQuantity, ...]
    replaced: tuple[LineQuantity, ...] = ()
    substituted: tuple[SubstitutedUnits, ...] = ()


class ShipmentLost(ScanFact, type="shipment.lost"):
    lines: tuple[LineQuantity, ...]
    substituted: tuple[SubstitutedUnits, ...] = ()


class ShipmentFound(ScanFact, type="shipment.found"):
    """A lost shipment is in transit again; `review` when it had been refunded or replaced.

    `replaced`: units of the parcel that others were sent for meanwhile; they are not among `lines`.
    """

    lines: tuple[LineQuantity, ...]
    review: bool
    replaced: tuple[LineQuantity, ...] = ()
    substituted: tuple[SubstitutedUnits, ...] = ()


class ShipmentReturnStarted(ScanFact, type="shipment.return_started"):
    """The carrier is bringing it back."""

    tracking: Id
    detail: Text


class ShipmentReturnedToSender(ScanFact, type="shipment.returned_to_sender"):
    lines: tuple[LineQuantity, ...]
    substituted: tuple[SubstitutedUnits, ...] = ()


class ShipmentCancelled(ShipmentFact, type="shipment.cancelled"):
    lines: tuple[LineQuantity, ...]
    detail: Text


class ShipmentLinesRemoved(ShipmentFact, type="shipment.lines_removed"):
    """Units taken out before hand-over (a partial cancellation, a short pick); the rest goes on.

    Of a line the ordered units go first, those that replace others last.
    """

    lines: tuple[LineQuantity, ...]


class ShipmentRecallRequested(ShipmentFact, type="shipment.recall_requested"):
    """`carrier` and `parcels`, of a shipment that left although it was cancelled: who has it. Its units stay cancelled."""

    detail: Text
    carrier: Id | None = None
    parcels: tuple[Parcel, ...] = ()


class ShipmentRecalled(ScanFact, type="shipment.recalled"):
    """The carrier turned it round."""


class ReplacementCreated(FulfillmentFact, type="replacement.created"):
    """Units owed again for a lost, damaged or wrong delivery, for a parcel that came back to its sender, or an exchange;
    shipped like any other.

    `moved` are those of `lines` that never arrived and leave their bucket; the others are ordered on top. `shipment_id`:
    the shipment whose units are sent again, where it was for one; `cause_id` is it then.
    """

    replacement_id: Id
    cause_id: Id
    lines: tuple[LineQuantity, ...]
    moved: tuple[CancelledUnits, ...] = ()
    sku: Id | None = None
    reason_code: Literal["lost", "damaged", "wrong_item", "exchange", "returned_to_sender"]
    shipment_id: Id | None = None
