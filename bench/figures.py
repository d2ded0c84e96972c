"""What a measurement says, and where it is taken."""

from dataclasses import dataclass
from statistics import median
from uuid import uuid4

import asyncpg

from shared.migrations.__main__ import migrate

AUTH_KEY = "a key for measurements, thirty-two bytes long"
RUNS = 5


@dataclass(frozen=True, slots=True)
class Place:
    kafka: str
    postgres: str

    async def database(self, package: str) -> str:
        """A fresh, migrated database."""
        name = f"bench_{package}_{uuid4().hex[:8]}"
        admin = await asyncpg.connect(self.postgres)
        try:
            await admin.execute(f"CREATE DATABASE {name}")
        finally:
            await admin.close()
        dsn = self.postgres.rpartition("/")[0] + f"/{name}"
        migrate(package, dsn)
        return dsn


@dataclass(frozen=True, slots=True)
class Figure:
    """`ours` and `floor` in `unit`, medians of interleaved runs; `must` in words, `is_met` whether it held."""

    what: str
    ours: float
    floor: float | None
    unit: str
    must: str
    is_met: bool
    cpu_per_1000: float | None = None
    runs: tuple[float, ...] = ()


def middle(values: list[float]) -> float:
    return median(values)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
