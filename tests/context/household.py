"""A user's conversations on a real database beside a plain model of them, and the check of what contexts promise.

Texts that the model of the conversation knows by heart are compared with what the assembler made: the summaries are
written by a summarizer that lists the numbers of all messages it has folded, so a prompt tells exactly what it covers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from chatrpc.context.assembler import ContextAssembler
from chatrpc.context.memory import MemoryWorker
from chatrpc.context.prompt import CUT_OFF
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.memory import MemoryTasks
from chatrpc.db.recall import Recall
from chatrpc.db.summaries import Summaries
from chatrpc.db.transcript import FinishedReply, Transcript
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import (
    Accepted,
    AssembledContext,
    ContextReport,
    DropReason,
    Fact,
    FinishReason,
    Message,
    MessageState,
    OutgoingMessage,
    Role,
    Section,
    TextPart,
    TurnSettings,
    Usage,
)
from chatrpc.errors import Reason, SummaryRefused, Unavailable
from chatrpc.models.profiles import load_profiles
from chatrpc.ports import FactChange, Folding
from chatrpc.settings import ContextSettings, ModelSettings
from chatrpc.tokens import estimate_tokens
from tests.support.embedder import WordEmbedder

LISTED = re.compile(r"#(\d+)")
ROOMY = ModelSettings(context_window=10_000_000, output_reserve=1_000)


class ListingSummarizer:
    """Implements `chatrpc.ports.Summarizer`: the narrative lists the numbers of the messages that it covers."""

    name = "listing"
    batch_tokens = 100_000

    def __init__(self) -> None:
        self.failing: Exception | None = None
        self.folded: list[Message] = []

    async def fold(
        self, narrative: str, facts: Sequence[Fact], messages: Sequence[Message], max_tokens: int
    ) -> Folding:
        if self.failing is not None:
            raise self.failing
        self.folded += messages
        return Folding(narrative + "".join(f"#{message.sequence}" for message in messages), ())

    async def merge(self, facts: Sequence[Fact], max_tokens: int) -> tuple[FactChange, ...]:
        return ()


REFUSED = SummaryRefused("The output is empty.")
AWAY = Unavailable(Reason.MODEL_UNAVAILABLE, "The model cannot be reached; try again.")


@dataclass
class Turn:
    """An accepted message of the model, its reply, and the path to it."""

    accepted: Accepted
    path: list[UUID]


@dataclass
class Household:
    """One user with some conversations, served by two processes with a cache each."""

    database: Database
    space_id: int
    keep: int = 10
    fold: int = 10
    model: ModelSettings = field(default_factory=lambda: ROOMY)
    embedder: WordEmbedder = field(default_factory=WordEmbedder)
    summarizer: ListingSummarizer = field(default_factory=ListingSummarizer)
    user_id: UUID = field(default_factory=uuid4)
    summary_tokens: int = 8_192
    conversations: list[UUID] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    messages: dict[UUID, Message] = field(default_factory=dict)
    heads: dict[UUID, UUID] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.transcript = Transcript(self.database)
        self.recall = Recall(self.database)
        self.configure(self.keep, self.fold)

    def configure(self, keep: int, fold: int) -> None:
        """Restart both processes with another window."""
        self.keep = keep
        context = ContextSettings(hot_path=keep, fold=fold, summary_tokens=self.summary_tokens)
        profiles = load_profiles(self.model)
        self.processes = [
            ContextAssembler(self.recall, self.embedder, self.space_id, context, profiles, lambda name: name or "m")
            for _ in range(2)
        ]
        self.worker = MemoryWorker(
            MemoryTasks(self.database),
            VectorStore(self.database),
            Summaries(self.database),
            self.recall,
            self.embedder,
            self.summarizer,
            self.space_id,
            context,
            lambda model: profiles.of(model or "m").budget,
        )

    async def open_conversation(self, settings: TurnSettings | None = None) -> UUID:
        created = await Conversations(self.database).create(
            self.user_id, title="", settings=settings or TurnSettings(), labels={}, request_id=None
        )
        self.conversations.append(created.id)
        return created.id

    async def send(
        self,
        conversation_id: UUID,
        text: str,
        *,
        parent: UUID | None = None,
        at_root: bool = False,
        process: int = 0,
        told: bool = True,
    ) -> Turn:
        accepted = await self.transcript.append(
            self.user_id,
            OutgoingMessage(conversation_id, uuid4().hex, (TextPart(text),), parent_id=parent, at_root=at_root),
            tokens=estimate_tokens(text),
            actor=None,
            owner=uuid4(),
        )
        if told:
            self.processes[process].appended(self.user_id, accepted)
        return self.begun(accepted)

    def begun(self, accepted: Accepted) -> Turn:
        """Note a turn whose reply is the head."""
        before = self.path_to(accepted.message.parent_id)
        turn = Turn(accepted, [*before, accepted.message.id])
        self.turns.append(turn)
        for message in (accepted.message, accepted.reply):
            self.messages[message.id] = message
        self.heads[accepted.message.conversation_id] = accepted.reply.id
        return turn

    async def finish(
        self,
        turn: Turn,
        text: str,
        *,
        state: MessageState = MessageState.COMPLETE,
        process: int = 0,
        report: ContextReport | None = None,
    ) -> Message:
        finished = await self.transcript.finish_reply(
            self.user_id,
            FinishedReply(
                conversation_id=turn.accepted.message.conversation_id,
                reply=turn.accepted.reply,
                attempt=1,
                state=state,
                parts=(TextPart(text),) if text else (),
                tokens=estimate_tokens(text),
                model="m",
                finish_reason=FinishReason.STOP,
                error_reason=None,
                usage=Usage(),
                delta_ends=(len(text),) if text else (),
                report=report,
            ),
        )
        assert finished is not None
        reply, revision_before = finished
        self.processes[process].finished(self.user_id, reply, revision_before)
        self.messages[reply.id] = reply
        return reply

    async def talk(self, conversation_id: UUID, turns: int, text: str = "about the weather") -> Turn:
        """Whole turns one after the other; the last of them."""
        for number in range(turns):
            turn = await self.send(conversation_id, f"question {number} {text}")
            await self.finish(turn, f"answer {number} {text}")
        return turn

    async def assemble(self, turn: Turn, process: int = 0) -> AssembledContext:
        context = await self.processes[process].assemble(self.user_id, turn.accepted)
        self.check(context, turn.path)
        return context

    async def preview(self, conversation_id: UUID, text: str, process: int = 0) -> AssembledContext:
        context = await self.processes[process].preview(
            self.user_id, conversation_id, (TextPart(text),), TurnSettings(), None
        )
        self.check(context, [*self.path_to(self.heads.get(conversation_id)), None])
        return context

    async def let_time_pass(self) -> None:
        """Make failed background work due at once."""
        statement = "UPDATE memory_tasks SET claimed_until = NULL WHERE user_id = %s"
        await self.database.query(self.user_id, (statement, (self.user_id,)))

    def path_to(self, message_id: UUID | None) -> list[UUID]:
        path: list[UUID] = []
        while message_id is not None:
            path.append(message_id)
            message_id = self.messages[message_id].parent_id
        return path[::-1]

    def check(self, context: AssembledContext, path: list[UUID | None]) -> None:
        """Promises 2 and 3 for a context of the path that ends with the query, None in a dry run."""
        report, prompt = context.report, context.prompt
        before = path[:-1]
        numbered = {(each.conversation_id, self.number(each)): each.id for each in self.messages.values()}
        listed = [
            numbered[report.conversation_id, int(found)]
            for each in prompt
            if each.section is Section.SUMMARY
            for found in LISTED.findall(each.content)
        ]
        quoted = [each for each in prompt if each.section is Section.VERBATIM]
        dropped = {each.message_id for each in report.dropped if each.reason in (DropReason.EMPTY, DropReason.BUDGET)}

        # Each message of the path exactly once: in the summary, or word for word, or reported as left out.
        covered = before[: report.summarized_through_depth]
        silent = {each for each in covered if not self.messages[each].text}
        told = [[each for each in ids if each not in silent] for ids in (listed, covered)]
        assert told[0] == told[1], "the summary covers the beginning of this very path"
        assert all(message.state.finished for message in self.summarizer.folded)
        rest = before[len(covered) :]
        verbatim = [message_id for each in quoted for message_id in each.message_ids]
        assert verbatim == [each for each in rest if each not in dropped]
        for each in rest:
            empty = not self.messages[each].state.finished or not self.messages[each].text
            assert empty == ((each, DropReason.EMPTY) in [(d.message_id, d.reason) for d in report.dropped])
        for each in quoted:
            self._check_quote(each.role, each.content, self.messages[each.message_ids[0]])
        assert not covered or len(path) - len(covered) >= self.keep

        # The report is the prompt's.
        assert report.summarized_through_depth == len(covered)
        assert report.summary_anchor_id == (covered[-1] if covered else None)
        assert (report.summary_version is None) == (not covered)
        assert [ref.message_id for ref in report.verbatim] == [*verbatim, path[-1]]
        assert prompt[-1].section is Section.QUERY
        assert prompt[-1].message_ids == (() if path[-1] is None else (path[-1],))
        retrieved = [each for each in prompt if each.section is Section.RETRIEVED]
        assert [i for each in retrieved for i in each.message_ids] == [hit.message_id for hit in report.hits]
        for section in Section:
            cost = sum(estimate_tokens(each.content) for each in prompt if each.section is section)
            assert cost <= report.section_tokens[section]
        assert sum(report.section_tokens.values()) <= report.budget_tokens

        # Retrieved messages are the user's own, of no other branch, and never those of the window.
        for hit in report.hits:
            found = self.messages[hit.message_id]
            assert hit.text in found.text
            assert hit.message_id not in verbatim
            assert hit.message_id != path[-1]
            assert hit.conversation_id == found.conversation_id
            if found.conversation_id == report.conversation_id:
                assert hit.message_id in covered
            else:
                assert hit.message_id in self.path_to(self.heads[found.conversation_id])

    def number(self, message: Message) -> int:
        """By which the summariser names a message of a conversation."""
        return message.sequence

    @staticmethod
    def _check_quote(role: str, content: str, message: Message) -> None:
        cut = message.state in (MessageState.CANCELLED, MessageState.FAILED)
        assert role == message.role.value
        assert content == message.text + (CUT_OFF if cut and message.role is Role.ASSISTANT else "")
