"""The stories: what happens to orders, played through public interfaces and watched in support-view.

Each is a chapter of the demo and an end-to-end test. Past days are told by the facts' own times.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer

from ops.actors import PATIENCE_S, POLL_S, Actors, Refused, View
from ops.databases import database_url
from shared.core.money import cumulative
from shared.messaging.parking import Record
from shared.migrations.__main__ import migrate
from shared.settings import brokers_in
from shared.web.auth import Role
from support_view.api import read_story, read_timeline, view_of
from support_view.handlers import TOPICS, process

ADDRESS: Final = {
    "name": "Ada King",
    "street": "Marylebone 12",
    "city": "Berlin",
    "postal_code": "10115",
    "country": "DE",
}
CUSTOMER: Final = {"customer_id": "ada", "email": "ada@example.org", "name": "Ada King", "locale": "en"}

INSPECTION: Final = [
    {"outcome": "as_new", "disposition": "restock", "refund_percent": 100, "fee_percent": 0},
    {"outcome": "opened", "disposition": "regrade", "refund_percent": 100, "fee_percent": 15},
    {"outcome": "defective", "disposition": "vendor", "refund_percent": 100, "fee_percent": 0, "refund_shipping": True},
    {"outcome": "customer_damage", "disposition": "quarantine", "refund_percent": 50, "fee_percent": 0, "review": True},
    {"outcome": "incomplete", "disposition": "quarantine", "refund_percent": 50, "fee_percent": 0, "review": True},
    {"outcome": "wrong_item", "disposition": "hold", "refund_percent": 0, "fee_percent": 0},
    {"outcome": "counterfeit", "disposition": "hold", "refund_percent": 0, "fee_percent": 0},
    {"outcome": "not_in_box", "disposition": "none", "refund_percent": 0, "fee_percent": 0},
    {"outcome": "extra_item", "disposition": "quarantine", "refund_percent": 0, "fee_percent": 0},
]


def captured(view: View) -> int:
    minor: int = view["totals"]["captured"]["minor"]
    return minor


def shipments(view: View) -> dict[str, View]:
    return {s["shipment_id"]: s for s in view["shipments"]}


def units(view: View, line_id: str, bucket: str, kind: str = "forward") -> int:
    line = next(line for line in view["lines"] if line["line_id"] == line_id)
    count: int = line[kind].get(bucket, 0)
    return count


async def is_because_of(actors: Actors, order_id: str, *tags: str) -> None:
    """These are among the causes that stand for the order, each borne out by facts of its timeline."""
    view = await actors.sees(
        order_id,
        f"why: {', '.join(tags)}",
        lambda v: set(tags) <= {cause["tag"] for cause in v["causes"] if cause["stands"]},
    )
    told = {entry["id"] for entry in await actors.timeline(order_id)}
    for cause in view["causes"]:
        assert cause["evidence"] and told.issuperset(cause["evidence"]), cause


async def policy(actors: Actors, policy_id: str, version: int, days: int, from_days_ago: float, **more: object) -> None:
    """Publish a return policy; one that is there already stays as it is."""
    body = {
        "policy_id": policy_id,
        "version": version,
        "effective_from": actors.ago(days=from_days_ago).isoformat(),
        "window_days": days,
        "inspection": INSPECTION,
    }
    await actors.post("returns", "/policies", body | more, Role.SUPERVISOR)


def _line(line_id: str, sku: str, title: str, quantity: int, price: int) -> View:
    return {"line_id": line_id, "sku": sku, "title": title, "quantity": quantity, "unit_price_minor": price}


def _tender(tender_id: str, kind: str, amount: int, token: str = "tok_ok") -> View:  # noqa: S107  # a test token, not a secret
    return {"tender_id": tender_id, "kind": kind, "token": token, "amount_minor": amount}


async def place(
    actors: Actors,
    name: str,
    lines: Sequence[View],
    tenders: Sequence[View],
    *,
    days_ago: float = 0,
    discount: int = 0,
    tax: int = 0,
    shipping: int = 0,
) -> View:
    """The storefront places an order; returns it as the orders service shows it."""
    body = {
        "order_id": f"{name}-{actors.run}",
        "placed_at": actors.ago(days=days_ago, minutes=30).isoformat(),
        "customer": CUSTOMER,
        "ship_to": ADDRESS,
        "currency": "EUR",
        "lines": list(lines),
        "tenders": list(tenders),
        "discount_minor": discount,
        "tax_minor": tax,
        "shipping_minor": shipping,
    }
    order: View = await actors.post("orders", "/orders", body)
    return order


async def split_and_backorder(actors: Actors) -> str:
    """Two shipments and a backorder; money taken for what left, to the minor unit; goods received fill the rest."""
    lamp, shade, bulb = (f"{sku}-{actors.run}" for sku in ("LAMP", "SHADE", "BULB"))
    actors.says("stock lies in two locations and is one shade short")
    await actors.stocks([(lamp, "BER", 2), (shade, "BER", 1), (bulb, "HAM", 1)], actors.ago(minutes=60))
    eta = actors.now + timedelta(days=5)
    await actors.outside(
        "/warehouse/goods-expected",
        {
            "sku": shade,
            "location": "BER",
            "incoming": 4,
            "eta": eta.isoformat(),
            "occurred_at": actors.ago(minutes=50).isoformat(),
        },
    )
    await actors.reads(
        "fulfillment", f"/stock?sku={shade}", "4 shades announced", lambda rows: '"incoming":4' in _flat(rows)
    )
    actors.says("five units on three lines, with discount, tax and shipping, by gift card and card")
    lines = [
        _line("1", lamp, "Desk lamp", 2, 4999),
        _line("2", shade, "Lamp shade", 2, 1999),
        _line("3", bulb, "Bulb", 1, 999),
    ]
    total = 2 * 4999 + 2 * 1999 + 999 - 500 + 2333 + 499
    tenders = [_tender("gift", "gift_card", 5000), _tender("card", "card", total - 5000)]
    order = await place(actors, "split", lines, tenders, discount=500, tax=2333, shipping=499)
    order_id: str = order["order_id"]
    goods = {line["line_id"]: line["goods_minor"] for line in order["lines"]}
    assert sum(goods.values()) + 499 == total == order["total_minor"], "the split to lines must sum to the total"
    actors.says("authorized, confirmed, planned: two shipments and a backorder with an ETA")
    view = await actors.sees(
        order_id,
        "two shipments and one shade backordered",
        lambda v: (
            v["order"]["status"] == "confirmed" and len(v["shipments"]) == 2 and units(v, "2", "backordered") == 1
        ),
    )
    [backorder] = view["backorders"]
    assert backorder["eta"], "the backorder has an ETA"
    first, second = (f"{order_id}-S{n}" for n in (1, 2))
    assert {s["title"] for s in view["shipments"]} == {"Shipment 1 of 3", "Shipment 2 of 3"}, [
        s["title"] for s in view["shipments"]
    ]
    locations = {s["shipment_id"]: s["location"] for s in view["shipments"]}
    if locations[first] == "HAM":
        first, second = second, first
    await actors.sees(order_id, "the gift card taken at confirmation", lambda v: captured(v) == 5000)
    actors.says("the first shipment leaves; its units and the shipping are captured, less what is prepaid")
    await actors.ships(first, actors.ago(minutes=20))
    worth = goods["1"] + cumulative(goods["2"], 1, 2) + 499
    await actors.sees(
        order_id,
        "partly shipped and backordered, side by side, and its worth captured",
        lambda v: (
            v["rollups"]["fulfillment_status"] == "partly_shipped"
            and v["rollups"]["has_backorder"]
            and captured(v) == worth
        ),
        never=lambda v: captured(v) not in (5000, worth) or not v["rollups"]["has_backorder"],
    )
    actors.says("the second shipment leaves and arrives; the first is scanned and arrives later")
    await actors.ships(second, actors.ago(minutes=15))
    worth += goods["3"]
    await actors.delivers(second, actors.ago(minutes=12))
    await actors.sees(
        order_id,
        "one delivered, one on its way, one unit backordered",
        lambda v: (
            shipments(v)[second]["status"] == "delivered" and captured(v) == worth and v["rollups"]["has_backorder"]
        ),
    )
    await actors.delivers(first, actors.ago(minutes=9))
    actors.says("goods received fill the backorder; the third shipment goes out")
    await actors.stocks([(shade, "BER", 4)], actors.ago(minutes=8))
    third = f"{order_id}-S3"
    await actors.sees(order_id, "the backorder filled by a third shipment", lambda v: third in shipments(v))
    await actors.ships(third, actors.ago(minutes=6))
    await actors.delivers(third, actors.ago(minutes=3))
    actors.says("everything arrived: completed, paid to the minor unit, nothing left authorized")
    view = await actors.sees(
        order_id,
        "completed and captured in full",
        lambda v: (
            v["order"]["status"] == "completed"
            and captured(v) == total
            and v["rollups"]["fulfillment_status"] == "delivered"
        ),
    )
    assert not view["rollups"]["has_backorder"]
    assert {s["title"] for s in view["shipments"]} == {"Shipment 1 of 3", "Shipment 2 of 3", "Shipment 3 of 3"}
    await books_agree(actors, order_id, captured=total, refunded=0)
    await is_because_of(actors, order_id, "stock_out")
    return order_id


async def declined(actors: Actors) -> str:
    """The card is declined: the order is rejected, nothing is allocated, no money moved."""
    vase = f"VASE-{actors.run}"
    actors.says("a card that is declined")
    await actors.stocks([(vase, "BER", 1)], actors.ago(minutes=60))
    order = await place(
        actors,
        "declined",
        [_line("1", vase, "Vase", 1, 2500)],
        [_tender("card", "card", 2500, "tok_decline_insufficient_funds")],
    )
    order_id: str = order["order_id"]
    view = await actors.sees(order_id, "rejected", lambda v: v["order"]["status"] == "rejected")
    actors.says("nothing allocated, no money moved")
    assert view["shipments"] == [] and captured(view) == 0, "nothing may have moved"
    stock = await actors.get("fulfillment", f"/stock?sku={vase}")
    assert '"allocated":0' in _flat(stock), f"nothing may be allocated: {stock}"
    await books_agree(actors, order_id, captured=0, refunded=0)
    await is_because_of(actors, order_id, "payment_decline")
    return order_id


async def cancel_in_the_middle(actors: Actors) -> str:
    """One unit in transit, one packed, one backordered: two are cancelled, one refused, the rest voided, not refunded."""
    cup, pot = (f"{sku}-{actors.run}" for sku in ("CUP", "POT"))
    actors.says("three units: one leaves, one is packed, one is backordered")
    await actors.stocks([(cup, "BER", 1), (pot, "HAM", 1)], actors.ago(minutes=60))
    lines = [_line("1", cup, "Cup", 2, 1200), _line("2", pot, "Pot", 1, 3400)]
    order = await place(actors, "cancel", lines, [_tender("card", "card", 6290)], shipping=490)
    order_id: str = order["order_id"]
    view = await actors.sees(
        order_id,
        "two shipments, one backordered",
        lambda v: len(v["shipments"]) == 2 and units(v, "1", "backordered") == 1,
    )
    by_location = {s["location"]: s["shipment_id"] for s in view["shipments"]}
    gone, packed = by_location["BER"], by_location["HAM"]
    await actors.ships(gone, actors.ago(minutes=20))
    await actors.scans(gone, "in_transit", actors.ago(minutes=15))
    await actors.outside(f"/warehouse/shipments/{packed}/pack", {"occurred_at": actors.ago(minutes=14).isoformat()})
    await actors.sees(
        order_id,
        "one in transit and charged, one packed, one backordered",
        lambda v: (
            units(v, "1", "in_transit") == 1
            and units(v, "2", "packed") == 1
            and units(v, "1", "backordered") == 1
            and captured(v) == 1690
        ),
    )
    actors.says("the customer cancels everything; fulfillment answers per unit")
    await actors.reads(
        "orders", f"/orders/{order_id}", "a unit in transit", lambda o: o["lines"][0]["units"].get("in_transit") == 1
    )
    await actors.post("orders", f"/orders/{order_id}/cancellations", {"detail": "changed my mind"}, Role.AGENT)
    view = await actors.sees(
        order_id,
        "packed and backordered cancelled, the one in transit refused",
        lambda v: (
            units(v, "1", "cancelled") == 1
            and units(v, "2", "cancelled") == 1
            and units(v, "1", "in_transit") == 1
            and not any(c["is_open"] for c in v["order"]["cancellations"])
        ),
    )
    actors.says("what was not captured is voided, not refunded")
    view = await actors.sees(
        order_id,
        "the remainder voided",
        lambda v: (
            v["totals"]["voided"]["minor"] == 4600 and v["totals"]["refunded"]["minor"] == 0 and captured(v) == 1690
        ),
        never=lambda v: v["totals"]["refunded"]["minor"] or v["totals"]["refund_pending"]["minor"],
    )
    await actors.delivers(gone, actors.ago(minutes=10))
    await actors.sees(order_id, "completed with what was left", lambda v: v["order"]["status"] == "completed")
    await books_agree(actors, order_id, captured=1690, refunded=0)
    await is_because_of(actors, order_id, "stock_out")
    return order_id


async def return_under_policy(actors: Actors) -> str:
    """Approved on day 20 under the policy of the purchase, though a shorter one is in force since; refunded to both tenders."""
    coat = f"COAT-{actors.run}"
    name = f"standard-{actors.run}"
    actors.says("policy v1 (30 days) is in force at purchase")
    await policy(actors, name, 1, 30, 27)
    await actors.stocks([(coat, "BER", 2)], actors.ago(days=27))
    order = await place(
        actors,
        "return",
        [_line("1", coat, "Rain coat", 2, 4995)],
        [_tender("gift", "gift_card", 3000), _tender("card", "card", 8491, "tok_refund_pending")],
        days_ago=26,
        tax=1001,
        shipping=500,
    )
    order_id: str = order["order_id"]
    shipment = f"{order_id}-S1"
    await actors.sees(order_id, "planned", lambda v: shipment in shipments(v))
    await actors.ships(shipment, actors.ago(days=25))
    await actors.delivers(shipment, actors.ago(days=23))
    await actors.sees(
        order_id, "delivered and captured", lambda v: v["order"]["status"] == "completed" and captured(v) == 11491
    )
    actors.says("policy v2 (10 days) is published afterwards")
    await policy(actors, name, 2, 10, 4)
    actors.says("a return on day 20 is approved under v1")
    await actors.reads(
        "returns", f"/orders/{order_id}/returns", "both units delivered", lambda r: '"with_customer":2' in _flat(r)
    )
    request = {
        "lines": [{"line_id": "1", "quantity": 2, "reason": "unwanted", "condition": "unopened"}],
        "resolution": "refund",
        "note": "too large",
        "occurred_at": actors.ago(days=3).isoformat(),
    }
    await actors.post("returns", f"/orders/{order_id}/returns", request, Role.AGENT)
    view = await actors.sees(order_id, "approved", lambda v: v["returns"] and v["returns"][0]["status"] == "approved")
    [decided] = view["returns"]
    assert f"{name} v1" in decided["policy"] or decided["policy"].endswith("1"), decided["policy"]
    assert len(decided["inputs_hash"]) == 64 and decided["reasons"], "the decision stores its reasons and inputs"
    return_id: str = decided["return_id"]
    actors.says("it arrives in two parcels, one message delivered twice")
    parcel = {"order_id": order_id, "location": "BER", "lines": [{"line_id": "1", "quantity": 1}]}
    for n, copies in ((1, 2), (2, 1)):
        body = parcel | {
            "receipt_id": f"{return_id}-{n}",
            "copies": copies,
            "occurred_at": actors.ago(days=2, minutes=9 - n).isoformat(),
        }
        await actors.outside(f"/warehouse/returns/{return_id}/receive", body)
    await actors.sees(
        order_id,
        "two units received, not three",
        lambda v: units(v, "1", "received_uninspected", "reverse") == 2,
        never=lambda v: units(v, "1", "received_uninspected", "reverse") > 2,
    )
    actors.says("inspected: one as new, one opened (15 % fee)")
    inspection = {
        "order_id": order_id,
        "location": "BER",
        "inspection_id": f"{return_id}-I1",
        "occurred_at": actors.ago(days=2).isoformat(),
        "lines": [
            {"line_id": "1", "quantity": 1, "outcome": "as_new"},
            {"line_id": "1", "quantity": 1, "outcome": "opened"},
        ],
    }
    await actors.outside(f"/warehouse/returns/{return_id}/inspect", inspection)
    actors.says(
        "refund due by cumulative rounding, reserved, routed to both tenders, completed a day later; return resolved"
    )
    view = await actors.sees(
        order_id,
        "return resolved, refund completed",
        lambda v: (
            v["returns"][0]["status"] in ("resolved", "closed")
            and v["refunds"]
            and v["refunds"][0]["status"] == "succeeded"
        ),
    )
    [refund] = view["refunds"]
    goods = order["lines"][0]["goods_minor"]
    opened = goods - cumulative(goods, 1, 2)
    due = goods - cumulative(opened, 15, 100)
    assert refund["amount"]["minor"] == refund["settled"]["minor"] == due, (refund["amount"], due)
    assert sum(leg["amount"]["minor"] for leg in refund["legs"]) == due and len(refund["legs"]) == 2, refund["legs"]
    assert view["returns"][0]["cycle_seconds"] is not None and refund["latency_seconds"] is not None
    stock = await actors.reads(
        "fulfillment", f"/stock?sku={coat}", "one unit restocked", lambda rows: '"on_hand":1' in _flat(rows)
    )
    assert '"allocated":0' in _flat(stock)
    await books_agree(actors, order_id, captured=11491, refunded=due)
    await is_because_of(actors, order_id, "customer_remorse")
    return order_id


async def exception_to_policy(actors: Actors) -> str:
    """Outside the window: declined with every reason; a supervisor grants an exception, audited."""
    boots = f"BOOTS-{actors.run}"
    name = f"short-{actors.run}"
    actors.says("a policy of 10 days; delivered 25 days ago")
    await policy(actors, name, 1, 10, 29, statutory_days=10, declined_conditions=["used"])
    await actors.stocks([(boots, "BER", 1)], actors.ago(days=29))
    line = _line("1", boots, "Boots", 1, 8900) | {"final_sale": True}
    order = await place(actors, "exception", [line], [_tender("card", "card", 8900)], days_ago=28)
    order_id: str = order["order_id"]
    shipment = f"{order_id}-S1"
    await actors.sees(order_id, "planned", lambda v: shipment in shipments(v))
    await actors.ships(shipment, actors.ago(days=27))
    await actors.delivers(shipment, actors.ago(days=25))
    await actors.sees(order_id, "delivered", lambda v: v["order"]["status"] == "completed" and captured(v) == 8900)
    await actors.reads("returns", f"/orders/{order_id}/returns", "delivered", lambda r: '"with_customer":1' in _flat(r))
    actors.says("declined, with every reason")
    request = {
        "lines": [{"line_id": "1", "quantity": 1, "reason": "unwanted", "condition": "used"}],
        "resolution": "refund",
        "note": "they pinch",
    }
    await actors.post("returns", f"/orders/{order_id}/returns", request, Role.AGENT)
    view = await actors.sees(order_id, "declined", lambda v: v["returns"] and v["returns"][0]["status"] == "declined")
    [decided] = view["returns"]
    assert len(decided["reasons"]) >= 3, f"window, final sale and condition: {decided['reasons']}"
    return_id = decided["return_id"]
    actors.says("an agent may not grant an exception; a supervisor does, with a reason")
    path = f"/orders/{order_id}/returns/{return_id}/exception"
    try:
        await actors.post("returns", path, {"reason": "please"}, Role.AGENT)
    except Refused as refused:
        assert refused.status == 403, refused
    else:
        raise AssertionError("an agent must not grant an exception")
    await actors.post("returns", path, {"reason": "we recommended the wrong size"}, Role.SUPERVISOR)
    view = await actors.sees(order_id, "approved by exception", lambda v: v["returns"][0]["status"] == "approved")
    entries_ = await actors.timeline(order_id)
    [granted] = [e for e in entries_ if e["type"] == "return.exception_granted"]
    assert granted["actor"] == "supervisor:demo-supervisor" and granted["policy"], granted
    await is_because_of(actors, order_id, "policy_exception", "customer_remorse")
    return order_id


async def unknown_outcome(actors: Actors) -> str:
    """A capture and a refund that time out although they were done are found, once each; a bounce frees the balance."""
    clock = f"CLOCK-{actors.run}"
    actors.says("the processor performs a capture and never answers")
    await actors.stocks([(clock, "BER", 2)], actors.ago(minutes=60))
    lines = [_line("1", clock, "Clock", 1, 7000)]
    order = await place(actors, "unknown", lines, [_tender("card", "card", 7000, "tok_capture_timeout_after")])
    order_id: str = order["order_id"]
    await _arrives(actors, order_id)
    actors.says("unknown, not failed; the reconciler finds one capture in the processor's books")
    await actors.sees(order_id, "captured once", lambda v: captured(v) == 7000, never=lambda v: captured(v) > 7000)
    assert "payment.capture_failed" not in [e["type"] for e in await actors.timeline(order_id)]
    await books_agree(actors, order_id, captured=7000, refunded=0)

    actors.says("the same for a refund leg")
    lines = [_line("1", clock, "Clock", 1, 7000)]
    late = await place(actors, "unknown-refund", lines, [_tender("card", "card", 7000, "tok_refund_timeout_after")])
    late_id: str = late["order_id"]
    await _arrives(actors, late_id)
    await actors.sees(late_id, "captured", lambda v: captured(v) == 7000)
    await _goodwill(actors, late_id, 1500)
    await actors.sees(
        late_id,
        "refunded once",
        lambda v: v["totals"]["refunded"]["minor"] == 1500,
        never=lambda v: v["totals"]["refunded"]["minor"] > 1500,
    )
    await books_agree(actors, late_id, captured=7000, refunded=1500)

    actors.says("a refund that bounces days later is reversed, and its balance is free again")
    await actors.stocks([(f"{clock}-B", "BER", 1)], actors.ago(minutes=60))
    lines = [_line("1", f"{clock}-B", "Clock", 1, 7000)]
    bouncing = await place(actors, "bounce", lines, [_tender("card", "card", 7000, "tok_refund_bounces")])
    bounce_id: str = bouncing["order_id"]
    await _arrives(actors, bounce_id)
    await actors.sees(bounce_id, "captured", lambda v: captured(v) == 7000)
    await _goodwill(actors, bounce_id, 2000)
    await actors.sees(
        bounce_id,
        "the leg reversed",
        lambda v: any(leg["status"] == "reversed" for r in v["refunds"] for leg in r["legs"]),
    )
    types = [e["type"] for e in await actors.timeline(bounce_id)]
    assert "refund.leg_succeeded" in types and "refund.leg_reversed" in types, types
    await is_because_of(actors, bounce_id, "refund_failed", "policy_exception")
    return order_id


async def out_of_order(actors: Actors) -> str:
    """The facts of the split order, shuffled and each delivered twice to a view of its own, show the same."""
    order_id = f"split-{actors.run}"
    actors.says("every fact of the order is read from the topics, shuffled and doubled")
    live = await actors.sees(order_id, "completed", lambda v: v["order"]["status"] == "completed")
    records = await _records(actors, order_id, live["freshness"]["facts"])
    twice = [*records, *records]
    random.Random(actors.run).shuffle(twice)  # the seed is the run's, so that a failure can be told again
    actors.says(f"{len(twice)} deliveries to a view that has seen nothing")
    name = f"shuffled_{uuid4().hex[:8]}"
    admin = await asyncpg.connect(actors.endpoints.postgres)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        dsn = database_url(actors.endpoints.postgres, name)
        await asyncio.to_thread(migrate, "support_view", dsn)
        shuffled = await _show(dsn, order_id, twice)
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()
    actors.says("the same timeline and the same summary")
    live = await actors.get("support-view", f"/api/orders/{order_id}")
    timeline = await actors.timeline(order_id)
    unseen = {"freshness", "seen_at"}
    assert {k: v for k, v in shuffled[0].items() if k not in unseen} == {
        k: v for k, v in live.items() if k not in unseen
    }
    assert [_less(e, unseen) for e in shuffled[1]] == [_less(e, unseen) for e in timeline]
    return order_id


async def asked_three_times(actors: Actors) -> str:
    """A parcel that nobody hears of: three contacts, a case, a refund beyond an agent's limit, and who must look."""
    radio = f"RADIO-{actors.run}"
    actors.says("a parcel is handed over a week ago, and not scanned again")
    await actors.stocks([(radio, "BER", 1)], actors.ago(days=9))
    lines, tender = [_line("1", radio, "Radio", 1, 12900)], _tender("card", "card", 12900)
    order = await place(actors, "asked", lines, [tender], days_ago=8)
    order_id: str = order["order_id"]
    shipment = f"{order_id}-S1"
    await actors.sees(order_id, "planned", lambda v: shipment in shipments(v))
    await actors.ships(shipment, actors.ago(days=7))
    await actors.scans(shipment, "in_transit", actors.ago(days=6))
    await actors.sees(order_id, "in transit and captured", lambda v: units(v, "1", "in_transit") and captured(v))
    actors.says("the customer asks an agent, who answers, and asks twice more by the help desk's own system")
    asked = {"order_id": order_id, "topic": "where_is_it"}
    by_id, by_mail = {"customer_id": CUSTOMER["customer_id"]}, {"email": CUSTOMER["email"]}
    said = {"channel": "phone", "text": "Where is my radio?", "occurred_at": actors.ago(days=4).isoformat()}
    first = await actors.post("support-view", "/api/contacts", asked | {"customer": by_id} | said, Role.AGENT)
    case = f"/api/cases/{first['case_id']}"
    answer = {
        "channel": "phone",
        "text": "It will be with you in two days.",
        "occurred_at": actors.ago(days=4).isoformat(),
    }
    await actors.post("support-view", f"{case}/answers", answer, Role.AGENT)
    for n, (days_ago, text) in enumerate(((2, "Two days are over. Still no radio."), (0.01, "Third time I ask.")), 2):
        said = {"channel": "email", "text": text, "occurred_at": actors.ago(days=days_ago).isoformat()}
        await actors.crm(asked | {"customer": by_mail, "contact_id": f"{order_id}-M{n}"} | said)
    actors.says(
        "the agent notes what the carrier says, and asks for more than an agent may give; a supervisor assigns it"
    )
    note = {"note": "The carrier has looked for it since yesterday."}
    await actors.post("support-view", f"{case}/notes", note, Role.AGENT)
    body = {"kind": "goodwill", "amount_minor": 6000, "currency": "EUR", "reason": "a week late, nobody knows where"}
    await actors.post("payments", f"/orders/{order_id}/refunds", body, Role.AGENT)
    await actors.post("support-view", f"{case}/assign", {"assignee": "agent:anna"}, Role.SUPERVISOR)
    actors.says("one case of three contacts; three reasons to look at it stand in the queue")
    told = await actors.get("support-view", case)
    kinds = [entry["type"] for entry in told["entries"]]
    assert (told["assignee"], kinds.count("contact.received"), kinds.count("case.opened")) == ("agent:anna", 4, 1), told
    expected = {"contact_repeated", "shipment_silent", "policy_exception"}
    await actors.reads(
        "support-view",
        "/api/queue?limit=500",
        f"{', '.join(sorted(expected))} of {order_id}",
        lambda q: expected <= {raised["rule"] for raised in q["escalations"] if raised["order_id"] == order_id},
    )
    await is_because_of(actors, order_id, "carrier_delay")
    return order_id


async def left_although_held(actors: Actors) -> str:
    """A held parcel is handed over all the same: it is recorded as it happened, somebody must look, nothing waits behind it."""
    kettle = f"KETTLE-{actors.run}"
    actors.says("packed, and then held: somebody looks for fraud")
    await actors.stocks([(kettle, "BER", 1)], actors.ago(minutes=60))
    order = await place(actors, "held", [_line("1", kettle, "Kettle", 1, 5900)], [_tender("card", "card", 5900)])
    order_id: str = order["order_id"]
    shipment = f"{order_id}-S1"
    await actors.sees(order_id, "planned", lambda v: shipment in shipments(v))
    await actors.outside(f"/warehouse/shipments/{shipment}/pack", {"occurred_at": actors.ago(minutes=20).isoformat()})
    await actors.sees(order_id, "packed", lambda v: units(v, "1", "packed") == 1)
    await actors.post("orders", f"/orders/{order_id}/holds", {"hold": "fraud", "detail": "two cards"}, Role.AGENT)
    await actors.sees(order_id, "held", lambda v: shipments(v)[shipment]["status"] == "held")
    actors.says("the warehouse says that it left: the unit is on its way and is paid for, whatever was planned")
    left = {"occurred_at": actors.ago(minutes=10).isoformat()}
    await actors.outside(f"/warehouse/shipments/{shipment}/hand-over", left)
    await actors.sees(
        order_id, "in transit and captured", lambda v: units(v, "1", "in_transit") == 1 and captured(v) == 5900
    )
    entries = await actors.timeline(order_id)
    [recorded] = [entry for entry in entries if entry["type"] == "fulfillment.discrepancy_recorded"]
    actors.says("it stands in the supervisor's queue; what came after it was heard")
    await _stands_in_queue(actors, order_id, "contradicted_plan")
    await actors.post("orders", f"/orders/{order_id}/holds/fraud/release", {"detail": "both are his"}, Role.SUPERVISOR)
    await actors.delivers(shipment, actors.ago(minutes=5))
    await actors.sees(order_id, "completed", lambda v: v["order"]["status"] == "completed")
    assert recorded["actor"].startswith("partner:"), recorded
    await books_agree(actors, order_id, captured=5900, refunded=0)
    return order_id


async def refunded_after_refund_and_cancellation(actors: Actors) -> str:
    """Part is given back and the rest cancelled: what is still owed is refunded, not the whole sum again."""
    desk = f"DESK-{actors.run}"
    actors.says("prepaid, and none in stock")
    lines, tender = [_line("1", desk, "Desk", 1, 127200)], _tender("gift", "gift_card", 127200)
    order = await place(actors, "owed", lines, [tender])
    order_id: str = order["order_id"]
    await actors.sees(
        order_id, "captured and backordered", lambda v: captured(v) == 127200 and units(v, "1", "backordered") == 1
    )
    actors.says("600.00 off for the wait: more than an agent may give, so it stands in the supervisor's queue")
    path = f"/orders/{order_id}/refunds"
    off = {"kind": "price_adjustment", "currency": "EUR", "reason": "six weeks late"}
    asked = off | {"lines": [{"line_id": "1", "quantity": 0, "amount_minor": 60000}]}
    await actors.post("payments", path, asked, Role.AGENT)
    await _stands_in_queue(actors, order_id, "policy_exception")
    await actors.post("payments", f"{path}/{order_id}-R1/approve", {"reason": "agreed"}, Role.SUPERVISOR)
    await actors.sees(order_id, "600.00 given back", lambda v: v["totals"]["refunded"]["minor"] == 60000)
    actors.says(
        "the customer cancels: 672.00 are left of it, and no more is asked for; a supervisor agrees to that too"
    )
    await actors.post("orders", f"/orders/{order_id}/cancellations", {"detail": "waited enough"}, Role.AGENT)
    await actors.sees(order_id, "a second refund to approve", lambda v: len(v["refunds"]) == 2)
    await _stands_in_queue(actors, order_id, "policy_exception")
    await actors.post("payments", f"{path}/{order_id}-R2/approve", {"reason": "cancelled"}, Role.SUPERVISOR)
    view = await actors.sees(
        order_id,
        "cancelled, and all of it given back",
        lambda v: v["order"]["status"] == "cancelled" and v["totals"]["refunded"]["minor"] == 127200,
        never=lambda v: v["totals"]["refunded"]["minor"] + v["totals"]["refund_pending"]["minor"] > 127200,
    )
    assert sorted(r["amount"]["minor"] for r in view["refunds"]) == [60000, 67200], view["refunds"]
    assert all(r["status"] == "succeeded" for r in view["refunds"]), view["refunds"]
    await books_agree(actors, order_id, captured=127200, refunded=127200)
    return order_id


async def comes_back_to_its_sender(actors: Actors) -> str:
    """Nobody is found at the address, and the parcel comes back: somebody's task, until it is made good."""
    globe = f"GLOBE-{actors.run}"
    actors.says("on its way, and nobody is at home")
    await policy(actors, f"anytime-{actors.run}", 1, 30, 60)
    await actors.stocks([(globe, "BER", 1)], actors.ago(days=9))
    lines, tender = [_line("1", globe, "Globe", 1, 4400)], _tender("card", "card", 4400)
    order = await place(actors, "back", lines, [tender], days_ago=8)
    order_id: str = order["order_id"]
    shipment = f"{order_id}-S1"
    await actors.sees(order_id, "planned", lambda v: shipment in shipments(v))
    await actors.ships(shipment, actors.ago(days=7))
    for code, days in (("in_transit", 6), ("attempted", 5), ("returning", 4), ("returned", 1)):
        await actors.scans(shipment, code, actors.ago(days=days))
    actors.says("it is back: the order is not at its end, and says whose task it is")
    view = await actors.sees(
        order_id,
        "returned to its sender, with a next step",
        lambda v: units(v, "1", "returned_to_sender") == 1 and captured(v) == 4400 and v["next_steps"],
    )
    assert view["order"]["status"] != "completed", view["order"]
    await _stands_in_queue(actors, order_id)
    actors.says("support makes it good: the money goes back")
    claim = {"lines": [{"line_id": "1", "quantity": 1}], "reason": "not_received"}
    opened = await actors.post("returns", f"/orders/{order_id}/claims", claim, Role.AGENT)
    settled = {"outcome": "refunded", "reason": "wants it no more"}
    await actors.post("returns", f"/orders/{order_id}/claims/{opened['claim_id']}/resolve", settled, Role.SUPERVISOR)
    await actors.sees(
        order_id,
        "refunded once, and completed",
        lambda v: v["totals"]["refunded"]["minor"] == 4400 and v["order"]["status"] in ("completed", "closed"),
        never=lambda v: v["totals"]["refunded"]["minor"] > 4400,
    )
    await books_agree(actors, order_id, captured=4400, refunded=4400)
    return order_id


async def _stands_in_queue(actors: Actors, order_id: str, rule: str | None = None) -> None:
    """Somebody must look at the order: an escalation, of this rule where one is named."""
    await actors.reads(
        "support-view",
        "/api/queue?limit=500",
        f"{rule or 'anything'} of {order_id}",
        lambda q: any(e["order_id"] == order_id and rule in (None, e["rule"]) for e in q["escalations"]),
    )


async def _arrives(actors: Actors, order_id: str) -> None:
    shipment = f"{order_id}-S1"
    await actors.sees(order_id, "planned", lambda v: shipment in shipments(v))
    await actors.ships(shipment, actors.ago(minutes=20))
    await actors.delivers(shipment, actors.ago(minutes=10))
    await actors.sees(order_id, "delivered", lambda v: v["order"]["status"] == "completed")


async def _goodwill(actors: Actors, order_id: str, amount: int) -> None:
    body = {"kind": "goodwill", "amount_minor": amount, "currency": "EUR", "reason": "arrived scratched"}
    await actors.post("payments", f"/orders/{order_id}/refunds", body, Role.AGENT)
    view = await actors.sees(order_id, "a refund to approve", lambda v: v["refunds"])
    refund_id = view["refunds"][0]["refund_id"]
    await actors.post(
        "payments", f"/orders/{order_id}/refunds/{refund_id}/approve", {"reason": "sorry"}, Role.SUPERVISOR
    )


async def books_agree(actors: Actors, order_id: str, *, captured: int, refunded: int) -> None:
    """The processor's own ledger says the same, to the minor unit."""
    books = await actors.ledger(order_id)
    theirs = (
        sum(a["captured_minor"] for a in books["authorizations"]),
        sum(a["refunded_minor"] for a in books["authorizations"]),
    )
    assert theirs == (captured, refunded), f"the processor's books say {theirs}, ours {(captured, refunded)}"


async def _records(actors: Actors, order_id: str, count: int) -> list[Record]:
    """The order's records from every topic."""
    consumer = AIOKafkaConsumer(
        *TOPICS, bootstrap_servers=brokers_in(actors.endpoints.kafka), group_id=None, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while len({place.topic for place in consumer.assignment()}) < len(TOPICS):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(POLL_S)
        places = consumer.assignment()
        ends = await consumer.end_offsets(list(places))
        found: dict[bytes, Record] = {}
        while any([await consumer.position(place) < ends[place] for place in places]):
            for batch in (await consumer.getmany(timeout_ms=int(PATIENCE_S * 1000), max_records=5000)).values():
                for r in batch:
                    if r.key == order_id.encode():
                        found[dict(r.headers)["ce_id"]] = Record(
                            r.topic, r.partition, r.offset, r.timestamp, r.key, r.headers, r.value
                        )
    finally:
        await consumer.stop()
    assert len(found) >= count, f"{len(found)} of {count} facts are on the topics"
    return list(found.values())


async def _show(dsn: str, order_id: str, records: Sequence[Record]) -> tuple[View, list[View]]:
    """Summary and timeline of a view fed with these records, a few at a time."""
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
    try:
        for start in range(0, len(records), 7):
            async with pool.acquire() as db, db.transaction():
                parked = await process(db, records[start : start + 7])
                assert not parked, parked
        async with pool.acquire() as db:
            seen = await read_story(db, order_id)
            shown = await read_timeline(db, seen, None, None, 500)
            return view_of(seen).model_dump(mode="json"), shown.model_dump(mode="json")["entries"]
    finally:
        await pool.close()


def _less(entry: View, without: set[str]) -> View:
    return {name: value for name, value in entry.items() if name not in without}


def _flat(answer: object) -> str:
    return json.dumps(answer, separators=(",", ":"))


Story = Callable[[Actors], Awaitable[str]]

STORIES: Final[dict[str, Story]] = {
    "split and backorder": split_and_backorder,
    "declined": declined,
    "cancel in the middle": cancel_in_the_middle,
    "return under policy": return_under_policy,
    "declined return, exception": exception_to_policy,
    "unknown outcome": unknown_outcome,
    "asked three times": asked_three_times,
    "left although held": left_although_held,
    "refund after refund and cancellation": refunded_after_refund_and_cancellation,
    "comes back to its sender": comes_back_to_its_sender,
    "out of order": out_of_order,
}
