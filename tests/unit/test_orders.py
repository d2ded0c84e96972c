"""Orders: placing, paying, holding and closing them, told as stories of the business."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orders.domain.decide import ChangeAddress, Close, GiveConsent, Place, PlaceHold, RecordFact, ReleaseHold, decide
from orders.domain.placement import LineRequest, placed
from orders.domain.policy import in_force
from orders.domain.progress import RECORDED
from orders.domain.rollups import rollups
from orders.domain.state import ORDER, Status, deadlines
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts.base import Fact
from shared.contracts.orders import (
    BackorderChoice,
    Hold,
    OrderAddressChanged,
    OrderBackorderConsentGiven,
    OrderClosed,
    OrderConfirmed,
    OrderFundingChanged,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderPlaced,
    OrderRejected,
    OrderReopened,
    ShippingPreference,
)
from shared.core.card_numbers import has_card_number
from shared.core.machine import Invalid, NotAllowed
from tests.unit.orders_story import (
    HOME,
    NOON,
    POLICIES,
    POLICY,
    Story,
    allocated,
    arrived,
    authorized,
    backordered,
    cancel,
    cancelled,
    capture_failed,
    captured,
    card,
    completed,
    confirmed,
    declined,
    dispute,
    on_its_way,
    refund_requested,
    refused,
    request,
    return_requested,
    units,
)

# Placing


def test_order_discount_tax_and_shipping_are_split_to_lines_to_the_minor_unit() -> None:
    fact = placed("o1", request(discount_minor=100, tax_minor=101, tenders=(card(4501),)))
    first, second = fact.lines
    assert (first.discount_minor, second.discount_minor) == (75, 25)
    assert (first.tax_minor, second.tax_minor) == (76, 25)
    assert (first.shipping_minor, second.shipping_minor) == (375, 125)
    assert (first.goods_minor, second.goods_minor) == (3001, 1000)
    assert (fact.goods_minor, fact.shipping_minor, fact.total_minor) == (4001, 500, 4501)


def test_ids_of_lines_and_tenders_are_their_places_where_none_are_given() -> None:
    fact = placed("o1", request())
    assert [line.line_id for line in fact.lines] == ["1", "2"]
    assert [tender.tender_id for tender in fact.tenders] == ["t1", "t2"]


def _line(**more: Any) -> LineRequest:
    return replace(LineRequest(sku="mug", title="Mug", quantity=4, unit_price_minor=1000), **more)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"tenders": (card(4499),)}, "tenders"),
        ({"tenders": (card(4501),)}, "tenders"),
        ({"tenders": ()}, "tenders"),
        ({"tenders": (card(4500), card(0))}, "tenders.1.amount_minor"),
        ({"tenders": (replace(card(4500), currency="USD"),)}, "tenders.0.currency"),
        ({"lines": ()}, "lines"),
        ({"lines": (_line(line_id="2"), _line())}, "lines.1.line_id"),
        ({"lines": (_line(discount_minor=4001),)}, "lines.0.discount_minor"),
        ({"discount_minor": 4001}, "discount_minor"),
        ({"lines": (_line(unit_price_minor=10**15),)}, "lines.0"),
        ({"preference": ShippingPreference(rule="max_n_shipments")}, "preference.max_shipments"),
        ({"preference": ShippingPreference(max_shipments=2)}, "preference.max_shipments"),
    ],
)
def test_a_contradictory_order_is_refused_by_field(more: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as error:
        placed("o1", request(**more))
    assert error.value.field == field


def test_a_free_order_needs_no_tender_and_is_confirmed_at_once() -> None:
    story = Story(discount_minor=4000, shipping_minor=0, tenders=())
    assert [type(fact) for fact in story.told] == [OrderPlaced, OrderConfirmed]
    assert rollups(story.now).payment_status == "not_required"


def test_an_order_is_placed_once() -> None:
    with pytest.raises(NotAllowed) as error:
        Story().when(Place("o1", request(), NOON))
    assert error.value.status == Status.PLACED


@pytest.mark.parametrize(
    ("text", "holds_one"),
    [
        ("4111111111111111", True),
        ("my card is 4111 1111 1111 1111, thanks", True),
        ("4111-1111-1111-1111", True),
        ("room 5 4111 1111 1111 1111", True),
        ("378282246310005", True),
        ("4111111111111112", False),
        ("tok_ok", False),
        ("4111 1111 1111", False),
        ("12345678901234567890", False),
        ("", False),
    ],
)
def test_card_numbers_are_recognised_by_length_and_check_digit(text: str, holds_one: bool) -> None:
    assert has_card_number(text) is holds_one


# Payment


def test_an_order_is_confirmed_when_all_of_it_is_authorized() -> None:
    story = Story()
    assert story.heard(authorized("t1", 2000)) == []
    assert rollups(story.now).payment_status == "partly_authorized"
    assert story.heard(authorized("t2", 2500)) == [
        OrderConfirmed(order_id="o1", authorized_minor=4500, total_minor=4500)
    ]
    assert rollups(story.now).payment_status == "authorized"


def test_on_terms_a_first_authorization_is_enough() -> None:
    story = Story(terms=True)
    assert story.stands(Status.PLACED)
    story.heard(authorized("t1", 2000))
    assert story.stands(Status.CONFIRMED)


@pytest.mark.parametrize(("fraud", "code"), [(False, "payment_declined"), (True, "fraud")])
def test_a_declined_tender_rejects_the_order(fraud: bool, code: str) -> None:
    story = Story()
    [fact] = story.heard(authorized("t1", 2000), declined("t2", fraud=fraud))
    assert isinstance(fact, OrderRejected)
    assert (fact.reason_code, fact.detail) == (code, "t2: insufficient_funds")
    assert rollups(story.now).payment_status == "declined"


def test_what_is_heard_of_a_rejected_order_still_counts() -> None:
    story = Story()
    story.heard(declined("t2"), authorized("t1", 2000))
    assert story.stands(Status.REJECTED)
    assert story.now.tenders["t1"].authorized_minor == 2000
    story.heard(f.FulfillmentWithdrawn(order_id="o1", lines=units(("1", 3), ("2", 2))))
    assert rollups(story.now).fulfillment_status == "cancelled"


def test_a_failed_capture_holds_the_order_until_the_same_value_is_captured() -> None:
    story = confirmed()
    assert story.heard(capture_failed("t2", 1500)) == [
        OrderHoldPlaced(order_id="o1", hold=Hold.PAYMENT, detail="card_expired")
    ]
    assert rollups(story.now).has_balance_due
    assert story.heard(capture_failed("t2", 1500)) == []
    assert story.heard(captured("t1", 500, 500)) == []
    assert story.heard(captured("t1", 1000, 1500)) == [
        OrderHoldReleased(order_id="o1", hold=Hold.PAYMENT, detail="paid")
    ]
    assert not rollups(story.now).has_balance_due


def test_captures_of_another_shipment_make_up_for_a_failed_one() -> None:
    story = confirmed()
    story.heard(capture_failed("t2", 1500, "o1-S1"), capture_failed("t2", 300, "o1-S2"))
    assert story.heard(captured("t1", 1000, 1000, "o1-S3")) == []
    assert story.now.uncaptured == {"o1-S1": 500, "o1-S2": 300}
    story.heard(captured("t1", 800, 1800, "o1-S2"))
    assert Hold.PAYMENT not in story.now.holds


def test_a_decline_after_confirmation_holds_and_a_new_authorization_releases() -> None:
    story = confirmed()
    [fact] = story.heard(declined("t2"))
    assert isinstance(fact, OrderHoldPlaced)
    assert story.stands(Status.CONFIRMED)
    [fact] = story.heard(authorized("t2", 2500))
    assert isinstance(fact, OrderHoldReleased)


def test_captures_voids_and_expiries_keep_what_is_still_authorized() -> None:
    story = confirmed()
    story.heard(captured("t2", 1000, 1000))
    assert story.now.tenders["t2"].authorized_minor == 1500
    assert rollups(story.now).payment_status == "partly_captured"
    story.heard(
        p.PaymentVoided(order_id="o1", tender_id="t2", operation_id="o1-P8", amount_minor=500, currency="EUR"),
    )
    assert story.now.tenders["t2"].authorized_minor == 1000
    story.heard(p.PaymentAuthorizationExpired(order_id="o1", tender_id="t2", amount_minor=1000, final=False))
    assert story.now.tenders["t2"].authorized_minor == 0
    story.heard(captured("t1", 2000, 2000, None, final=True))
    assert story.now.captured_minor == 3000


def test_the_same_capture_told_twice_counts_once() -> None:
    story = confirmed()
    story.heard(captured("t2", 1000, 1000), captured("t2", 1000, 1000))
    assert story.now.tenders["t2"].captured_minor == 1000
    assert story.now.tenders["t2"].authorized_minor == 1500


def test_a_tender_of_another_order_is_refused() -> None:
    with pytest.raises(Invalid, match="t9 is not a tender"):
        confirmed().heard(authorized("t9", 1))


# Holds, address, consent


def test_several_holds_stand_at_once_and_are_released_one_by_one() -> None:
    story = confirmed()
    story.when(PlaceHold(at=NOON, hold=Hold.FRAUD, detail="looks odd"))
    story.when(PlaceHold(at=NOON, hold=Hold.MANUAL, detail="customer called"))
    assert story.when(PlaceHold(at=NOON, hold=Hold.FRAUD, detail="again")) == []
    assert story.when(ReleaseHold(at=NOON, hold=Hold.FRAUD, detail="checked")) == [
        OrderHoldReleased(order_id="o1", hold=Hold.FRAUD, detail="checked")
    ]
    assert story.now.holds == {Hold.MANUAL: "customer called"}
    with pytest.raises(NotAllowed, match="holds on it: manual"):
        story.when(ReleaseHold(at=NOON, hold=Hold.FRAUD, detail=""))


def test_a_completed_order_takes_no_hold() -> None:
    with pytest.raises(NotAllowed):
        completed().when(PlaceHold(at=NOON, hold=Hold.MANUAL, detail=""))


def test_the_address_changes_while_something_has_not_left() -> None:
    story = confirmed()
    elsewhere = HOME.model_copy(update={"street": "Side 2"})
    assert story.when(ChangeAddress(at=NOON, ship_to=HOME)) == []
    assert story.when(ChangeAddress(at=NOON, ship_to=elsewhere)) == [
        OrderAddressChanged(order_id="o1", ship_to=elsewhere)
    ]
    story.heard(*on_its_way("o1-S1", ("1", 3), ("2", 2)))
    with pytest.raises(NotAllowed, match="handed over"):
        story.when(ChangeAddress(at=NOON, ship_to=HOME))


def test_consent_is_given_to_an_open_backorder() -> None:
    story = confirmed()
    story.heard(backordered("1", 1))
    consent = GiveConsent(at=NOON, backorder_id="o1-B1", choice=BackorderChoice.SUBSTITUTE, substitute_sku="cup")
    assert story.when(consent) == [
        OrderBackorderConsentGiven(
            order_id="o1", backorder_id="o1-B1", choice=BackorderChoice.SUBSTITUTE, substitute_sku="cup"
        )
    ]
    with pytest.raises(Invalid, match="substitute_sku"):
        story.when(replace(consent, choice=BackorderChoice.WAIT))
    with pytest.raises(Invalid, match="not an open backorder"):
        story.when(replace(consent, backorder_id="o1-B9"))


def test_a_substitute_may_have_a_price_of_its_own_up_to_that_of_the_line() -> None:
    story = confirmed()
    story.heard(backordered("1", 1))
    placed = story.now.lines["1"].placed
    most = placed.goods_minor // placed.quantity
    consent = GiveConsent(
        at=NOON,
        backorder_id="o1-B1",
        choice=BackorderChoice.SUBSTITUTE,
        substitute_sku="cup",
        substitute_unit_price_minor=most,
    )
    [given] = story.when(consent)
    assert isinstance(given, OrderBackorderConsentGiven)
    assert given.substitute_unit_price_minor == most
    with pytest.raises(Invalid, match=f"substitute_unit_price_minor.*must not exceed the {most}"):
        story.when(replace(consent, substitute_unit_price_minor=most + 1))
    with pytest.raises(Invalid, match=r"substitute_unit_price_minor.*with a substitute only"):
        story.when(replace(consent, choice=BackorderChoice.WAIT, substitute_sku=None))


def test_a_change_of_an_order_that_changed_meanwhile_is_refused() -> None:
    story = confirmed()
    hold = PlaceHold(at=NOON, hold=Hold.MANUAL, detail="", version=story.now.version)
    story.heard(*allocated("o1-S1", ("1", 3)))
    with pytest.raises(NotAllowed, match="is at version 5, not 4"):
        story.when(hold)
    assert story.when(replace(hold, version=5)) != []


# Closing


def test_a_completed_order_closes_when_its_time_is_over() -> None:
    story = completed()
    due = NOON + timedelta(days=60)
    assert deadlines(story.order) == {"close": due}
    with pytest.raises(NotAllowed):
        story.when(Close(due - timedelta(seconds=1)))
    assert story.when(Close(due)) == [OrderClosed(order_id="o1")]
    assert story.when(Close(due)) == []


def test_an_open_return_refund_or_dispute_keeps_an_order_from_closing() -> None:
    for fact in (
        return_requested(),
        refund_requested(p.RefundKind.GOODWILL, 100),
        dispute(p.DisputeOpened),
        capture_failed("t2", 100),
    ):
        story = completed()
        story.heard(fact)
        assert deadlines(story.order) == {}
        assert story.when(Close(NOON + timedelta(days=60))) == []


def test_a_closed_order_is_reopened_by_a_dispute_and_closes_again() -> None:
    story = completed()
    story.when(Close(NOON + timedelta(days=60)))
    later = NOON + timedelta(days=90)
    assert story.heard(dispute(p.DisputeOpened), at=later) == [
        OrderReopened(order_id="o1", cause="dispute", closes_at=later + timedelta(days=60), policy=POLICY)
    ]
    assert (story.now.status, rollups(story.now).dispute_status) == (Status.COMPLETED, "open")
    story.heard(dispute(p.DisputeWon), at=later)
    assert deadlines(story.order) == {"close": later + timedelta(days=60)}


def test_a_closed_order_is_reopened_by_goodwill_and_by_a_replacement_but_not_by_a_return() -> None:
    facts: Sequence[tuple[Fact, Status]] = (
        (refund_requested(p.RefundKind.GOODWILL, 100), Status.COMPLETED),
        (
            f.ReplacementCreated(
                order_id="o1", replacement_id="o1-X1", cause_id="c", lines=units(("1", 1)), reason_code="damaged"
            ),
            Status.CONFIRMED,
        ),
        (return_requested(), Status.CLOSED),
    )
    for fact, status in facts:
        story = completed()
        story.when(Close(NOON + timedelta(days=60)))
        story.heard(fact)
        assert story.stands(status)


def test_the_policy_in_force_at_placement_binds() -> None:
    later = replace(POLICIES[0], version=2, effective_from=NOON, close_after=timedelta(days=1))
    assert in_force([later, *POLICIES], NOON - timedelta(seconds=1)).version == 1
    assert in_force([later, *POLICIES], NOON).version == 2
    assert in_force([later], NOON - timedelta(days=1)).version == 2


# The machine


def test_every_status_is_reachable_and_a_rejected_or_cancelled_order_stays_so() -> None:
    assert ORDER.broken_laws() == []
    assert ORDER.is_terminal(Status.REJECTED)
    assert ORDER.is_terminal(Status.CANCELLED)


def test_every_fact_of_the_machine_is_told_in_some_story() -> None:
    rejected, dropped, done = Story(), confirmed(), confirmed()
    rejected.heard(declined("t1"))
    dropped.when(cancel())
    dropped.heard(refused("o1-C1", ("1", 1)), cancelled("o1-C1", ("1", 2), ("2", 2)))
    dropped.when(cancel())
    dropped.heard(cancelled("o1-C2", ("1", 1)))
    done.heard(*arrived("o1-S1", ("1", 3), ("2", 2)))
    done.when(Close(NOON + timedelta(days=60)))
    done.heard(dispute(p.DisputeOpened))
    told = {type(fact) for story in (rejected, dropped, done) for fact in story.told}
    assert {fact for _, fact, _ in ORDER.edges()} - told == set()


def test_nothing_is_told_of_an_order_nobody_placed() -> None:
    for fact in (authorized("t1", 1), *allocated("o1-S1", ("1", 1))):
        assert type(fact) in RECORDED
        with pytest.raises(NotAllowed, match="not known"):
            decide(None, RecordFact(fact, NOON), POLICIES)


# Funding


def holding(amount: int, until: Any, *, again: bool = False) -> Fact:
    fields = authorized("t1", amount).model_dump() | {"expires_at": until}
    return (p.PaymentReauthorized if again else p.PaymentAuthorized).model_validate(fields)


def test_fulfillment_is_told_until_when_an_order_is_paid_for_and_when_that_changes() -> None:
    story = Story()
    day = timedelta(days=1)
    [confirmed_] = [x for x in story.heard(holding(4500, NOON + 30 * day)) if isinstance(x, OrderConfirmed)]
    assert confirmed_.funded_until == NOON + 30 * day
    expired = p.PaymentAuthorizationExpired(order_id="o1", tender_id="t1", amount_minor=4500, final=False)
    assert not [x for x in story.heard(expired) if isinstance(x, OrderFundingChanged)]
    changed = [x for x in story.heard(holding(4500, NOON + 60 * day, again=True)) if isinstance(x, OrderFundingChanged)]
    assert [x.funded_until for x in changed] == [NOON + 60 * day]


def test_an_authorization_that_runs_out_for_good_or_is_released_funds_nothing_any_more() -> None:
    story = Story()
    story.heard(holding(4500, NOON + timedelta(days=30)))
    expired = p.PaymentAuthorizationExpired(order_id="o1", tender_id="t1", amount_minor=4500, final=True)
    [changed] = [x for x in story.heard(expired) if isinstance(x, OrderFundingChanged)]
    assert changed.funded_until is None


def test_an_order_on_terms_is_not_judged_by_what_is_authorized() -> None:
    story = Story(terms=True)
    [confirmed_] = [x for x in story.heard(holding(4500, NOON + timedelta(days=1))) if isinstance(x, OrderConfirmed)]
    assert confirmed_.funded_until is None
