"""Functions of a turn take their planner settings from the session.

Setting them at each entry of a function cost 40 us a call, an eighth of accepting a message; a session sets them once.
A server of the release before, whose sessions plan each statement anew, is slower for the time of the update.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"

SETTINGS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
OF_EACH_TURN = ("append_message", "finish_reply", "hot_path", "passage_texts")


def upgrade() -> None:
    for function in OF_EACH_TURN:
        for setting in SETTINGS:
            op.execute(f"ALTER FUNCTION {function} RESET {setting}")


def downgrade() -> None:
    for function in OF_EACH_TURN:
        for setting, value in SETTINGS.items():
            op.execute(f"ALTER FUNCTION {function} SET {setting} = {value}")
