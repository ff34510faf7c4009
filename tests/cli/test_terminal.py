"""Lines come whole, whatever the pieces that they are read in; other people's text commands no terminal."""

from __future__ import annotations

import asyncio
import os
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from chatrpc.cli.terminal import Lines, printable

texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n"), max_size=20)


async def _lines(descriptor: int) -> list[str]:
    lines, found = Lines(descriptor), []
    while (line := await lines.next()) is not None:
        found.append(line)
    return found


@settings(max_examples=50, deadline=None)
@given(said=st.lists(texts, max_size=6), ended=st.booleans(), piece=st.integers(1, 7))
async def test_a_pipe_gives_the_lines_that_were_written(said: list[str], ended: bool, piece: int) -> None:
    written = "\n".join(said) + ("\n" if ended and said else "")
    expected = written.split("\n")
    if expected[-1] == "":
        expected.pop()
    read, write = os.pipe()
    try:
        reading = asyncio.create_task(_lines(read))
        raw = written.encode()
        for start in range(0, len(raw), piece):
            os.write(write, raw[start : start + piece])
            # The reader gets its turn between the pieces.
            await asyncio.sleep(0)
        os.close(write)
        async with asyncio.timeout(20):
            assert await reading == expected
    finally:
        os.close(read)


async def test_waiting_for_a_line_holds_up_nothing_and_can_be_given_up() -> None:
    read, write = os.pipe()
    lines = Lines(read)
    waiting = asyncio.create_task(lines.next())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    os.write(write, b"late\n")
    assert await lines.next() == "late"
    os.close(write)
    assert await lines.next() is None
    os.close(read)


@given(st.text())
def test_printable_text_has_no_control_characters_and_loses_nothing_else(text: str) -> None:
    shown = printable(text)
    assert {each for each in shown if unicodedata.category(each) == "Cc"} <= {"\n", "\t"}
    assert [each for each in shown if each != "\N{REPLACEMENT CHARACTER}"] == [
        each
        for each in text
        if unicodedata.category(each) != "Cc" or each in "\n\t"
        if each != "\N{REPLACEMENT CHARACTER}"
    ]
