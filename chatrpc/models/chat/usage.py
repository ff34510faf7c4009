"""What a reply cost, where no provider counted."""

from __future__ import annotations

from collections.abc import Iterable

from chatrpc.domain import PromptMessage, Usage
from chatrpc.tokens import estimate_tokens

# Role and delimiters that chat templates put around each message: ChatML takes 4, Llama 3 takes 5.
MESSAGE_TOKENS = 5


def estimated_usage(prompt: Iterable[PromptMessage], completion: str) -> Usage:
    """Upper estimate of both sides, marked as such."""
    return Usage(
        prompt_tokens=sum(estimate_tokens(message.content) + MESSAGE_TOKENS for message in prompt),
        completion_tokens=estimate_tokens(completion),
        estimated=True,
    )
