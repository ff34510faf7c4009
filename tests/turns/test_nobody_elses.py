"""Promise 4 (nobody else's) over random calls of several users with each other's ids, against who owns what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatrpc.db.conversations import ConversationChanges, Conversations
from chatrpc.db.engine import Database
from chatrpc.db.reports import Reports
from chatrpc.domain import OutgoingMessage, Page, TextPart, TurnSettings
from chatrpc.errors import NotFound
from tests.support.provider import Provider
from tests.turns.conftest import Process, caller, running

USERS = 3
CALLS = (
    "send", "send after", "follow", "cancel", "get", "list messages", "update", "report", "preview",
    "conversation of recall", "delete",
)  # fmt: skip
OPERATIONS = st.tuples(st.sampled_from(CALLS), st.integers(0, USERS - 1), st.integers(0, USERS - 1))


class Household:
    """Users, each with one conversation and one finished reply."""

    def __init__(self, database: Database, process: Process) -> None:
        self.conversations = Conversations(database)
        self.reports = Reports(database)
        self.process = process
        self.users = [uuid4() for _ in range(USERS)]
        self.conversation_ids: list[UUID] = []
        self.reply_ids: list[UUID] = []

    async def move_in(self) -> None:
        for user_id in self.users:
            made = await self.conversations.create(
                user_id, title="mine", settings=TurnSettings(), labels={}, request_id="same-for-all"
            )
            self.conversation_ids.append(made.id)
            accepted, events = await self.process.turns.send(caller(user_id), self.message(made.id))
            async for _ in events:
                pass
            self.reply_ids.append(accepted.reply.id)

    @staticmethod
    def message(conversation_id: UUID, parent_id: UUID | None = None) -> OutgoingMessage:
        return OutgoingMessage(conversation_id, uuid4().hex, (TextPart("Mine alone."),), parent_id=parent_id)

    def call(self, name: str, who: int, whose: int) -> Callable[[], Awaitable[object]]:
        user_id, turns = self.users[who], self.process.turns
        conversation_id, reply_id = self.conversation_ids[whose], self.reply_ids[whose]
        assembler = turns._parts.assembler
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "send": lambda: turns.send(caller(user_id), self.message(conversation_id)),
            "send after": lambda: turns.send(caller(user_id), self.message(self.conversation_ids[who], reply_id)),
            "follow": lambda: turns.follow(caller(user_id), reply_id, 0, 0),
            "cancel": lambda: turns.cancel(caller(user_id), reply_id),
            "get": lambda: self.conversations.get(user_id, conversation_id),
            "list messages": lambda: self.conversations.messages(user_id, conversation_id, Page(10)),
            "update": lambda: self.conversations.update(user_id, conversation_id, ConversationChanges(title="taken")),
            "report": lambda: self.reports.get(user_id, reply_id),
            "preview": lambda: assembler.preview(
                user_id, conversation_id, (TextPart("What is here?"),), TurnSettings(), None
            ),
            "conversation of recall": lambda: assembler._recall.conversation(user_id, conversation_id),
            "delete": lambda: self.conversations.delete(user_id, conversation_id),
        }
        return calls[name]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(OPERATIONS, min_size=1, max_size=12))
async def test_somebody_elses_ids_find_nothing_and_change_nothing(
    database: Database, provider: Provider, operations: list[tuple[str, int, int]]
) -> None:
    async with running(database, provider, uuid4(), uuid4()) as process:
        household = Household(database, process)
        await household.move_in()
        gone: set[int] = set()
        changed: set[int] = set()
        for name, who, whose in operations:
            allowed = who == whose and who not in gone
            if name == "send after" and who in gone:
                allowed = False
            try:
                result = await household.call(name, who, whose)()
            except NotFound:
                assert not allowed, name
                continue
            assert allowed, name
            if name in ("send", "send after"):
                async for _ in result[1]:  # type: ignore[index]
                    pass
            gone |= {whose} if name == "delete" else set()
            changed |= {whose} if name == "update" else set()
        for number, user_id in enumerate(household.users):
            listed, _ = await household.conversations.list(user_id, Page(100))
            expected = [] if number in gone else [household.conversation_ids[number]]
            assert [conversation.id for conversation in listed] == expected
            assert [c.title for c in listed] == ["taken" if number in changed else "mine"] * len(expected)
