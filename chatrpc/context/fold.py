"""Folding: the oldest messages of a conversation enter its summary, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chatrpc.context.window import batch_due
from chatrpc.db.memory import MemoryTask
from chatrpc.db.recall import Recall
from chatrpc.db.summaries import Summaries
from chatrpc.domain import HotPath, Message, Summary
from chatrpc.errors import NotFound
from chatrpc.ports import Summarizer
from chatrpc.settings import ContextSettings
from chatrpc.tokens import estimate_tokens

_NOTHING_SAID = "(Nothing was said.)"


class Folder:
    """Writes the versions of conversations' summaries."""

    def __init__(self, summaries: Summaries, recall: Recall, summarizer: Summarizer, settings: ContextSettings) -> None:
        self._summaries = summaries
        self._recall = recall
        self._summarizer = summarizer
        self._settings = settings

    async def fold(self, task: MemoryTask) -> None:
        """Fold batches of the active path into its summary for as long as one is due."""
        keep, fold = self._settings.hot_path, self._settings.fold
        try:
            conversation = await self._recall.conversation(task.user_id, task.conversation_id)
            hot = await self._recall.hot_path(task.user_id, task.conversation_id, conversation.path, keep=keep)
        except NotFound:
            return  # It was deleted, and its task with it.
        while batch := batch_due(hot.messages, keep, fold):
            summary = await self._add_version(task, hot, batch)
            if summary is None:
                return  # Another worker was faster and goes on from its own version.
            hot = replace(hot, summary=summary, messages=hot.messages[len(batch) :])

    async def _add_version(self, task: MemoryTask, hot: HotPath, batch: Sequence[Message]) -> Summary | None:
        previous = hot.summary
        old = None if previous is None else previous.text
        if any(message.text.strip() for message in batch):
            text = await self._summarizer.fold(old, batch, self._settings.summary_tokens)
        else:
            text = old or _NOTHING_SAID
        return await self._summaries.add(
            task.user_id,
            task.conversation_id,
            previous=previous,
            anchor=batch[-1],
            erasures=hot.erasures,
            text=text,
            tokens=estimate_tokens(text),
            model=self._summarizer.name,
        )
