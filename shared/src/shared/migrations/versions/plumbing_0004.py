"""Each state says which shape of state it was folded to, so that rows of an older image are folded anew."""

from alembic import op

revision = "plumbing_0004"
down_revision = "plumbing_0003"

SHAPES = """
ALTER TABLE states ADD COLUMN shape text, ADD COLUMN shaped_at bigint;
CREATE INDEX states_by_shape ON states (shape);
COMMENT ON COLUMN states.shape IS 'which fields the state has, as a digest: a row of another shape is folded anew from its journal';
COMMENT ON COLUMN states.shaped_at IS 'the sequence that shape is of: an image that does not know the column leaves it behind';
"""


def upgrade() -> None:
    op.execute(SHAPES)
