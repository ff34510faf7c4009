"""One attempt at one reply: context, model, checkpoints, and the single write that finishes it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from chatrpc.context.assembler import ContextAssembler
from chatrpc.context.exchange import parts_tokens
from chatrpc.context.query import PendingQuery
from chatrpc.db.transcript import UNLIMITED, Checkpoint, FinishedReply, Transcript, TurnLimits
from chatrpc.domain import (
    Accepted,
    AssembledContext,
    ContextReport,
    FinishReason,
    Message,
    MessageState,
    Part,
    Served,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from chatrpc.errors import ChatError, Reason, Unavailable
from chatrpc.ports import ChatModel
from chatrpc.tokens import estimate_tokens
from chatrpc.turns.admission import Admission, Slot
from chatrpc.turns.coalescer import Coalescer
from chatrpc.turns.content import ReplyContent
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Failed, Restarted, ToolCall, ToolResult
from chatrpc.turns.replay import failure
from chatrpc.turns.reply_log import ReplyLog, held_elsewhere
from chatrpc.turns.rounds import RoundLimits, Rounds, response_problem
from chatrpc.turns.tool_results import ToolResults

log = structlog.get_logger(__name__)

# How long a finished reply waits for a database that is away, before its turn is left to be attempted again.
FINISH_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What every attempt works with.

    Attributes:
        coalesce_window: Seconds, where the turn names none.
        on_finished: Told that there is new work for the memory.
        round_limits: How long the model and the tools that it calls may take.
        admission: What every new turn passes before anything is done for it.
    """

    transcript: Transcript
    assembler: ContextAssembler
    model: ChatModel
    coalesce_window: float
    on_finished: Callable[[], None]
    limits: TurnLimits = UNLIMITED
    round_limits: RoundLimits = field(default_factory=RoundLimits)
    admission: Admission = field(default_factory=Admission)


class SupersededError(Exception):
    """Another attempt has taken over, or the conversation is gone: this one may not write any more."""


class Generation:
    """One attempt at a reply. It runs whether or not anybody reads its log.

    Args:
        log: Where its events are told.
        finished: Waits until another reply is finished.
        held: Whether this process's lease lasts, so that no other can have begun a later attempt.
        slot: Given back as soon as the turn waits for something else than the server's own work.
    """

    def __init__(
        self,
        parts: TurnParts,
        user_id: UUID,
        accepted: Accepted,
        log: ReplyLog,
        *,
        finished: Callable[[UUID], Awaitable[None]],
        held: Callable[[], bool],
        coalesce_window: float | None = None,
        pending: PendingQuery | None = None,
        slot: Slot | None = None,
    ) -> None:
        self.user_id = user_id
        self.conversation_id = accepted.message.conversation_id
        self.log = log
        self._parts = parts
        self._accepted = accepted
        self._attempt = log.attempt
        self._pending = pending
        self._slot = slot
        self._finished = finished
        self._held = held
        self._report: ContextReport | None = None
        self._content = ReplyContent()
        self._results = ToolResults()
        self._rounds: Rounds | None = None
        self._finish_reason = FinishReason.STOP
        window = parts.coalesce_window if coalesce_window is None else coalesce_window
        self._coalescer = Coalescer(window, self._tell)
        self._producer: asyncio.Task[None] | None = None
        self._cancelled = False
        self._superseded = False
        self._saved_events = 0

    @property
    def left_behind(self) -> bool:
        """Whether it has ended without an end of the reply. Somebody else may be at work on it by now, or nobody."""
        return self.log.broken is not None

    @property
    def served(self) -> Served:
        """What the attempt has been served so far."""
        return Served(self._model_name(), self._usage())

    def cancel(self) -> None:
        """Stop the model; the text so far is stored."""
        self._cancelled = True
        if self._producer is not None:
            self._producer.cancel()

    def unsaved(self) -> Checkpoint | None:
        """What is to be stored since the last call; None where there is nothing new."""
        content = self._content
        if content.events == self._saved_events:
            return None
        self._saved_events = content.events
        return Checkpoint(self.user_id, self.log.reply_id, self._attempt, content.parts, tuple(content.delta_ends))

    def submit(self, results: Sequence[ToolResultPart]) -> None:
        """Take results of tool calls. Raises FailedPrecondition where one is not waited for."""
        self._results.submit(results)

    def supersede(self) -> None:
        """Stop the model and write nothing: the attempt is not the current one any more."""
        self._superseded = True
        if self._producer is not None:
            self._producer.cancel()

    async def run(self) -> None:
        """Generate and finish the reply; every ending is told in the log."""
        if self._attempt > 1:
            self.log.append(Restarted())
        try:
            try:
                state, error = await self._supervised()
            finally:
                self._give_way()
                self._results.close()
                if self._pending is not None:
                    self._pending.cancel()
            self._coalescer.flush()
            await self._finish_somehow(state, error)
        except SupersededError:
            self.log.break_off(held_elsewhere())
        except ChatError as error:
            self.log.break_off(error)
        except BaseException:
            self.log.break_off(held_elsewhere())
            raise

    async def _supervised(self) -> tuple[MessageState, Reason | None]:
        """Run the producer, and turn its ending into the reply's state."""
        self._producer = asyncio.create_task(self._produce(), name=f"produce {self.log.reply_id}")
        if self._cancelled or self._superseded:
            self._producer.cancel()
        try:
            await asyncio.wait({self._producer})
        finally:
            self._producer.cancel()
        if self._superseded:
            raise SupersededError
        if self._producer.cancelled() and self._cancelled:
            self._finish_reason = FinishReason.CANCELLED
            return MessageState.CANCELLED, None
        # A model that ends as if it were cancelled, though nobody asked for it, has failed.
        error = asyncio.CancelledError() if self._producer.cancelled() else self._producer.exception()
        if error is None:
            return MessageState.COMPLETE, None
        self._finish_reason = FinishReason.FAILED
        match error:
            case ChatError(reason=Reason.DATABASE_UNAVAILABLE):
                # The turn stays pending: the same send is attempted again when the database is back.
                raise error
            case ChatError():
                log.warning("reply_failed", reply_id=str(self.log.reply_id), reason=error.reason)
                return MessageState.FAILED, error.reason
            case _:
                log.error("reply_failed", reply_id=str(self.log.reply_id), exc_info=error)
                return MessageState.FAILED, Reason.INTERNAL

    async def _produce(self) -> None:
        context = await self._context()
        self._report = context.report
        self._give_way()
        self.log.append(ContextBuilt(context.report))
        settings = self._accepted.turn_settings.over(self._accepted.settings)
        self._rounds = Rounds(
            self._parts.model,
            self._parts.round_limits,
            settings,
            context,
            self._content,
            self._results,
            self._coalescer.push,
            self._add,
        )
        try:
            await self._rounds.run()
        finally:
            self._finish_reason = self._rounds.finish_reason
        if settings.response_schema is not None:
            self._coalescer.flush()
            problem = response_problem(settings.response_schema, self._content.last_text)
            if problem is not None:
                log.warning("response_schema_violated", reply_id=str(self.log.reply_id), problem=problem)
                raise failure(Reason.RESPONSE_SCHEMA_VIOLATED)

    def _give_way(self) -> None:
        if self._slot is not None:
            self._slot.leave()

    async def _context(self) -> AssembledContext:
        """The context, once every reply before this one is finished, so that none is missing from it."""
        accepted, assembler = self._accepted, self._parts.assembler
        if accepted.parent_pending and accepted.message.parent_id is not None:
            self._give_way()
            await self._finished(accepted.message.parent_id)
            # It may have waited long: what another process has erased meanwhile must not be in its context.
            assembler.forget(self.user_id, self.conversation_id)
        context = await assembler.assemble(self.user_id, accepted, self._pending)
        # A reply that was stopped while it waited is finished before the one that it waited for.
        while context.unfinished:
            self._give_way()
            for reply_id in context.unfinished:
                await self._finished(reply_id)
            context = await assembler.assemble(self.user_id, accepted)
        return context

    def _tell(self, text: str) -> None:
        if self._may_tell():
            self._content.push(text)
            self.log.append(Delta(text))

    def _add(self, part: Part) -> None:
        self._coalescer.flush()
        if self._may_tell():
            self._content.add(part)
            match part:
                case ToolCallPart():
                    self.log.append(ToolCall(part))
                case ToolResultPart():
                    self.log.append(ToolResult(part))

    def _may_tell(self) -> bool:
        if not self._held():
            # A process that was stopped for a while tells nothing more, before it has learnt what happened meanwhile.
            self.supersede()
        return not self._superseded

    async def _finish_somehow(self, state: MessageState, reason: Reason | None) -> None:
        """Finish; without a text where that cannot be stored, since a pending reply stops its conversation."""
        try:
            await self._finish(state, reason)
        except (ChatError, SupersededError):
            raise
        except Exception:
            log.exception("reply_not_storable", reply_id=str(self.log.reply_id))
            self._content.clear()
            self._report = None
            self._finish_reason = FinishReason.FAILED
            await self._finish(MessageState.FAILED, Reason.INTERNAL)

    async def _finish(self, state: MessageState, reason: Reason | None) -> None:
        parts = self._content.parts
        finished = FinishedReply(
            conversation_id=self.conversation_id,
            reply=self._accepted.reply,
            attempt=self._attempt,
            state=state,
            parts=parts,
            tokens=parts_tokens(parts),
            model=self._model_name(),
            finish_reason=self._finish_reason,
            error_reason=reason,
            usage=self._usage(),
            delta_ends=tuple(self._content.delta_ends),
            report=self._report,
            context_tokens=self._context_tokens(),
            embedding_tokens=self._embedding_tokens(),
        )
        written = await self._written(finished)
        if written is None:
            raise SupersededError
        reply, revision_before = written
        self._parts.assembler.finished(self.user_id, reply, revision_before)
        citations = () if self._report is None else self._report.citations
        self.log.append(Completed(reply, citations) if reason is None else Failed(failure(reason), reply))
        self._parts.on_finished()

    async def _written(self, finished: FinishedReply) -> tuple[Message, int] | None:
        """Write, again and again while the database is away, so that a short outage costs no text."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FINISH_PATIENCE
        pauses = itertools.chain((0.1, 0.2, 0.5), itertools.repeat(1.0))
        while True:
            try:
                return await self._parts.transcript.finish_reply(self.user_id, finished)
            except Unavailable:
                pause = next(pauses)
                if loop.time() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)

    def _context_tokens(self) -> int | None:
        if self._report is None:
            return None
        return sum(self._report.section_tokens.values()) + parts_tokens(self._content.parts)

    def _embedding_tokens(self) -> int:
        return 0 if self._report is None else self._parts.assembler.query_tokens(self._accepted.message)

    def _model_name(self) -> str | None:
        answered = None if self._rounds is None else self._rounds.model
        return answered or (None if self._report is None else self._report.model)

    def _usage(self) -> Usage:
        """What the provider told, and an estimate of what it did not get to tell."""
        rounds = self._rounds
        told = Usage() if rounds is None or rounds.usage is None else rounds.usage
        if rounds is None or not rounds.asking:
            return told
        prompt_tokens = sum(self._report.section_tokens.values()) if self._report is not None else 0
        written = estimate_tokens(self._content.last_text)
        exchange = max(rounds.exchange_tokens - written, 0)
        return told + Usage(prompt_tokens + exchange, completion_tokens=written, estimated=True)
