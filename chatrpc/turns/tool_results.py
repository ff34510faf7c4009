"""The tool calls that a running reply waits for, and the results that come from its user's clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from chatrpc.domain import Part, ToolResultPart
from chatrpc.errors import FailedPrecondition, Reason, ResourceExhausted

MOST_CHARACTERS = 512 * 1024
"""Of all results of one reply: it is told and listed whole, and gRPC's clients take 4 MiB at once by default."""


class ToolResults:
    """Takes results from any task, and gives them to the one that generates the reply."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._taken: dict[str, ToolResultPart] = {}
        self._arrived: asyncio.Queue[ToolResultPart] = asyncio.Queue()

    def expect(self, call_ids: Iterable[str]) -> None:
        """Take results of these calls from now on."""
        self._waiting.update(call_ids)

    def submit(self, results: Sequence[ToolResultPart]) -> None:
        """Take all of the results, or none.

        Raises:
            FailedPrecondition: One is of a call that is not waited for, or was answered otherwise.
            ResourceExhausted: All results of the reply together are too long.
        """
        new = new_results(results, self._taken, self._waiting)
        for result in new:
            self._waiting.discard(result.call_id)
            self._taken[result.call_id] = result
            self._arrived.put_nowait(result)

    async def results(self, count: int) -> AsyncGenerator[ToolResultPart, None]:
        """So many results, as they come."""
        for _ in range(count):
            yield await self._arrived.get()

    def close(self) -> None:
        """Take no further results."""
        self._waiting.clear()


def results_of(parts: Iterable[Part]) -> dict[str, ToolResultPart]:
    """The results among the parts of a reply, by their calls."""
    return {part.call_id: part for part in parts if isinstance(part, ToolResultPart)}


def new_results(
    results: Iterable[ToolResultPart], taken: Mapping[str, ToolResultPart], waiting: Iterable[str]
) -> list[ToolResultPart]:
    """Those of the results that are not taken yet.

    Raises:
        FailedPrecondition, ResourceExhausted: As `ToolResults.submit`.
    """
    known, new = dict(taken), list[ToolResultPart]()
    expected = set(waiting)
    for result in results:
        before = known.get(result.call_id)
        if before == result:
            continue
        if before is not None or result.call_id not in expected:
            raise not_pending(result.call_id)
        known[result.call_id] = result
        new.append(result)
    if new and sum(len(result.content) for result in known.values()) > MOST_CHARACTERS:
        raise ResourceExhausted(
            Reason.MESSAGE_TOO_LARGE,
            f"The results of one reply hold {MOST_CHARACTERS} characters at most; send less of it.",
            subject="reply",
        )
    return new


def not_pending(call_id: str) -> FailedPrecondition:
    """The error for a result that nobody waits for."""
    return FailedPrecondition(
        Reason.TOOL_CALL_NOT_PENDING,
        f"The reply does not wait for a result of the call {call_id!r}; answer the calls of its newest attempt, once.",
        call_id=call_id,
    )
