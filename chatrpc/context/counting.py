"""Tokens as the model's own tokenizer counts them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Hashable
from dataclasses import replace

from tokenizers import Tokenizer

from chatrpc.context import prompt
from chatrpc.context.budget import Material
from chatrpc.context.exchange import parts_tokens
from chatrpc.domain import Hit, Message, TextPart

# A count and its key take about 200 bytes.
_REMEMBERED = 100_000


class ExactCounts:
    """Counts of one tokenizer, remembered, so that a message is counted once and not in every turn.

    Safe to use from several threads; the tokenizer lets other threads run while it works.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._counts: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def text(self, text: str) -> int:
        """Tokens of a text, without the special ones that a chat template adds."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return self._remembered(key, text)

    def recounted(self, material: Material) -> Material:
        """The same material with exact costs."""
        summary, query = material.summary, material.query
        if summary is not None:
            body = prompt.summary_body(summary.text, summary.facts)
            summary = replace(summary, tokens=self.text(body))
        return Material(
            instruction=material.instruction,
            summary=summary,
            messages=tuple(map(self._message, material.messages)),
            hits=tuple(map(self._hit, material.hits)),
            query=replace(query, tokens=self.text(query.text)),
        )

    def _hit(self, hit: Hit) -> Hit:
        origin = 0 if hit.citation is None else self.text(prompt.document_origin(hit.citation))
        return replace(hit, tokens=self.text(prompt.quoted(hit.text)) + prompt.PASSAGE_OVERHEAD + origin)

    def _message(self, message: Message) -> Message:
        if prompt.is_empty(message):
            return message
        if any(not isinstance(part, TextPart) for part in message.parts):
            return replace(message, tokens=parts_tokens(message.parts, self.text))
        # A message's text never changes but by erasure, which shortens it.
        return replace(message, tokens=self._remembered((message.id, len(message.text)), message.text))

    def _remembered(self, key: Hashable, text: str) -> int:
        with self._lock:
            count = self._counts.get(key)
        if count is None:
            count = len(self._tokenizer.encode(text, add_special_tokens=False).ids)
            with self._lock:
                while len(self._counts) >= _REMEMBERED:
                    del self._counts[next(iter(self._counts))]
                self._counts[key] = count
        return count
