"""The examples for partners in docs/partners, run as they stand there, one after the other, against the running system."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import httpx

from ops.keys import kept_keys
from ops.system import SERVICES, System
from shared.web.auth import Role, issue

ROOT = Path(__file__).resolve().parents[2]
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> str:
    """All shell blocks of all partners, in the order of the index, as one script."""
    folder = ROOT / "docs/partners"
    pages = re.findall(r"\]\((\w[\w-]*\.md)\)", (folder / "README.md").read_text(encoding="utf-8"))
    return "\n".join(block for page in pages for block in SHELL.findall((folder / page).read_text(encoding="utf-8")))


def moved_to(system: System, script: str) -> str:
    """The same script for where this system is: the examples name the usual ports, `.venv` and `var`."""
    for service in SERVICES:
        script = script.replace(f"http://127.0.0.1:{service.port}", system.endpoints.url(service.name))
    script = re.sub(r"\.venv/bin/(\w+)", lambda found: f"{Path(sys.executable).parent}/{found[1]}", script)
    return re.sub(r"\bvar/", f"{system.endpoints.secrets.parent}/", script)


async def test_every_partners_examples_work_as_printed_and_the_order_reaches_its_end(system: System) -> None:
    var = system.endpoints.secrets.parent
    script = moved_to(system, examples())
    shell = await asyncio.create_subprocess_exec(
        "bash",
        *("-euo", "pipefail", "-c", script),
        cwd=ROOT,
        env={**os.environ, "OMS_VAR": str(var)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert shell.stdout is not None
    reading = asyncio.create_task(shell.stdout.read())
    await asyncio.wait([reading], timeout=180)
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.killpg(shell.pid, signal.SIGKILL)
    said = (await reading).decode()
    assert await shell.wait() == 0, said
    assert "}204 \n" in said, "the processor's notice was taken"
    assert re.findall(r'{"type":"about:blank".*', said) == [], "nothing was refused"

    token = issue(kept_keys(var).auth_key, subject="reader", roles=[Role.AGENT])
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=system.endpoints.url("support-view"), headers=headers) as client:
        deadline = asyncio.get_running_loop().time() + 60
        while (order := (await client.get("/api/orders/readme-1")).json())["order"]["status"] != "completed":
            assert asyncio.get_running_loop().time() < deadline, json.dumps(order["rollups"])
            await asyncio.sleep(0.2)
    assert order["rollups"]["payment_status"] == "captured"
    assert order["rollups"]["fulfillment_status"] == "delivered"
