"""`python -m shared.migrations <package>`: bring the database at OMS_DATABASE_URL to the package's newest version."""

import sys
from importlib.resources import files

import sqlalchemy
from alembic import command
from alembic.config import Config

from shared.settings import Settings


def migrate(package: str, database_url: str) -> None:
    """Idempotent, and safe to run from several processes: a session advisory lock admits one at a time."""
    config = Config()
    config.set_main_option("script_location", str(files("shared.migrations")))
    config.set_main_option("version_locations", str(files(package) / "migrations"))
    config.set_main_option("path_separator", "os")
    engine = sqlalchemy.create_engine(
        database_url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(7236409231)"))
        connection.commit()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m shared.migrations <package>")
    migrate(sys.argv[1], Settings().database_url.get_secret_value())
