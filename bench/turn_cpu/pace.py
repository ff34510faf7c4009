"""The words of a reply, at the pace of a language model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

# Four letters and a space are what a token of English comes to.
TOKEN = "word "


async def paced(tokens: int, rate: float) -> AsyncGenerator[str, None]:
    """So many tokens at so many a second; at a rate of 0 as fast as they are read. It makes up for lost time."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(tokens):
        if rate:
            await asyncio.sleep(start + number / rate - loop.time())
        yield TOKEN
