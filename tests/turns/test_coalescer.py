"""Tokens of a window share a delta, and windows of all replies end together."""

from __future__ import annotations

import asyncio

import pytest

from chatrpc.turns.coalescer import Coalescer


async def test_the_first_piece_passes_at_once_and_the_rest_together() -> None:
    passed: list[str] = []
    coalescer = Coalescer(3_600.0, passed.append)
    for piece in ("a", "b", "c"):
        coalescer.push(piece)
    assert passed == ["a"]
    coalescer.flush()
    assert passed == ["a", "bc"]


async def test_without_a_window_each_piece_passes_by_itself() -> None:
    passed: list[str] = []
    coalescer = Coalescer(0.0, passed.append)
    for piece in ("a", "b", "c"):
        coalescer.push(piece)
    assert passed == ["a", "b", "c"]


async def test_windows_that_opened_at_different_times_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    ends: list[float] = []
    monkeypatch.setattr(loop, "call_at", lambda when, *_: ends.append(when))
    for now in (10.125, 10.25, 10.5):
        monkeypatch.setattr(loop, "time", lambda now=now: now)
        Coalescer(0.5, lambda text: None).push("first")
    monkeypatch.undo()
    assert ends == [10.5, 10.5, 11.0]
