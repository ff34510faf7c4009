"""The parts that the comparison leaves out, each alone: `python -m bench.turn_cpu.parts client URL|embedder`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from typing import Any
from uuid import uuid4

import uvloop

from bench.child import cpu_seconds, obey
from bench.turn_cpu.pace import TOKEN
from chatrpc.domain import PromptMessage, Role, Sampling, Section
from chatrpc.models.chat import build_chat_model
from chatrpc.models.embedding import build_embedder
from chatrpc.models.embedding.template import embedding_text
from chatrpc.ports import ModelRequest, TextDelta
from chatrpc.settings import EmbedderSettings, ModelSettings

# 19 WordPiece tokens and two special ones.
MESSAGE = "We moved the meeting with Anna to Thursday, so I can bring the garden plans."


async def measure_client(base_url: str) -> None:
    """Answers `STREAMS`: so many requests at once, and what they took."""
    model = build_chat_model(ModelSettings(base_url=base_url, name="scripted"))
    prompt = (PromptMessage("user", "Say it.", Section.QUERY, (uuid4(),)),)
    request = ModelRequest(prompt, None, Sampling(), 2_048)

    async def read() -> int:
        chunks = 0
        async for event in model.stream(request):
            chunks += isinstance(event, TextDelta)
        return chunks

    async def answer(line: str) -> dict[str, Any]:
        before = cpu_seconds()
        chunks = await asyncio.gather(*(read() for _ in range(int(line))))
        return {"cpu": cpu_seconds() - before, "chunks": sum(chunks)}

    try:
        await obey({}, answer)
    finally:
        await model.aclose()


async def measure_embedder() -> None:
    """Answers `REPEATS TOKENS`: a text of so many tokens, embedded so many times, one after the other."""
    texts = {21: MESSAGE, 200: TOKEN * 198}
    with tempfile.TemporaryDirectory(prefix="chatrpc-bench-") as cache_dir:
        async with build_embedder(EmbedderSettings(cache_dir=cache_dir)) as embedder:

            async def answer(line: str) -> dict[str, Any]:
                repeats, tokens = map(int, line.split())
                text = embedding_text(Role.USER, texts[tokens])
                before = cpu_seconds()
                for _ in range(repeats):
                    await embedder.embed([text])
                return {"cpu": (cpu_seconds() - before) / repeats}

            await obey({}, answer)


def main() -> None:
    uvloop.run(measure_client(sys.argv[2]) if sys.argv[1] == "client" else measure_embedder())


if __name__ == "__main__":
    main()
