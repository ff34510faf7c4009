"""Says a script to a database, folds it as it comes, and looks for what was planted."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from bench.facts.plant import Planted, Script
from chatrpc.context.assembler import ContextAssembler
from chatrpc.context.memory import MemoryWorker
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.recall import Recall
from chatrpc.db.summaries import Summaries
from chatrpc.db.transcript import FinishedReply, Transcript
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import FinishReason, MessageState, OutgoingMessage, Section, TextPart, TurnSettings, Usage
from chatrpc.models.profiles import load_profiles
from chatrpc.ports import Embedder, Summarizer
from chatrpc.settings import ContextSettings, ModelSettings
from chatrpc.tokens import estimate_tokens

# Turns between two looks for background work, as many as a batch of the summary.
_STRETCH = 5


@dataclass(frozen=True, slots=True)
class Found:
    """Where a planted fact was at the end."""

    planted: Planted
    in_facts: bool
    in_summary: bool
    retrieved: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a conversation.

    Attributes:
        versions: Of the summary, by the name of who wrote them.
        tokens: Of the last version.
    """

    found: tuple[Found, ...]
    versions: dict[str, int]
    fact_count: int
    tokens: int


class Conversation:
    """A conversation of one user on a database, without a server around it."""

    def __init__(self, database: Database, embedder: Embedder, space_id: int, summarizer: Summarizer) -> None:
        self._database = database
        self._user_id = uuid4()
        self._transcript = Transcript(database)
        self._settings = ContextSettings()
        recall = Recall(database)
        profiles = load_profiles(ModelSettings())
        self._assembler = ContextAssembler(
            recall, embedder, space_id, self._settings, profiles, lambda name: name or "none"
        )
        self._recall = recall
        self._worker = MemoryWorker(
            MemoryTasks(database),
            VectorStore(database),
            Summaries(database),
            recall,
            embedder,
            summarizer,
            space_id,
            self._settings,
            lambda name: profiles.of(name or "none").budget,
        )

    async def say(self, script: Script) -> Outcome:
        """Say all, and look for what was planted."""
        created = await Conversations(self._database).create(
            self._user_id, title="", settings=TurnSettings(), labels={}, request_id=None
        )
        for number, turn in enumerate(script.turns, start=1):
            await self._turn(created.id, turn.text, turn.reply)
            if number % _STRETCH == 0 or number == len(script.turns):
                await self._work()
        return await self._outcome(created.id, script)

    async def _turn(self, conversation_id: UUID, text: str, reply: str) -> None:
        message = OutgoingMessage(conversation_id, uuid4().hex, (TextPart(text),))
        accepted = await self._transcript.append(
            self._user_id, message, tokens=estimate_tokens(text), actor=None, owner=uuid4()
        )
        await self._transcript.finish_reply(
            self._user_id,
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

    async def _work(self) -> None:
        """Work until nothing is due, without waiting out the pauses between tries."""
        statement = "UPDATE memory_tasks SET claimed_until = NULL WHERE user_id = %s AND due_at IS NOT NULL"
        while await self._worker.drain():
            await self._database.query(self._user_id, (statement, (self._user_id,)))

    async def _outcome(self, conversation_id: UUID, script: Script) -> Outcome:
        conversation = await self._recall.conversation(self._user_id, conversation_id)
        hot = await self._recall.hot_path(self._user_id, conversation_id, conversation.path)
        summary = hot.summary
        assert summary is not None, "600 turns have a summary"
        facts = " ".join(fact.text for fact in summary.facts)
        found = []
        for planted in script.planted:
            context = await self._assembler.preview(
                self._user_id, conversation_id, (TextPart(planted.question),), TurnSettings(), None
            )
            shown = "".join(each.content for each in context.prompt if each.section is Section.SUMMARY)
            passages = (hit.text for hit in context.report.hits)
            found.append(
                Found(
                    planted,
                    in_facts=planted.is_told_by(facts),
                    in_summary=planted.is_told_by(shown),
                    retrieved=any(planted.is_told_by(passage) for passage in passages),
                )
            )
        statement = "SELECT model, count(*) AS n FROM summaries WHERE user_id = %s GROUP BY model ORDER BY model"
        [rows] = await self._database.query(self._user_id, (statement, (self._user_id,)))
        versions = {row["model"]: int(row["n"]) for row in rows}
        return Outcome(tuple(found), versions, len(summary.facts), summary.tokens)
