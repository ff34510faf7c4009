"""Ingest of a Markdown corpus, and what it costs replies meanwhile: `uv run python -m bench.ingest [--megabytes N]`.

It starts what `chatrpc dev` starts, in a temporary directory, and goes through Envoy all the way. The corpus is made of
a seed (`bench/ingest/corpus.py`): headings, prose, lists, tables and code of an operator's handbook.

Four stretches follow each other: turns alone, ten a second in one conversation, the offline model replying; a corpus
alone; turns alone again, whose user now has the corpus to search; another corpus, and the same turns while it is
ingested. Tokens are those of the corpus by the embedding model's
own tokenizer, headings that are embedded again with each chunk not counted; their rate is from the moment that all
bytes are there to the moment that all chunks can be found. Memory is the resident set of the process that holds the
server, and of the largest process that parsed. Bars: 10,000 tokens a second; memory bounded; the p99 of a reply's time
not doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psutil
from chatapi.v1.conversation_service_pb2 import CreateConversationRequest
from chatapi.v1.document_pb2 import DOCUMENT_STATE_EMBEDDING, DOCUMENT_STATE_READY, DocumentDescription
from tokenizers import Tokenizer

from bench.ingest.corpus import markdown_corpus
from bench.stack import run_stack
from bench.table import percentile, print_table
from chatrpc.client import ChatClient, connect, text_message
from chatrpc.models.embedding.weights import read_folder
from chatrpc.settings import EmbedderSettings

MEGABYTE = 1_000_000
TURNS_A_SECOND = 10
SAMPLE_SECONDS = 0.1


@dataclass
class Ingest:
    """Seconds that each part of an ingest took."""

    tokens: int
    chunks: int = 0
    upload: float = 0.0
    parse: float = 0.0
    embed: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / (self.parse + self.embed)


@dataclass
class Memory:
    """Resident bytes of the server's process: at the beginning, and the most; and the most of a parsing one."""

    before: int = 0
    peak: int = 0
    parser: int = 0


@dataclass
class Turns:
    """Seconds from sending a message to its first delta, and to the end of the reply."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


async def talk(client: ChatClient, until: asyncio.Event) -> Turns:
    """Turns at a steady pace, each in its time, however long the one before takes."""
    created = await client.call(client.conversations.CreateConversation, CreateConversationRequest())
    turns = Turns()
    async with client.chat() as session:
        number = 0
        began = time.perf_counter()
        while not until.is_set():
            number += 1
            sent = time.perf_counter()
            turn = await session.send(text_message(created.conversation.id, f"What about shipment {number} to Bergen?"))
            first = None
            async for event in turn:
                if first is None and event.WhichOneof("event") == "delta":
                    first = time.perf_counter()
            ended = time.perf_counter()
            turns.first.append((first or ended) - sent)
            turns.whole.append(ended - sent)
            await asyncio.sleep(max(0.0, began + number / TURNS_A_SECOND - time.perf_counter()))
    return turns


async def talk_alone(client: ChatClient, seconds: float) -> Turns:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    return await talk(client, over)


async def ingest(client: ChatClient, corpus: str, tokens: int) -> Ingest:
    timing = Ingest(tokens)
    began = time.perf_counter()
    description = DocumentDescription(title="Handbook", media_type="text/markdown")
    document, _ = await client.documents.ingest(description, corpus.encode())
    uploaded = parsed = time.perf_counter()
    async for seen in client.documents.watch(document.id):
        if seen.state == DOCUMENT_STATE_EMBEDDING and not timing.chunks:
            parsed, timing.chunks = time.perf_counter(), seen.chunk_count
    ended = time.perf_counter()
    if seen.state != DOCUMENT_STATE_READY:
        raise RuntimeError(f"The corpus could not be ingested: {seen.error_reason}")
    timing.upload, timing.parse, timing.embed = uploaded - began, parsed - uploaded, ended - parsed
    return timing


@asynccontextmanager
async def watched(pid: int) -> AsyncIterator[Memory]:
    """The memory of a process and of its parsers until the end of the block."""
    process = psutil.Process(pid)
    memory = Memory(before=process.memory_info().rss)

    async def sample() -> None:
        while True:
            memory.peak = max(memory.peak, process.memory_info().rss)
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if any("parse_worker" in word for word in child.cmdline()):
                        memory.parser = max(memory.parser, child.memory_info().rss)
            await asyncio.sleep(SAMPLE_SECONDS)

    sampling = asyncio.create_task(sample())
    try:
        yield memory
    finally:
        sampling.cancel()


async def run(size: int, seconds: float) -> None:
    tokenizer = Tokenizer.from_file(str(read_folder(EmbedderSettings().model).tokenizer))
    tokenizer.no_truncation()
    corpora = [markdown_corpus(size, seed) for seed in (7, 8)]
    # Without the two special tokens that each encoding has.
    tokens = [
        sum(len(each.ids) - 2 for each in tokenizer.encode_batch_fast(corpus.split("\n\n"))) for corpus in corpora
    ]
    async with run_stack() as stack, connect(stack.endpoint, stack.token) as client:
        quiet = await talk_alone(client, seconds)
        async with watched(stack.pid) as memory:
            alone = await ingest(client, corpora[0], tokens[0])
            searching = await talk_alone(client, seconds)
            over = asyncio.Event()
            talking = asyncio.create_task(talk(client, over))
            beside = await ingest(client, corpora[1], tokens[1])
            over.set()
            busy = await talking
    show(alone, beside, {"alone": quiet, "with documents": searching, "beside ingest": busy}, memory)


def show(alone: Ingest, beside: Ingest, stretches: Mapping[str, Turns], memory: Memory) -> None:
    print_table(
        ["ingest", "tokens", "chunks", "upload, s", "parse, s", "embed, s", "tokens/s"],
        [
            [name, each.tokens, each.chunks, each.upload, each.parse, each.embed, int(each.rate)]
            for name, each in (("alone", alone), ("beside turns", beside))
        ],
    )
    print()
    rows: list[list[object]] = []
    for name, turns in stretches.items():
        figures = [
            1_000 * percentile(values, share) for values in (turns.first, turns.whole) for share in (0.5, 0.95, 0.99)
        ]
        rows.append([name, len(turns.whole), *figures])
    header = ["turns, ms", "turns", "first p50", "p95", "p99", "whole p50", "p95", "p99"]
    print_table(header, rows)
    quiet, searching, busy = (percentile(turns.whole, 0.99) for turns in stretches.values())
    print(f"\np99 of a whole reply: {busy / quiet:.2f} times that without ingest (bar: 2)")
    print(f"and {busy / searching:.2f} times that with the documents to search, without ingest")
    print(f"tokens a second: {alone.rate:,.0f} alone (bar: 10,000)")
    print(
        f"memory of the server: {memory.before / 1e6:,.0f} MB before, {memory.peak / 1e6:,.0f} MB at most; "
        f"of the process that parses: {memory.parser / 1e6:,.0f} MB at most"
    )


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=5.0, help="Size of each corpus (default: %(default)s).")
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="Of each stretch of turns alone (default: %(default)s)."
    )
    arguments = parser.parse_args()
    asyncio.run(run(int(arguments.megabytes * MEGABYTE), arguments.seconds))


if __name__ == "__main__":
    main()
