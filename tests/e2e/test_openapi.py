"""Every operation of every service, fuzzed by its own OpenAPI document: no server error, nothing but what is documented."""

import asyncio
import importlib
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ops.keys import kept_keys
from ops.system import System
from shared.web.auth import Role, issue

SERVICES = ("orders", "payments", "fulfillment", "returns", "notifications", "support-view")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 8


def fuzz(service: str, url: str, token: str) -> int:
    """How many operations were tried; raises with the request that went wrong, as a curl command."""
    document: dict[str, Any] = importlib.import_module(f"{service.replace('-', '_')}.app").app.openapi()
    operations = 0
    for found in from_dict(document).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path.endswith("/live"):
            continue  # a stream without an end: tests/integration reads it
        operations += 1

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def one(case: schemathesis.Case[Any]) -> None:
            response = case.call(base_url=url, headers={"Authorization": f"Bearer {token}"})
            case.validate_response(response, checks=CHECKS)

        one()
    return operations


@pytest.mark.parametrize("service", SERVICES)
async def test_nothing_that_fits_the_document_breaks_the_service(system: System, service: str) -> None:
    key = kept_keys(system.endpoints.secrets.parent).auth_key
    token = issue(key, subject="fuzz", roles=list(Role))
    assert await asyncio.to_thread(fuzz, service, system.endpoints.url(service), token) >= 5
