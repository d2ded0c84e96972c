"""Evidence on the page: named beside the return or claim it is about, and fetched as who is signed in."""

import httpx

from shared.contracts.base import LineQuantity
from shared.contracts.returns import ClaimOpened, ReturnEvidenceAttached, ReturnReason
from support_view.actions import evidence_file
from tests.telling import confirmed_order
from tests.unit.test_support_view import seen

SERVICES = {"returns": "http://returns.test"}


def test_a_file_stands_beside_the_claim_that_it_is_about_and_beside_no_other() -> None:
    told = confirmed_order("o-1")
    for claim in ("o-1-C1", "o-1-C2"):
        lines = (LineQuantity(line_id="1", quantity=1),)
        told.tell(ClaimOpened(order_id="o-1", claim_id=claim, lines=lines, reason=ReturnReason.DEFECTIVE))
    told.tell(
        ReturnEvidenceAttached(
            order_id="o-1",
            evidence_id="o-1-F1",
            about="o-1-C2",
            name="Küche.png",
            sha256="0" * 64,
            media_type="image/png",
            size_bytes=12,
        )
    )
    view = seen(told)
    assert {claim.claim_id: [file.name for file in claim.files] for claim in view.claims} == {
        "o-1-C1": [],
        "o-1-C2": ["Küche.png"],
    }


async def test_a_file_is_asked_for_as_who_is_signed_in_and_its_ids_are_escaped() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=b"png")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        found = await evidence_file(client, SERVICES, "o@1", "a/b", "anns-token")
    assert found is not None and found.content == b"png"
    assert asked[0].url.raw_path == b"/orders/o%401/evidence/a%2Fb"
    assert asked[0].headers["Authorization"] == "Bearer anns-token"


async def test_a_service_that_is_away_has_no_file_to_show_and_breaks_no_page() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
        assert await evidence_file(client, SERVICES, "o-1", "o-1-F1", "anns-token") is None
