"""Watching conversations: what other tabs, devices and server processes do in them.

A watch knows the revision that it has told, and looks what is new when it is woken: at once by a hint, from its own
process or another, and by a look at the revisions of all watched conversations once a second, without which a hint that
was lost would be missed. A watch that is not woken costs no task and no statement of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from chatrpc.db.watched import Watched, WatchedState
from chatrpc.domain import Caller, Conversation, Message, counted
from chatrpc.errors import ChatError, NotFound, Reason, ResourceExhausted, Unavailable
from chatrpc.turns.reply_log import ReplyReader
from chatrpc.turns.service import Turns

log = structlog.get_logger(__name__)

# Seconds between two looks at the revisions of all that this process watches, and conversations in one statement.
INTERVAL = 1.0
AT_ONCE = 5_000
# Seconds that a look gets to end when its watch is closed.
LAST_LOOK = 0.5
# New messages that are told one by one; where there are more, a client does better to list them.
MOST = 100


@dataclass(frozen=True, slots=True)
class MessageChanged:
    """A message was accepted, has finished unseen, or was erased; as it now is."""

    message: Message


@dataclass(frozen=True, slots=True)
class ConversationChanged:
    """The conversation as it now is; all that happened up to its revision is told, unless `reload`."""

    conversation: Conversation
    reload: bool


@dataclass(frozen=True, slots=True)
class ConversationDeleted:
    """The conversation is gone; nothing follows."""


WatchEvent = MessageChanged | ConversationChanged | ConversationDeleted
Ended = Callable[[Exception | None], None]


@dataclass(frozen=True, slots=True)
class WatchReader:
    """Who is told.

    Attributes:
        tell: Waits while too much is untold.
        follow: Tells the events of a reply, too; the second argument is called once at their end.
        end: Nothing further will be told, for an error or without one.
    """

    tell: Callable[[WatchEvent], Awaitable[None]]
    follow: Callable[[ReplyReader, Ended], None]
    end: Callable[[Exception | None], None]


class ConversationWatch:
    """One reader's watch of one conversation; made by `Watches.open`.

    Attributes:
        revision: The one that was told last.
        lost: Replies that cannot be followed now.
        following: Replies that are being followed.
    """

    def __init__(
        self, turns: Turns, watched: Watched, caller: Caller, conversation_id: UUID, reader: WatchReader
    ) -> None:
        self.user_id = caller.user_id
        self.conversation_id = conversation_id
        self.revision = 0
        self.lost: set[UUID] = set()
        self.following: set[UUID] = set()
        self._turns = turns
        self._watched = watched
        self._caller = caller
        self._reader = reader
        self._sequence = 0
        self._erasures = 0
        self._erased: set[UUID] = set()
        # More has happened than is told, and that is not said yet.
        self._reload = False
        self._woken = False
        self._closed = False
        self._looking: asyncio.Task[None] | None = None
        self._reply_ended = asyncio.Event()

    async def begin(self, after_revision: int) -> None:
        """Tell whether anything has happened since a revision, and follow the replies that run.

        Raises:
            NotFound: No such conversation.
            Unavailable: The database cannot be reached.
        """
        state = await self._watched.state(self.user_id, self.conversation_id, None, 0)
        if state is None:
            raise NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(self.conversation_id))
        self._sequence = state.conversation.message_count
        if state.erasures:
            self._erased = await self._watched.erased(self.user_id, self.conversation_id)
            self._erasures = state.erasures
        if state.conversation.revision != after_revision:
            await self._reader.tell(ConversationChanged(state.conversation, reload=True))
        for reply_id in state.pending:
            await self._follow(reply_id)
        self.revision = state.conversation.revision

    def wake(self) -> None:
        """Look what is new, after the look that is under way."""
        if self._closed:
            return
        self._woken = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name=f"watch {self.conversation_id}")

    async def close(self) -> None:
        self._closed, self._woken = True, False
        if self._looking is not None and not self._looking.done():
            # A statement that is cancelled costs the pool its connection, so only a look that waits for the reader is.
            await asyncio.wait({self._looking}, timeout=LAST_LOOK)
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self) -> None:
        try:
            while self._woken:
                self._woken = False
                await self._tell_news()
        except Unavailable:
            # The revision is not told yet, so the next look at all revisions wakes this watch again.
            pass
        except Exception as error:  # noqa: BLE001 - whatever it dies of, the reader hears of it.
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._closed, self._woken = True, False
        self._reader.end(error)

    async def _tell_news(self) -> None:
        state = await self._watched.state(self.user_id, self.conversation_id, self._sequence, MOST)
        if state is None:
            # Whatever wakes it while a slow reader is told, it is told once.
            self._closed = True
            await self._reader.tell(ConversationDeleted())
            self._end(None)
            return
        await self._tell_lost()
        if state.conversation.revision == self.revision:
            return
        # The database may go away before all is told, so what is told is noted step by step.
        self._reload |= bool(state.messages) and state.messages[0].sequence > self._sequence + 1
        for message in state.messages:
            if not self._reload:
                await self._reader.tell(MessageChanged(message))
            self._sequence = message.sequence
            if not self._reload and not message.state.finished:
                await self._follow(message.id)
        for reply_id in state.pending if self._reload else ():
            await self._follow(reply_id)
        await self._tell_erasures(state)
        await self._told_to_their_end(state)
        await self._reader.tell(ConversationChanged(state.conversation, self._reload))
        self.revision, self._reload = state.conversation.revision, False

    async def _told_to_their_end(self, state: WatchedState) -> None:
        """Wait until the replies that are finished are told: who hears of a revision has heard all before it."""
        while self.following.difference(state.pending):
            self._reply_ended.clear()
            await self._reply_ended.wait()
        await self._tell_lost()

    async def _tell_lost(self) -> None:
        """Tell replies that could not be followed and are finished now; try to follow the others."""
        if not self.lost:
            return
        for message in await self._watched.messages(self.user_id, self.lost):
            self.lost.discard(message.id)
            if message.state.finished:
                await self._reader.tell(MessageChanged(message))
            else:
                await self._follow(message.id)

    async def _tell_erasures(self, state: WatchedState) -> None:
        """Tell the messages that were erased since the last call."""
        if state.erasures == self._erasures:
            return
        erased = await self._watched.erased(self.user_id, self.conversation_id)
        for message in await self._watched.messages(self.user_id, erased - self._erased):
            await self._reader.tell(MessageChanged(message))
            self._erased.add(message.id)
        self._erasures = state.erasures

    async def _follow(self, reply_id: UUID) -> None:
        if reply_id in self.following:
            return
        try:
            events = await self._turns.follow(self._caller, reply_id, 0, 0)
        except NotFound:
            return
        except ChatError:
            self.lost.add(reply_id)
            return

        def ended(error: Exception | None) -> None:
            self.following.discard(reply_id)
            if error is not None:
                self.lost.add(reply_id)
            self._reply_ended.set()

        if self._closed:
            events.close()
            return
        self.following.add(reply_id)
        self._reader.follow(events, ended)


class Watches:
    """The watches of this process.

    Args:
        most: Of one user at a time.
    """

    def __init__(self, turns: Turns, watched: Watched, most: int) -> None:
        self._turns = turns
        self._watched = watched
        self._most = most
        self._watches: defaultdict[UUID, set[ConversationWatch]] = defaultdict(set)
        # Those that are just being opened included.
        self._of_user: Counter[UUID] = Counter()
        self._looking: asyncio.Task[None] | None = None
        turns.on_change = self.wake

    def wake(self, conversation_id: UUID) -> None:
        """A conversation has changed, or may have."""
        for watch in self._watches.get(conversation_id, ()):
            watch.wake()

    async def open(
        self, caller: Caller, conversation_id: UUID, after_revision: int, reader: WatchReader
    ) -> ConversationWatch:
        """Watch until `close`.

        Raises:
            NotFound, Unavailable: As `ConversationWatch.begin`.
            ResourceExhausted: The user watches as much as one may.
        """
        if self._of_user[caller.user_id] >= self._most:
            raise ResourceExhausted(
                Reason.TOO_MANY_WATCHES,
                f"The user watches {counted(self._most, 'conversation')} on this server "
                "(CHATRPC_SERVER_MAX_WATCHES_PER_USER); end another watch first.",
                subject="user",
                # Watches whose connection is gone without a word end when that is found out.
                retry_after=5.0,
            )
        watch = ConversationWatch(self._turns, self._watched, caller, conversation_id, reader)
        self._of_user[caller.user_id] += 1
        try:
            # Whatever happens from here on wakes it, after the first look.
            await watch.begin(after_revision)
        except BaseException:
            self._forget_one_of(caller.user_id)
            raise
        self._watches[conversation_id].add(watch)
        watch.wake()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="watches")
        return watch

    async def close(self, watch: ConversationWatch) -> None:
        watches = self._watches[watch.conversation_id]
        watches.discard(watch)
        if not watches:
            del self._watches[watch.conversation_id]
        self._forget_one_of(watch.user_id)
        await watch.close()
        if not self._watches and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _forget_one_of(self, user_id: UUID) -> None:
        self._of_user[user_id] -= 1
        if not self._of_user[user_id]:
            del self._of_user[user_id]

    async def _look(self) -> None:
        """Wake the watches of what has changed, once a second, for as long as there are any."""
        while True:
            await asyncio.sleep(INTERVAL)
            watches = [watch for several in self._watches.values() for watch in several]
            try:
                for start in range(0, len(watches), AT_ONCE):
                    await self._wake_changed(watches[start : start + AT_ONCE])
            except Unavailable:
                continue
            except Exception:
                log.exception("watches_not_looked_at")

    async def _wake_changed(self, watches: list[ConversationWatch]) -> None:
        told = [(watch.user_id, watch.conversation_id, watch.revision) for watch in watches]
        changed = set(await self._watched.changed(told))
        for place, watch in enumerate(watches):
            if place in changed or watch.lost:
                watch.wake()
