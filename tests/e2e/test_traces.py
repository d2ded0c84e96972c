"""One trace from the click to the timeline, over every service that an order meets by itself."""

from uuid import uuid4

from ops.actors import Actors, View
from ops.stories import _line, _tender, place


def _is_planned_and_paid(view: View) -> bool:
    paid = view["rollups"]["payment_status"] == "authorized"
    return paid and view["order"]["status"] == "confirmed" and bool(view["shipments"])


async def test_what_a_placed_order_leads_to_is_told_in_the_trace_of_its_request(actors: Actors) -> None:
    trace_id = uuid4().hex
    sku = f"TRACED-{actors.run}"
    await actors.stocks([(sku, "BER", 1)], actors.ago(minutes=60))
    actors._client.headers["traceparent"] = f"00-{trace_id}-{uuid4().hex[:16]}-01"
    order = await place(actors, "traced", [_line("a", sku, "Lamp", 1, 1000)], [_tender("t1", "card", 1000)])
    del actors._client.headers["traceparent"]
    order_id = order["order_id"]
    await actors.sees(order_id, "a shipment, and its money authorized", _is_planned_and_paid)
    entries = await actors.timeline(order_id)
    told = {entry["type"]: entry for entry in entries if entry["trace_id"] == trace_id}
    assert told.keys() >= {"order.placed", "order.confirmed", "payment.authorized", "shipment.created"}
    assert {entry["service"] for entry in told.values()} >= {"orders", "payments", "fulfillment"}
