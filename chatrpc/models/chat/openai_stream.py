"""The Chat Completions stream as it comes over the wire.

The official client sends the request; the lines of its answer are read here. Its own stream objects build every field
of every chunk by reflection: at 100 tokens a second a chunk costs 367 us of CPU through them and 206 us through these
models, 170 us of both being the reading from the socket. What does not fit the few fields that a reply needs is an
error at once rather than a surprise further on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from chatrpc.domain import FinishReason, Usage
from chatrpc.models.chat.usage import MOST_COUNTED
from chatrpc.ports import ToolCalled


class FunctionPiece(BaseModel):
    name: str | None = None
    arguments: str | None = None


class CallPiece(BaseModel):
    """A piece of a tool call. Pieces of one index belong together; servers that send calls whole may leave it out."""

    index: int | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class Delta(BaseModel):
    """A piece of the answer. Reasoning models' thoughts come under either of the two names."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[CallPiece, ...] | None = None

    @property
    def text(self) -> str:
        # PostgreSQL cannot store U+0000. A reply with one could never be finished,
        # and would be generated again and again.
        return ((self.content or "") + (self.refusal or "")).replace("\0", "\ufffd")

    @property
    def is_token(self) -> bool:
        """Whether the model has produced something, be it a thought; a bare role is nothing yet."""
        return bool(self.content or self.refusal or self.reasoning_content or self.reasoning or self.tool_calls)


class Choice(BaseModel):
    """One of the answers; only one is ever asked for."""

    delta: Delta | None = None
    finish_reason: str | None = None


class CallCollector:
    """Puts the pieces of tool calls together."""

    def __init__(self) -> None:
        self._calls: list[tuple[int | None, str | None, list[str], list[str]]] = []

    def take(self, pieces: Iterable[CallPiece]) -> None:
        for piece in pieces:
            function = piece.function or FunctionPiece()
            names, arguments = self._of(piece, function)
            names.append(function.name or "")
            arguments.append(function.arguments or "")

    def calls(self) -> list[ToolCalled]:
        return [
            ToolCalled("".join(names).replace("\0", "\ufffd"), "".join(arguments).replace("\0", "\ufffd"))
            for _, _, names, arguments in self._calls
        ]

    def _of(self, piece: CallPiece, function: FunctionPiece) -> tuple[list[str], list[str]]:
        """Where a piece belongs. Without an index, a name or another id begins a call."""
        for index, call_id, names, arguments in reversed(self._calls):
            same = piece.index == index if piece.index is not None else not function.name
            if same and (piece.id is None or call_id is None or piece.id == call_id):
                return names, arguments
        call: tuple[int | None, str | None, list[str], list[str]] = (piece.index, piece.id, [], [])
        self._calls.append(call)
        return call[2], call[3]


Count = Annotated[int, Field(ge=0, le=MOST_COUNTED)]


class PromptTokensDetails(BaseModel):
    cached_tokens: Count | None = None


class ProviderUsage(BaseModel):
    """The provider's own count."""

    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: PromptTokensDetails | None = None

    def to_domain(self) -> Usage:
        details = self.prompt_tokens_details
        cached = details.cached_tokens if details is not None else None
        return Usage(self.prompt_tokens, cached or 0, self.completion_tokens)


class Chunk(BaseModel):
    """One event of the stream. `error` is how an endpoint that has already answered 200 says that it failed."""

    choices: tuple[Choice, ...] = ()
    usage: ProviderUsage | None = None
    error: object = None

    @field_validator("usage", mode="wrap")
    @classmethod
    def _possible(cls, told: object, read: ValidatorFunctionWrapHandler) -> ProviderUsage | None:
        """A count that cannot be is none: the text is worth more, and what is booked must be possible."""
        try:
            usage: ProviderUsage | None = read(told)
        except ValidationError:
            return None
        return usage


def is_done(line: str) -> bool:
    """Whether the line says that no further chunk follows."""
    return line.startswith("data:") and line[5:].strip() == "[DONE]"


def parse_line(line: str) -> Chunk | None:
    """The chunk in one line of a server-sent event stream; None for a line without data, such as a heartbeat.

    Every known endpoint writes a chunk's JSON on one line, so events of several data lines are not joined.

    Raises:
        pydantic.ValidationError: The data is not a chunk.
    """
    return Chunk.model_validate_json(line[5:]) if line.startswith("data:") else None


_FINISH_REASONS = {
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


def finish_reason(value: str) -> FinishReason:
    """Endpoints add reasons of their own (`eos_token`, `stop_sequence`): they all mean that the model was done."""
    return _FINISH_REASONS.get(value, FinishReason.STOP)
