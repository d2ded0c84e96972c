"""How fresh an order is is read from the index alone, not from its facts, which lie wherever they came. The index alone is enough
for pages that vacuum has seen: it comes by once a twentieth is new."""

from alembic import op

revision = "0009"
down_revision = "0008"

INDEX = """
CREATE INDEX timeline_of ON timeline (subject, service, sequence) INCLUDE (occurred_at, seen_at);
DROP INDEX timeline_place;
ALTER INDEX timeline_of RENAME TO timeline_place;
ALTER TABLE timeline SET (autovacuum_vacuum_insert_scale_factor = 0.05);
"""


def upgrade() -> None:
    op.execute(INDEX)
