"""Summaries written by a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template

from chatrpc.domain import FinishReason, Message, PromptMessage, Sampling, Section
from chatrpc.errors import SummaryRefused
from chatrpc.ports import ChatModel, ModelFinished, ModelRequest, TextDelta
from chatrpc.tokens import cut_to_tokens, estimate_tokens

# The estimate puts an English word at 1.7 to 1.9 tokens and a Chinese character at 3. Models overshoot a limit that
# they are told, so they are told a lower one.
_TOKENS_A_WORD, _TOKENS_A_CHARACTER = 2.5, 4
# Roles, labels and tags around the texts, over and above the instructions.
_OVERHEAD_TOKENS = 200
# Only what reads as one of our own tags is changed, so that quoted code stays as it was said.
_OWN_TAG = re.compile(r"<(?=[\s/\\]*(?:transcript|previous_summary))", re.IGNORECASE)


class ModelSummarizer:
    """Folds by asking a ChatModel.

    The output limit of the request equals the limit of the summary: the estimate is an upper one, so a summary that
    is short enough is never cut by it. A reasoning model would spend that limit on its thoughts; name another one in
    CHATRPC_MODEL_SUMMARY_NAME.
    """

    def __init__(self, chat_model: ChatModel, model_name: str | None, context_window: int) -> None:
        """`context_window` in tokens: of messages too long for it, each is cut to an equal share."""
        self._chat_model = chat_model
        self._model_name = model_name
        self._context_window = context_window

    @property
    def name(self) -> str:
        return self._chat_model.model_name(self._model_name)

    async def fold(self, previous: str | None, messages: Sequence[Message], max_tokens: int) -> str:
        instructions = Template(_instructions()).substitute(
            max_words=int(max_tokens / _TOKENS_A_WORD), max_characters=max_tokens // _TOKENS_A_CHARACTER
        )
        taken = estimate_tokens(instructions) + estimate_tokens(previous or "") + max_tokens + _OVERHEAD_TOKENS
        transcript = _transcript(messages, self._context_window - taken)
        if not transcript:
            raise SummaryRefused("There is nothing to fold: the messages hold no text, or none fits the window.")
        parts = [f"<transcript>\n{transcript}\n</transcript>", "Write the new summary."]
        if previous is not None:
            parts.insert(0, f"<previous_summary>\n{_quoted(previous)}\n</previous_summary>")
        prompt = (
            PromptMessage("system", instructions, Section.SYSTEM),
            PromptMessage("user", "\n\n".join(parts), Section.QUERY, tuple(message.id for message in messages)),
        )
        request = ModelRequest(prompt, self._model_name, Sampling(), max_tokens)
        return _checked(*await self._complete(request), max_tokens)

    async def _complete(self, request: ModelRequest) -> tuple[str, FinishReason]:
        texts: list[str] = []
        reason = FinishReason.FAILED
        async for event in self._chat_model.stream(request):
            match event:
                case TextDelta(text):
                    texts.append(text)
                case ModelFinished():
                    reason = event.reason
        return "".join(texts).strip(), reason


def _checked(text: str, reason: FinishReason, max_tokens: int) -> str:
    if reason is not FinishReason.STOP:
        raise SummaryRefused(f"The model's summary ended by {reason.value}, not by itself.")
    if not text:
        raise SummaryRefused("The model's summary is empty.")
    tokens = estimate_tokens(text)
    if tokens > max_tokens:
        raise SummaryRefused(f"The model's summary may take {tokens} tokens, more than the {max_tokens} allowed.")
    return text


def _transcript(messages: Sequence[Message], budget: int) -> str:
    """The messages as `role: text` lines, within so many tokens; empty if there is no text or no room."""
    spoken = [(message.role.value, message.text.strip()) for message in messages]
    spoken = [(role, text) for role, text in spoken if text]
    if sum(estimate_tokens(text) for _, text in spoken) > budget:
        spoken = [(role, cut_to_tokens(text, budget // len(spoken))) for role, text in spoken]
    return "\n".join(f"{role}: {_quoted(text)}" for role, text in spoken if text)


def _quoted(text: str) -> str:
    """The text so that it cannot close the block that holds it."""
    return _OWN_TAG.sub("&lt;", text)


@cache
def _instructions() -> str:
    return files(__package__).joinpath("prompt.txt").read_text("utf-8")
