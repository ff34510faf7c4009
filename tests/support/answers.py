"""What a scripted provider answers: by a test's own script, or by itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from tests.support.summarizing import follow


class Fault(Enum):
    """What goes wrong with an answer."""

    HANG = auto()  # Accept the request, then send nothing.
    STALL = auto()  # Send the deltas, then nothing.
    CUT = auto()  # Send the deltas, then drop the connection.
    END_EARLY = auto()  # Send the deltas, then end the response properly, with no finish reason.
    MALFORMED_JSON = auto()  # After the deltas, a chunk that is not JSON.
    MALFORMED_SHAPE = auto()  # After the deltas, a chunk that is JSON of the wrong shape.
    ERROR_EVENT = auto()  # After the deltas, an error object inside the stream.
    LINGER = auto()  # Send everything, then keep the response open.
    ENDLESS = auto()  # Repeat the deltas for ever.


@dataclass(frozen=True)
class Answer:
    """What one request gets.

    Attributes:
        status, headers: An error where status is not 200; its body then is `error`.
        usage: The usage block, sent only if the request asks for it; None for a provider that never counts.
        rate: Deltas a second; None sends them as fast as they are read.
        gate: Awaited before every delta from number `gate_at` on, so that a test decides when the answer goes on.
        first_chunks: Raw chunks before the first delta, such as a reasoning model's thoughts.
        calls: Tool calls after the deltas, as name and arguments, sent in small pieces as OpenAI does.
    """

    deltas: Sequence[str] = ("Hello", ", ", "world", ".")
    finish_reason: str | None = "stop"
    usage: Mapping[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
    )
    fault: Fault | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "scripted failure", "code": None})
    rate: float | None = None
    gate: asyncio.Event | None = None
    gate_at: int = 0
    first_chunks: Sequence[Mapping[str, Any]] = ()
    calls: Sequence[tuple[str, str]] = ()


def default_answer(body: dict[str, Any]) -> Answer:
    """Fold, if a summariser asks; otherwise echo the last user message, word by word."""
    messages = body["messages"]
    user = next((each["content"] for each in reversed(messages) if each["role"] == "user"), "")
    summary = follow(user)
    text = f"You said: {user}" if summary is None else summary
    deltas = re.findall(r"\S+\s*", text)
    words = sum(len((each["content"] or "").split()) for each in messages)
    usage = {"prompt_tokens": words, "completion_tokens": len(deltas), "total_tokens": words + len(deltas)}
    return Answer(deltas=deltas, usage=usage)
