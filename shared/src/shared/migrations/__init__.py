"""Migrations: alembic with plain SQL, one environment for all services, each service's versions in its own package."""
