"""Documents made from code: machines, message schemas, AsyncAPI, OpenAPI, and the parts of README and domain that code knows.

`python -m ops.docs` writes them; `--check` fails when one is stale. A schema that would break a reader of the committed
one is refused either way: give the fact a new version.
"""

import importlib
import json
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from ops.system import SERVICES
from ops.topics import TOPICS
from sandbox.faults import FAULTS, MAIL_FAULTS
from shared.contracts.base import Fact, facts_of, schema_id
from shared.contracts.partners import WAREHOUSE_MESSAGES
from shared.core.machine import Machine
from support_view.figures.definitions import FIGURES

ROOT: Final = Path(__file__).parents[3]
DOCS: Final = ROOT / "docs"
DECIDING: Final = {
    "orders": "orders",
    "payments": "payments",
    "fulfillment": "fulfillment",
    "returns": "returns",
    "notifications": "notifications",
    "support": "support_view",
}
"""By the name that facts and their topic have: the package that tells them."""
HEADERS: Final = (
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "ce_sequence",
    "ce_dataschema",
    "ce_correlationid",
    "ce_causationid",
    "ce_actor",
    "ce_reason",
    "traceparent",
)
BLOCK: Final = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Json = Mapping[str, Any]


def machines() -> Iterator[tuple[str, Machine[Any]]]:
    """Every machine of every service, in a stable order."""
    for service, name in DECIDING.items():
        package = importlib.import_module(name)
        found: dict[str, Machine[Any]] = {}
        for module in sorted(m.name for m in pkgutil.walk_packages(package.__path__, f"{name}.")):
            if module.rpartition(".")[2] in {"app", "0001_first"} or ".migrations" in module:
                continue
            for value in vars(importlib.import_module(module)).values():
                if isinstance(value, Machine):
                    found.setdefault(value.name, value)
        yield from ((service, machine) for machine in found.values())


def _machines() -> str:
    parts = [
        "# State machines\n\nDrawn from the transition tables that the code steps by. A status with an arrow to the end "
        "point is terminal.\n"
    ]
    for service, machine in machines():
        parts.append(f"\n## {machine.name} ({service})\n\n```mermaid\n{machine.mermaid()}\n```\n")
        parts.append("\n| from | fact | to |\n| --- | --- | --- |\n")
        parts += [f"| {source} | `{fact.type}` | {target} |\n" for source, fact, target in machine.edges()]
    return "".join(parts)


def _figures() -> str:
    parts = [
        "# Figures\n\nWhat support's figures mean, made from the definitions that the view goes by. A duration is told by its p50 "
        "and p90 (nearest rank), and by the age of what is open at the end of the period: that is never dropped, and never "
        "zero. Clocks of two producers may be minutes apart: what ended before it began counts as no time, and the answer says "
        "how many did. Days and weeks are UTC; weeks start on Monday. Every answer names the version it was made by.\n"
    ]
    for figure in FIGURES.values():
        ways = ", ".join(figure.dimensions) or "none"
        parts.append(
            f"\n## {figure.title}\n\n`{figure.key}`, version {figure.version}. {figure.meaning}\n\n{figure.counts}\n\n"
            f"Left out: {figure.left_out} Split by: {ways}.\n"
        )
    return "".join(parts)


def _schema(fact: type[Fact]) -> Json:
    return {"$id": schema_id(fact), **fact.model_json_schema(mode="serialization")}


def schemas(service: str) -> dict[str, Json]:
    """JSON Schemas of a service's facts by schema id."""
    return {schema_id(fact): _schema(fact) for fact in sorted(facts_of(service), key=lambda f: f.type)}


def _partner_schemas() -> dict[str, Json]:
    return {name: TypeAdapter(model).json_schema() for name, model in sorted(WAREHOUSE_MESSAGES.items())}


def _asyncapi() -> Json:
    """One AsyncAPI 3.0 document of every topic and message; bodies are in docs/schemas."""
    headers = {
        "type": "object",
        "description": "CloudEvents 1.0, Kafka binary mode",
        "properties": {name: {"type": "string"} for name in HEADERS},
        "required": ["ce_id", "ce_source", "ce_type", "ce_time"],
    }
    channels: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for topic in TOPICS:
        service = topic.removesuffix(".events")
        if service == "warehouse":
            names = {name: f"schemas/warehouse.json#/{name}" for name in sorted(WAREHOUSE_MESSAGES)}
        else:
            names = {f.type: f"schemas/{service}.json#/{schema_id(f)}" for f in facts_of(service)}
        if not names:
            continue
        messages |= {
            name: {
                "name": name,
                "contentType": "application/json",
                "headers": {"$ref": "#/components/schemas/headers"},
                "payload": {
                    "schemaFormat": "application/schema+json;version=draft-2020-12",
                    "schema": {"$ref": reference},
                },
            }
            for name, reference in names.items()
        }
        channels[service] = {
            "address": topic,
            "description": "key = order id, so that an order's facts keep their order",
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in sorted(names)},
        }
        operations[f"{service}-tells"] = {
            "action": "receive" if service == "warehouse" else "send",
            "channel": {"$ref": f"#/channels/{service}"},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Order Workflows", "version": "1.0.0", "description": "Only facts travel."},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": {"headers": headers}, "messages": dict(sorted(messages.items()))},
    }


def _openapi(package: str) -> Json:
    document: Json = importlib.import_module(f"{package}.app").app.openapi()
    return document


def incompatibilities(old: Json, new: Json, where: str = "") -> list[str]:
    """What would break a reader or a stored fact of `old`: a field gone, newly required, of another type, a word gone."""
    return _incompatible(_inlined(old, old.get("$defs", {})), _inlined(new, new.get("$defs", {})), where)


def _inlined(schema: Any, parts: Json) -> Any:
    """With every part in its place: what a part is called does not travel."""
    if isinstance(schema, list):
        return [_inlined(one, parts) for one in schema]
    if not isinstance(schema, dict):
        return schema
    part = parts.get(str(schema.get("$ref", "")).removeprefix("#/$defs/"), {})
    beside = {name: value for name, value in schema.items() if name not in ("$ref", "$defs")}
    return {name: _inlined(value, parts) for name, value in {**part, **beside}.items()}


def _incompatible(old: Any, new: Any, where: str) -> list[str]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return []
    broken = [
        f"{where}: {word} {old[word]!r} became {new.get(word)!r}"
        for word in ("type", "const", "format")
        if word in old and old[word] != new.get(word)
    ]
    if "enum" in old and (gone := set(map(str, old["enum"])) - set(map(str, new.get("enum", ())))):
        broken.append(f"{where}: {', '.join(sorted(gone))} is gone")
    if "properties" in old:
        properties = new.get("properties", {})
        broken += [f"{where}.{name}: is gone" for name in old["properties"] if name not in properties]
        broken += [
            f"{where}.{name}: became required"
            for name in sorted(set(new.get("required", ())) - set(old.get("required", ())))
            if "default" not in properties.get(name, {})
        ]
    for name, part in old.get("properties", {}).items():
        broken += _incompatible(part, new.get("properties", {}).get(name), f"{where}.{name}")
    if "items" in old:
        broken += _incompatible(old["items"], new.get("items"), f"{where}[]")
    for word in ("anyOf", "oneOf", "prefixItems"):
        for i, part in enumerate(old.get(word, ())):
            others = new.get(word, ())
            broken += _incompatible(part, others[i] if i < len(others) else {}, f"{where}|{i}")
    return broken


def _flow_of_facts() -> str:
    """Which service reads which topic, as the applications are built."""
    lines = ["```mermaid", "flowchart LR"]
    lines += [
        "    storefront([storefront]) -- HTTP --> orders",
        "    warehouse([warehouse]) -- warehouse.events --> fulfillment",
    ]
    lines += ["    warehouse -- warehouse.events --> returns", "    carrier([carrier]) -- webhook --> fulfillment"]
    lines += [
        "    processor([card processor]) <-- HTTP, webhook --> payments",
        "    notifications -- mail --> customer([customer])",
        "    mailer([mail provider]) -- webhook --> notifications",
        "    crm([CRM]) -- webhook --> view",
    ]
    lines += ["    view[support-view] -- page --> agent([support agent])"]
    for service in SERVICES:
        if not service.has_database:
            continue
        topics = importlib.import_module(f"{service.package}.app").app.state.topics
        node = "view" if service.name == "support-view" else service.name
        lines += [
            f"    {topic.removesuffix('.events')} --> {node}"
            for topic in topics
            if topic != "warehouse.events"
            and topic.removesuffix(".events") in DECIDING
            and service.package != DECIDING[topic.removesuffix(".events")]
        ]
    return "\n".join([*lines, "```", ""])


def _faults() -> str:
    rows = ["| token | what the processor does |", "| --- | --- |"]
    rows += [f"| `{token}` | {fault.story} |" for token, fault in FAULTS.items()]
    return "\n".join([*rows, ""])


def _mail_faults() -> str:
    rows = ["| address | what the mail server does |", "| --- | --- |"]
    rows += [f"| `{name}@…` | {fault.story} |" for name, fault in MAIL_FAULTS.items()]
    return "\n".join([*rows, ""])


def _facts() -> str:
    """What each service's facts are called, what they carry, and what their classes say of them."""
    parts = []
    for service in DECIDING:
        parts.append(f"\n### {service}\n\n| fact | fields | what to know of it |\n| --- | --- | --- |\n")
        for fact in sorted(facts_of(service), key=lambda f: f.type):
            said = (fact.__dict__.get("__doc__") or "").strip().split("\n\n")[0]
            sentence = " ".join(said.split()).replace("|", "\\|")
            fields = ", ".join(name for name in fact.model_fields if name != "order_id")
            parts.append(f"| `{fact.type}` | {fields} | {sentence} |\n")
    parts.append("\n### from the warehouse, on `warehouse.events`\n\n")
    parts.append(", ".join(f"`{name}`" for name in sorted(WAREHOUSE_MESSAGES)) + "\n")
    return "".join(parts).lstrip("\n")


def generated() -> dict[Path, str]:
    """Every generated file and what should be in it."""
    files = {
        DOCS / "machines.md": _machines(),
        DOCS / "figures.md": _figures(),
        DOCS / "asyncapi.json": _text(_asyncapi()),
    }
    for service in DECIDING:
        files[DOCS / "schemas" / f"{service}.json"] = _text(schemas(service))
    files[DOCS / "schemas" / "warehouse.json"] = _text(_partner_schemas())
    for each in SERVICES:
        files[DOCS / "openapi" / f"{each.name}.json"] = _text(_openapi(each.package))
    blocks = {
        "flow-of-facts": _flow_of_facts(),
        "faults": _faults(),
        "mail-faults": _mail_faults(),
        "facts": _facts(),
    }
    for path in (ROOT / "README.md", DOCS / "domain.md"):
        files[path] = BLOCK.sub(lambda m: f"{m[1]}{blocks[m['name']]}{m[3]}", path.read_text(encoding="utf-8"))
    return files


def _text(document: Json) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """0 when everything is as it should be, 1 with what is not."""
    is_check = sys.argv[1:] == ["--check"]
    problems = []
    files = generated()
    for path, text in files.items():
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if path.parent.name == "schemas" and before is not None:
            new = json.loads(text)
            for name, schema in json.loads(before).items():
                broken = [f"{name}: is gone"] if name not in new else incompatibilities(schema, new[name], name)
                problems += [f"incompatible: {each}; give the fact a new version" for each in broken]
        if before == text:
            continue
        if is_check:
            problems.append(f"stale: {path.relative_to(ROOT)}; run `make docs`")
    if not is_check and not problems:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201  # this is a command
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
