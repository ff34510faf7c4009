"""One attempt at one reply: context, model, checkpoints, and the single write that finishes it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog

from chatrpc.context.assembler import ContextAssembler
from chatrpc.context.query import PendingQuery
from chatrpc.db.transcript import FinishedReply, Transcript
from chatrpc.domain import (
    Accepted,
    ContextReport,
    FinishReason,
    Message,
    MessageState,
    TextPart,
    Usage,
)
from chatrpc.errors import ChatError, Reason, Unavailable
from chatrpc.ports import ChatModel, ModelRequest, TextDelta
from chatrpc.tokens import estimate_tokens
from chatrpc.turns.coalescer import Coalescer
from chatrpc.turns.events import Completed, ContextBuilt, Delta, Failed, Restarted
from chatrpc.turns.replay import failure
from chatrpc.turns.reply_log import ReplyLog

log = structlog.get_logger(__name__)

# A crash costs at most this many seconds of a reply's text.
CHECKPOINT_INTERVAL = 1.0
# How long a finished reply waits for a database that is away, before its turn is left to be attempted again.
FINISH_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What every attempt works with.

    Attributes:
        output_reserve: Tokens of the model's window kept for the reply.
        coalesce_window: Seconds, where the turn names none.
        on_finished: Told that there is new work for the memory.
    """

    transcript: Transcript
    assembler: ContextAssembler
    model: ChatModel
    output_reserve: int
    coalesce_window: float
    on_finished: Callable[[], None]


class SupersededError(Exception):
    """Another attempt has taken over, or the conversation is gone: this one may not write any more."""


class Generation:
    """One attempt at a reply. It runs whether or not anybody reads its log."""

    def __init__(
        self,
        parts: TurnParts,
        user_id: UUID,
        accepted: Accepted,
        attempt: int,
        *,
        coalesce_window: float | None = None,
        pending: PendingQuery | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.user_id = user_id
        self.conversation_id = accepted.message.conversation_id
        self.log = ReplyLog(accepted.reply.id, attempt)
        self._parts = parts
        self._accepted = accepted
        self._attempt = attempt
        self._pending = pending
        self._before = before
        self._report: ContextReport | None = None
        self._pieces: list[str] = []
        self._delta_ends: list[int] = []
        self._usage: Usage | None = None
        self._model_name: str | None = None
        self._finish_reason = FinishReason.STOP
        window = parts.coalesce_window if coalesce_window is None else coalesce_window
        self._coalescer = Coalescer(window, self._tell)
        self._producer: asyncio.Task[None] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Stop the model; the text so far is stored."""
        self._cancelled = True
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
                if self._pending is not None:
                    self._pending.cancel()
            self._coalescer.flush()
            await self._finish(state, error)
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
        if self._cancelled:
            self._producer.cancel()
        try:
            await asyncio.wait({self._producer})
        finally:
            self._producer.cancel()
        if self._producer.cancelled():
            self._finish_reason = FinishReason.CANCELLED
            return MessageState.CANCELLED, None
        error = self._producer.exception()
        if error is None:
            return MessageState.COMPLETE, None
        self._finish_reason = FinishReason.FAILED
        match error:
            case SupersededError():
                raise error
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
        if self._before is not None:
            await self._before()
        context = await self._parts.assembler.assemble(self.user_id, self._accepted, self._pending)
        self._report = context.report
        self._model_name = context.report.model
        self.log.append(ContextBuilt(context.report))
        settings = self._accepted.turn_settings.over(self._accepted.settings)
        wanted = settings.sampling.max_output_tokens or self._parts.output_reserve
        request = ModelRequest(
            prompt=context.prompt,
            model=settings.model,
            sampling=settings.sampling,
            max_output_tokens=min(wanted, self._parts.output_reserve),
        )
        async with self._checkpoints(), aclosing(self._parts.model.stream(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    self._coalescer.push(event.text)
                else:
                    self._finish_reason = event.reason
                    self._usage = event.usage
                    self._model_name = event.model

    def _tell(self, text: str) -> None:
        self._pieces.append(text)
        before = self._delta_ends[-1] if self._delta_ends else 0
        self._delta_ends.append(before + len(text))
        self.log.append(Delta(text))

    @asynccontextmanager
    async def _checkpoints(self) -> AsyncIterator[None]:
        """Store the text about once a second; end the producer when the attempt is superseded."""
        producer = asyncio.current_task()
        assert producer is not None  # This runs in a task.
        superseded = False

        async def store() -> None:
            nonlocal superseded
            stored = 0
            while True:
                await asyncio.sleep(CHECKPOINT_INTERVAL)
                if len(self._delta_ends) == stored:
                    continue
                stored = len(self._delta_ends)
                try:
                    held = await self._parts.transcript.checkpoint_reply(
                        self.user_id, self.log.reply_id, self._attempt, self._text_parts(), tuple(self._delta_ends)
                    )
                except Unavailable:
                    continue  # The next checkpoint, or the end, tries again.
                if not held:
                    superseded = True
                    producer.cancel()
                    return

        task = asyncio.create_task(store(), name=f"checkpoints of {self.log.reply_id}")
        try:
            yield
        except asyncio.CancelledError:
            if superseded:
                producer.uncancel()
                raise SupersededError from None
            raise
        finally:
            task.cancel()

    def _text_parts(self) -> tuple[TextPart, ...]:
        text = "".join(self._pieces)
        return (TextPart(text),) if text else ()

    async def _finish(self, state: MessageState, reason: Reason | None) -> None:
        parts = self._text_parts()
        tokens = estimate_tokens(parts[0].text) if parts else 0
        finished = FinishedReply(
            conversation_id=self.conversation_id,
            reply=self._accepted.reply,
            attempt=self._attempt,
            state=state,
            parts=parts,
            tokens=tokens,
            model=self._model_name,
            finish_reason=self._finish_reason,
            error_reason=reason,
            usage=self._usage or self._estimated_usage(tokens),
            delta_ends=tuple(self._delta_ends),
            report=self._report,
        )
        written = await self._written(finished)
        if written is None:
            raise SupersededError
        reply, revision_before = written
        self._parts.assembler.finished(self.user_id, reply, revision_before)
        self.log.append(Completed(reply) if reason is None else Failed(failure(reason), reply))
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

    def _estimated_usage(self, completion_tokens: int) -> Usage:
        """What the provider did not get to tell."""
        prompt_tokens = sum(self._report.section_tokens.values()) if self._report is not None else 0
        return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, estimated=True)


def held_elsewhere() -> Unavailable:
    """The error for a reader whose reply another attempt has taken over."""
    return Unavailable(
        Reason.REPLY_HELD_ELSEWHERE, "Another attempt is at work on the reply; resume it.", retry_after=1.0
    )
