"""The model that answers where no endpoint is configured: it quotes its context, so that one can see what it got."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from chatrpc.domain import FinishReason, PromptMessage, Section
from chatrpc.models.chat.usage import estimated_usage
from chatrpc.models.sentences import split_sentences
from chatrpc.models.words import words
from chatrpc.ports import ModelEvent, ModelFinished, ModelRequest, TextDelta
from chatrpc.tokens import cut_to_tokens

OFFLINE_MODEL = "chatrpc-offline"

_QUOTE_CHARACTERS = 160
_OPENING = "I am chatrpc's offline model: I do not think, I quote my context."
# Passages of documents have a number, those of messages have not.
_MARKED = re.compile(r'<passage\b(?: number="(\d+)")?[^>]*>\n(.*?)\n</passage>', re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Passage:
    """Words of the prompt that can be quoted, and where they stand."""

    source: str
    text: str


class OfflineChatModel:
    """Answers from the prompt alone, always in the same way, in this form:

        I am chatrpc's offline model: I do not think, I quote my context.
        Closest to your message: [01890a5d-ac96-774b-bcce-b302099a8057] "user: my name is Ada"
        Summary: "The user is called Ada. …"
        Retrieved, 1: [01890a5d-ac96-774b-bcce-b302099a8057] "user: my name is Ada"
        Verbatim, 2: [01890a5e-0000-7000-8000-000000000001] … [01890a5e-0000-7000-8000-000000000002]

    Ids are full UUIDs in square brackets; a passage of a document has its number there, by which it is cited. A quote
    is cut to 160 characters, marked by `…`. "Closest" is the passage (a message, or a sentence of the summary, then
    written `(summary)`) that shares most words with the query; it says `nothing` if none shares any, or if there is no
    passage. Answers of its own are passed over: they repeat others. A prompt message that holds several stored messages
    is quoted passage by passage if it marks as many as it has ids (`<passage …>`), else once, after all the ids.
    "Verbatim" names the first and the last message before the query, or `none`. It calls no tools and knows no response
    schema: with either it answers as always.
    """

    def model_name(self, requested: str | None) -> str:
        return OFFLINE_MODEL

    async def aclose(self) -> None:
        return None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        answer = _answer(request.prompt)
        text = cut_to_tokens(answer, request.max_output_tokens)
        for word in re.findall(r"\S+\s*", text):
            yield TextDelta(word)
            # Gives way between words, as a model with a network behind it would.
            await asyncio.sleep(0)
        reason = FinishReason.STOP if text == answer else FinishReason.LENGTH
        yield ModelFinished(reason, OFFLINE_MODEL, estimated_usage(request.prompt, text))


def _answer(prompt: Sequence[PromptMessage]) -> str:
    of = {section: [each for each in prompt if each.section is section] for section in Section}
    query = " ".join(message.content for message in of[Section.QUERY])
    summary = "\n".join(message.content for message in of[Section.SUMMARY])
    retrieved = [passage for message in of[Section.RETRIEVED] for passage in _passages(message)]
    verbatim = [passage for message in of[Section.VERBATIM] for passage in _passages(message)]
    sentences = [_Passage("(summary)", sentence) for sentence in split_sentences(summary)]
    closest = _closest(query, [*sentences, *retrieved, *verbatim])
    lines = [
        _OPENING,
        f"Closest to your message: {_quoted(closest) if closest is not None else 'nothing'}",
        f"Summary: {_quote(summary) if summary else 'none'}",
        f"Retrieved, {sum(max(len(each.message_ids), len(_passages(each))) for each in of[Section.RETRIEVED])}: "
        + (" ".join(_quoted(passage) for passage in retrieved) or "none"),
        f"Verbatim, {len(verbatim)}: {_span(verbatim)}",
    ]
    return "\n".join(lines)


def _closest(query: str, passages: Iterable[_Passage]) -> _Passage | None:
    """The passage that shares most words with the query; of equals the last, which is the newest."""
    wanted = words(query)
    best, most = None, 0
    for passage in passages:
        if passage.text.startswith(_OPENING):
            continue
        shared = len(wanted & words(passage.text))
        if shared and shared >= most:
            best, most = passage, shared
    return best


def _passages(message: PromptMessage) -> list[_Passage]:
    marked = _MARKED.findall(message.content)
    if marked and sum(not number for number, _ in marked) == len(message.message_ids):
        ids = iter(message.message_ids)
        return [_Passage(f"[{number or next(ids)}]", text) for number, text in marked]
    return [_Passage(" ".join(f"[{each}]" for each in message.message_ids), message.content)]


def _quoted(passage: _Passage) -> str:
    return f"{passage.source} {_quote(passage.text)}"


def _quote(text: str) -> str:
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= _QUOTE_CHARACTERS else f'"{line[:_QUOTE_CHARACTERS].rstrip()} …"'


def _span(verbatim: Sequence[_Passage]) -> str:
    if not verbatim:
        return "none"
    first, last = verbatim[0].source, verbatim[-1].source
    return first if len(verbatim) == 1 else f"{first} … {last}"
