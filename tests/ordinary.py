"""A day of ordinary orders: what storefront, customers, agents, warehouse and carrier do on any day, at random, through public
interfaces only. Every page and answer is looked at after every step, and every mail, book, queue and process at the end.

Each order has a stream of chances of its own, so that one that went wrong can be lived again alone, with fewer steps:

    python -m tests.ordinary --seed 3 --orders 30 --steps 12
    python -m tests.ordinary --seed 3 --orders 30 --steps 7 --only 4

It asks the system of `make up` (or of OMS_VAR). A wish may be refused (4xx); what it must never see ends it with 1.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import uuid4

import httpx

from ops.endpoints import Endpoints, live_endpoints
from ops.keys import Keys, kept_keys
from ops.paths import state_folder
from shared.web.auth import Role, issue

View: TypeAlias = dict[str, Any]

PATIENCE_S: Final = 45.0
POLL_S: Final = 0.2
LOCATIONS: Final = ("BER", "HAM")
PEOPLE: Final = ("Ada King", "Jürgen Müller-Lüdenscheidt", "Zoë O'Neill", "李小龍", "Nguyễn Văn An", "محمد علي", "Bo")
LOCAL_PARTS: Final = ("ada", "bo.b", "jürgen", "o'neill", "a+tag")
PRICES: Final = (0, 1, 99, 1999, 4999, 120_000)
TOKENS: Final = (*["tok_ok"] * 8, "tok_refund_pending", "tok_decline_again", "tok_capture_declined")
SCANS: Final = (
    *("in_transit", "out_for_delivery", "delayed", "attempted", "damaged", "address"),
    *["delivered"] * 5,
    *("lost", "found", "returning", "returned", "not_received"),
)
OUTCOMES: Final = (
    "as_new",
    "as_new",
    "opened",
    "defective",
    "customer_damage",
    "wrong_item",
    "counterfeit",
    "not_in_box",
)
OPEN_SHIPMENTS: Final = ("created", "packed", "held")
GOING: Final = ("shipped", "in_transit", "out_for_delivery", "exception", "lost", "returning_to_sender")
OVER: Final = ("completed", "closed", "cancelled", "rejected")
RETURN_OVER: Final = ("resolved", "closed", "declined", "cancelled", "expired")
REFUND_WAITS: Final = ("attention", "failed", "pending_approval", "partially_succeeded")
UNFILLED: Final = re.compile(r"\bNone\b|\{\{|\}\}|\{%|Traceback|\bundefined\b|<[A-Z]\w+\.\w+")
NOTHING_MORE: Final = re.compile(r"nothing more of your order|nothing is open", re.IGNORECASE)
LONGEST_SUBJECT: Final = 80


@dataclass
class Order:
    """One order of the day, its own chances, and what was done to it so far."""

    number: int
    rng: random.Random
    order_id: str
    email: str
    lines: list[View]
    said: list[str] = field(default_factory=list)


@dataclass
class Day:
    """`findings` by kind, each with how often it was seen; `examples` the first of each, with the order's story."""

    endpoints: Endpoints
    keys: Keys
    seed: int
    orders: int
    steps: int
    only: int | None = None
    run: str = field(default_factory=lambda: uuid4().hex[:6])
    findings: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30, trust_env=False))
    _tokens: dict[Role, str] = field(default_factory=dict)

    def found(self, kind: str, example: str, order: Order | None = None) -> None:
        self.findings[kind] += 1
        story = f"\n         {order.number}: " + "; ".join(order.said) if order else ""
        self.examples.setdefault(kind, example[:600] + story)

    # Asking.

    def token(self, role: Role) -> str:
        if role not in self._tokens:
            self._tokens[role] = issue(self.keys.auth_key, subject=f"day-{role}", roles=[role])
        return self._tokens[role]

    def _send(self, method: str, url: str, **request: Any) -> httpx.Response | None:
        for is_last in (False, True):  # a server may close a connection that was kept just as it is used again
            try:
                answer = self.client.request(method, url, **request)
            except httpx.TransportError as error:
                if is_last:
                    self.found("no answer", f"{method} {url}: {error!r}")
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code >= 500:
                self.found(
                    f"{method} answered {answer.status_code}", f"{url} {request.get('json')}: {answer.text[:300]}"
                )
            return answer
        return None

    def ask(self, method: str, service: str, path: str, role: Role, body: View | None = None) -> View | None:
        """The answer, or None where it was refused."""
        headers = {"Authorization": f"Bearer {self.token(role)}", "Idempotency-Key": str(uuid4())}
        answer = self._send(method, self.endpoints.url(service) + path, headers=headers, json=body)
        if answer is None:
            return None
        if answer.is_client_error:
            where = re.sub(r"day-[\w.-]+", "ID", path)
            why = re.sub(r"day-[\w.-]+", "ID", answer.json().get("detail", ""))
            self.refusals[f"{answer.status_code} {method} {service}{where}: {why[:120]}"] += 1
        return dict(answer.json()) if answer.is_success else None

    def observed(self, service: str, path: str, body: View, order: Order) -> None:
        """The warehouse tells over HTTP what happened. Sums and shapes may be refused, what happened never."""
        headers = {"Authorization": f"Bearer {self.token(Role.WAREHOUSE)}", "Idempotency-Key": str(uuid4())}
        answer = self._send("POST", self.endpoints.url(service) + path, headers=headers, json=body)
        if answer is not None and answer.status_code in (404, 409):
            self.found("an observation was refused", f"{path} {body}: {answer.text[:300]}", order)

    def outside(self, path: str, body: View) -> None:
        """The sandbox tells it by topic or webhook, as a partner does. It may know nothing of it yet."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            answer = self._send("POST", self.endpoints.url("sandbox") + path, json=body)
            if answer is None or answer.status_code != 404:
                return
            time.sleep(POLL_S)

    # Looking.

    def view(self, order: Order) -> View:
        return self.ask("GET", "support-view", f"/api/orders/{order.order_id}", Role.SUPERVISOR) or {}

    def look(self, order: Order) -> View:
        """The answer, the page and the embedded page, as they are just now."""
        seen = self.view(order)
        base, cookies = self.endpoints.url("support-view"), {"oms_session": self.token(Role.SUPERVISOR)}
        for path in (f"/orders/{order.order_id}", f"/embed/{order.order_id}") if seen else ():
            page = self._send("GET", base + path, headers={"Cookie": f"oms_session={cookies['oms_session']}"})
            if page is not None and page.status_code != 200:
                self.found(f"a page answers {page.status_code}", f"{path}: {page.text[:200]}", order)
            elif page is not None and (words := UNFILLED.search(page.text)):
                self.found("unfilled words on a page", f"{path}: {words[0]}", order)
        return seen

    # The day.

    def live(self) -> None:
        """Lives the day, from the first order to the last look; once."""
        with self.client:
            self._live()

    def _live(self) -> None:
        pids = {name: service.process.pid for name, service in self.endpoints.services.items() if service.process}
        goods, skus = random.Random(self.seed), [f"DAY-{self.run}-{n}" for n in range(9)]
        for sku in skus:
            for location in LOCATIONS:
                if quantity := goods.choice([0, 2, 8, 30]):
                    body = {"receipt_id": f"{sku}-{location}", "sku": sku, "location": location, "quantity": quantity}
                    self.ask("POST", "fulfillment", "/stock/receipts", Role.WAREHOUSE, body)
        wanted = range(self.orders) if self.only is None else [self.only]
        placed = [order for n in wanted if (order := self.place(n, skus)) is not None]
        for order in placed:
            self.until(lambda order=order: self.view(order))  # type: ignore[misc]  # it is called at once
        for _ in range(self.steps):
            for order in placed:
                self.step(order)
        for order in placed:
            self.judge(order)
        self.judge_system(pids)

    def until(self, is_so: Callable[[], object]) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if is_so():
                return True
            time.sleep(POLL_S)
        return False

    def place(self, number: int, skus: list[str]) -> Order | None:
        rng = random.Random(f"{self.seed}-{number}")  # chances, not secrets
        lines: list[View] = [
            {
                "line_id": str(i),
                "sku": sku,
                "title": f"Thing {sku[-1]}",
                "quantity": rng.randint(1, 4),
                "unit_price_minor": rng.choice(PRICES),
            }
            for i, sku in enumerate(rng.sample(skus, rng.randint(1, 5)), 1)
        ]
        goods = sum(line["quantity"] * line["unit_price_minor"] for line in lines)
        discount, tax, shipping = rng.choice([0, 0, goods // 10]), rng.choice([0, goods // 5]), rng.choice([0, 499])
        total = left = goods - discount + tax + shipping
        tenders = []
        for kind in rng.sample(["gift_card", "store_credit"], rng.randint(0, 2)):
            if amount := min(left, rng.choice([1, 2500])):
                tenders.append({"tender_id": kind, "kind": kind, "token": "tok_ok", "amount_minor": amount})
                left -= amount
        if left:
            kind = rng.choice(["card", "card", "wallet"])
            tenders.append({"tender_id": kind, "kind": kind, "token": rng.choice(TOKENS), "amount_minor": left})
        email = f"{rng.choice(LOCAL_PARTS)}.{self.run}{number}@example.org"
        order = Order(number, rng, f"day-{self.run}-{number}", email, lines)
        body = {
            "order_id": order.order_id,
            "placed_at": self.at(rng.choice([5, 60, 3000])),
            "customer": {"customer_id": f"day-{self.run}-{number % 7}", "email": email, "name": rng.choice(PEOPLE)},
            "ship_to": address(rng.choice(PEOPLE), "Marylebone 12"),
            "currency": "EUR",
            "lines": lines,
            "tenders": tenders,
            "discount_minor": discount,
            "tax_minor": tax,
            "shipping_minor": shipping,
        }
        if self.ask("POST", "orders", "/orders", Role.STOREFRONT, body) is None:
            self.found("an ordinary order was refused", f"{email} {total} {json.dumps(lines)}")
            return None
        return order

    def at(self, minutes_ago: float) -> str:
        return (datetime.now(timezone.utc) - timedelta(minutes=minutes_ago)).isoformat()

    def step(self, order: Order) -> None:
        """One thing that somebody does, of those that can be done just now."""
        seen = self.view(order)
        if not seen:
            return
        kinds = [kind for kind, (weight, _) in KINDS.items() for _ in range(weight)]
        order.rng.shuffle(kinds)
        for kind in dict.fromkeys(kinds):
            if (did := KINDS[kind][1](self, order, seen)) is not None:
                order.said.append(f"{kind} {did}".strip())
                break
        self.look(order)

    # What must be so when the day is over.

    def judge(self, order: Order) -> None:
        books: list[tuple[object, object]] = [(None, 0)]

        def agree() -> bool:
            books[0] = self.books(order)
            return books[0][0] == books[0][1]

        if not self.until(agree):
            what = "(captured, refunded) here {}, at the processor {}".format(*books[0])
            self.found("books differ", f"{order.order_id}: {what}", order)
        self.until(lambda: not self.is_moving(order))
        seen = self.look(order)
        if not seen:
            self.found("an order is not shown", order.order_id, order)
            return
        captured, refunded = (sum(t[name]["minor"] for t in seen["tenders"]) for name in ("captured", "refunded"))
        if refunded > captured:
            self.found("more refunded than captured", f"{order.order_id}: {refunded} of {captured}", order)
        unfinished = [
            *([f"order {seen['order']['status']}"] if seen["order"]["status"] not in OVER else []),
            *(f"return {r['status']}" for r in seen["returns"] if r["status"] not in RETURN_OVER),
            *(f"refund {r['status']}" for r in seen["refunds"] if r["status"] in REFUND_WAITS),
            *(f"shipment {s['status']}" for s in seen["shipments"] if s["status"] in (*OPEN_SHIPMENTS, *GOING)),
        ]
        if unfinished and not seen["next_steps"]:
            self.found("nobody's task", f"{order.order_id}: {unfinished}", order)
        self.judge_mails(order, seen)

    def is_moving(self, order: Order) -> bool:
        """Whether something of it is on its way between services: a refund that a leg is under way for, a cancellation."""
        seen = self.view(order)
        moving = ("requested", "approved", "processing", "authorizing", "voiding", "cancel_pending")
        states = [seen["order"]["status"], *(each["status"] for part in ("refunds", "tenders") for each in seen[part])]
        return any(state in moving for state in states)

    def books(self, order: Order) -> tuple[object, object]:
        """(captured, refunded), as support sees it and as the processor's own books have it."""
        seen, headers = self.view(order), {"Authorization": f"Bearer {self.keys.processor_key}"}
        url = self.endpoints.url("sandbox") + "/processor/ledger"
        answer = self._send("GET", url, params={"order_id": order.order_id}, headers=headers)
        theirs = answer.json() if answer is not None else {"operations": [], "authorizations": []}
        paid_out = sum(
            o["amount_minor"] for o in theirs["operations"] if (o["kind"], o["status"]) == ("payout", "succeeded")
        )
        captured, refunded = (
            sum(a[name] for a in theirs["authorizations"]) for name in ("captured_minor", "refunded_minor")
        )
        ours = tuple(sum(t[name]["minor"] for t in seen["tenders"]) for name in ("captured", "refunded"))
        return ours, (captured, refunded + paid_out)

    def judge_mails(self, order: Order, seen: View) -> None:
        answer = self._send("GET", self.endpoints.url("sandbox") + "/mailbox", params={"to": order.email})
        mails = list(mails_in(answer.json() if answer is not None else [], order.order_id))
        if not mails:
            self.found("a customer was told nothing", f"{order.order_id} {order.email}", order)
        on_its_way = [s["shipment_id"] for s in seen["shipments"] if s["status"] in GOING]
        for mail in mails:
            if words := UNFILLED.search(mail["text"]):
                self.found("unfilled words in a mail", f"{mail['subject']}: {words[0]}", order)
            if len(mail["subject"]) > LONGEST_SUBJECT:
                self.found("a subject is too long", mail["subject"], order)
        if mails and on_its_way and NOTHING_MORE.search(mails[0]["text"]):
            self.found("the last mail denies what is on its way", f"{mails[0]['subject']}: {on_its_way}", order)

    def judge_system(self, pids: dict[str, int]) -> None:
        """Nothing of this day is parked or withheld anywhere, and nobody died of it."""
        for service in self.endpoints.consuming:
            for what in ("parked/keys", "withheld"):
                url = f"{self.endpoints.url(service)}/operations/{what}"
                answer = self._send("GET", url, headers={"Authorization": f"Bearer {self.token(Role.OPERATOR)}"})
                for row in answer.json() if answer is not None else []:
                    if self.run in row["key"]:
                        number = row["key"].rpartition("-")[2]
                        self.found(f"{what.partition('/')[0]} in {service}", f"{number}: {json.dumps(row)}")
        now = live_endpoints(self.endpoints.secrets.parent).services
        for name, pid in pids.items():
            process = now[name].process
            if process is None or process.pid != pid:
                self.found("a process died", f"{name}, once process {pid}")

    def report(self) -> str:
        lines = [
            f"{self.orders} orders, {self.steps} steps each, seed {self.seed}, run {self.run}: {dict(self.answers)}"
        ]
        for kind, count in self.findings.most_common():
            lines += [f"{count:5}  {kind}", f"         {self.examples[kind]}"]
        lines.append("refused most often:")
        lines += [f"{count:5}  {what}" for what, count in self.refusals.most_common(8)]
        return "\n".join(lines)


def address(name: str, street: str) -> View:
    return {"name": name, "street": street, "city": "Berlin", "postal_code": "10115", "country": "DE"}


def mails_in(box: Any, order_id: str) -> Iterator[View]:
    """The newest first."""
    return (mail for mail in box if order_id in mail["subject"] + mail["text"])


# What people, warehouse and carrier do: what exactly it was, or None where there was nothing to do it to.

Step: TypeAlias = Callable[[Day, Order, View], str | None]


def _pick(order: Order, found: list[View]) -> View | None:
    return order.rng.choice(found) if found else None


def _shipment(order: Order, seen: View, *statuses: str) -> View | None:
    return _pick(order, [s for s in seen["shipments"] if s["status"] in statuses])


def _with_customer(seen: View) -> dict[str, int]:
    return {line["line_id"]: n for line in seen["lines"] if (n := line["reverse"].get("with_customer", 0))}


def ship(day: Day, order: Order, seen: View) -> str | None:
    if (shipment := _shipment(order, seen, *OPEN_SHIPMENTS)) is None:
        return None
    path, is_handed_over = f"/warehouse/shipments/{shipment['shipment_id']}", order.rng.random() < 0.8
    day.outside(f"{path}/pack", {"occurred_at": day.at(3)})
    if is_handed_over:
        day.outside(f"{path}/hand-over", {"occurred_at": day.at(2)})
    return f"{shipment['status']} {shipment['shipment_id'][-2:]}{'' if is_handed_over else ', packed only'}"


def scan(day: Day, order: Order, seen: View) -> str | None:
    if (shipment := _shipment(order, seen, *GOING, "delivered")) is None:
        return None
    code = order.rng.choice(SCANS)
    body = {"code": code, "occurred_at": day.at(order.rng.random() * 2), "copies": order.rng.choice([1, 1, 2])}
    day.outside(f"/warehouse/shipments/{shipment['shipment_id']}/scan", body)
    return f"{shipment['shipment_id'][-2:]} {code}"


def short_pick(day: Day, order: Order, seen: View) -> str | None:
    if (shipment := _shipment(order, seen, "created")) is None:
        return None
    line_id = order.rng.choice(list(shipment["lines"]))
    body = {"lines": [{"line_id": line_id, "quantity": 1}], "occurred_at": day.at(3)}
    day.outside(f"/warehouse/shipments/{shipment['shipment_id']}/short-pick", body)
    return f"1 of line {line_id}"


def cancel(day: Day, order: Order, seen: View) -> str | None:
    if seen["order"]["status"] in OVER:
        return None
    is_whole = order.rng.random() < 0.3
    lines = [{"line_id": order.rng.choice(seen["lines"])["line_id"], "quantity": 1}]
    body = {"detail": "changed their mind"} | ({} if is_whole else {"lines": lines})
    day.ask("POST", "orders", f"/orders/{order.order_id}/cancellations", Role.AGENT, body)
    return "all" if is_whole else f"1 of line {lines[0]['line_id']}"


def hold(day: Day, order: Order, seen: View) -> str | None:
    """And now and then the goods leave meanwhile; the hold may be released, or stay."""
    which, path = order.rng.choice(["manual", "fraud"]), f"/orders/{order.order_id}/holds"
    if day.ask("POST", "orders", path, Role.AGENT, {"hold": which, "detail": "look at it"}) is None:
        return None
    said = which
    if order.rng.random() < 0.4 and (did := ship(day, order, seen)) is not None:
        said += f", {did}"
    if order.rng.random() < 0.7:
        day.ask("POST", "orders", f"{path}/{which}/release", Role.SUPERVISOR, {"detail": "fine"})
        said += ", released"
    return said


def change_address(day: Day, order: Order, seen: View) -> str | None:
    if seen["order"]["status"] in OVER:
        return None
    body = {"ship_to": address("Ada King", f"Elsewhere {order.rng.randint(1, 99)}")}
    day.ask("PUT", "orders", f"/orders/{order.order_id}/address", Role.AGENT, body)
    return ""


def consent(day: Day, order: Order, seen: View) -> str | None:
    if (
        backorder := _pick(order, [b for b in seen["backorders"] if b["status"] not in ("filled", "cancelled")])
    ) is None:
        return None
    choice = order.rng.choice(["wait", "cancel", "ship_available"])
    path = f"/orders/{order.order_id}/backorders/{backorder['backorder_id']}/consent"
    day.ask("POST", "orders", path, Role.AGENT, {"choice": choice})
    return choice


def refund(day: Day, order: Order, seen: View) -> str | None:
    """By hand; a supervisor agrees, refuses, or has not looked yet. It may be the second."""
    if not sum(t["captured"]["minor"] for t in seen["tenders"]):
        return None
    kind, path = (
        order.rng.choice(["goodwill", "price_adjustment"]),
        f"/orders/{order.order_id}/refunds",
    )
    what: View = {"amount_minor": order.rng.choice([1, 100, 999])}
    asked = day.ask("POST", "payments", path, Role.AGENT, {"kind": kind, "currency": "EUR", "reason": "sorry"} | what)
    known = day.ask("GET", "payments", f"/orders/{order.order_id}/payments", Role.SUPERVISOR) or {"refunds": []}
    for one in known["refunds"]:
        if one["status"] == "pending_approval" and (chance := order.rng.random()) < 0.8:
            verb, body = ("approve", {}) if chance < 0.6 else ("reject", {"reason_code": "not_agreed"})
            day.ask("POST", "payments", f"{path}/{one['refund_id']}/{verb}", Role.SUPERVISOR, {"reason": "seen"} | body)
    return f"{kind} {what} {'asked' if asked else 'refused'}"


def ask_return(day: Day, order: Order, seen: View) -> str | None:
    if not (units := _with_customer(seen)):
        return None
    line_id, quantity = order.rng.choice(list(units.items()))
    resolution = order.rng.choice(["refund", "refund", "store_credit", "replace_on_receipt", "keep_it"])
    line = {"line_id": line_id, "quantity": order.rng.randint(1, quantity), "condition": "unopened"}
    line["reason"] = order.rng.choice(["unwanted", "defective", "wrong_item"])
    body = {"resolution": resolution, "lines": [line]}
    asked = day.ask("POST", "returns", f"/orders/{order.order_id}/returns", Role.AGENT, body)
    return f"{line['quantity']} of line {line_id} for {resolution}{'' if asked else ', refused'}"


def _returns(day: Day, order: Order) -> list[View]:
    known = day.ask("GET", "returns", f"/orders/{order.order_id}/returns", Role.SUPERVISOR) or {"returns": []}
    return [r for r in known["returns"] if r["status"] not in ("declined", "cancelled", "closed")]


def receive(day: Day, order: Order, seen: View) -> str | None:
    """A parcel of a return, by topic or over HTTP; or of one that nobody announced."""
    known = _returns(day, order)
    is_blind = bool(_with_customer(seen)) and order.rng.random() < 0.15
    if not known and not is_blind:
        return None
    chosen = None if is_blind else _pick(order, known)
    return_id = chosen["return_id"] if chosen else f"unknown-{day.run}-{order.rng.randint(1, 9)}"
    lines = (
        [each["asked"]["line_id"] for each in chosen["lines"]]
        if chosen
        else [order.rng.choice(seen["lines"])["line_id"]]
    )
    body = {
        "receipt_id": f"{order.order_id}-{len(order.said)}",
        "location": order.rng.choice(LOCATIONS),
        "lines": [{"line_id": order.rng.choice(lines), "quantity": order.rng.choice([1, 1, 1, 2])}],
        "occurred_at": day.at(1),
    }
    if order.rng.random() < 0.5:
        day.outside(f"/warehouse/returns/{return_id}/receive", body | {"order_id": order.order_id})
    else:
        day.observed("returns", f"/orders/{order.order_id}/returns/{return_id}/receipts", body, order)
    return f"{'unannounced ' if is_blind else ''}{body['lines']}"


def inspect(day: Day, order: Order, seen: View) -> str | None:
    """Now and then before the receipt has been told."""
    if (chosen := _pick(order, _returns(day, order))) is None:
        return None
    outcome = order.rng.choice(OUTCOMES)
    body = {
        "inspection_id": f"{order.order_id}-{len(order.said)}",
        "location": order.rng.choice(LOCATIONS),
        "lines": [{"line_id": chosen["lines"][0]["asked"]["line_id"], "quantity": 1, "outcome": outcome}],
        "occurred_at": day.at(1),
        "order_id": order.order_id,
    }
    day.outside(f"/warehouse/returns/{chosen['return_id']}/inspect", body)
    return outcome


def decide_return(day: Day, order: Order, seen: View) -> str | None:
    if (chosen := _pick(order, [r for r in _returns(day, order) if r["status"] == "under_review"])) is None:
        return None
    verb, body = order.rng.choice([("approve", {"note": "fine"}), ("decline", {"reason": "not ours"})])
    day.ask("POST", "returns", f"/orders/{order.order_id}/returns/{chosen['return_id']}/{verb}", Role.SUPERVISOR, body)
    return verb


def claim(day: Day, order: Order, seen: View) -> str | None:
    """Support says that a delivered unit is not there, or that a lost parcel will not come; a supervisor settles it."""
    path = f"/orders/{order.order_id}/claims"
    lost = [line["line_id"] for line in seen["lines"] if line["forward"].get("lost")]
    lines = lost or list(_with_customer(seen))
    if not lines:
        return None
    body = {
        "lines": [{"line_id": order.rng.choice(lines), "quantity": 1}],
        "reason": "lost" if lost else "not_received",
    }
    made = day.ask("POST", "returns", path, Role.AGENT, body)
    known = day.ask("GET", "returns", f"/orders/{order.order_id}/returns", Role.SUPERVISOR) or {}
    for one in known.get("claims", []):
        if one["status"] == "open" and order.rng.random() < 0.7:
            settled = {"outcome": order.rng.choice(["refunded", "replaced", "rejected"]), "reason": "seen"}
            day.ask("POST", "returns", f"{path}/{one['claim_id']}/resolve", Role.SUPERVISOR, settled)
    return "made" if made else "refused"


def contact(day: Day, order: Order, seen: View) -> str | None:
    text = order.rng.choice(["Where is it?\r\nThanks", "Order 4111111111111111 please", "x" * 3000, "¿Dónde está?"])
    body = {"customer": {"email": order.email}, "order_id": order.order_id, "channel": "email", "text": text}
    if day.ask("POST", "support-view", "/api/contacts", Role.AGENT, body) is None:
        day.found("what a customer wrote was refused", text[:80], order)
    return ""


KINDS: Final[dict[str, tuple[int, Step]]] = {
    "ship": (5, ship),
    "scan": (5, scan),
    "short pick": (1, short_pick),
    "cancel": (1, cancel),
    "hold": (2, hold),
    "address": (1, change_address),
    "consent": (1, consent),
    "refund": (2, refund),
    "return": (3, ask_return),
    "receive": (3, receive),
    "inspect": (3, inspect),
    "decide return": (2, decide_return),
    "claim": (1, claim),
    "contact": (1, contact),
}
"""What may happen next, and how often beside the others."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ordinary", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--orders", type=int, default=30)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", type=int, help="live only this order of the day")
    args = parser.parse_args()
    var: Path = state_folder()
    day = Day(live_endpoints(var), kept_keys(var), args.seed, args.orders, args.steps, args.only)
    day.live()
    sys.stdout.write(day.report() + "\n")
    sys.exit(bool(day.findings))


if __name__ == "__main__":
    main()
