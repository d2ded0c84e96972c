"""The warehouse follows what fulfillment says, and what it tells is what partners are allowed to tell."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox.streams import UNPUBLISHED, Streams, headers_of
from sandbox.warehouse import Warehouse
from shared.contracts.base import LineQuantity
from shared.contracts.fulfillment import (
    Parcel,
    ShipmentCancelled,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentFact,
    ShipmentHeld,
    ShipmentLinesRemoved,
    ShipmentPacked,
    ShipmentRecallRequested,
    ShipmentRelabelRequested,
    ShipmentReleased,
    ShipmentShipped,
)
from shared.contracts.orders import Address, Hold
from shared.contracts.partners import WAREHOUSE_MESSAGES, CarrierScan, ReturnScan
from shared.messaging.envelope import context_of, data_of
from tests.telling import Telling, record_of
from tests.unit.sandbox_world import World, sandbox

AT = "2026-03-02T09:00:00Z"
LINES = (LineQuantity(line_id="l1", quantity=2), LineQuantity(line_id="l2", quantity=1))
NAMES = {"order_id": "order-1", "shipment_id": "s1"}
CREATED = ShipmentCreated(**NAMES, location="berlin", lines=LINES, number=1, of=2)
PACKED = ShipmentPacked(
    **NAMES,
    parcels=(Parcel(parcel_id="p1", lines=LINES[:1]), Parcel(parcel_id="p2", lines=LINES[1:])),
)


def shipped(tracking: Sequence[str] = ("T1", "T2")) -> ShipmentShipped:
    parcels = tuple(
        parcel.model_copy(update={"carrier": "swiftpost", "tracking": number})
        for parcel, number in zip(PACKED.parcels, tracking, strict=True)
    )
    return ShipmentShipped(**NAMES, carrier="swiftpost", parcels=parcels, lines=LINES, number=1, of=2)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with sandbox(tmp_path) as world:
        yield world


@pytest.fixture
async def paced(tmp_path: Path) -> AsyncIterator[World]:
    async with sandbox(tmp_path, sandbox_pace=1e-9) as world:
        yield world


async def hear(world: World, *facts: ShipmentFact) -> None:
    """All in one transaction: nothing is played in between."""
    warehouse = Warehouse(world.app.state.settings.sandbox_pace)

    def follow(db: sqlite3.Connection) -> None:
        for fact in facts:
            warehouse.follow(db, fact)

    await world.ledger.run(follow)


async def told(world: World) -> list[tuple[str, dict[str, Any]]]:
    """What is queued for `warehouse.events`, read as a consumer reads it."""
    rows = await world.ledger.run(lambda db: db.execute(UNPUBLISHED).fetchall())
    found = []
    for row in rows:
        context = context_of(row["key"].encode(), headers_of(row))
        assert context.message_id and context.source == "warehouse"
        message = data_of(WAREHOUSE_MESSAGES[context.type], row["data"].encode())
        found += [(context.type, message.model_dump(mode="json"))] * row["copies"]
    return found


async def at_dock(world: World, call: str, **body: Any) -> Any:
    answer = await world.http.post(f"/warehouse/{call}", json={"occurred_at": AT} | body)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def test_a_shipment_is_packed_and_handed_over_by_hand(world: World) -> None:
    await hear(world, CREATED)
    await at_dock(world, "shipments/s1/pack")
    await hear(world, PACKED)
    await at_dock(world, "shipments/s1/hand-over")
    (pack, packed), (hand_over, handed_over) = await told(world)
    assert (pack, packed["parcels"], packed["occurred_at"]) == ("warehouse.packed", [], AT)
    assert hand_over == "warehouse.handed_over"
    assert [parcel["parcel_id"] for parcel in handed_over["tracking"]] == ["p1", "p2"]
    assert len({parcel["tracking"] for parcel in handed_over["tracking"]}) == 2


async def test_a_scan_is_posted_signed_for_each_parcel_in_order(world: World) -> None:
    await hear(world, CREATED, PACKED, shipped())
    for code in ("in_transit", "out_for_delivery", "delivered"):
        await at_dock(world, "shipments/s1/scan", code=code)
    scans = await world.system.notices(6)
    assert {scan["url"] for scan in scans} == {"http://fulfillment/webhooks/carrier"}
    fields = [{name: scan[name] for name in ("carrier", "tracking", "code", "occurred_at", "detail")} for scan in scans]
    assert [CarrierScan.model_validate(f).code for f in fields if f["tracking"] == "T1"] == [
        "in_transit",
        "out_for_delivery",
        "delivered",
    ]
    (only,) = await at_dock(world, "shipments/s1/scan", code="lost", parcel_id="p2", detail="not seen since")
    assert (only["data"]["tracking"], only["data"]["detail"]) == ("T2", "not seen since")


async def test_a_call_waits_for_what_fulfillment_has_yet_to_say(tmp_path: Path) -> None:
    async with sandbox(tmp_path, sandbox_patience_seconds=30) as world:
        packing = asyncio.create_task(at_dock(world, "shipments/s1/pack"))
        handing_over = asyncio.create_task(at_dock(world, "shipments/s1/hand-over"))
        await hear(world, CREATED)
        await packing
        assert not handing_over.done()
        await hear(world, PACKED)
        await handing_over
        assert [kind for kind, _ in await told(world)] == ["warehouse.packed", "warehouse.handed_over"]


async def test_what_fulfillment_never_says_is_refused_with_the_state(world: World) -> None:
    unheard = await world.http.post("/warehouse/shipments/s1/pack", json={})
    assert unheard.status_code == 404
    await hear(world, CREATED)
    not_packed = await world.http.post("/warehouse/shipments/s1/hand-over", json={})
    not_shipped = await world.http.post("/warehouse/shipments/s1/scan", json={"code": "delivered"})
    assert [(a.status_code, a.json()["current"]) for a in (not_packed, not_shipped)] == [(409, "created")] * 2
    assert await told(world) == []


async def test_goods_returns_and_short_picks_are_told(world: World) -> None:
    await hear(world, CREATED)
    await at_dock(world, "goods-received", sku="mug", location="berlin", quantity=5)
    await at_dock(world, "goods-expected", sku="mug", location="berlin", incoming=7, eta="2026-04-01T00:00:00Z")
    await at_dock(world, "shipments/s1/short-pick", lines=[{"line_id": "l1", "quantity": 1}])
    goods = {"order_id": "order-1", "location": "berlin"}
    await at_dock(
        world, "returns/r1/receive", **goods, lines=[{"line_id": "l1", "quantity": 1}], receipt_id="rc1", copies=2
    )
    await at_dock(world, "returns/r1/inspect", **goods, lines=[{"line_id": "l1", "quantity": 1, "outcome": "opened"}])
    kinds = [kind for kind, _ in await told(world)]
    assert kinds == [
        "warehouse.goods_received",
        "warehouse.goods_expected",
        "warehouse.short_picked",
        "warehouse.parcel_received",
        "warehouse.parcel_received",
        "warehouse.items_inspected",
    ]
    await at_dock(world, "returns/r1/scan", order_id="order-1", tracking="R1")
    (scan,) = await world.system.notices(1)
    assert scan["url"] == "http://returns/webhooks/carrier"
    ReturnScan.model_validate({name: scan[name] for name in ("order_id", "return_id", "tracking", "occurred_at")})


async def test_the_same_thing_told_again_carries_the_same_id(world: World) -> None:
    body = {"sku": "mug", "location": "berlin", "quantity": 5, "receipt_id": "rc1"}
    first, again = [await at_dock(world, "goods-received", **body) for _ in range(2)]
    other = await at_dock(world, "goods-received", **(body | {"receipt_id": "rc2"}))
    assert first["id"] == again["id"] != other["id"]
    await hear(world, CREATED, PACKED, shipped())
    for _ in range(2):
        await at_dock(world, "shipments/s1/scan", code="in_transit", parcel_id="p1")
    scans = await world.system.notices(2)
    assert scans[0]["webhook_id"] == scans[1]["webhook_id"]


async def play(world: World) -> None:
    """Every step that is due, whoever takes it: the sandbox or this."""
    warehouse = Warehouse(world.app.state.settings.sandbox_pace)
    while await world.ledger.run(warehouse.play) == 0:
        continue


async def test_with_a_pace_a_shipment_goes_its_way_by_what_fulfillment_confirms(paced: World) -> None:
    await hear(paced, CREATED)
    await play(paced)
    assert [kind for kind, _ in await told(paced)] == ["warehouse.packed"]
    await hear(paced, PACKED)
    await play(paced)
    assert [kind for kind, _ in await told(paced)] == ["warehouse.packed", "warehouse.handed_over"]
    await hear(paced, shipped())
    await play(paced)
    scans = [scan["code"] for scan in await paced.system.notices(6) if scan["tracking"] == "T1"]
    assert scans == ["in_transit", "out_for_delivery", "delivered"]
    await hear(paced, ShipmentDelivered(**NAMES, lines=LINES))
    (shipment,) = (await paced.http.get("/warehouse/shipments", params={"order_id": "order-1"})).json()
    assert (shipment["status"], shipment["next_step"]) == ("delivered", None)


async def test_with_a_pace_nothing_held_or_cancelled_leaves_and_a_recalled_parcel_comes_back(paced: World) -> None:
    await hear(paced, CREATED, PACKED, ShipmentHeld(**NAMES, holds=(Hold.PAYMENT,)))
    await play(paced)
    assert await told(paced) == []
    await hear(paced, ShipmentReleased(**NAMES, packed=True))
    await play(paced)
    assert [kind for kind, _ in await told(paced)] == ["warehouse.handed_over"]
    await hear(paced, shipped(), ShipmentRecallRequested(**NAMES, detail="customer asked"))
    await play(paced)
    assert [s["code"] for s in await paced.system.notices(4) if s["tracking"] == "T2"] == ["recalled", "returned"]
    stray = ShipmentRecallRequested(
        **NAMES, detail="it left although it was cancelled", carrier="swiftpost", parcels=shipped(("T3", "T4")).parcels
    )
    await hear(paced, ShipmentCancelled(**NAMES, lines=LINES, detail=""), stray)
    await play(paced)
    assert [s["code"] for s in await paced.system.notices(4) if s["tracking"] == "T3"] == ["recalled", "returned"]
    other = CREATED.model_copy(update={"shipment_id": "s2"})
    await hear(paced, other, ShipmentCancelled(order_id="order-1", shipment_id="s2", lines=LINES, detail=""))
    await play(paced)
    assert len(await told(paced)) == 1


async def test_lines_that_are_taken_out_are_known(world: World) -> None:
    removed = (LineQuantity(line_id="l1", quantity=1), LineQuantity(line_id="l2", quantity=1))
    await hear(world, CREATED, ShipmentLinesRemoved(**NAMES, lines=removed))
    (shipment,) = (await world.http.get("/warehouse/shipments", params={"order_id": "order-1"})).json()
    assert shipment["lines"] == [{"line_id": "l1", "quantity": 1}]


async def test_what_needs_a_new_label_gets_it_before_it_leaves(paced: World) -> None:
    elsewhere = Address(name="Ada", street="Side 2", city="Kiel", postal_code="24103", country="DE")
    asked = ShipmentRelabelRequested(**NAMES, ship_to=elsewhere, requested_at=datetime.fromisoformat(AT))
    held = ShipmentHeld(**NAMES, holds=(Hold.ADDRESS,))
    await hear(paced, CREATED, asked, held, PACKED)
    await play(paced)
    assert [kind for kind, _ in await told(paced)] == ["warehouse.relabelled"]
    await hear(paced, ShipmentReleased(**NAMES, packed=True))
    await play(paced)
    assert [kind for kind, _ in await told(paced)] == ["warehouse.relabelled", "warehouse.handed_over"]


@dataclass(frozen=True)
class Record:
    offset: int
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None
    partition: int = 0
    key: bytes = b"order-1"


TOLD = (
    ("ce_id", b"01a21791-ad79-7093-ae0f-ff8c699a5406"),
    ("ce_source", b"urn:order-workflows:fulfillment"),
    ("ce_type", b"shipment.created"),
    ("ce_time", b"2026-05-04T12:00:00+00:00"),
)


async def test_a_fact_that_is_told_again_after_later_ones_sets_nothing_back(paced: World) -> None:
    t = Telling("order-1")
    created, packed, left = (record_of(t.tell(fact)) for fact in (CREATED, PACKED, shipped()))
    warehouse = Warehouse(paced.app.state.settings.sandbox_pace)

    def hear_all(db: sqlite3.Connection) -> None:
        for record in (created, packed, left, created, packed):
            warehouse.hear(db, record)

    await paced.ledger.run(hear_all)
    await play(paced)
    assert await told(paced) == [], "it is not handed over again"


async def test_a_topic_that_was_made_anew_is_heard_from_its_beginning(world: World) -> None:
    """Its offsets begin again, and say nothing of what was heard before; what comes again changes nothing."""
    t = Telling("order-1")
    facts = [record_of(t.tell(fact)) for fact in (CREATED, PACKED, shipped())]
    streams = Streams(world.ledger, ["nowhere"], Warehouse(0).hear)
    place = type("Place", (), {"partition": 0})()

    def at(offset: int, count: int) -> list[Record]:
        return [Record(n, tuple(r.headers), r.value) for n, r in enumerate(facts[:count], offset)]

    for records in (at(40, 2), at(0, 3)):
        await world.ledger.run(partial(streams.take, {place: records}))
    (shipment,) = (await world.http.get("/warehouse/shipments", params={"order_id": "order-1"})).json()
    assert shipment["status"] == "shipped"
    [position] = await world.ledger.run(lambda db: db.execute("select position from positions").fetchall())
    assert position[0] == 3, "where reading goes on"


async def test_one_record_that_cannot_be_read_stops_nothing(world: World) -> None:
    def record(offset: int, shipment_id: str) -> Record:
        fact = CREATED.model_copy(update={"shipment_id": shipment_id})
        return Record(offset, (*TOLD, ("ce_sequence", str(offset).encode())), fact.model_dump_json().encode())

    broken = [Record(1, TOLD, value) for value in (None, b"", b"{", b"[]", b'{"order_id":1}')]
    stranger = Record(2, (("ce_type", b"\xff"),), b"x")
    streams = Streams(world.ledger, ["nowhere"], Warehouse(0).hear)
    place = type("Place", (), {"partition": 0})()
    for records in ([record(0, "s1"), *broken, stranger], [record(0, "s1"), record(9, "s9")]):
        await world.ledger.run(partial(streams.take, {place: records}))
    shipments = (await world.http.get("/warehouse/shipments", params={"order_id": "order-1"})).json()
    assert [shipment["shipment_id"] for shipment in shipments] == ["s1", "s9"]


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("goods-received", {"sku": "mug", "location": "berlin", "quantity": 0}, "quantity"),
        ("goods-received", {"sku": "mug", "location": "berlin", "quantity": 1.0}, "quantity"),
        ("goods-received", {"sku": "mug", "location": "berlin", "quantity": 1, "lot": 3}, "lot"),
        (
            "goods-received",
            {"sku": "mug", "location": "berlin", "quantity": 1, "occurred_at": "2999-01-01T00:00:00Z"},
            "occurred_at",
        ),
        ("shipments/s1/scan", {"code": "vanished"}, "code"),
        ("shipments/s1/short-pick", {"lines": []}, "lines"),
        ("returns/r1/inspect", {"order_id": "o", "location": "b", "lines": [], "copies": 9}, "copies"),
    ],
)
async def test_bad_input_is_refused_by_field_and_nothing_is_told(
    world: World, call: str, body: dict[str, Any], field: str
) -> None:
    await hear(world, CREATED)
    answer = await world.http.post(f"/warehouse/{call}", json=body)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert await told(world) == []
