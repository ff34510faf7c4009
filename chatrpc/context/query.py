"""The vector of a message that is about to be answered, made while the message is still being committed."""

from __future__ import annotations

import asyncio
import time

from chatrpc.domain import Role
from chatrpc.models.embedding.passages import split_passages
from chatrpc.models.embedding.template import TEMPLATE_TOKENS, embedding_text
from chatrpc.ports import Embedder, Vector
from chatrpc.tokens import estimate_tokens


class PendingQuery:
    """The embedding of a query, under way in a task of its own.

    Whoever starts it awaits it (`ContextAssembler.assemble` does) or cancels it.

    Attributes:
        text: As much of the query as is searched for.
        waited: Seconds that were spent waiting for the vector.
        micros: Time that the vector took, waiting included, in microseconds; 0 until it was waited for.
    """

    def __init__(self, embedder: Embedder, text: str) -> None:
        self.text = query_text(text, embedder.space.max_tokens)
        self.waited = 0.0
        self.micros = 0
        self._embedder = embedder
        self._task = asyncio.create_task(self._embed(), name="embed-query")
        # A turn that is never run asks for no result; an error then concerns nobody.
        self._task.add_done_callback(_retrieve_error)

    @property
    def done(self) -> bool:
        """Whether the vector is there, or failed."""
        return self._task.done()

    async def vector(self) -> Vector:
        """The query's unit vector; cancelling this wait, a deadline for instance, ends the embedding too.

        Raises:
            Unavailable: The embedder cannot be reached.
        """
        started = time.perf_counter()
        try:
            vector, self.micros = await self._task
            return vector
        finally:
            self.waited += time.perf_counter() - started

    def cancel(self) -> None:
        self._task.cancel()

    async def _embed(self) -> tuple[Vector, int]:
        started = time.perf_counter()
        # It is the user's words, like the messages that it is compared with.
        vectors = await self._embedder.embed([embedding_text(Role.USER, self.text)])
        return vectors[0], round((time.perf_counter() - started) * 1e6)


def _retrieve_error(task: asyncio.Task[tuple[Vector, int]]) -> None:
    if not task.cancelled():
        task.exception()


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
