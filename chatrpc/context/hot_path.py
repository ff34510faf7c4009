"""The hot paths of one process: what a context is built from, kept in memory as long as nothing else changed it."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import replace
from uuid import UUID

from chatrpc.context.window import extends, length
from chatrpc.domain import Accepted, HotPath, Message, Path, texts_of

# Measured with tracemalloc for the objects around the text of a message (two ids of its own, two timestamps, its parts
# and usage), and of an entry with its conversation's settings; rounded up.
_MESSAGE_BYTES = 1_000
_ENTRY_BYTES = 2_000

_Key = tuple[UUID, UUID]


class HotPathCache:
    """Hot paths by user and conversation, least recently used first out, bounded by bytes.

    An entry is the exact state of the conversation at its revision. Every write that can change a context raises
    the revision by one and tells the revision that it found, so an entry follows this process's own writes as long
    as these are the only ones, and is dropped as soon as another write stands between.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[_Key, tuple[HotPath, int]] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Estimated size of all entries."""
        return self._bytes

    def get(self, user_id: UUID, conversation_id: UUID, path: Path, revision: int) -> HotPath | None:
        """The hot path cut to `path`, no older than `revision`; None where it must be loaded.

        A cached reply that is not finished may have been finished by another process meanwhile, so a path with one
        is loaded too.
        """
        key = (user_id, conversation_id)
        entry = self._entries.get(key)
        if entry is None:
            return None
        hot, _ = entry
        if hot.revision < revision:
            self._drop(key)
            return None
        if not extends(hot.path, path):
            return None
        end = length(path)
        messages = tuple(message for message in hot.messages if message.depth <= end)
        if not all(message.state.finished for message in messages):
            return None
        if hot.summary is not None and hot.summary.anchor_depth > end:
            return None
        self._entries.move_to_end(key)
        return replace(hot, path=path, messages=messages)

    def put(self, user_id: UUID, hot: HotPath) -> None:
        """Keep a hot path as it was loaded, unless a newer one is here."""
        key = (user_id, hot.conversation_id)
        entry = self._entries.get(key)
        if entry is None or entry[0].revision <= hot.revision:
            lean = replace(hot, messages=tuple(_lean(message) for message in hot.messages))
            self._store(key, lean, _size(lean))

    def appended(self, user_id: UUID, accepted: Accepted) -> None:
        """Follow an append of this process: the message and the place of its reply."""
        if accepted.duplicate:
            return
        message, reply = accepted.message, accepted.reply
        key = (user_id, message.conversation_id)
        entry = self._at(key, accepted.revision_before)
        if entry is None:
            return
        hot, size = entry
        if not hot.messages or hot.messages[-1].id != message.parent_id:
            self._drop(key)
            return
        grown = replace(
            hot,
            revision=hot.revision + 1,
            settings=accepted.settings,
            path=(*accepted.path[:-1], (reply.branch, reply.depth)),
            messages=(*hot.messages, message, reply),
        )
        self._store(key, grown, size + _message_size(message) + _message_size(reply))

    def finished(self, user_id: UUID, reply: Message, revision_before: int) -> None:
        """Follow the end of a reply that this process wrote."""
        key = (user_id, reply.conversation_id)
        entry = self._at(key, revision_before)
        if entry is None:
            return
        hot, size = entry
        messages, path = hot.messages, hot.path
        reply = _lean(reply)
        size += _message_size(reply)
        place = next((place for place in reversed(range(len(messages))) if messages[place].id == reply.id), None)
        if place is not None:
            size -= _message_size(messages[place])
            messages = (*messages[:place], reply, *messages[place + 1 :])
        elif messages and messages[-1].id == reply.parent_id:
            # The path was loaded for the turn of this reply, and so up to the message that it answers.
            messages = (*messages, reply)
            # A regenerated reply stands on a branch of its own.
            older = path[:-1] if path[-1][0] == reply.branch else path
            path = (*older, (reply.branch, reply.depth))
        else:
            self._drop(key)
            return
        self._store(key, replace(hot, revision=hot.revision + 1, path=path, messages=messages), size)

    def forget(self, user_id: UUID, conversation_id: UUID) -> None:
        """Drop what is kept of a conversation."""
        self._drop((user_id, conversation_id))

    def _at(self, key: _Key, revision: int) -> tuple[HotPath, int] | None:
        """The entry if it is of this very revision; any other is dropped."""
        entry = self._entries.get(key)
        if entry is not None and entry[0].revision == revision:
            return entry
        self._drop(key)
        return None

    def _store(self, key: _Key, hot: HotPath, size: int) -> None:
        self._drop(key)
        if size > self._max_bytes:
            return
        self._entries[key] = (hot, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self._bytes -= freed

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]


def _lean(message: Message) -> Message:
    """The message without the ends of its deltas, which no context needs and which outweigh a reply's text."""
    return replace(message, delta_ends=()) if message.delta_ends else message


def _size(hot: HotPath) -> int:
    texts: list[str] = []
    if hot.summary is not None:
        texts.append(hot.summary.text)
        texts += (fact.text for fact in hot.summary.facts)
    if hot.settings.system_instruction is not None:
        texts.append(hot.settings.system_instruction)
    return _ENTRY_BYTES + sum(map(sys.getsizeof, texts)) + sum(map(_message_size, hot.messages))


def _message_size(message: Message) -> int:
    return _MESSAGE_BYTES + sum(sys.getsizeof(text) for part in message.parts for text in texts_of(part))
