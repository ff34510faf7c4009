"""A user's memory as the search returns it, made from arrays instead of a database."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from bench.recall.dataset import Memory, Question
from chatrpc.context.query import query_text
from chatrpc.context.retrieval.lexicon import terms
from chatrpc.db.search import Passage, Pool, Tier
from chatrpc.db.terms import MOST_FREQUENT
from chatrpc.domain import Role
from chatrpc.models.embedding import query_embedder
from chatrpc.models.embedding.passages import split_passages
from chatrpc.models.embedding.template import TEMPLATE_TOKENS, embedding_text
from chatrpc.ports import Embedder, Vector, Vectors

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Index:
    """A memory that is ready to be searched.

    Attributes:
        vectors, spans: Of all passages; `first` has the number of each message's first.
        postings: By term, the rows of the messages that hold it, and how often.
    """

    memory: Memory
    vectors: Vectors
    spans: list[tuple[int, int]]
    first: NDArray[np.intp]
    postings: dict[str, tuple[list[int], list[int]]]
    length: NDArray[np.int32]
    container: NDArray[np.int32]
    place: NDArray[np.int32]

    def pool(self, asked: tuple[str, ...], vector: Vector) -> Pool:
        """All messages, as a search for these terms and this vector finds them."""
        messages = self.memory.messages
        count = len(messages)
        cosine = np.maximum.reduceat(self.vectors @ vector, self.first)
        found = [self.postings.get(term, ([], [])) for term in asked]
        held = np.array([len(rows) for rows, _ in found], np.int32)
        return Pool(
            unit=np.frombuffer(b"".join(UUID(int=row).bytes for row in range(count)), "V16"),
            passage=np.zeros(count, np.int16),
            owner=np.zeros(count, np.int8),
            container=np.frombuffer(b"".join(UUID(int=number).bytes for number in self.container.tolist()), "V16"),
            place=self.place,
            cosine=cosine,
            length=self.length,
            created=np.array([message.created_at.timestamp() for message in messages]),
            match_row=np.array([row for rows, _ in found for row in rows], np.intp),
            match_term=np.repeat(np.arange(len(asked)), held),
            match_frequency=np.array([times for _, often in found for times in often], np.int32),
            document_frequency=held,
            population=count,
            mean_length=float(self.length.mean()),
            dense_mean=float(cosine.mean()),
            dense_std=float(cosine.std()),
            tier=Tier.EXACT,
        )

    def passage(self, row: int) -> Passage:
        message = self.memory.messages[row]
        container = UUID(int=int(self.container[row]))
        return Passage(UUID(int=row), container, message.role, message.text, message.created_at, None)


async def build_index(memory: Memory, embedder: Embedder) -> Index:
    """Embed all messages and count their terms, as the background worker does."""
    room = embedder.space.max_tokens - TEMPLATE_TOKENS
    texts: list[str] = []
    spans: list[tuple[int, int]] = []
    first: list[int] = []
    postings: dict[str, tuple[list[int], list[int]]] = {}
    length: list[int] = []
    for row, message in enumerate(memory.messages):
        first.append(len(texts))
        cuts = split_passages(message.text, room) or [(0, 0)]
        spans += cuts
        texts += [embedding_text(message.role, message.text[start:end]) for start, end in cuts]
        held = terms(message.text)
        length.append(held.total())
        for term, times in held.items():
            rows, often = postings.setdefault(term, ([], []))
            rows.append(row)
            often.append(min(times, MOST_FREQUENT))
    vectors = [await embedder.embed(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
    names = {name: number for number, name in enumerate(dict.fromkeys(each.conversation for each in memory.messages))}
    container = np.array([names[message.conversation] for message in memory.messages], np.int32)
    place = np.zeros(len(memory.messages), np.int32)
    for number in names.values():
        rows_of_it = container == number
        place[rows_of_it] = np.arange(1, rows_of_it.sum() + 1)
    return Index(
        memory, np.concatenate(vectors), spans, np.array(first), postings, np.array(length, np.int32), container, place
    )


async def question_vectors(questions: tuple[Question, ...], embedder: Embedder) -> Vectors:
    """Of questions as the server embeds them."""
    return await query_embedder(embedder).embed(
        [embedding_text(Role.USER, query_text(each.text, embedder.space.max_tokens)) for each in questions]
    )
