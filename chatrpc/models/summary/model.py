"""Summaries written by a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from uuid import UUID

from chatrpc.domain import Fact, FinishReason, Message, PromptMessage, Sampling, Section
from chatrpc.errors import SummaryRefused
from chatrpc.models.chat.usage import estimated_usage
from chatrpc.models.meter import note
from chatrpc.models.summary.answer import parse_fold, parse_merge
from chatrpc.models.summary.checks import check_narrative, checked_changes
from chatrpc.ports import ChatModel, FactChange, Folding, ModelFinished, ModelRequest, TextDelta
from chatrpc.tokens import cut_to_tokens, estimate_tokens

# The estimate puts an English word at 1.7 to 1.9 tokens and a Chinese character at 3. Models overshoot a limit that
# they are told, so they are told a lower one.
_TOKENS_A_WORD, _TOKENS_A_CHARACTER = 2.5, 4
# Roles, labels and tags around the texts, over and above the instructions.
_OVERHEAD_TOKENS = 200
# Room in the answer for the changes of the facts, beside the story.
_CHANGES_TOKENS = 512
# What known facts and an old story may take of the window at most, far above what the settings let them have.
_KNOWN_TOKENS = 2_048
# Only what reads as one of our own tags is changed, so that quoted code stays as it was said.
_OWN_TAG = re.compile(r"<(?=[\s/\\]*(?:facts|story|messages)\b)", re.IGNORECASE)


class ModelSummarizer:
    """Folds by asking a ChatModel.

    A reasoning model would spend the answer's limit on its thoughts; name another one in CHATRPC_MODEL_SUMMARY_NAME.
    """

    def __init__(self, chat_model: ChatModel, model_name: str | None, context_window: int) -> None:
        """`context_window` in tokens: of messages too long for it, each is cut to an equal share."""
        self._chat_model = chat_model
        self._model_name = model_name
        self._context_window = context_window

    @property
    def name(self) -> str:
        return self._chat_model.model_name(self._model_name)

    @property
    def batch_tokens(self) -> int:
        instructions = estimate_tokens(_instructions("fold"))
        return self._context_window - instructions - _KNOWN_TOKENS - _CHANGES_TOKENS - _OVERHEAD_TOKENS

    async def fold(
        self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
    ) -> Folding:
        instructions = _limited("fold", max_tokens)
        known = [f"<facts>\n{_fact_lines(facts)}\n</facts>"] if facts else []
        if narrative:
            known.append(f"<story>\n{_quoted(narrative)}\n</story>")
        taken = sum(map(estimate_tokens, (instructions, *known))) + max_tokens + _CHANGES_TOKENS + _OVERHEAD_TOKENS
        transcript = _transcript(messages, self._context_window - taken)
        if not transcript:
            raise SummaryRefused("There is nothing to fold: the messages hold no text, or none fits the window.")
        blocks = [*known, f"<messages>\n{transcript}\n</messages>", "Write the new story and the changes of the facts."]
        answer = await self._ask(instructions, blocks, max_tokens + _CHANGES_TOKENS, [each.id for each in messages])
        folding = parse_fold(answer)
        check_narrative(narrative, folding.narrative, max_tokens)
        return Folding(folding.narrative, checked_changes(facts, folding.changes, folding.narrative, messages))

    async def merge(self, facts: Sequence[Fact], max_tokens: int) -> tuple[FactChange, ...]:
        blocks = [f"<facts>\n{_fact_lines(facts)}\n</facts>", "Write the changes."]
        return parse_merge(await self._ask(_limited("merge", max_tokens), blocks, max_tokens + _CHANGES_TOKENS, []))

    async def _ask(self, instructions: str, blocks: Sequence[str], max_tokens: int, message_ids: list[UUID]) -> str:
        """The model's answer, whole."""
        prompt = (
            PromptMessage("system", instructions, Section.SYSTEM),
            PromptMessage("user", "\n\n".join(blocks), Section.QUERY, tuple(message_ids)),
        )
        texts: list[str] = []
        finished: ModelFinished | None = None
        try:
            async for event in self._chat_model.stream(ModelRequest(prompt, self._model_name, Sampling(), max_tokens)):
                match event:
                    case TextDelta(text):
                        texts.append(text)
                    case ModelFinished():
                        finished = event
        finally:
            if finished is not None:
                note(finished.model, finished.usage)
            elif texts:
                # It broke off; what fails before its first token is charged by no provider.
                note(self.name, estimated_usage(prompt, "".join(texts)))
        reason = FinishReason.FAILED if finished is None else finished.reason
        if reason is not FinishReason.STOP:
            raise SummaryRefused(f"The model's summary ended by {reason.value}, not by itself.")
        answer = "".join(texts).strip()
        if not answer:
            raise SummaryRefused("The model's summary is empty.")
        return answer


def _fact_lines(facts: Sequence[Fact]) -> str:
    return "\n".join(f"{fact.key} | {fact.kind.value} | {_quoted(fact.text)}" for fact in facts)


def _transcript(messages: Sequence[Message], budget: int) -> str:
    """The messages as `[number role] text`, within so many tokens; empty if there is no text or no room."""
    spoken = [(message, text) for message in messages if (text := message.text.strip())]
    if sum(estimate_tokens(text) for _, text in spoken) > budget:
        spoken = [(message, cut_to_tokens(text, budget // len(spoken))) for message, text in spoken]
    return "\n".join(
        # A line of a message's own cannot pass for the beginning of another message.
        f"[{message.sequence} {message.role.value}] " + _quoted(text).replace("\n", "\n  ")
        for message, text in spoken
        if text
    )


def _quoted(text: str) -> str:
    """The text so that it cannot close the block that holds it."""
    return _OWN_TAG.sub("&lt;", text)


def _limited(name: str, max_tokens: int) -> str:
    return Template(_instructions(name)).substitute(
        max_words=int(max_tokens / _TOKENS_A_WORD), max_characters=max_tokens // _TOKENS_A_CHARACTER
    )


@cache
def _instructions(name: str) -> str:
    return files(__package__).joinpath(f"{name}.txt").read_text("utf-8")
