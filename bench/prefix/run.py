"""Holds a conversation on a database and compares each prompt with the one before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray

from bench.prefix.talk import Lengths, talk
from chatrpc.context.assembler import ContextAssembler
from chatrpc.context.memory import MemoryWorker
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.recall import Recall
from chatrpc.db.summaries import Summaries
from chatrpc.db.transcript import FinishedReply, Transcript
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import (
    AssembledContext,
    FinishReason,
    MessageState,
    OutgoingMessage,
    PromptMessage,
    Section,
    TextPart,
    TurnSettings,
    Usage,
)
from chatrpc.models.chat.openai_body import joined
from chatrpc.models.profiles import load_profiles
from chatrpc.models.summary.extractive import ExtractiveSummarizer
from chatrpc.ports import Embedder
from chatrpc.settings import ContextSettings, ModelSettings
from chatrpc.tokens import estimate_tokens

BYTES_A_TOKEN = 4
INSTRUCTION = "You are a helpful assistant. Answer in the user's language, briefly, and say so where you are not sure."


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt.

    Attributes:
        size: Its messages in a request, in bytes.
        equal: How many of these the request of the turn before began with too.
        tail: Of `size`, bytes of retrieved passages and the query.
        new: Of `size`, bytes that no cache can have seen: the tail, and messages that the turn before had not verbatim.
        left_out: Whether the budget left messages out.
    """

    size: int
    equal: int
    tail: int
    new: int
    hits: int
    left_out: bool

    def in_blocks(self, tokens: int, at_least: int = 0) -> int:
        """Bytes that are served by a cache that keeps whole blocks of so many tokens."""
        block = tokens * BYTES_A_TOKEN
        return self.equal // block * block if self.equal >= at_least * BYTES_A_TOKEN else 0


class RememberingEmbedder:
    """Embeds each text once, however many conversations say it. Implements `chatrpc.ports.Embedder`."""

    def __init__(self, embedder: Embedder) -> None:
        self.space = embedder.space
        self._embedder = embedder
        self._vectors: dict[str, NDArray[np.float32]] = {}

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, await self._embedder.embed(new), strict=True))
        return np.stack([self._vectors[text] for text in texts])

    async def aclose(self) -> None:
        return None


@dataclass
class Conversation:
    """A conversation of a user of its own."""

    database: Database
    embedder: Embedder
    space_id: int
    context: ContextSettings
    model: ModelSettings
    user_id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        recall = Recall(self.database)
        profiles = load_profiles(self.model)
        self._transcript = Transcript(self.database)
        self._assembler = ContextAssembler(
            recall, self.embedder, self.space_id, self.context, profiles, lambda name: name or "none"
        )
        self._worker = MemoryWorker(
            MemoryTasks(self.database),
            VectorStore(self.database),
            Summaries(self.database),
            recall,
            self.embedder,
            ExtractiveSummarizer(),
            self.space_id,
            self.context,
            lambda name: profiles.of(name or "none").budget,
        )

    async def hold(self, turns: int, lengths: Lengths, seed: int) -> list[Turn]:
        created = await Conversations(self.database).create(
            self.user_id,
            title="",
            settings=TurnSettings(system_instruction=INSTRUCTION),
            labels={},
            request_id=None,
        )
        measured: list[Turn] = []
        before = b""
        seen: frozenset[UUID] = frozenset()
        for text, reply in talk(turns, lengths, seed):
            context = await self._turn(created.id, text, reply)
            request = json.dumps(joined(context.prompt), ensure_ascii=False).encode()
            measured.append(_measured(context, request, before, seen, path=2 * len(measured) + 1))
            before = request
            seen = frozenset(chain.from_iterable(each.message_ids for each in _verbatim(context)))
        return measured

    async def _turn(self, conversation_id: UUID, text: str, reply: str) -> AssembledContext:
        message = OutgoingMessage(conversation_id, uuid4().hex, (TextPart(text),))
        accepted = await self._transcript.append(
            self.user_id, message, tokens=estimate_tokens(text), actor=None, owner=uuid4()
        )
        self._assembler.appended(self.user_id, accepted)
        context = await self._assembler.assemble(self.user_id, accepted)
        finished = await self._transcript.finish_reply(
            self.user_id,
            FinishedReply(
                conversation_id=conversation_id,
                reply=accepted.reply,
                attempt=1,
                state=MessageState.COMPLETE,
                parts=(TextPart(reply),),
                tokens=estimate_tokens(reply),
                model="none",
                finish_reason=FinishReason.STOP,
                error_reason=None,
                usage=Usage(),
                delta_ends=(len(reply),),
                report=None,
            ),
        )
        assert finished is not None, "nobody else writes the reply"
        self._assembler.finished(self.user_id, *finished)
        await self._worker.drain()
        return context


def equal_bytes(one: bytes, other: bytes) -> int:
    """How many bytes two texts begin with alike."""
    shorter = min(len(one), len(other))
    differing = np.flatnonzero(np.frombuffer(one[:shorter], np.uint8) != np.frombuffer(other[:shorter], np.uint8))
    return int(differing[0]) if differing.size else shorter


def _verbatim(context: AssembledContext) -> list[PromptMessage]:
    return [each for each in context.prompt if each.section is Section.VERBATIM]


def _measured(context: AssembledContext, request: bytes, before: bytes, seen: frozenset[UUID], path: int) -> Turn:
    """`path` is the number of messages that there are, the query among them; `seen` were verbatim the turn before."""
    tail = [each for each in context.prompt if each.section in (Section.RETRIEVED, Section.QUERY)]
    added = [each for each in _verbatim(context) if seen.isdisjoint(each.message_ids)]
    report = context.report
    return Turn(
        size=len(request),
        equal=equal_bytes(request, before),
        tail=sum(len(each.content.encode()) for each in tail),
        new=sum(len(each.content.encode()) for each in (*added, *tail)),
        hits=len(report.hits),
        left_out=path - report.summarized_through_depth > len(report.verbatim),
    )
