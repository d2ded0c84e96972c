"""The support page, rendered here for people who signed in: whole without scripts, live with one."""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from itertools import groupby
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import quote, urlencode
from uuid import UUID

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.staticfiles import StaticFiles

from shared.core.machine import Invalid
from shared.messaging.database import OUTAGES
from shared.web.auth import Caller
from shared.web.problems import log_failure
from support_view.actions import (
    ACTIONS,
    CASE_ACTIONS,
    HERE,
    QUEUE_ACTIONS,
    ActionResult,
    Offers,
    act,
    attended,
    evidence_file,
    of_cases,
    offered,
)
from support_view.api import (
    REVEALERS,
    DomainName,
    KnownFacts,
    LastEventId,
    NotSeen,
    OrderId,
    OrderView,
    Timeline,
    TimelineEntry,
    find,
    news,
    read_entries,
    read_fact,
    read_story,
    read_timeline,
    reveal,
    snapshot,
    view_of,
)
from support_view.api import router as api_router
from support_view.casebook import Wanted
from support_view.casework_api import Work, read_case, read_cases, read_queue, read_work
from support_view.picture import HEIGHT, WIDTH, draw
from support_view.privacy import EMAIL
from support_view.rendering import HEADERS, POLICY, page
from support_view.sign_in import SESSION, current_user, form_of, to_sign_in

router = APIRouter(include_in_schema=False)

PAGE_LENGTH: Final = 200
QUEUE_LENGTH: Final = 50
DOMAIN_NAMES: Final = get_args(DomainName)
ORDER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")


@router.get("/")
async def start(request: Request, q: Annotated[str, Query(max_length=320)] = "") -> Response:
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    if EMAIL.fullmatch(q.strip()):
        q = ""  # it has no place in an address: the form sends it as a body
    return await _found(request, caller, q.strip())


@router.post("/find")
async def find_order(request: Request) -> Response:
    """An e-mail address stays out of the address bar; whatever else was searched for stands in it."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    q = (await form_of(request)).get("q", "")
    if len(q) > 320:
        return page("message.html", 422, caller=caller, title="Too long", text="Search for at most 320 characters.")
    if not EMAIL.fullmatch(q):
        return RedirectResponse(f"/?{urlencode({'q': q})}" if q else "/", HTTPStatus.SEE_OTHER, HEADERS)
    return await _found(request, caller, q)


async def _found(request: Request, caller: Caller, q: str) -> Response:
    if not q:
        return page("find.html", caller=caller, q="", findings=None)
    try:
        async with snapshot(request) as db:
            findings = await find(db, q)
    except OUTAGES:
        return away(caller)
    if len(findings.orders) == 1:
        return RedirectResponse(f"/orders/{quote(findings.orders[0].order_id, safe='')}", HTTPStatus.SEE_OTHER, HEADERS)
    return page("find.html", caller=caller, q=q, findings=findings)


@router.post("/orders/{order_id}/contact")
async def order_contact(request: Request, order_id: str) -> Response:
    """The page with the customer's contact on it, this once; who saw it and why is kept."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    reason = (await form_of(request)).get("reason", "")
    if caller.roles.isdisjoint(REVEALERS):
        text = f"A customer's contact is for {' and '.join(REVEALERS)} to see."
        return page("message.html", 403, caller=caller, title="Not for you", text=text)
    if not reason or len(reason) > 2000 or not ORDER_ID.fullmatch(order_id):
        text = "Say in a few words why you need to see it: that is kept with your name."
        return page("message.html", 422, caller=caller, title="Why?", text=text)
    try:
        await reveal(request, order_id, caller, reason)
    except NotSeen as error:
        return not_seen(caller, order_id, error)
    except OUTAGES:
        return away(caller)
    return await order_page(request, order_id, revealed=True)


@router.get("/queue")
async def queue(
    request: Request,
    mine: Annotated[bool, Query()] = False,
    after: Annotated[str | None, Query(max_length=120)] = None,
    done: Annotated[str, Query(max_length=50)] = "",
) -> Response:
    result = ActionResult(200, QUEUE_ACTIONS[done].done) if done in QUEUE_ACTIONS else None
    return await queue_page(request, mine, after, result)


async def queue_page(
    request: Request, mine: bool = False, after: str | None = None, result: ActionResult | None = None
) -> Response:
    """Who needs attention now, why, since when, and what to do about it."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    try:
        async with snapshot(request) as db:
            found = await read_queue(db, after, caller.actor if mine else None, QUEUE_LENGTH)
    except Invalid:
        return no_order(caller, "This part of the queue does not exist any more")
    except OUTAGES:
        return away(caller)
    return page(
        "queue.html",
        result.status if result else 200,
        caller=caller,
        result=result,
        queue=found,
        mine=mine,
        after=after,
        offers=attended(found.escalations, caller, result.form if result else {}),
        now=datetime.now(timezone.utc),
    )


@router.post("/queue/{escalation_id}/{name}")
async def attend(request: Request, escalation_id: str, name: str) -> Response:
    """Somebody says that they look after it."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    form = {**await form_of(request), "name": name, "id": escalation_id, "actor": caller.actor}
    if name not in QUEUE_ACTIONS:
        return no_order(caller, "That cannot be done here")
    result = await act(
        request.app.state.client, request.app.state.services, QUEUE_ACTIONS[name], form, request.cookies[SESSION]
    )
    if result.status != HTTPStatus.OK:
        return await queue_page(request, result=result)
    return RedirectResponse(f"/queue?done={name}", HTTPStatus.SEE_OTHER, HEADERS)


@router.get("/cases")
async def cases(
    request: Request,
    of: Literal["", "mine", "unassigned"] = "",
    over: Annotated[bool, Query()] = False,
    after: Annotated[str | None, Query(max_length=120)] = None,
) -> Response:
    """Cases by age: all, one's own (`mine`), or nobody's (`unassigned`); those that are over only where asked for."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    wanted = Wanted(assignee=caller.actor if of == "mine" else None, is_unassigned=of == "unassigned", is_live=not over)
    try:
        async with snapshot(request) as db:
            found = await read_cases(db, wanted, after, QUEUE_LENGTH)
    except Invalid:
        return no_order(caller, "This part of the cases does not exist any more")
    except OUTAGES:
        return away(caller)

    def address(**changes: Any) -> str:
        chosen = {"of": of, "over": "true" if over else ""} | changes
        query = urlencode({name: value for name, value in chosen.items() if value})
        return f"/cases?{query}" if query else "/cases"

    now = datetime.now(timezone.utc)
    return page("cases.html", caller=caller, cases=found, of=of, over=over, after=after, address=address, now=now)


@router.get("/cases/{case_id}")
async def case_of(request: Request, case_id: str, done: Annotated[str, Query(max_length=50)] = "") -> Response:
    return await case_page(
        request, case_id, ActionResult(200, CASE_ACTIONS[done].done) if done in CASE_ACTIONS else None
    )


async def case_page(request: Request, case_id: str, result: ActionResult | None = None) -> Response:
    """A case: who owes what by when, what was said, and what may be done."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    if not ORDER_ID.fullmatch(case_id):
        return no_order(caller, f"{case_id} is no case id")
    try:
        async with snapshot(request) as db:
            found = await read_case(db, case_id)
    except HTTPException as error:
        return no_order(caller, f"{error.detail}")
    except OUTAGES:
        return away(caller)
    now = datetime.now(timezone.utc)
    offers = of_cases([found], caller, result.form if result else {}, now)
    return page(
        "case.html", result.status if result else 200, caller=caller, result=result, case=found, offers=offers, now=now
    )


@router.post("/cases/{case_id}/{name}")
async def work_on_case(request: Request, case_id: str, name: str) -> Response:
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    form = {**await form_of(request), "name": name, "id": case_id, "actor": caller.actor}
    if name not in CASE_ACTIONS:
        return no_order(caller, "That cannot be done here")
    result = await act(
        request.app.state.client, request.app.state.services, CASE_ACTIONS[name], form, request.cookies[SESSION]
    )
    if result.status != HTTPStatus.OK:
        return await case_page(request, case_id, result)
    return RedirectResponse(f"/cases/{quote(case_id, safe='')}?done={name}", HTTPStatus.SEE_OTHER, HEADERS)


def not_seen(caller: Caller, order_id: str, error: NotSeen) -> HTMLResponse:
    return page("not_seen.html", 404, caller=caller, order_id=order_id, text=str(error))


def no_order(caller: Caller, text: str) -> HTMLResponse:
    return page("message.html", 404, caller=caller, title="Nothing there", text=f"{text}.")


@router.get("/orders/{order_id}")
async def order_of(
    request: Request,
    order_id: str,
    domain: Annotated[list[str] | None, Query(max_length=6)] = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    detail: Annotated[str, Query(max_length=10)] = "",
    about: Annotated[str | None, Query(max_length=200)] = None,
    done: Annotated[str, Query(max_length=50)] = "",
    seen: KnownFacts = 0,
) -> Response:
    result = ActionResult(200, ACTIONS[done].done) if done in ACTIONS else None
    # What support does itself is on the page at once; of the rest it may be a moment until its fact is seen.
    known = seen if result is not None and ACTIONS[done].service != HERE else None
    return await order_page(request, order_id, domain or [], after, detail, about, result=result, known=known)


async def order_page(
    request: Request,
    order_id: str,
    domain: Sequence[str] = (),
    after: str | None = None,
    detail: str = "",
    about: str | None = None,
    *,
    revealed: bool = False,
    result: ActionResult | None = None,
    known: int | None = None,
) -> Response:
    """`known`: how many facts of the order had been seen when that was asked for whose outcome is shown."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    if not ORDER_ID.fullmatch(order_id):
        return no_order(caller, f"{order_id} is no order id")
    domains = [name for name in domain if name in DOMAIN_NAMES]
    every = detail == "all"
    try:
        async with snapshot(request) as db:
            story = await read_story(db, order_id)
            timeline = await read_timeline(db, story, domains, after, PAGE_LENGTH, quiet=every, about=about)
            view = view_of(story, revealed=revealed)
            evidence = await read_entries(db, story, {id for cause in view.causes for id in cause.evidence})
            work = await read_work(db, order_id)
    except NotSeen as error:
        return not_seen(caller, order_id, error)
    except Invalid:
        return no_order(caller, "This part of the timeline does not exist any more")
    except OUTAGES:
        return away(caller)

    again, now = result.form if result else {}, datetime.now(timezone.utc)
    offers = {
        **offered(view, caller, request.app.state.services, again),
        **of_cases(work.cases, caller, again, now),
        **attended(work.escalations, caller, again),
    }
    shown = Shown(domains, after, every, about)
    is_awaited = known is not None and view.freshness.facts <= known
    status = result.status if result else 200
    content = order_content(view, timeline, work, evidence, offers, shown, now)
    may_reveal = not caller.roles.isdisjoint(REVEALERS)
    return page(
        "order.html", status, caller=caller, result=result, is_awaited=is_awaited, may_reveal=may_reveal, **content
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """What of an order's timeline its page shows."""

    domains: Sequence[str] = ()
    after: str | None = None
    every: bool = False
    about: str | None = None


def order_content(
    view: OrderView,
    timeline: Timeline,
    work: Work,
    evidence: Mapping[str, TimelineEntry],
    offers: Offers,
    shown: Shown,
    now: datetime,
) -> dict[str, Any]:
    """All that the page of an order shows but who looks at it, and what came of what they did."""

    def address(**changes: Any) -> str:
        """This page with another filter: every filter is in the address."""
        detail = "all" if shown.every else ""
        query = {"domain": shown.domains, "detail": detail, "after": "", "about": shown.about} | changes
        chosen = {name: value for name, value in query.items() if value}
        path = f"/orders/{quote(view.order_id, safe='')}"
        return path + (f"?{urlencode(chosen, doseq=True)}" if chosen else "") + "#timeline"

    named = {
        "shipment": [one.shipment_id for one in view.shipments],
        "backorder": [one.backorder_id for one in view.backorders],
        "tender": [one.tender_id for one in view.tenders],
        "refund": [one.refund_id for one in view.refunds],
        "return": [one.return_id for one in view.returns],
        "recovery": [one.recovery_id for one in view.recoveries],
        "claim": [one.claim_id for one in view.claims],
        "message": [one.notification_id for one in view.told],
        "cancellation": [one.cancellation_id for one in view.order.cancellations],
        "case": [one.case_id for one in work.cases],
    }
    return dict(
        places={f"{kind}-{id}" for kind, ids in named.items() for id in ids},
        order=view,
        offers=offers,
        evidence=evidence,
        work=work,
        timeline=timeline,
        domains=shown.domains,
        every=shown.every,
        after=shown.after,
        about=shown.about,
        why={explanation.subject: explanation for explanation in view.explanations},
        picture=draw(view.dependencies),
        box_width=WIDTH,
        box_height=HEIGHT,
        address=address,
        domain_names=DOMAIN_NAMES,
        days=[(date, list(entries)) for date, entries in groupby(timeline.entries, lambda e: e.occurred_at.date())],
        used={
            bucket for line in view.lines for units in (line.forward, line.reverse) for bucket, n in units.items() if n
        },
        now=now,
    )


@router.post("/orders/{order_id}/actions/{name}")
async def order_action(request: Request, order_id: str, name: str) -> Response:
    """Has the owning service do it, as who is signed in; its refusal is shown on the page, in its words."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    form = await form_of(request)
    services = request.app.state.services
    if not ORDER_ID.fullmatch(order_id) or name not in ACTIONS or ACTIONS[name].service not in services:
        return no_order(caller, "That cannot be done here")
    form |= {"name": name, "order": order_id, "actor": caller.actor}
    result = await act(request.app.state.client, services, ACTIONS[name], form, request.cookies[SESSION])
    if result.status != HTTPStatus.OK:
        return await order_page(request, order_id, result=result)
    seen = form.get("seen", "")
    known = f"&seen={seen}" if seen.isdecimal() and len(seen) < 10 else ""
    return RedirectResponse(f"/orders/{quote(order_id, safe='')}?done={name}{known}", HTTPStatus.SEE_OTHER, HEADERS)


@router.get("/orders/{order_id}/facts/{fact_id}")
async def order_fact(request: Request, order_id: str, fact_id: str) -> Response:
    """One fact as it travelled, which the timeline's fold loads when it is opened."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    try:
        async with snapshot(request) as db:
            fact = await read_fact(db, order_id, UUID(fact_id))
    except NotSeen as error:
        return not_seen(caller, order_id, error)
    except (HTTPException, ValueError):
        return no_order(caller, f"{order_id} has no such fact")
    except OUTAGES:
        return away(caller)
    raw = json.dumps(fact.data, indent=2, ensure_ascii=False)
    return page("fact.html", caller=caller, order_id=order_id, fact=fact, raw=raw)


FILE_HEADERS: Final = ("Content-Type", "Content-Disposition", "X-Content-Type-Options", "Cache-Control", "ETag")


@router.get("/orders/{order_id}/evidence/{evidence_id}")
async def order_evidence(request: Request, order_id: str, evidence_id: str) -> Response:
    """A file of evidence, asked of the returns service as who is signed in; a browser runs nothing of it."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    services = request.app.state.services
    if not ORDER_ID.fullmatch(order_id) or not ORDER_ID.fullmatch(evidence_id) or "returns" not in services:
        return no_order(caller, "There is no such file")
    found = await evidence_file(request.app.state.client, services, order_id, evidence_id, request.cookies[SESSION])
    if found is None:
        return away(caller)
    if not found.is_success:
        return no_order(caller, "There is no such file that you may see")
    headers = {name: found.headers[name] for name in FILE_HEADERS if name in found.headers}
    return Response(found.content, headers=headers | {"Content-Security-Policy": "default-src 'none'; sandbox"})


@router.get("/embed/{order_id}")
async def embedded(request: Request, order_id: str) -> Response:
    """The order in short, for the side panel of a help desk: the one page that another site may show in a frame, if the
    settings name that site. The session's cookie goes along where that site is this one's sibling."""
    caller = await current_user(request)
    view, text = None, ""
    if caller is not None:
        try:
            async with snapshot(request) as db:
                view = view_of(await read_story(db, order_id))
        except NotSeen as error:
            text = str(error)
        except OUTAGES:
            text = AWAY
    answer = page("embed.html", caller=caller, order_id=order_id, order=view, text=text, now=datetime.now(timezone.utc))
    answer.headers["Content-Security-Policy"] = POLICY + (request.app.state.settings.frame_ancestors or "'none'")
    return answer


@router.get("/orders/{order_id}/live", response_class=EventSourceResponse)
async def order_live(
    request: Request, order_id: OrderId, seen: KnownFacts = 0, last: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """For the page's script: what the API's `live` says, to who is signed in."""
    if await current_user(request) is None:
        raise HTTPException(401, "sign in first")
    async for event in news(request, order_id, seen if last is None else last):
        yield event


AWAY: Final = "The database cannot be reached just now. Load this page again in a moment."


def away(caller: Caller) -> HTMLResponse:
    return page("message.html", 503, caller=caller, title="Just a moment", text=AWAY)


def _is_asked_by_a_person(request: Request) -> bool:
    """A browser that shows what it gets, and no program."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(f"{api_router.prefix}/")


def answer_in_pages(app: FastAPI) -> None:
    """Who looks at pages gets a page for what went wrong, with a way back; programs get problem details as of all services."""
    answers: Mapping[type[Exception], Any] = {
        kind: app.exception_handlers[kind] for kind in (Exception, StarletteHTTPException, RequestValidationError)
    }

    async def answer(request: Request, error: Exception) -> Response:
        if not _is_asked_by_a_person(request):
            kind = next(kind for kind in type(error).__mro__ if kind in answers)
            response: Response = await answers[kind](request, error)
            return response
        back = request.headers.get("referer", "")
        content: dict[str, Any] = {"caller": None, "back": back if back.startswith(f"{request.base_url}") else ""}
        match error:
            case StarletteHTTPException(status_code=404 | 405 as status):
                return page("message.html", status, title="Nothing there", text="There is no such page.", **content)
            case StarletteHTTPException(status_code=status, detail=detail):
                return page("message.html", status, title="Not possible", text=f"{detail}.", **content)
            case RequestValidationError():
                text = "This address asks for something that the page does not know."
                return page("message.html", 422, title="Not understood", text=text, **content)
            case _:
                text = "Something failed here that nobody expected. It was not done, or only in part: look before you try again."
                failure = log_failure(request, error)
                return page("message.html", 500, title="This did not work", text=text, failure=failure, **content)

    for kind in answers:
        app.add_exception_handler(kind, answer)


def serve_assets(app: FastAPI) -> None:
    """The page's own style sheet, script and icon; nothing is loaded from elsewhere."""
    app.mount("/assets", StaticFiles(packages=[("support_view", "static")]), name="assets")
