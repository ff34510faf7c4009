from __future__ import annotations

from pathlib import Path

import pytest

from bench.replay.__main__ import run, show
from bench.replay.dataset import dialogue, load

SMALL = Path(__file__).parent / "data" / "small.json"


async def test_a_conversation_passes_through_the_whole_stack(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHATRPC_CONTEXT_HOT_PATH", raising=False)
    monkeypatch.setenv("CHATRPC_CONTEXT_FOLD", "10")

    result = await run(dialogue(load(str(SMALL)), None))

    assert result.messages == 60
    assert result.reply_model == "scripted"
    # Of 60 messages, batches of 10 were folded as long as 10 more than the newest 10 stood after the summary.
    assert (result.summaries, result.summarized) == (5, 50)
    by_text = {asked.question.text: asked for asked in result.asked}
    assert len(by_text) == 6
    cat = by_text["What is the name of Nora's three-legged cat?"]
    assert (cat.recall(5), cat.in_window(), cat.in_context()) == (1, 0, 1)
    bow_maker = by_text["Where does the bow maker Duarte work?"]
    assert (bow_maker.recall(50), bow_maker.in_window()) == (0, 1)
    assert all(asked.tokens > 0 and asked.assembly_micros > 0 for asked in result.asked)

    show(result)
    printed = capsys.readouterr().out
    assert "evidence unmatched     1 D9:9" in printed
    assert "without evidence and left out: 1" in printed
