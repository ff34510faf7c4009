"""What a turn costs the database is counted, so that no change makes it dearer unseen."""

from __future__ import annotations

import pytest

from bench.durability import measure


async def test_a_turn_takes_three_round_trips_and_none_for_a_delta(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatrpc.turns.checkpoints.INTERVAL", 1e9)
    cost = await measure(database_url, None, 40, 100.0)
    assert cost.deltas > 1
    assert cost.round_trips == 3
    assert cost.statements == {"append_message": 1, "search_units": 1, "finish_reply": 1}
