"""HTTP in, for programs: an order's summary, its timeline, and how to find it. All it writes is who saw whose contact."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from functools import cache
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from shared.contracts import Fact, base
from shared.contracts.base import Input, Model, PolicyRef, Text
from shared.core.machine import Invalid
from shared.messaging.database import OUTAGES
from shared.messaging.shell import Db
from shared.web.auth import Caller, Role
from shared.web.callers import needs
from shared.web.problems import RETRY_AFTER, problem
from support_view import store
from support_view.domain.timeline import SERVICES, Place, Words, arrange
from support_view.privacy import EMAIL, masked, redacted
from support_view.projection import DOMAINS
from support_view.summary import Customer, Freshness, Summary, holes, summarize
from support_view.summary.rollups import Rollups
from support_view.summary.sections import side_by_side

router = APIRouter(prefix="/api", tags=["support view"])

READERS: Final = (Role.AGENT, Role.SUPERVISOR, Role.OPERATOR, Role.AUDITOR)
REVEALERS: Final = (Role.AGENT, Role.SUPERVISOR)
FOUND_AT_MOST: Final = 50

OrderId = Annotated[base.OrderId, Path(description="the order")]
DomainName = Literal["order", "payment", "fulfillment", "return", "notification", "support"]
SearchText = Annotated[
    str, Query(min_length=1, max_length=320, description="start of an order id; or a tracking or return id")
]


class OrderView(Summary):
    """An order's summary and how fresh it is."""

    freshness: Freshness


class Link(Model):
    """What an entry is about: a shipment, a return, a tender …"""

    kind: str
    id: str


class TimelineEntry(Model):
    """One fact, in words, with who did it and why."""

    id: str
    occurred_at: datetime
    seen_at: datetime
    domain: DomainName
    service: str
    sequence: int
    type: str
    title: str
    details: tuple[str, ...]
    actor: str
    reason: str
    causation_id: str | None = Field(description="id of what caused it")
    correlation_id: str
    trace_id: str | None = Field(
        description="W3C trace that it is part of, where its request came with one or began one"
    )
    policy: PolicyRef | None = Field(description="the policy at the version that decided, where one did")
    links: tuple[Link, ...]
    is_quiet: bool = Field(description="a service taking note of another's fact, or preparing a step of its own")


class Timeline(Model):
    """By time; within one instant causes before what they caused. `next` continues it, None at its end."""

    entries: tuple[TimelineEntry, ...]
    next: str | None
    total: int


class RawFact(TimelineEntry):
    """A fact as it travelled, but for the contacts and tokens in it."""

    data: dict[str, Any]


class Found(Model):
    order_id: str
    customer: str | None
    placed_at: datetime | None
    total: str
    order_status: str | None
    rollups: Rollups


class Findings(Model):
    orders: tuple[Found, ...]
    is_cut: bool = Field(description="there are more; search for something narrower")


@asynccontextmanager
async def snapshot(request: Request) -> AsyncIterator[Db]:
    """One moment of the database for all reads of a request."""
    async with (
        request.app.state.pool.acquire(timeout=5) as db,
        db.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield db


_LINKS: Final = {
    "shipment_id": "shipment",
    "backorder_id": "backorder",
    "return_id": "return",
    "refund_id": "refund",
    "tender_id": "tender",
    "cancellation_id": "cancellation",
    "notification_id": "message",
    "dispute_id": "dispute",
    "case_id": "case",
    "contact_id": "contact",
    "escalation_id": "escalation",
}


@cache
def _linked_in(kind: type[Fact]) -> tuple[tuple[str, str], ...]:
    """The fields of a class of facts that name something; a model that is asked for a field it has not is slow to say so."""
    return tuple((field, link) for field, link in _LINKS.items() if field in kind.model_fields)


def links_of(fact: Fact) -> tuple[Link, ...]:
    found = [(kind, getattr(fact, name)) for name, kind in _linked_in(type(fact))]
    return tuple(Link(kind=kind, id=id) for kind, id in found if id is not None)


def entry_of(seen: store.Seen, words: Words) -> TimelineEntry:
    entry = seen.entry
    domain = DOMAINS[entry.service]
    kind = type(entry.fact)
    detailed = domain.details.get(kind)
    return TimelineEntry(
        id=entry.id,
        occurred_at=entry.occurred_at,
        seen_at=seen.seen_at,
        domain=domain.name,
        service=entry.service,
        sequence=entry.sequence,
        type=entry.fact.type,
        title=domain.sentences[kind](entry.fact, words),
        details=tuple(line for line in detailed(entry.fact, words) if line) if detailed else (),
        actor=entry.actor,
        reason=entry.reason,
        causation_id=entry.causation_id,
        correlation_id=entry.correlation_id,
        trace_id=entry.trace_id,
        policy=entry.policy,
        links=links_of(entry.fact),
        is_quiet=kind in domain.quiet,
    )


class NotSeen(Exception):
    """Nothing was seen of the order up to now. It may come: facts arrive here when they are published."""

    def __init__(self, order_id: str) -> None:
        now = datetime.now(timezone.utc)
        super().__init__(
            f"Nothing has been seen of order {order_id} as of {now:%H:%M:%S} UTC. If it was placed a moment ago, its facts are on"
            " their way."
        )


def answer_not_seen(app: FastAPI) -> None:
    @app.exception_handler(NotSeen)
    async def not_seen(_: Request, error: NotSeen) -> Response:
        headers = {"Retry-After": str(RETRY_AFTER)}
        return problem(404, "Not seen yet", str(error), headers, type="urn:order-workflows:not-seen-yet")


async def read_story(db: Db, order_id: str) -> store.Story:
    """Raises NotSeen."""
    story = await store.story(db, order_id)
    if story is None:
        raise NotSeen(order_id)
    return story


async def read_fact(db: Db, order_id: str, fact: UUID) -> RawFact:
    """Raises NotSeen, and HTTPException 404 where the order has no such fact."""
    story = await read_story(db, order_id)
    data = await store.data_of(db, order_id, fact)
    if data is None:
        raise HTTPException(404, f"order {order_id} has no fact {fact}")
    [seen] = await store.entries(db, [str(fact)])
    entry = entry_of(seen, side_by_side(story.sections).words)
    return RawFact(data=redacted(json.loads(data)), **dict(entry))


def view_of(story: store.Story, *, revealed: bool = False) -> OrderView:
    """The customer's e-mail and address are masked unless they were `revealed`, which leaves a record."""
    summary = summarize(story.order_id, story.sections, story.policy)
    if summary.customer is not None and not revealed:
        summary = summary.model_copy(update={"customer": masked(summary.customer)})
    freshness = Freshness(
        facts=story.facts,
        occurred_at=story.occurred_at,
        seen_at=story.seen_at,
        services={service: story.sections[service].next - 1 for service in SERVICES if service in story.sections},
        holes=tuple(holes(story.sections)),
    )
    return OrderView(freshness=freshness, **dict(summary))


async def read_timeline(
    db: Db,
    story: store.Story,
    domains: Sequence[str] | None,
    after: str | None,
    limit: int,
    *,
    quiet: bool = True,
    about: str | None = None,
) -> Timeline:
    """Raises Invalid when `after` is not an entry of this timeline."""
    places = arrange(await store.places(db, story.order_id))
    start = 0
    if after is not None:
        start = next((i + 1 for i, place in enumerate(places) if place.id == after), 0)
        if not start:
            raise Invalid("after", "must be the id of an entry of this order's timeline")
    chosen = [place for place in places[start:] if not domains or DOMAINS[place.service].name in domains]
    words = side_by_side(story.sections).words
    entries: list[TimelineEntry] = []
    position = 0
    # Which are quiet, and what they are about, is known once they are read: a page takes as many reads as it needs.
    while len(entries) <= limit and position < len(chosen):
        ids = [place.id for place in chosen[position : position + limit + 1]]
        position += len(ids)
        read = [entry_of(seen, words) for seen in await store.entries(db, ids)]
        entries += [entry for entry in read if (quiet or not entry.is_quiet) and _is_about(entry, about)]
    is_cut = len(entries) > limit
    return Timeline(
        entries=tuple(entries[:limit]), next=entries[limit - 1].id if is_cut else None, total=_total(places, domains)
    )


async def read_entries(db: Db, story: store.Story, ids: Collection[str]) -> dict[str, TimelineEntry]:
    """By id, in words, those of this order that were seen."""
    if not ids:
        return {}
    known = sorted({place.id for place in await store.places(db, story.order_id)}.intersection(ids))
    words = side_by_side(story.sections).words
    return {seen.entry.id: entry_of(seen, words) for seen in await store.entries(db, known)}


def _is_about(entry: TimelineEntry, about: str | None) -> bool:
    return about is None or any(f"{link.kind}:{link.id}" == about for link in entry.links)


def _total(places: Sequence[Place], domains: Sequence[str] | None) -> int:
    return sum(not domains or DOMAINS[place.service].name in domains for place in places)


async def find(db: Db, text: str) -> Findings:
    folded = text.strip().lower()
    found = await store.search(db, folded, FOUND_AT_MOST + 1) if folded and folded.isprintable() else {}
    policy = await store.escalation_policy(db)
    orders = []
    for order_id, sections in list(found.items())[:FOUND_AT_MOST]:
        summary = summarize(order_id, sections, policy)
        orders.append(
            Found(
                order_id=order_id,
                customer=summary.customer.name if summary.customer else None,
                placed_at=summary.placed_at,
                total=summary.totals.ordered.text if summary.placed_at else "",
                order_status=summary.order.status,
                rollups=summary.rollups,
            )
        )
    return Findings(orders=tuple(orders), is_cut=len(found) > FOUND_AT_MOST)


@router.get("/orders/{order_id}", dependencies=[needs(*READERS)], response_model=OrderView)
async def order(request: Request, order_id: OrderId) -> Response:
    """The four states, quantities, money, shipments, returns, refunds, messages, next steps; and how fresh all that is."""
    async with request.app.state.pool.acquire(timeout=5) as db:
        story = await read_story(db, order_id)
    # What was just made needs no check on its way out.
    return Response(view_of(story).model_dump_json(), media_type="application/json")


@router.get("/orders/{order_id}/timeline", dependencies=[needs(*READERS)])
async def timeline(
    request: Request,
    order_id: OrderId,
    domain: Annotated[list[DomainName] | None, Query(max_length=6, description="only these; all when absent")] = None,
    after: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    about: Annotated[
        str | None, Query(max_length=200, description="only facts about this, as a clause names it: `shipment:o-1-S1`")
    ] = None,
) -> Timeline:
    """Every fact of the order, in words."""
    async with snapshot(request) as db:
        return await read_timeline(db, await read_story(db, order_id), domain, after, limit, about=about)


@router.get("/orders/{order_id}/facts/{fact_id}", dependencies=[needs(*READERS)])
async def fact(request: Request, order_id: OrderId, fact_id: UUID) -> RawFact:
    """One fact of the order: in words, and as it travelled. E-mail addresses, streets and tokens in it are masked."""
    async with snapshot(request) as db:
        return await read_fact(db, order_id, fact_id)


class RevealIn(Input):
    reason: Annotated[Text, Field(min_length=1, pattern=r"\S", description="why; it stands in the record")]


async def reveal(request: Request, order_id: str, caller: Caller, reason: str) -> store.Story:
    """The order's story, once it is on record who sees the customer's contact and why."""
    async with request.app.state.pool.acquire(timeout=5) as db, db.transaction():
        story = await read_story(db, order_id)
        await store.record_reveal(db, order_id, caller.actor, reason)
    return story


@router.post("/orders/{order_id}/contact")
async def contact(
    request: Request, order_id: OrderId, body: RevealIn, who: Annotated[Caller, needs(*REVEALERS)]
) -> Customer:
    """The customer's e-mail and address, unmasked. Who asked and why is kept."""
    view = view_of(await reveal(request, order_id, who, body.reason), revealed=True)
    if view.customer is None:
        raise HTTPException(404, f"the order {order_id} itself has not been seen yet")
    return view.customer


class Reveal(Model):
    reveal_id: UUID
    order_id: str
    actor: str
    reason: str
    revealed_at: datetime


class Reveals(Model):
    """Newest first. `next` continues them, None at their end."""

    reveals: tuple[Reveal, ...]
    next: UUID | None


@router.get("/reveals", dependencies=[needs(Role.AUDITOR, Role.SUPERVISOR)])
async def reveals(
    request: Request,
    order_id: Annotated[base.OrderId | None, Query(description="of this order; all when absent")] = None,
    before: Annotated[UUID | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Reveals:
    """Who saw which customer's contact, when and why."""
    rows = await store.reveals(request.app.state.pool, order_id, before or store.NEWEST, limit)
    found = tuple(Reveal(reveal_id=row["id"], **{n: v for n, v in row.items() if n != "id"}) for row in rows)
    return Reveals(reveals=found, next=found[-1].reveal_id if len(found) == limit else None)


LIVE_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 0.5


class News(Model):
    """More of an order was seen. `facts`: how many by now; what they are stands on its timeline."""

    facts: int


async def news(request: Request, order_id: str, known: int) -> AsyncIterator[ServerSentEvent]:
    """An event whenever more than `known` facts of the order are seen; its id is how many.

    A connection lives a quarter of a minute, so that it keeps no process from stopping; the next goes on from its last id.
    A count cannot miss what was committed late, as a cursor over times could.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + LIVE_SECONDS
    yield ServerSentEvent(comment="listening", retry=1000)
    while loop.time() < ends_at:
        try:
            facts = await store.facts_seen(request.app.state.pool, order_id)
        except OUTAGES:
            return  # the next connection finds out
        if facts > known:
            known = facts
            yield ServerSentEvent(event="seen", id=str(facts), data=News(facts=facts))
        await asyncio.sleep(LOOK_SECONDS)


KnownFacts = Annotated[int, Query(ge=0, le=1_000_000_000, description="how many facts of the order you have seen")]
LastEventId = Annotated[
    int | None, Header(alias="Last-Event-ID", ge=0, le=1_000_000_000, description="goes before `seen`")
]


@router.get("/orders/{order_id}/live", dependencies=[needs(*READERS)], response_class=EventSourceResponse)
async def live(
    request: Request, order_id: OrderId, seen: KnownFacts = 0, last: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `seen`, with how many facts of the order are seen by now, at once and as more are."""
    async for event in news(request, order_id, seen if last is None else last):
        yield event


@router.get("/search", dependencies=[needs(*READERS)])
async def search(request: Request, q: SearchText) -> Findings:
    """Orders by the start of their id, or by a tracking number or a return id. An e-mail address is refused here, since
    addresses of pages are kept in many places: send it as a body."""
    if EMAIL.fullmatch(q.strip()):
        raise Invalid("q", "an e-mail address has no place in a URL; POST it")
    async with snapshot(request) as db:
        return await find(db, q)


class SearchIn(Input):
    q: Annotated[str, Field(min_length=1, max_length=320)]


@router.post("/search", dependencies=[needs(*READERS)])
async def search_by_body(request: Request, body: SearchIn) -> Findings:
    """The same, and by a customer's e-mail address."""
    async with snapshot(request) as db:
        return await find(db, body.q)
