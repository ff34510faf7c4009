"""What a search can tell by words alone, it tells while the query is being embedded.

search_pool and search_coarsely stay for servers of the release before, until a later release drops them.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
NEW = ("units_beside", "look_by_words", "look_by_vector", "search_units")

# Of the passages in scope: units, their mean length, passages, and whether these are a large share of all; units that
# hold each term; units worth a look by their words; the passages in scope that the sample drew, some of them more than
# once, and for how many of its owner each stands. Beyond `size` and `narrow` all is null where a search takes no first
# look.
LOOK = """
CREATE TYPE search_look AS (
    size bigint, narrow boolean,
    population bigint, mean_length double precision, passages double precision, wide boolean,
    document_frequency integer[], worded uuid[],
    sampled uuid[], sampled_passages smallint[], own_weight double precision, shared_weight double precision
)
"""


def upgrade() -> None:
    op.execute(LOOK)
    for name in NEW:
        op.execute(sa.text((FUNCTIONS / f"{name}_1.sql").read_text().replace(":", r"\:")))


def downgrade() -> None:
    for name in reversed(NEW):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TYPE search_look")
