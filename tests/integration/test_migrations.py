"""Schemas and images of different ages: an older image runs on a newer schema where that one supports it, else says why not."""

import textwrap
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from shared.migrations.__main__ import SchemaTooNew, migrate

OLDER = "tests.integration.plumbing"


def newer(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, breaks_older: bool = False) -> str:
    """A package as the older one, with one migration more."""
    migrations = folder / name / "migrations"
    migrations.mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    first = (Path(str(files(OLDER))) / "migrations" / "0001_first.py").read_text(encoding="utf-8")
    (migrations / "0001_first.py").write_text(first, encoding="utf-8")
    text = f"""
        from alembic import op

        revision = "0002"
        down_revision = "0001"
        breaks_older = {breaks_older}


        def upgrade() -> None:
            op.execute("CREATE TABLE added (id int)")
        """
    (migrations / "0002_more.py").write_text(textwrap.dedent(text), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return name


async def migrated(package: str, dsn: str) -> list[str]:
    """To this package's newest version; the revisions that the schema has then."""
    migrate(package, dsn)
    db = await asyncpg.connect(dsn)
    try:
        return [row[0] for row in await db.fetch("SELECT version_num FROM alembic_version ORDER BY 1")]
    finally:
        await db.close()


async def test_after_a_rollback_the_older_image_starts_on_the_newer_schema_and_leaves_it(
    new_database: Callable[[str], Awaitable[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dsn = await new_database(OLDER)
    newest = await migrated(newer(tmp_path, monkeypatch, "tally_next"), dsn)
    assert newest == ["0002", "plumbing_0004"]
    with capture_logs() as said:
        assert await migrated(OLDER, dsn) == newest
    assert [each["event"] for each in said] == ["schema.newer"]
    assert await migrated("tally_next", dsn) == newest


async def test_an_image_that_the_schema_does_not_support_ends_with_a_sentence(
    new_database: Callable[[str], Awaitable[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = await new_database(OLDER)
    await migrated(newer(tmp_path, monkeypatch, "tally_broken", breaks_older=True), dsn)
    with pytest.raises(SchemaTooNew, match="the schema has 0002, which this image does not know"):
        migrate(OLDER, dsn)
