"""What `oms` keeps and hands out: ports, keys, pins, tokens."""

import base64
import os
import re
import socket
import stat
from collections import ChainMap
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from ops.cli import app, main
from ops.databases import database_url
from ops.embedded import cluster_id
from ops.endpoints import Endpoints, NotUp, RunningProcess, ServiceEndpoint, live_endpoints, url_variable
from ops.keys import kept_keys
from ops.paths import LOOPBACK, AlreadyLocked, Ports, locked
from ops.pins import with_pins
from ops.system import DECIDING
from ops.verify import Mark, Marks, Verification
from shared.web.auth import Role, verify


def test_a_port_that_is_taken_gives_way_to_a_free_one() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        assert Ports(auto=False).take(taken) != taken


def test_no_port_is_given_twice() -> None:
    ports = Ports(auto=False)
    first = ports.take(18_765)
    assert ports.take(18_765) != first


def test_keys_are_made_once_and_readable_by_their_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMS_AUTH_KEY", raising=False)
    made = kept_keys(tmp_path)
    assert kept_keys(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    monkeypatch.setenv("OMS_AUTH_KEY", "given by the environment")
    assert kept_keys(tmp_path) == made.model_copy(update={"auth_key": "given by the environment"})


def test_a_lock_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, wait=False), pytest.raises(AlreadyLocked) as refused, locked(path, wait=False):
        pass
    assert refused.value.pid == RunningProcess.ours().pid
    with locked(tmp_path / "lock", wait=False):
        pass


def test_a_process_id_used_again_is_another_process() -> None:
    ours = RunningProcess.ours()
    assert ours.found() is not None
    assert ours.model_copy(update={"began_at": ours.began_at - 60}).found() is None


def test_without_a_system_nothing_is_up(tmp_path: Path) -> None:
    with pytest.raises(NotUp, match="oms up"):
        live_endpoints(tmp_path)


GIVEN = {
    "OMS_KAFKA": "127.0.0.1:1",
    "OMS_POSTGRES_URL": "postgresql://oms@127.0.0.1:1/postgres",
    "OMS_AUTH_KEY": "k" * 32,
    **{url_variable(name): "http://127.0.0.1:1" for name in DECIDING},
}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the environment says of a system elsewhere, of which nothing answers; none runs here."""
    monkeypatch.setenv("OMS_VAR", str(tmp_path))
    for name in GIVEN:
        monkeypatch.delenv(name, raising=False)
    environment = dict(GIVEN)
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", ChainMap(environment, dict(os.environ)))
        yield environment


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("lag", "OMS_KAFKA"),
        ("lag", "OMS_POSTGRES_URL"),
        ("dlq ls", "OMS_AUTH_KEY"),
        ("dlq ls", "OMS_RETURNS_URL"),
        ("withheld ls", "OMS_SUPPORT_VIEW_URL"),
        ("verify", "OMS_KAFKA"),
        ("verify", "OMS_POSTGRES_URL"),
        ("verify", "OMS_PAYMENTS_URL"),
        ("rebuild support-view", "OMS_POSTGRES_URL"),
    ],
)
def test_what_the_environment_does_not_name_is_said_in_one_line(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], command: str, missing: str
) -> None:
    del environment[missing]
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code in (1, 3)
    [line] = [line for line in capsys.readouterr().err.splitlines() if missing in line]
    assert line.startswith(f"error: {missing} is not set: ")


@pytest.mark.parametrize(
    ("variable", "value"), [("OMS_POSTGRES_URL", "127.0.0.1:5432"), ("OMS_PAYMENTS_URL", "payments:8000")]
)
def test_what_is_no_url_is_said_with_the_variables_name(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    environment[variable] = value
    with pytest.raises(SystemExit):
        main(["verify"])
    assert capsys.readouterr().err.startswith(f"error: {variable} is no URL that says where ")


@pytest.mark.parametrize(
    "command", ["lag", "dlq ls", "withheld ls", "verify", "rebuild support-view", "scale orders=2"]
)
def test_without_a_system_all_that_can_be_named_is_said(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    environment.clear()
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 3
    [line] = capsys.readouterr().err.splitlines()
    assert "oms up" in line
    assert (
        "ops/k8s" in line
        if command.startswith("scale")
        else GIVEN.keys() - {"OMS_AUTH_KEY"} <= set(re.findall(r"\w+", line))
    )


def test_a_services_database_lies_on_the_administrators_server() -> None:
    admin = "postgresql://postgres:p%40ss@db:5433/postgres?sslmode=require"
    assert database_url(admin, "orders") == "postgresql://postgres:p%40ss@db:5433/orders?sslmode=require"


def test_pins_take_the_place_of_the_pins_before() -> None:
    project = '[tool.uv]\nconstraint-dependencies = [\n    "a==1",\n]\npackage = false\n'
    pinned = '[tool.uv]\nconstraint-dependencies = [\n    "a==2",\n    "b==1 ; sys_platform == \'win32\'",\n]\npackage = false\n'
    assert with_pins(project, ["a==2", "b==1 ; sys_platform == 'win32'"]) == pinned
    assert with_pins(pinned, []) == "[tool.uv]\nconstraint-dependencies = []\npackage = false\n"
    with pytest.raises(ValueError, match="exactly one"):
        with_pins("[tool.uv]\n", ["a==2"])


def test_a_token_names_its_subject_and_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMS_VAR", str(tmp_path))
    monkeypatch.delenv("OMS_AUTH_KEY", raising=False)
    printed = CliRunner().invoke(app, ["token", "--role", "agent", "--role", "supervisor", "--subject", "anna"])
    assert printed.exit_code == 0
    caller = verify(kept_keys(tmp_path).auth_key, printed.stdout.strip())
    assert (caller.subject, set(caller.roles)) == ("anna", {Role.AGENT, Role.SUPERVISOR})


@pytest.mark.parametrize(
    "wrong",
    [["--role", "boss", "--subject", "a"], ["--role", "agent"], ["--role", "agent", "--subject", "a", "--ttl", "0h"]],
)
def test_wrong_usage_exits_with_2(wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMS_VAR", str(tmp_path))
    assert CliRunner().invoke(app, ["token", *wrong]).exit_code == 2


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    assert base64.urlsafe_b64encode(b"\xf8" * 16).startswith(b"-")
    assert cluster_id(b"\xf8" * 16)[0] == "_"
    assert len(cluster_id(bytes(16))) == 22


def marks(minute: int, *again: str, database: str = "1/2", shelves: bool = False, all_at: bool = False) -> Marks:
    at = datetime(2026, 5, 4, 12, minute, tzinfo=timezone.utc)
    orders = Mark(database=database, looked_to=at, again=again)
    return Marks(services={"orders": orders}, shelves=shelves, all_at=at if all_at else None)


def test_what_a_run_leaves_is_read_by_the_next(tmp_path: Path) -> None:
    assert Marks.read(tmp_path) == Marks()
    marks(1, "a").write(tmp_path, Marks())
    assert Marks.read(tmp_path) == marks(1, "a")
    marks(2).write(tmp_path, marks(1, "a"))
    assert Marks.read(tmp_path) == marks(2), "nobody else was there: what it found right is right"


def test_runs_side_by_side_forget_nothing_of_each_other(tmp_path: Path) -> None:
    """A long run of everything, begun in minute 1, and a short one that ends before and after it."""
    marks(0, "old").write(tmp_path, Marks())
    marks(5, "new").write(tmp_path, marks(0, "old"))
    marks(1, "deep", shelves=True, all_at=True).write(tmp_path, marks(0, "old"))
    left = marks(1, "deep", "new", shelves=True, all_at=True)
    assert Marks.read(tmp_path) == left
    marks(6, database="3/4").write(tmp_path, marks(5, "new"))
    assert Marks.read(tmp_path).services == {}, "of different databases: the next run looks at everything"


class Payments:
    """Answers its reconciliation in turn with what is given: a status, or the death of its process."""

    def __init__(self, *answers: int | None) -> None:
        self._left = list(answers)
        payments = ServiceEndpoint(url="http://payments", docs="", database=None, log=Path(), process=None, others={})
        endpoints = Endpoints(
            supervisor=RunningProcess.ours(),
            control="",
            kafka="",
            kafka_process=None,
            postgres="",
            postgres_process=None,
            topics=(),
            services={"payments": payments},
            smtp="",
            secrets=Path(),
        )
        self.verification = Verification(endpoints, "a key of thirty-two bytes or longer", lambda *_: None)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        status = self._left.pop(0)
        if status is None:
            raise httpx.ConnectError("gone")
        return httpx.Response(status, json={"operations": 3, "drift": [], "next": "o9"})

    async def compared(self) -> str | None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self)) as client:
            return await self.verification._compared(client, {"after": ""})


async def test_payments_may_be_started_again_while_its_books_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    payments = Payments(None, 503, 200)
    assert await payments.compared() == "o9"
    assert payments.verification.counted.operations == 3
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        await Payments(401).compared()
    monkeypatch.setattr("ops.verify.CATCH_UP_S", 0)
    with pytest.raises(httpx.ConnectError):
        await Payments(None, None).compared()
