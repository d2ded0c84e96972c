"""Orders: what is heard of their units and their money, told as stories of the business."""

from datetime import timedelta

import pytest

from orders.domain.decide import RecordFact
from orders.domain.rollups import rollups
from orders.domain.state import Status, invariants
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts import returns as r
from shared.contracts.base import Bucket
from shared.contracts.orders import OrderCompleted, OrderLinesCancelled, OrderReopened
from tests.unit.orders_story import (
    NOON,
    POLICY,
    allocated,
    arrived,
    backordered,
    cancel,
    cancelled,
    captured,
    completed,
    confirmed,
    delivered,
    inspected,
    lost,
    on_its_way,
    packed,
    refund_paid,
    refund_requested,
    return_requested,
    scan,
    shipped,
    units,
)

# Fulfillment


def test_partly_shipped_and_backordered_are_shown_side_by_side() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 2)), *allocated("o1-S2", ("2", 2)), backordered("1", 1))
    shown = rollups(story.now)
    assert (shown.fulfillment_status, shown.has_backorder) == ("partly_shipped", True)
    story.heard(delivered("o1-S1", ("1", 2)))
    shown = rollups(story.now)
    assert (shown.fulfillment_status, shown.has_backorder) == ("partly_shipped", True)
    story.heard(
        f.BackorderFilled(
            order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=1, remaining=0, shipment_id="o1-S3"
        ),
        *on_its_way("o1-S3", ("1", 1)),
        packed("o1-S2", ("2", 2)),
        shipped("o1-S2", ("2", 2)),
    )
    shown = rollups(story.now)
    assert (shown.fulfillment_status, shown.has_backorder) == ("partly_delivered", False)
    assert invariants(story.now) == []


def test_an_order_is_completed_when_every_unit_is_delivered_or_cancelled() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)))
    story.when(cancel(("2", 2)))
    [answer, fact] = story.heard(cancelled("o1-C1", ("2", 2)))
    assert isinstance(answer, OrderLinesCancelled)
    assert fact == OrderCompleted(
        order_id="o1", delivered=3, cancelled=2, lost=0, closes_at=NOON + timedelta(days=60), policy=POLICY
    )


def test_parcels_of_a_shipment_arrive_one_by_one() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3), ("2", 2)), delivered("o1-S1", ("1", 3)))
    assert story.now.lines["1"].units[Bucket.DELIVERED] == 3
    assert story.now.lines["2"].units[Bucket.IN_TRANSIT] == 2
    story.heard(delivered("o1-S1", ("2", 2)))
    assert story.stands(Status.COMPLETED)


def test_a_lost_unit_keeps_the_order_open_until_it_is_paid_back() -> None:
    story = confirmed()
    assert story.heard(*arrived("o1-S1", ("1", 3)), *on_its_way("o1-S2", ("2", 2)), lost("o1-S2", ("2", 2))) == []
    assert rollups(story.now).has_lost
    story.heard(refund_requested(p.RefundKind.LOST, 1000, ("2", 2)))
    [fact] = story.heard(*refund_paid(1000, p.RefundKind.LOST))
    assert isinstance(fact, OrderCompleted)
    assert (fact.delivered, fact.lost) == (3, 2)


def test_a_lost_unit_that_was_worth_nothing_keeps_the_order_open_until_its_claim_is_resolved() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)), *on_its_way("o1-S2", ("2", 2)), lost("o1-S2", ("2", 2)))
    resolved = r.ClaimResolved(order_id="o1", claim_id="o1-CL1", outcome="refunded", detail="")
    assert story.heard(resolved) == []
    [fact] = story.heard(resolved.model_copy(update={"written_off": units(("2", 2))}))
    assert isinstance(fact, OrderCompleted)
    assert (fact.delivered, fact.lost) == (3, 2)


def test_a_replacement_for_lost_units_is_owed_again_and_delivered() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)), *on_its_way("o1-S2", ("2", 2)), lost("o1-S2", ("2", 2)))
    gone = f.CancelledUnits(line_id="2", quantity=2, was=Bucket.LOST)
    story.heard(
        f.ReplacementCreated(
            order_id="o1",
            replacement_id="o1-X1",
            cause_id="claim",
            lines=units(("2", 2)),
            moved=(gone,),
            reason_code="lost",
        )
    )
    assert story.now.lines["2"].owed == 2
    story.heard(*arrived("o1-S3", ("2", 2)))
    assert story.stands(Status.COMPLETED)
    assert invariants(story.now) == []


def test_a_replacement_after_completion_is_owed_on_top_and_reopens_the_order() -> None:
    story = completed()
    replacement = f.ReplacementCreated(
        order_id="o1", replacement_id="o1-X1", cause_id="claim", lines=units(("1", 1)), reason_code="damaged"
    )
    assert story.heard(replacement) == [OrderReopened(order_id="o1", cause="replacement")]
    assert (story.now.status, story.now.lines["1"].owed) == (Status.CONFIRMED, 4)
    [fact] = story.heard(*arrived("o1-S2", ("1", 1)))
    assert isinstance(fact, OrderCompleted)
    assert invariants(story.now) == []


def test_a_parcel_in_trouble_shows_until_it_moves_on() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3)))
    delayed = f.ShipmentDelayed(
        order_id="o1", shipment_id="o1-S1", tracking="T-o1-S1", detail="", scan=scan("o1-S1", "delayed")
    )
    story.heard(delayed)
    assert rollups(story.now).has_exception
    version = story.now.version
    story.heard(delayed)
    assert story.now.version == version
    story.heard(delivered("o1-S1", ("1", 3)))
    assert not rollups(story.now).has_exception


def test_the_trouble_of_a_parcel_is_over_when_another_number_is_followed_instead() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3)))
    about = {"order_id": "o1", "shipment_id": "o1-S1"}
    story.heard(f.ShipmentDelayed(**about, tracking="T-o1-S1", detail="", scan=scan("o1-S1", "delayed")))
    new = f.Parcel(parcel_id="p1", lines=units(("1", 3)), carrier="dhl", tracking="T-new")
    story.heard(f.ShipmentRelabelled(**about, parcel=new, replaces="T-o1-S1"))
    assert not rollups(story.now).has_exception
    assert story.heard(f.ShipmentRelabelled(**about | {"shipment_id": "o1-S9"}, parcel=new, replaces="T-9")) == []


def test_units_said_not_to_be_received_are_in_transit_again() -> None:
    story = completed()
    story.heard(
        f.ShipmentTrackingUpdated(
            order_id="o1",
            shipment_id="o1-S1",
            tracking="T-o1-S1",
            code="not_received",
            moved=True,
            detail="",
            lines=units(("1", 3)),
            scan=scan("o1-S1", "not_received"),
        )
    )
    assert story.now.lines["1"].units[Bucket.IN_TRANSIT] == 3
    assert rollups(story.now).has_exception
    assert story.stands(Status.COMPLETED)


def test_an_older_scan_changes_nothing() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3)))
    update = f.ShipmentTrackingUpdated(
        order_id="o1", shipment_id="o1-S1", tracking="T-o1-S1", code="damaged", moved=False, detail=""
    )
    assert story.when(RecordFact(update, NOON)) == []


def test_units_taken_out_of_a_shipment_are_unallocated_again() -> None:
    story = confirmed()
    story.heard(
        *allocated("o1-S1", ("1", 3)),
        packed("o1-S1", ("1", 3)),
        f.ShipmentLinesRemoved(order_id="o1", shipment_id="o1-S1", lines=units(("1", 1))),
    )
    assert story.now.lines["1"].units == {Bucket.UNALLOCATED: 1, Bucket.ALLOCATED: 0, Bucket.PACKED: 2}
    story.heard(f.ShipmentCancelled(order_id="o1", shipment_id="o1-S1", lines=units(("1", 2)), detail=""))
    assert story.now.shipments == {}
    assert invariants(story.now) == []
    left = f.ShipmentTrackingUpdated(
        order_id="o1", shipment_id="o1-S1", tracking="T-o1-S1", code="info", moved=False, detail="recalled"
    )
    assert story.when(RecordFact(left, NOON)) == [], "it left although it was cancelled: its scans are no news here"


# Refunds and returns


def test_refunds_are_pending_then_partly_then_wholly_paid_and_may_bounce() -> None:
    story = completed()
    story.heard(captured("t1", 2000, 2000, None), captured("t2", 2500, 2500))
    story.heard(refund_requested(p.RefundKind.RETURN, 1000, ("1", 1)))
    assert rollups(story.now).refund_status == "pending"
    story.heard(*refund_paid(1000, p.RefundKind.RETURN))
    shown = rollups(story.now)
    assert (shown.refund_status, shown.has_refund_in_flight) == ("partly_refunded", False)
    story.heard(
        p.RefundLegReversed(
            order_id="o1",
            refund_id="o1-R1",
            leg_id="o1-R1L1",
            operation_id="o1-P7",
            tender_id="t2",
            channel=p.RefundChannel.ORIGINAL,
            amount_minor=1000,
            currency="EUR",
            code="account_closed",
        )
    )
    shown = rollups(story.now)
    assert (shown.refund_status, shown.has_refund_in_flight) == ("pending", True)


def refund_of_the_provider(kind: p.MovementKind, amount: int) -> p.PaymentMovementRecorded:
    return p.PaymentMovementRecorded(
        order_id="o1",
        movement_id=f"o1-M-{kind}",
        tender_id="t2",
        kind=kind,
        amount_minor=amount,
        currency="EUR",
        reference="re_9",
        occurred_at=NOON,
        contradicts="not_asked_for",
        detail="made in the dashboard",
        tender_captured_minor=2500,
        tender_open_minor=0,
    )


def test_a_refund_made_in_the_providers_dashboard_counts_until_it_comes_back() -> None:
    story = completed()
    story.heard(captured("t1", 2000, 2000, None), captured("t2", 2500, 2500))
    story.heard(refund_of_the_provider(p.MovementKind.REFUND, 2500))
    assert rollups(story.now).refund_status == "partly_refunded"
    story.heard(refund_of_the_provider(p.MovementKind.REFUND_REVERSED, 2500))
    assert rollups(story.now).refund_status == "none"


def test_a_refund_of_the_provider_that_came_back_before_it_was_heard_of_pays_nothing_back() -> None:
    story = completed()
    story.heard(captured("t1", 2000, 2000, None), captured("t2", 2500, 2500))
    story.heard(refund_of_the_provider(p.MovementKind.REFUND_REVERSED, 2500))
    story.heard(refund_of_the_provider(p.MovementKind.REFUND, 2500))
    assert rollups(story.now).refund_status == "none"


APPROVED = r.ReturnApproved(
    order_id="o1", return_id="o1-RMA1", lines=units(("1", 1)), expires_at=NOON, approver=None, policy=POLICY
)


def received(*, complete: bool) -> r.ReturnItemsReceived:
    return r.ReturnItemsReceived(
        order_id="o1",
        return_id="o1-RMA1",
        receipt_id="r1",
        location="berlin",
        lines=(r.ReceivedLine(line_id="1", quantity=1, total=1),),
        complete=complete,
    )


def test_returns_show_how_far_they_are_and_how_much_came_back() -> None:
    story = completed()
    seen = []
    for fact in (return_requested(), APPROVED, inspected(1, r.Disposition.RESTOCK), inspected(4, r.Disposition.SCRAP)):
        story.heard(fact)
        seen.append(rollups(story.now).return_status)
    assert seen == ["requested", "approved", "partly_returned", "returned"]
    assert rollups(story.now).has_open_return


def test_a_return_of_which_part_arrived_stays_open_when_the_rest_expires() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)), return_requested(), APPROVED)
    story.heard(received(complete=False), r.ReturnExpired(order_id="o1", return_id="o1-RMA1"))
    assert rollups(story.now).has_open_return
    assert story.now.has_something_open


def test_goods_that_came_back_unannounced_are_no_approved_return_until_a_person_has_decided() -> None:
    story = confirmed()
    unannounced = r.ReturnReceivedUnannounced(
        order_id="o1",
        return_id="o1-RMA1",
        announced_as="none",
        receipt_id="r1",
        location="berlin",
        lines=(r.ObservedLine(line_id="1", quantity=1),),
        received_at=NOON,
    )
    story.heard(*arrived("o1-S1", ("1", 3)), unannounced, received(complete=True))
    assert rollups(story.now).return_status == "requested"
    story.heard(APPROVED)
    assert rollups(story.now).return_status == "approved"


def test_units_held_for_review_are_not_returned_yet() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)), return_requested())
    held = inspected(1, r.Disposition.QUARANTINE)
    story.heard(held.model_copy(update={"lines": (held.lines[0].model_copy(update={"review": True}),)}))
    assert rollups(story.now).return_status == "requested"


@pytest.mark.parametrize(
    ("disposition", "outcome"),
    [
        (r.Disposition.SEND_BACK, r.InspectionOutcome.OPENED),
        (r.Disposition.QUARANTINE, r.InspectionOutcome.COUNTERFEIT),
        (r.Disposition.SCRAP, r.InspectionOutcome.NOT_IN_BOX),
        (r.Disposition.VENDOR, r.InspectionOutcome.EXTRA_ITEM),
    ],
)
def test_what_is_not_taken_back_is_not_returned(disposition: r.Disposition, outcome: r.InspectionOutcome) -> None:
    story = completed()
    story.heard(return_requested(), inspected(1, disposition, outcome))
    assert rollups(story.now).return_status == "requested"


def test_too_much_captured_shows_as_overpaid_until_it_is_paid_back() -> None:
    story = confirmed()
    story.heard(captured("t1", 2000, 2000, None), captured("t2", 2500, 2500))
    story.when(cancel(("2", 2)))
    story.heard(cancelled("o1-C1", ("2", 2)))
    assert rollups(story.now).is_overpaid
    story.heard(
        refund_requested(p.RefundKind.CANCELLATION, 1000, ("2", 2)), *refund_paid(1000, p.RefundKind.CANCELLATION)
    )
    assert not rollups(story.now).is_overpaid
