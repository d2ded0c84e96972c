"""`oms` beside a system that something else runs: it is told by the environment where to look, and by nothing else."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from ops.actors import Actors
from ops.endpoints import url_variable
from ops.keys import kept_keys
from ops.system import DECIDING, System
from ops.topics import KEPT_FOREVER

COMMANDS: Final = (("lag",), ("dlq", "ls"), ("withheld", "ls"), ("verify", "--full"))


async def run(words: tuple[str, ...], environment: Mapping[str, str], var: Path) -> tuple[int, str, str]:
    """Exit code, standard output and error of a process that has only this environment of ours."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops.cli", *words),
        env={**{k: v for k, v in os.environ.items() if not k.startswith("OMS_")}, **environment, "OMS_VAR": str(var)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, out.decode(), errors.decode()


@pytest.fixture
def environment(system: System) -> dict[str, str]:
    """What an operator sets beside, say, docker compose."""
    at = system.endpoints
    return {
        "OMS_KAFKA": at.kafka,
        "OMS_POSTGRES_URL": at.postgres,
        "OMS_AUTH_KEY": kept_keys(at.secrets.parent).auth_key,
        **{url_variable(name): at.url(name) for name in DECIDING},
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
async def test_a_system_that_the_environment_names_is_looked_into(
    actors: Actors, environment: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    await actors.stocks([(f"ELSEWHERE-{actors.run}", "BER", 1)], actors.ago(minutes=1))
    code, out, errors = await run((*words, "--json"), environment, tmp_path)
    told: dict[str, Any] = json.loads(out)
    assert code == 0, f"{told} {errors}"
    if words == ("lag",):
        assert told["services"].keys() == set(DECIDING)
        assert all(each["is_ready"] and each["partitions"] for each in told["services"].values())
    if words[0] == "verify":
        assert told["everything"] and told["looked_at"]["aggregates"] > 0
    if words[0] in ("dlq", "withheld"):
        assert told == {"keys": [], "unanswered": []}


async def test_lag_needs_no_services_urls_and_does_not_say_that_they_are_ready(
    environment: dict[str, str], tmp_path: Path
) -> None:
    given = {name: environment[name] for name in ("OMS_KAFKA", "OMS_POSTGRES_URL")}
    code, out, errors = await run(("lag", "--json"), given, tmp_path)
    told = json.loads(out)
    assert code == 0, f"{told} {errors}"
    assert {each["is_ready"] for each in told["services"].values()} == {None}


async def test_another_system_than_the_one_here_is_asked_where_the_environment_names_it(
    system: System, environment: dict[str, str]
) -> None:
    """Else a redrive meant for another system would be done to the one that happens to run here."""
    here = system.endpoints.secrets.parent
    code, _, errors = await run(("dlq", "ls"), environment | {url_variable("orders"): "http://127.0.0.1:1"}, here)
    assert code == 1
    assert "orders does not answer" in errors


async def test_a_topic_that_loses_facts_is_said(system: System, environment: dict[str, str], tmp_path: Path) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=system.endpoints.kafka)
    await admin.start()

    async def keeps(milliseconds: str) -> None:
        configs = KEPT_FOREVER | {"retention.ms": milliseconds}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "returns.events", configs)])

    try:
        await keeps("604800000")
        code, out, _ = await run(("lag", "--json"), environment, tmp_path)
        assert code == 1
        [told] = [each for each in json.loads(out)["attention"] if "returns.events" in each]
        assert "retention.ms=604800000" in told
        assert "--add-config retention.ms=-1" in told
        code, out, _ = await run(("verify", "--json"), environment, tmp_path)
        assert (code, [each["what"] for each in json.loads(out)["findings"]]) == (1, [told])
        code, _, errors = await run(("topics",), environment, tmp_path)
        assert code == 1
        assert "retention.ms=604800000" in errors
    finally:
        await keeps("-1")
        await admin.close()
    assert (await run(("topics",), environment, tmp_path))[0] == 0
