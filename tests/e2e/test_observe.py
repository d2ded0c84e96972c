"""What rules and panels ask for, the running services have."""

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import (
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    MatrixSelector,
    ParenExpr,
    SubqueryExpr,
    UnaryExpr,
    VectorSelector,
    parse,
)

from ops.system import SERVICES, System
from tests.observing import expressions

OF_PROMETHEUS = {"up"}


def selectors(expr: Expr) -> list[VectorSelector]:
    match expr:
        case VectorSelector():
            return [expr]
        case MatrixSelector():
            return [expr.vector_selector]
        case BinaryExpr():
            return selectors(expr.lhs) + selectors(expr.rhs)
        case Call():
            return [found for argument in expr.args for found in selectors(argument)]
        case AggregateExpr() | ParenExpr() | SubqueryExpr() | UnaryExpr():
            return selectors(expr.expr)
    return []


async def test_every_metric_that_a_rule_or_panel_names_is_exposed(system: System) -> None:
    exposed: set[str] = set()
    async with httpx.AsyncClient(timeout=15) as client:
        for service in SERVICES:
            if not service.has_database:
                continue
            url = system.endpoints.url(service.name)
            assert (await client.get(f"{url}/operations/lag")).status_code == 401  # a request to count
            text = (await client.get(f"{url}/metrics")).text
            for family in text_string_to_metric_families(text):
                exposed |= {f"{family.name}_total"} if family.type == "counter" else {family.name}
                if family.type == "histogram":
                    exposed |= {f"{family.name}{part}" for part in ("_bucket", "_count", "_sum")}
    asked = [found for expression in expressions() for found in selectors(parse(expression))]
    assert len(asked) > 40
    assert {found.name for found in asked} - OF_PROMETHEUS <= exposed
    services = {service.name for service in SERVICES}
    named = {m.value for found in asked for m in found.matchers.matchers if m.name == "service" and "$" not in m.value}
    assert named <= services
    assert all(re.fullmatch(r"oms_\w+|process_\w+|up", found.name or "") for found in asked)
