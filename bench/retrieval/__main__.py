"""The command; see `bench.retrieval`."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import random
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import mean
from uuid import UUID

import uvloop
from psycopg import AsyncConnection
from uuid_utils.compat import uuid7

import bench.retrieval
from bench.database import fresh_database
from bench.recall.database import store
from bench.recall.dataset import ADVERSARIAL, Memory, Message, Question, from_locomo
from bench.recall.offline import build_index
from bench.replay.dataset import load
from bench.retrieval.peer import LANGUAGE_MODEL, Peer, SharedEmbedder, open_peer
from bench.search.sentences import sentences
from bench.table import percentile, print_table
from chatrpc.context.query import PendingQuery
from chatrpc.context.retrieval import Retriever, spans
from chatrpc.db.recall import Recall
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import RetrievalMode, Role
from chatrpc.models.embedding import build_embedder, query_embedder
from chatrpc.ports import Embedder
from chatrpc.settings import EmbedderSettings

MESSAGES, CONVERSATION = 10_000, 50
TOP = 10
WARM_UP = 20
P50_BAR, P99_BAR, SHARE_BAR = 15.0, 40.0, 1 / 3


def memory_of(path: str, questions: int) -> Memory:
    """One user's messages: conversations of LoCoMo among made-up ones, and questions to the former."""
    told = [memory for memory in from_locomo(load(path)) if memory.tuned_on]
    messages: list[Message] = []
    asked: list[Question] = []
    for memory in told:
        name = f"{memory.user}/"
        messages += [replace(each, id=name + each.id, conversation=memory.user) for each in memory.messages]
        asked += [
            replace(each, evidence=frozenset(name + id_ for id_ in each.evidence))
            for each in memory.questions
            if each.category != ADVERSARIAL
        ]
    first = min(message.created_at for message in messages)
    made_up = sentences(MESSAGES - len(messages), seed=7)
    messages += [
        Message(f"made-up/{n}", f"made-up {n // CONVERSATION}", Role.USER, text, first + timedelta(hours=n))
        for n, text in enumerate(made_up)
    ]
    random.Random(7).shuffle(asked)
    return Memory("benchmark", tuple(messages), tuple(asked[:questions]))


class Ours:
    """chatrpc's retrieval, from the question's text to the texts of the passages."""

    def __init__(self, recall: Recall, embedder: Embedder, user_id: UUID, space_id: int, memory: Memory) -> None:
        self._retriever = Retriever(recall, embedder.space, space_id, shared_id=None)
        self._embedder = embedder
        self._user_id = user_id
        self._memory = memory
        self.embedding = 0.0
        """Seconds that the last question's embedding took."""

    async def search(self, question: Question) -> list[str]:
        pending = PendingQuery(self._embedder, question.text)
        sought = self._retriever.sought(question.text, elsewhere=True, collections=())
        found = await self._retriever.find(self._user_id, None, sought, pending, ())
        self.embedding = pending.micros / 1e6
        chosen = await self._retriever.choose(
            self._user_id,
            found,
            mode=RetrievalMode.CALIBRATED,
            limit=TOP,
            spans=spans(question.text, question.asked_at),
            verbatim_texts=[question.text],
        )
        # A message's id is the number of its row.
        rows = [hit.message_id.int for hit in chosen.hits if hit.message_id is not None]
        return [self._memory.messages[row].id for row in rows]


async def run(path: str, questions: int) -> None:
    memory = memory_of(path, questions)
    async with (
        build_embedder(EmbedderSettings()) as embedder,
        fresh_database() as (postgres, database),
        await AsyncConnection.connect(postgres.url, autocommit=True) as owner,
    ):
        started = time.perf_counter()
        index = await build_index(memory, embedder)
        user_id = uuid7()
        space_id = await VectorStore(database).register_space(embedder.space)
        await store(user_id, index, database, space_id)
        await owner.execute("VACUUM ANALYZE")
        print(f"{len(memory.messages):,} messages embedded and stored in {time.perf_counter() - started:.0f} s")
        queries = query_embedder(embedder)
        ours = Ours(Recall(database), queries, user_id, space_id, memory)
        if not all(map(importlib.util.find_spec, ("mem0", "spacy", LANGUAGE_MODEL))):
            print("mem0 is not installed as it is meant to be; see --help.")
            await compare(memory, ours, None)
            return
        said = [message.text for message in memory.messages]
        vectors = [
            vector for start in range(0, len(said), 256) for vector in await embedder.embed(said[start : start + 256])
        ]
        stored = {text: vector.tolist() for text, vector in zip(said, vectors, strict=True)}
        shared = SharedEmbedder(queries, asyncio.get_running_loop(), stored)
        with (
            tempfile.TemporaryDirectory(prefix="chatrpc-bench-") as scratch,
            open_peer(postgres, shared, Path(scratch), embedder.space.dimension) as peer,
        ):
            started = time.perf_counter()
            await asyncio.to_thread(peer.add, list(memory.messages))
            await owner.execute("VACUUM ANALYZE")
            print(f"the same stored by mem0 in {time.perf_counter() - started:.0f} s")
            await compare(memory, ours, peer)


async def compare(memory: Memory, ours: Ours, peer: Peer | None) -> None:
    millis: dict[str, list[float]] = {"chatrpc": [], "mem0": []}
    recall: dict[str, list[float]] = {"chatrpc": [], "mem0": []}
    embedding: list[float] = []
    for number, question in enumerate(memory.questions):
        for name in random.sample(list(millis), 2):
            started = time.perf_counter()
            if name == "chatrpc":
                ids = await ours.search(question)
            elif peer is not None:
                ids = await asyncio.to_thread(peer.search, question.text, TOP)
            else:
                continue
            taken = 1e3 * (time.perf_counter() - started)
            if number >= WARM_UP:
                millis[name].append(taken)
                if name == "chatrpc":
                    embedding.append(1e3 * ours.embedding)
                recall[name].append(len(question.evidence.intersection(ids)) / len(question.evidence))
    rows = [
        [name, percentile(taken, 0.5), percentile(taken, 0.99), 100 * mean(recall[name])]
        for name, taken in millis.items()
        if taken
    ]
    print_table(["", "p50 ms", "p99 ms", f"recall@{TOP}, %"], rows)
    print(f"of it the embedding of a question, the same for both: {percentile(embedding, 0.5):.1f} ms")
    p50, p99 = percentile(millis["chatrpc"], 0.5), percentile(millis["chatrpc"], 0.99)
    verdict = "met" if p50 <= P50_BAR and p99 <= P99_BAR else "MISSED"
    print(f"bar: p50 <= {P50_BAR:.0f} ms, p99 <= {P99_BAR:.0f} ms: {verdict}")
    if peer is not None:
        share = p50 / percentile(millis["mem0"], 0.5)
        better = mean(recall["chatrpc"]) >= mean(recall["mem0"])
        verdict = "met" if share <= SHARE_BAR and better else "MISSED"
        print(f"bar: at most a third of mem0's p50, at no lower recall: {verdict} ({share:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=bench.retrieval.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locomo")
    parser.add_argument("--questions", type=int, default=320)
    arguments = parser.parse_args()
    uvloop.run(run(arguments.locomo, arguments.questions))


if __name__ == "__main__":
    main()
