"""`chatrpc usage` over a real server."""

from __future__ import annotations

import json

from tests.cli.terminal import terminal
from tests.cli.test_chat import arguments
from tests.cli.test_explain import said
from tests.rpc.stage import Stage


async def told(stage: Stage, *words: str) -> tuple[int, str]:
    async with terminal(*arguments(stage), *words, command="usage") as person:
        return await person.code(), person.shown


async def test_usage_is_told_by_day(stage: Stage) -> None:
    await said(stage, await stage.conversation(), "hello")
    code, shown = await told(stage)
    assert code == 0
    assert "15 tokens and 1 reply; 0 tokens reserved for 0 running." in shown
    assert "1 x staged: 10 prompt, 5 completion, " in shown


async def test_usage_is_told_as_json(stage: Stage) -> None:
    code, shown = await told(stage, "--json")
    assert code == 0
    assert json.loads(shown)["quota"]["window"] == "QUOTA_WINDOW_DAY"


async def test_without_usage_that_is_said(stage: Stage) -> None:
    _, shown = await told(stage, "--days", "1")
    assert "Nothing was used on these days." in shown
