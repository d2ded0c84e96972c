"""`python -m shared.migrations <package>`: bring the database at OMS_DATABASE_URL to the package's newest version.

A schema that a newer image has made is accepted where that image said that ours may run on it, so that a rollback starts.
"""

import os
import sys
from importlib.resources import files

import sqlalchemy
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from shared.settings import Settings
from shared.web.logs import configure

log = structlog.get_logger()

SUPPORTED = """
CREATE TABLE IF NOT EXISTS supported_revisions (revision text PRIMARY KEY);
COMMENT ON TABLE supported_revisions IS
    'Images whose newest migrations are all among these may run on this schema. Written by the newest image that migrated it.'"""
REPLACE = """
WITH gone AS (DELETE FROM supported_revisions WHERE NOT revision = ANY(:revisions))
INSERT INTO supported_revisions SELECT unnest(cast(:revisions AS text[])) ON CONFLICT DO NOTHING"""


class SchemaTooNew(Exception):
    """The database was migrated by a newer image, which does not let this one run on it."""


def migrate(package: str, database_url: str) -> None:
    """Idempotent, and safe to run from several processes: a session advisory lock admits one at a time. Raises
    SchemaTooNew."""
    config = Config()
    config.set_main_option("script_location", str(files("shared.migrations")))
    places = [files("shared.migrations") / "versions", files(package) / "migrations"]
    config.set_main_option("version_locations", os.pathsep.join(map(str, places)))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    engine = sqlalchemy.create_engine(
        database_url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(7236409231)"))
        connection.execute(sqlalchemy.text(SUPPORTED))
        connection.commit()
        if unknown := _unknown(scripts, MigrationContext.configure(connection).get_current_heads()):
            supported = set(connection.scalars(sqlalchemy.text("SELECT revision FROM supported_revisions")))
            if missing := set(scripts.get_heads()) - supported:
                raise SchemaTooNew(
                    f"the schema has {', '.join(unknown)}, which this image does not know and which does not support "
                    f"{', '.join(sorted(missing))}: start the newer image, or restore the database to before it"
                )
            log.warning("schema.newer", package=package, unknown=unknown)
            return
        connection.rollback()
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
        connection.execute(sqlalchemy.text(REPLACE), {"revisions": supported_by(scripts)})
        connection.commit()


def _unknown(scripts: ScriptDirectory, current: tuple[str, ...]) -> list[str]:
    known = {script.revision for script in scripts.walk_revisions()}
    return sorted(set(current) - known)


def supported_by(scripts: ScriptDirectory) -> list[str]:
    """Each branch's newest revision and those before it, back to one that says `breaks_older = True`: what is older than
    that cannot run on the schema."""
    supported: list[str] = []
    for head in scripts.get_heads():
        next: str | None = head
        while next is not None:
            script = scripts.get_revision(next)
            supported.append(next)
            # Not what another branch depends on: that is of its own branch.
            assert script.down_revision is None or isinstance(script.down_revision, str)
            next = None if getattr(script.module, "breaks_older", False) else script.down_revision
    return sorted(supported)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m shared.migrations <package>")
    configure(sys.argv[1], "info")
    try:
        migrate(sys.argv[1], Settings().database_url.get_secret_value())
    except SchemaTooNew as error:
        log.critical("schema.too_new", error=str(error))
        sys.exit(1)
