"""The card processor's promises: one effect per key, no overdrawn authorization, every notice, faults as chosen."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.app import app
from sandbox.faults import FAULTS
from sandbox.notices import MOST_REFUSALS, Notice, Receiver, notices_about
from tests.unit.sandbox_world import THEN, World, sandbox


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with sandbox(tmp_path) as world:
        yield world


ORDER: dict[str, Any] = {"token": "tok_ok", "amount_minor": 10_000, "currency": "EUR", "order_id": "order-1"}


async def test_captures_share_an_authorization_and_the_final_one_gives_back_the_rest(world: World) -> None:
    authorization = await world.authorized(amount=10_000)
    first = await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=3_000)
    last = await world.pay(f"authorizations/{authorization}/captures", "c2", amount_minor=4_999, final=True)
    assert (first.json()["status"], first.json()["released_minor"]) == ("succeeded", 0)
    assert (last.json()["status"], last.json()["released_minor"]) == ("succeeded", 2_001)
    account = await world.account()
    assert (account["captured_minor"], account["voided_minor"]) == (7_999, 2_001)


@pytest.mark.parametrize(
    ("call", "body", "code"),
    [
        ("captures", {"amount_minor": 10_001}, "exceeds_authorization"),
        ("refunds", {"amount_minor": 1}, "exceeds_captured"),
    ],
)
async def test_what_the_books_do_not_admit_is_a_failed_operation_that_changes_nothing(
    world: World, call: str, body: dict[str, int], code: str
) -> None:
    authorization = await world.authorized(amount=10_000)
    before = await world.account()
    answer = await world.pay(f"authorizations/{authorization}/{call}", "too-much", **body)
    assert (answer.status_code, answer.json()["status"], answer.json()["code"]) == (201, "failed", code)
    assert await world.account() == before
    found = await world.http.get("/processor/operations", params={"idempotency_key": "too-much"})
    assert found.json() == answer.json()


async def test_void_gives_back_what_remains_and_closes_the_authorization(world: World) -> None:
    authorization = await world.authorized(amount=10_000)
    await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=4_000)
    void = await world.pay(f"authorizations/{authorization}/void", "v1")
    late = await world.pay(f"authorizations/{authorization}/captures", "c2", amount_minor=1)
    again = await world.pay(f"authorizations/{authorization}/void", "v2")
    assert (void.json()["status"], void.json()["amount_minor"]) == ("succeeded", 6_000)
    assert late.json()["code"] == "nothing_to_capture"
    assert again.json()["code"] == "nothing_to_void"
    assert [n["type"] for n in await world.system.notices(4)] == [
        "authorization.succeeded",
        "capture.succeeded",
        "void.succeeded",
        "capture.failed",
    ]


async def test_the_same_key_and_body_get_the_same_answer_and_one_effect(world: World) -> None:
    authorization = await world.authorized()
    answers = [await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=2_500) for _ in range(3)]
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true", "true"]
    assert (await world.account())["captured_minor"] == 2_500


async def test_the_same_key_fifty_times_at_once_is_one_effect(world: World) -> None:
    authorization = await world.authorized()
    answers = await asyncio.gather(
        *(world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=100) for _ in range(50))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert (await world.account())["captured_minor"] == 100


async def test_a_key_with_another_body_or_call_is_refused(world: World) -> None:
    authorization = await world.authorized()
    await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=100)
    other_body = await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=101)
    other_call = await world.pay(f"authorizations/{authorization}/refunds", "c1", amount_minor=100)
    for answer in (other_body, other_call):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    account = await world.account()
    assert (account["captured_minor"], account["refunded_minor"]) == (100, 0)


async def test_fifty_refunds_at_once_never_exceed_what_was_captured(world: World) -> None:
    authorization = await world.captured(amount=10_000)
    answers = await asyncio.gather(
        *(world.pay(f"authorizations/{authorization}/refunds", f"r{n}", amount_minor=900) for n in range(50))
    )
    assert sorted(answer.json()["status"] for answer in answers) == ["failed"] * 39 + ["succeeded"] * 11
    assert (await world.account())["refunded_minor"] == 9_900


@pytest.mark.parametrize(
    ("token", "code"), [("tok_decline_insufficient_funds", "insufficient_funds"), ("tok_decline_fraud", "fraud")]
)
async def test_a_declined_authorization_holds_no_money(world: World, token: str, code: str) -> None:
    answer = await world.pay("authorizations", "a1", **(ORDER | {"token": token}))
    assert (answer.json()["status"], answer.json()["code"], answer.json()["expires_at"]) == ("declined", code, None)
    books = await world.books()
    assert books["authorizations"] == []
    assert [operation["status"] for operation in books["operations"]] == ["declined"]
    (notice,) = await world.system.notices(1)
    assert (notice["type"], notice["data"]["code"]) == ("authorization.declined", code)


async def test_a_card_may_decline_what_comes_after_its_first_authorization_of_an_order(world: World) -> None:
    for key, order, status in (
        ("a1", "order-1", "authorized"),
        ("a2", "order-2", "authorized"),
        ("a3", "order-1", "declined"),
    ):
        answer = await world.pay("authorizations", key, **(ORDER | {"token": "tok_decline_again", "order_id": order}))
        assert (key, answer.json()["status"]) == (key, status)


async def test_a_declined_capture_and_a_failed_refund_move_nothing(world: World) -> None:
    authorization = await world.authorized("tok_capture_declined")
    capture = await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=100)
    other = await world.captured("tok_refund_fails", order="order-2")
    refund = await world.pay(f"authorizations/{other}/refunds", "r1", amount_minor=100)
    assert (capture.json()["status"], capture.json()["code"]) == ("failed", "card_declined")
    assert (refund.json()["status"], refund.json()["code"]) == ("failed", "account_closed")
    assert (await world.account("order-1"))["captured_minor"] == 0
    assert (await world.account("order-2"))["refunded_minor"] == 0


@pytest.mark.parametrize("kind", ["capture", "refund"])
async def test_a_lost_answer_is_an_effect_that_only_a_query_shows(world: World, kind: str) -> None:
    token = f"tok_{kind}_timeout_after"
    authorization = await (world.authorized(token) if kind == "capture" else world.captured(token))
    for _ in range(2):
        answer = await world.pay(f"authorizations/{authorization}/{kind}s", "k1", amount_minor=700)
        assert answer.status_code == 504
    found = await world.http.get("/processor/operations", params={"idempotency_key": "k1"})
    assert (found.json()["status"], found.json()["amount_minor"]) == ("succeeded", 700)
    assert (await world.account())[f"{kind}d_minor" if kind == "capture" else "refunded_minor"] == 700
    queued = await world.http.get("/processor/control/notices", params={"authorization_id": authorization})
    assert [n["attempts"] for n in queued.json() if n["body"]["type"] == f"{kind}.succeeded"][-1:] == [0]


@pytest.mark.parametrize("kind", ["capture", "refund"])
async def test_a_request_that_was_not_heard_has_no_effect_until_it_is_sent_again(world: World, kind: str) -> None:
    token = f"tok_{kind}_timeout_before"
    authorization = await (world.authorized(token) if kind == "capture" else world.captured(token))
    before = await world.account()
    first = await world.pay(f"authorizations/{authorization}/{kind}s", "k1", amount_minor=700)
    found = await world.http.get("/processor/operations", params={"idempotency_key": "k1"})
    assert (first.status_code, found.status_code) == (504, 404)
    assert await world.account() == before
    second = await world.pay(f"authorizations/{authorization}/{kind}s", "k1", amount_minor=700)
    assert second.json()["status"] == "succeeded"
    assert (await world.account())["captured_minor" if kind == "capture" else "refunded_minor"] == 700


async def test_a_bounced_refund_frees_its_balance_once(world: World) -> None:
    authorization = await world.captured(amount=1_000)
    await world.pay(f"authorizations/{authorization}/refunds", "r1", amount_minor=1_000)
    for _ in range(2):
        bounced = await world.http.post(
            "/processor/control/bounce", json={"operation_key": "r1", "occurred_at": "2026-03-05T08:00:00Z"}
        )
        assert (bounced.status_code, bounced.json()["status"]) == (200, "bounced")
    assert (await world.account())["refunded_minor"] == 0
    again = await world.pay(f"authorizations/{authorization}/refunds", "r2", amount_minor=1_000)
    assert again.json()["status"] == "succeeded"
    notices = await world.system.notices(5)
    assert [n["type"] for n in notices[2:]] == ["refund.succeeded", "refund.bounced", "refund.succeeded"]
    assert notices[3]["occurred_at"] == "2026-03-05T08:00:00+00:00"
    assert notices[3]["data"] == {
        "operation_key": "r1",
        "reference": notices[2]["data"]["reference"],
        "authorization_id": authorization,
        "order_id": "order-1",
        "amount_minor": 1_000,
        "currency": "EUR",
        "code": "returned_by_bank",
    }


async def test_only_money_that_was_paid_out_can_bounce(world: World) -> None:
    await world.captured()
    answer = await world.http.post("/processor/control/bounce", json={"operation_key": "capture-order-1"})
    assert (answer.status_code, answer.json()["current"]) == (409, "succeeded")
    unknown = await world.http.post("/processor/control/bounce", json={"operation_key": "nobody"})
    assert unknown.status_code == 404


async def test_a_refund_bounces_by_itself_with_its_token(tmp_path: Path) -> None:
    async with sandbox(tmp_path, sandbox_bounce_seconds=0.001) as world:
        authorization = await world.captured("tok_refund_bounces", amount=1_000)
        refund = await world.pay(f"authorizations/{authorization}/refunds", "r1", amount_minor=1_000)
        assert refund.json()["status"] == "succeeded"
        notices = await world.system.notices(4)
        assert [n["type"] for n in notices[2:]] == ["refund.succeeded", "refund.bounced"]
        assert notices[3]["occurred_at"] == "2026-03-04T10:00:00+00:00"
        assert (await world.account())["refunded_minor"] == 0


async def test_a_pending_refund_reserves_its_amount_and_succeeds_later(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as world:
        authorization = await world.captured("tok_refund_pending", amount=1_000)
        refund = await world.pay(f"authorizations/{authorization}/refunds", "r1", amount_minor=800)
        assert refund.json()["status"] == "pending"
        account = await world.account()
        assert (account["refund_pending_minor"], account["refunded_minor"]) == (800, 0)
        too_much = await world.pay(f"authorizations/{authorization}/refunds", "r2", amount_minor=300)
        assert too_much.json()["code"] == "exceeds_captured"
    async with sandbox(tmp_path / "other", sandbox_settle_seconds=0) as world:
        authorization = await world.captured("tok_refund_pending", amount=1_000)
        await world.pay(f"authorizations/{authorization}/refunds", "r1", amount_minor=800)
        notices = await world.system.notices(3)
        assert (notices[2]["type"], notices[2]["data"]["operation_key"]) == ("refund.succeeded", "r1")
        account = await world.account()
        assert (account["refund_pending_minor"], account["refunded_minor"]) == (0, 800)


async def test_an_open_dispute_holds_the_money_and_a_won_one_frees_it(world: World) -> None:
    authorization = await world.captured("tok_dispute", amount=1_000)
    assert (await world.account())["disputed_minor"] == 1_000
    refused = await world.pay(f"authorizations/{authorization}/refunds", "r1", amount_minor=1)
    assert refused.json()["code"] == "disputed"
    won = await world.http.post(
        "/processor/control/dispute", json={"authorization_id": authorization, "outcome": "won"}
    )
    assert (won.json()["dispute"], won.json()["disputed_minor"]) == ("won", 0)
    refund = await world.pay(f"authorizations/{authorization}/refunds", "r2", amount_minor=1_000)
    assert refund.json()["status"] == "succeeded"
    lost = await world.http.post(
        "/processor/control/dispute", json={"authorization_id": authorization, "outcome": "lost"}
    )
    assert (lost.status_code, lost.json()["current"]) == (409, "won")
    types = [n["type"] for n in await world.system.notices(6)]
    assert types[1:] == [
        "capture.succeeded",
        "dispute.opened",
        "refund.failed",
        "dispute.won",
        "refund.succeeded",
    ]


async def test_an_expired_authorization_cannot_be_captured(world: World) -> None:
    authorization = await world.authorized("tok_authorization_expires")
    capture = await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=1)
    assert capture.json()["code"] == "authorization_expired"
    ordinary = await world.authorized(order="order-2")
    on_time = await world.pay(
        f"authorizations/{ordinary}/captures", "c2", amount_minor=1, requested_at="2026-03-31T09:59:59Z"
    )
    too_late = await world.pay(
        f"authorizations/{ordinary}/captures", "c3", amount_minor=1, requested_at="2026-03-31T10:00:00Z"
    )
    assert (on_time.json()["status"], too_late.json()["code"]) == ("succeeded", "authorization_expired")


async def test_what_is_asked_for_in_the_past_happened_then_and_in_the_future_now(world: World) -> None:
    past = await world.pay("authorizations", "a1", **ORDER)
    future = await world.pay("authorizations", "a2", **(ORDER | {"requested_at": "2999-01-01T00:00:00Z"}))
    assert past.json()["processed_at"] == THEN
    assert future.json()["processed_at"] < "2999"


async def test_other_channels_are_tendered_and_paid_out_by_the_same_rules(world: World) -> None:
    gift_card = await world.pay("authorizations", "a1", **(ORDER | {"channel": "gift_card"}))
    capture = await world.pay(f"authorizations/{gift_card.json()['id']}/captures", "c1", amount_minor=10_000)
    assert (capture.json()["status"], capture.json()["channel"]) == ("succeeded", "gift_card")
    body = {"channel": "bank_transfer", "amount_minor": 500, "currency": "EUR", "order_id": "order-1"}
    for _ in range(2):
        payout = await world.pay("payouts", "p1", **body)
        assert (payout.json()["status"], payout.json()["authorization_id"]) == ("succeeded", None)
    await world.http.post("/processor/control/bounce", json={"operation_key": "p1"})
    await world.pay("payouts", "p2", **(body | {"amount_minor": 300}))
    totals = await world.http.get("/processor/ledger/totals")
    assert totals.json() == [
        {
            "currency": "EUR",
            "authorized_minor": 10_000,
            "captured_minor": 10_000,
            "voided_minor": 0,
            "refund_pending_minor": 0,
            "refunded_minor": 0,
            "paid_out_minor": 300,
            "disputed_minor": 0,
        }
    ]
    types = sorted(n["type"] for n in await world.system.notices(5))
    assert types[2:] == ["refund.bounced", "refund.succeeded", "refund.succeeded"]


async def test_a_notice_is_sent_until_it_is_answered_2xx_with_one_id(world: World) -> None:
    world.system.answers.extend([500, 302])
    await world.authorized()
    notices = await world.system.notices(3)
    assert len({n["webhook_id"] for n in notices}) == 1
    assert notices[0]["webhook_id"] == notices[0]["id"]
    assert world.system.received.empty()


async def tried(world: World, authorization: str, times: int) -> Notice:
    """Its notice, after so many attempts without the pauses between them."""
    for _ in range(200 * times):
        [notice] = await world.ledger.run(lambda db: notices_about(db, Receiver.PAYMENTS, authorization))
        if notice.attempts >= times:
            return notice
        await world.ledger.run(lambda db: db.execute("update notices set due_at = 0 where copies > 0"))
        await asyncio.sleep(0.01)
    raise AssertionError(f"was not tried {times} times: {notice}")


async def test_a_notice_that_is_refused_time_and_again_is_given_up_and_holds_up_none_after_it(world: World) -> None:
    world.system.answers.extend([422] * MOST_REFUSALS)
    authorization = await world.authorized()
    notice = await tried(world, authorization, MOST_REFUSALS)
    assert (notice.copies, notice.delivered_at) == (0, None)
    assert notice.problem == f"given up: answered 422, refused {MOST_REFUSALS} times"
    await world.system.notices(MOST_REFUSALS)
    await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=1)
    assert [n["type"] for n in await world.system.notices(1)] == ["capture.succeeded"]


@pytest.mark.parametrize("answer", [503, 429])
async def test_an_outage_is_waited_out_however_long_it_lasts(world: World, answer: int) -> None:
    world.system.answers.extend([answer] * (MOST_REFUSALS + 1))
    authorization = await world.authorized()
    notice = await tried(world, authorization, MOST_REFUSALS + 2)
    assert (notice.copies, notice.problem) == (0, None)
    assert notice.delivered_at is not None


async def test_a_notice_survives_the_sandbox(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as world:
        world.system.answers.extend([503] * 100)
        authorization = await world.authorized()
        (before,) = await world.system.notices(1)
    async with sandbox(tmp_path) as world:
        (after,) = await world.system.notices(1)
        assert after["webhook_id"] == before["webhook_id"]
        again = await world.authorized()
        assert again == authorization
        assert len((await world.books())["operations"]) == 1


async def test_late_notices_wait_until_they_are_released(world: World) -> None:
    authorization = await world.authorized("tok_notices_late")
    await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=1)
    other = await world.authorized(order="order-2")
    (first,) = await world.system.notices(1)
    assert first["data"]["authorization_id"] == other
    released = await world.http.post("/processor/control/release-notices", json={"authorization_id": authorization})
    assert released.json() == {"notices": 2}
    assert [n["type"] for n in await world.system.notices(2)] == ["authorization.succeeded", "capture.succeeded"]


async def test_duplicate_notices_come_twice_under_one_id(world: World) -> None:
    await world.authorized("tok_notices_duplicate")
    first, second = await world.system.notices(2)
    assert first == second


async def test_reordered_notices_come_in_pairs_the_later_first(world: World) -> None:
    authorization = await world.authorized("tok_notices_reordered")
    await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=1)
    assert [n["type"] for n in await world.system.notices(2)] == ["capture.succeeded", "authorization.succeeded"]


async def test_notices_of_one_authorization_keep_their_order_through_failures(world: World) -> None:
    world.system.answers.append(500)
    authorization = await world.authorized()
    await world.pay(f"authorizations/{authorization}/captures", "c1", amount_minor=1)
    await world.pay(f"authorizations/{authorization}/refunds", "r1", amount_minor=1)
    assert [n["type"] for n in await world.system.notices(4)] == [
        "authorization.succeeded",
        "authorization.succeeded",
        "capture.succeeded",
        "refund.succeeded",
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"token": "4242424242424242"}, "token"),
        ({"token": "tok_unheard_of"}, "token"),
        ({"amount_minor": 0}, "amount_minor"),
        ({"amount_minor": -1}, "amount_minor"),
        ({"amount_minor": 1.5}, "amount_minor"),
        ({"amount_minor": "100"}, "amount_minor"),
        ({"amount_minor": True}, "amount_minor"),
        ({"amount_minor": 10**16}, "amount_minor"),
        ({"currency": "EURO"}, "currency"),
        ({"currency": "XXZ"}, "currency"),
        ({"order_id": ""}, "order_id"),
        ({"requested_at": "2026-03-01T10:00:00"}, "requested_at"),
        ({"requested_at": "0001-01-01T00:00:00+14:00"}, "requested_at"),
        ({"channel": "cash_on_delivery"}, "channel"),
        ({"metadata": {"note": "\x07"}}, "metadata.note"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_bad_input_is_refused_by_field_and_nothing_is_stored(
    world: World, change: dict[str, Any], field: str
) -> None:
    answer = await world.pay("authorizations", "a1", **(ORDER | change))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert "4242424242424242" not in answer.text
    books = await world.http.get("/processor/ledger/totals")
    assert books.json() == []


async def test_calls_without_the_key_or_the_idempotency_key_are_refused(world: World) -> None:
    no_key = await world.http.post("/processor/authorizations", json=ORDER | {"requested_at": THEN})
    assert (no_key.status_code, no_key.json()["errors"][0]["field"]) == (422, "header.Idempotency-Key")
    for wrong in ("Bearer wrong", "Basic x", ""):
        stranger = await world.http.get("/processor/ledger/totals", headers={"Authorization": wrong})
        assert stranger.status_code == 401
        assert stranger.headers["WWW-Authenticate"] == "Bearer"
    unknown = await world.pay("authorizations/auth_unknown/captures", "c1", amount_minor=1)
    assert unknown.status_code == 404
    too_large = await world.pay("authorizations", "a1", **(ORDER | {"metadata": {"note": "x" * 300_000}}))
    assert too_large.status_code == 413


def test_every_test_token_is_documented() -> None:
    assert all(token.startswith("tok_") and fault.story.endswith(".") for token, fault in FAULTS.items())
    description = app.openapi()["info"]["description"]
    assert all(f"`{token}`" in description for token in FAULTS)
