"""The logs of running replies: where they are written, and how they are found by those who want to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from chatrpc.domain import ToolResultPart
from chatrpc.turns.reply_log import ReplyLog

OnResults = Callable[[UUID, UUID, Sequence[ToolResultPart]], None]


class ReplyLogs(Protocol):
    """The running replies' logs of one server process.

    Attributes:
        on_cancel: Called with user and reply when somebody, in whichever process, wants a reply of this one stopped.
        on_results: Called with user, reply and results of tool calls that another process passes on.
        on_stale: Called with a log of this process whose attempt is found not to be the current one any more.
        on_change: Called with a conversation that another process says has changed.
    """

    on_cancel: Callable[[UUID, UUID], None]
    on_results: OnResults
    on_stale: Callable[[ReplyLog], None]
    on_change: Callable[[UUID], None]

    def join(self, process_id: UUID) -> None:
        """Be reached as this process from now on."""
        ...

    def begin(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog:
        """A log to write. Those who follow an earlier attempt go on with this one."""
        ...

    def close(self, log: ReplyLog) -> None:
        """Nothing further will be written; from now on the reply is found in the database, or in its next attempt."""
        ...

    async def find(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog | None:
        """The log of a running reply of a user, whichever process writes it.

        Args:
            attempt: The current one, as the database says.

        Returns:
            None where it cannot be read from here, or not now.
        """
        ...

    async def cancel(self, owner: UUID, user_id: UUID, reply_id: UUID) -> bool:
        """Have a reply stopped by the process that writes it; whether that process has been reached."""
        ...

    async def submit(self, owner: UUID, user_id: UUID, reply_id: UUID, results: Sequence[ToolResultPart]) -> bool:
        """Pass results of tool calls to the process that writes a reply; whether that process has been reached."""
        ...

    async def forget(self, reply_id: UUID) -> None:
        """Leave nothing of what was told of a reply that is over. Where it cannot be reached, it expires by itself."""
        ...

    def changed(self, conversation_id: UUID) -> None:
        """Tell the other processes that a conversation has changed; soon, and if they can be reached."""
        ...


class LocalReplyLogs:
    """Implements `ReplyLogs` for a process that is alone: in its memory."""

    def __init__(self) -> None:
        self.on_cancel: Callable[[UUID, UUID], None] = lambda user_id, reply_id: None
        self.on_results: OnResults = lambda user_id, reply_id, results: None
        self.on_stale: Callable[[ReplyLog], None] = lambda log: None
        self.on_change: Callable[[UUID], None] = lambda conversation_id: None
        self._process_id: UUID | None = None
        self._logs: dict[UUID, ReplyLog] = {}

    def join(self, process_id: UUID) -> None:
        self._process_id = process_id

    def begin(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog:
        log = ReplyLog(reply_id, attempt)
        earlier = self._logs.get(reply_id)
        if earlier is not None and not earlier.ended:
            earlier.succeed(log)
        self._logs[reply_id] = log
        return log

    def close(self, log: ReplyLog) -> None:
        if self._logs.get(log.reply_id) is log:
            del self._logs[log.reply_id]

    async def find(self, user_id: UUID, reply_id: UUID, attempt: int) -> ReplyLog | None:
        return self._logs.get(reply_id)

    async def cancel(self, owner: UUID, user_id: UUID, reply_id: UUID) -> bool:
        if owner != self._process_id:
            return False
        self.on_cancel(user_id, reply_id)
        return True

    async def submit(self, owner: UUID, user_id: UUID, reply_id: UUID, results: Sequence[ToolResultPart]) -> bool:
        if owner != self._process_id:
            return False
        self.on_results(user_id, reply_id, results)
        return True

    async def forget(self, reply_id: UUID) -> None:
        return None

    def changed(self, conversation_id: UUID) -> None:
        return None
