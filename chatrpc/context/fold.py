"""Folding: the oldest messages of a conversation enter its summary, batch by batch.

The summariser proposes a narrative and changes of the facts; here they are applied, and kept within their tokens. What
it proposes may be refused again and again, for the sake of a single message: then that batch is folded without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from chatrpc.context.prompt import FACTS_OVERHEAD, summary_body
from chatrpc.context.window import batch_due
from chatrpc.db.memory import MemoryTask
from chatrpc.db.recall import Recall
from chatrpc.db.summaries import Summaries
from chatrpc.domain import Fact, HotPath, Message, Summary
from chatrpc.errors import ModelRejected, NotFound, SummaryRefused, Unavailable
from chatrpc.models.meter import Meter, metered
from chatrpc.models.summary.extractive import ExtractiveSummarizer
from chatrpc.models.summary.facts import changed, cost, fit, merged
from chatrpc.ports import Folding, Summarizer
from chatrpc.settings import ContextSettings
from chatrpc.tokens import estimate_tokens

MOST_REFUSALS = 5
"""Refusals of one batch in a row, with growing pauses between them, after which it is folded without the summariser."""
FACTS_SHARE = 0.6
"""Part of a summary's tokens that durable facts may take; the narrative has the rest."""
VERBATIM_SHARE = 0.6
"""Part of the model's budget that messages may cost before they are folded early; the rest is for the head of the
prompt, retrieved passages, and messages that come before the summary does. Nor do they wait until they are more than
the summariser reads whole."""
LARGEST_STEP = 20
"""Batches that one fold takes at once at most, where a summary is made anew after an erasure."""

_NOTHING_SAID = "(Nothing was said.)"

BudgetOf = Callable[[str | None], int]
"""Tokens that a prompt may cost for the model of a conversation; None where it names none."""

log = structlog.get_logger(__name__)


class Folder:
    """Writes the versions of conversations' summaries."""

    def __init__(
        self,
        summaries: Summaries,
        recall: Recall,
        summarizer: Summarizer,
        settings: ContextSettings,
        budget_of: BudgetOf,
    ) -> None:
        self._summaries = summaries
        self._recall = recall
        self._summarizer = summarizer
        self._fallback = ExtractiveSummarizer()
        self._settings = settings
        self._budget_of = budget_of
        self._facts_tokens = int(settings.summary_tokens * FACTS_SHARE)
        self._narrative_tokens = settings.summary_tokens - self._facts_tokens - FACTS_OVERHEAD

    async def fold(self, task: MemoryTask) -> None:
        """Fold batches of the active path into its summary for as long as one is due.

        Raises:
            SummaryRefused: The summariser's output is of no use; the summary stays as it is, to be tried again.
            Unavailable, ModelRejected: As the summariser's model.
        """
        keep = self._settings.hot_path
        try:
            conversation = await self._recall.conversation(task.user_id, task.conversation_id)
            hot = await self._recall.hot_path(task.user_id, task.conversation_id, conversation.path, keep=keep)
        except NotFound:
            return  # It was deleted, and its task with it.
        budget = self._budget_of(conversation.settings.model)
        room = min(int(budget * VERBATIM_SHARE), self._summarizer.batch_tokens)
        while batch := self._batch(hot, room):
            summary = await self._add_version(task, hot, batch)
            if summary is None:
                return  # Another worker was faster, or a message was erased: the task is due again.
            hot = replace(hot, summary=summary, messages=hot.messages[len(batch) :])

    def _batch(self, hot: HotPath, room: int) -> Sequence[Message]:
        """What is due. A summary that is made anew takes large steps, as large as the summariser reads whole."""
        keep, fold = self._settings.hot_path, self._settings.fold
        batch = batch_due(hot.messages, keep, fold, room)
        if not hot.rebuilding:
            return batch
        for _ in range(LARGEST_STEP - 1):
            further = batch_due(hot.messages[len(batch) :], keep, fold, room)
            if not further or sum(each.tokens for each in (*batch, *further)) > self._summarizer.batch_tokens:
                break
            batch = (*batch, *further)
        return batch

    async def _add_version(self, task: MemoryTask, hot: HotPath, batch: Sequence[Message]) -> Summary | None:
        """Fold a batch; what the summariser's model used is booked with the version, or without one."""
        summary: Summary | None = None
        with metered() as meter:
            try:
                summary = await self._folded(task, hot, batch, meter)
            finally:
                if summary is None and meter.served is not None:
                    with suppress(Unavailable):
                        await self._summaries.book(task.user_id, meter.id, task.conversation_id, meter.served)
        return summary

    async def _folded(self, task: MemoryTask, hot: HotPath, batch: Sequence[Message], meter: Meter) -> Summary | None:
        old, facts = ("", ()) if hot.summary is None else (hot.summary.text, hot.summary.facts)
        model = self._summarizer.name
        if any(message.text.strip() for message in batch):
            try:
                folding = await self._summarizer.fold(old, facts, batch, self._narrative_tokens)
                narrative, facts = await self._applied(folding, facts, batch)
            except (Unavailable, TimeoutError):
                raise  # That is not the batch's fault.
            except Exception as error:
                refusals = await self._summaries.refused(task.user_id, task.conversation_id)
                if refusals < MOST_REFUSALS:
                    raise
                log.warning(
                    "summary_without_model",
                    conversation_id=str(task.conversation_id),
                    refusals=refusals,
                    problem=str(error) if isinstance(error, SummaryRefused) else type(error).__name__,
                )
                model = self._fallback.name
                folding = await self._fallback.fold(old, facts, batch, self._narrative_tokens)
                narrative, facts = await self._applied(folding, facts, batch)
        else:
            narrative = old or _NOTHING_SAID
        return await self._summaries.add(
            task.user_id,
            task.conversation_id,
            previous=hot.summary,
            anchor=batch[-1],
            erasures=hot.erasures,
            text=narrative,
            facts=facts,
            tokens=estimate_tokens(summary_body(narrative, facts)),
            model=model,
            served=meter.served,
            work_id=meter.id,
        )

    async def _applied(
        self, folding: Folding, facts: Sequence[Fact], batch: Sequence[Message]
    ) -> tuple[str, tuple[Fact, ...]]:
        """The narrative and the facts after a fold, both within their tokens."""
        tokens = estimate_tokens(folding.narrative)
        if not folding.narrative or tokens > self._narrative_tokens:
            raise SummaryRefused(f"The narrative takes {tokens} tokens; 1 to {self._narrative_tokens} are allowed.")
        return folding.narrative, await self._bounded(changed(facts, folding.changes, batch))

    async def _bounded(self, facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
        """The facts within their tokens.

        Where they are too many, the half that was touched least recently is said shorter, then the other half; what is
        still too much is let go.
        """
        if cost(facts) <= self._facts_tokens:
            return facts
        by_change = sorted(facts, key=lambda fact: fact.changed_sequence)
        half = (len(facts) + 1) // 2
        for group in (by_change[:half], by_change[half:]):
            if group and cost(facts) > self._facts_tokens:
                facts = await self._merged(facts, group)
        kept, dropped = fit(facts, self._facts_tokens)
        if dropped:
            log.info("summary_facts_dropped", count=len(dropped), kinds=sorted({fact.kind.value for fact in dropped}))
        return kept

    async def _merged(self, facts: tuple[Fact, ...], group: Sequence[Fact]) -> tuple[Fact, ...]:
        try:
            return merged(facts, group, await self._summarizer.merge(group, cost(group) // 2))
        except (SummaryRefused, ModelRejected) as error:
            log.warning("summary_merge_refused", problem=str(error))
            return facts
