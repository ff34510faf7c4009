"""What a reply cost, where no provider counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from chatrpc.domain import PromptMessage, Usage
from chatrpc.tokens import estimate_tokens

# Role and delimiters that chat templates put around each message: ChatML takes 4, Llama 3 takes 5.
MESSAGE_TOKENS = 5
# Of one request: ten times the largest windows. Whoever counts more does not count.
MOST_COUNTED = 100_000_000


def prompt_tokens(message: PromptMessage, count: Callable[[str], int] = estimate_tokens) -> int:
    """Upper estimate of what a message costs in a prompt."""
    calls = sum(count(call.id) + count(call.name) + count(call.arguments) for call in message.tool_calls)
    return count(message.content) + calls + MESSAGE_TOKENS * (1 + len(message.tool_calls))


def estimated_usage(prompt: Iterable[PromptMessage], completion: str) -> Usage:
    """Upper estimate of both sides, marked as such."""
    return Usage(
        prompt_tokens=sum(prompt_tokens(message) for message in prompt),
        completion_tokens=estimate_tokens(completion),
        estimated=True,
    )
