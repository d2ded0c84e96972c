"""Topics keep the number of partitions with which they were first seen.

A key's place depends on the number. Were it changed under a running system, later facts of a key would be read beside its
earlier ones, not after them; so whoever sees another number stops.
"""

from collections.abc import Mapping

from shared.messaging.shell import Db


class PartitionsChanged(Exception):
    """It is raised where topics do not have the partitions they had, or not as many as the others; the text says which."""


NOTE = """
INSERT INTO topics (name, partitions) SELECT * FROM unnest($1::text[], $2::int[]) ORDER BY 1 ON CONFLICT DO NOTHING"""
KNOWN = "SELECT name, partitions FROM topics ORDER BY name"


async def known_partitions(db: Db) -> dict[str, int]:
    return {row["name"]: row["partitions"] for row in await db.fetch(KNOWN)}


async def note_partitions(db: Db, counts: Mapping[str, int]) -> None:
    """Raises PartitionsChanged, also where the topics of one service differ: an order's facts must meet in one place."""
    known = await known_partitions(db)
    changed = {
        f"{name} had {known[name]} partitions and has {count}"
        for name, count in counts.items()
        if name in known and known[name] != count
    }
    if len({*known.values(), *counts.values()}) > 1:
        everywhere = ", ".join(f"{name}: {count}" for name, count in sorted((known | dict(counts)).items()))
        raise PartitionsChanged("; ".join(sorted(changed)) or f"topics differ in partitions ({everywhere})")
    if counts.keys() - known.keys():
        await db.execute(NOTE, list(counts), list(counts.values()))
