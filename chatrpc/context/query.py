"""The vector of a message that is about to be answered, made while the message is still being committed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from chatrpc.domain import Role
from chatrpc.models.embedding.passages import split_passages
from chatrpc.models.embedding.template import TEMPLATE_TOKENS, embedding_text
from chatrpc.ports import Embedder, Vector
from chatrpc.tokens import estimate_tokens


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A query as it is searched for.

    Attributes:
        text: As much of it as was embedded.
        micros: Time that the vector took, waiting included, in microseconds.
    """

    text: str
    vector: Vector
    micros: int


class PendingQuery:
    """The embedding of a query, under way in a task of its own.

    Whoever starts it awaits it (`ContextAssembler.assemble` does) or cancels it.
    """

    def __init__(self, embedder: Embedder, text: str) -> None:
        self._task = asyncio.create_task(_embed(embedder, text), name="embed-query")
        # A turn that is never run asks for no result; an error then concerns nobody.
        self._task.add_done_callback(_retrieve_error)

    async def result(self) -> QueryVector:
        """The vector; cancelling this wait, a deadline for instance, ends the embedding too.

        Raises:
            Unavailable: The embedder cannot be reached.
        """
        return await self._task

    def cancel(self) -> None:
        self._task.cancel()


def _retrieve_error(task: asyncio.Task[QueryVector]) -> None:
    if not task.cancelled():
        task.exception()


async def _embed(embedder: Embedder, text: str) -> QueryVector:
    started = time.perf_counter()
    read = query_text(text, embedder.space.max_tokens)
    # It is the user's words, like the messages that it is compared with.
    [vector] = await embedder.embed([embedding_text(Role.USER, read)])
    return QueryVector(read, vector, round((time.perf_counter() - started) * 1e6))


def query_text(text: str, max_tokens: int) -> str:
    """As much of a query as is searched for.

    Of a text that the embedding model cannot read whole, that is the last passage: where a long text is pasted together
    with a question about it, the question mostly stands at the end.
    """
    room = max_tokens - TEMPLATE_TOKENS
    # A token is seldom longer than four characters, so the end that is read holds more than one passage.
    end = text[-8 * room :]
    if len(end) == len(text) and estimate_tokens(text) <= room:
        return text
    start, _ = split_passages(end, room, estimate_tokens)[-1]
    return end[start:]
