"""Scripted language models that summarise: one that follows the prompt, and three that turn bad."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from chatrpc.domain import FinishReason, Usage
from chatrpc.ports import ModelEvent, ModelFinished, ModelRequest, TextDelta
from tests.support.summarizing import answer_of, facts_of, follow, messages_of

Answer = Callable[[str], str]


class ScriptedModel:
    """Implements `chatrpc.ports.ChatModel`: answers by one function of the prompt, later by another.

    Args:
        turns_bad: Number of the message from which on `later` answers.
    """

    def __init__(self, name: str, later: Answer, turns_bad: int) -> None:
        self._name = name
        self._later = later
        self._turns_bad = turns_bad
        self.answers = 0

    def model_name(self, requested: str | None) -> str:
        return self._name

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        prompt = request.prompt[-1].content
        numbers = [message.number for message in messages_of(prompt)]
        bad = bool(numbers) and min(numbers) > self._turns_bad
        self.answers += bad
        yield TextDelta(self._later(prompt) if bad else good(prompt))
        yield ModelFinished(FinishReason.STOP, self._name, Usage())

    async def aclose(self) -> None:
        return None


def good(prompt: str) -> str:
    answer = follow(prompt)
    assert answer is not None, "the prompt is a summariser's"
    return answer


def forgets(prompt: str) -> str:
    """The story is of the newest message alone, and every known fact is taken back."""
    newest = messages_of(prompt)[-1]
    gone = [f"- {key} | no longer needed | {newest.number}" for key, _, _ in facts_of(prompt)]
    return answer_of(f"The assistant said: {newest.text}", gone)


def truncates(prompt: str) -> str:
    """A good answer that stops half-way, and calls that its end."""
    answer = good(prompt)
    return answer[: len(answer) // 2]


def bloats(prompt: str) -> str:
    """A story without end, and facts that nobody said."""
    newest = messages_of(prompt)[-1]
    junk = [f"+ invention.{place} | name | Something of note, number {place}, | {newest.number}" for place in range(80)]
    return answer_of(" ".join(message.text for message in messages_of(prompt)) * 20, junk)
