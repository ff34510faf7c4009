"""What accepting a message costs over one plain INSERT: `uv run python -m bench.accept [--pairs N]`.

Accepting is `Transcript.append`: idempotency, order, freshness, the message and the place of its reply. The INSERT puts
one row of the same columns into a plain table with a primary key, by the same driver: a connection of the pool, a
prepared statement, autocommit. Both are committed to disk (fsync and synchronous_commit on).

Conversations of 10, 100, 1,000 and 10,000 messages are made first, by the same calls. Then appends to them and plain
INSERTs take turns, all in one run, and the median of the paired differences is given. That is done twice: first on the
new database as it has grown within this run, where the plans that connections keep are those made for empty tables,
then after an ANALYZE, such as autovacuum does within a minute or so, which has all plans made anew. Round trips are
counted in libpq's trace of the connection.

Bars: one round trip, at most 300 us over the INSERT, flat from message 10 to 10,000.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle
from statistics import median
from uuid import UUID

import uvloop
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from bench.database import fresh_database, on_the_wire
from bench.table import percentile, print_table
from chatrpc.db.codec import content_hash, parts_to_json
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.db.transcript import FinishedReply, Transcript
from chatrpc.domain import (
    Accepted,
    FinishReason,
    MessageState,
    OutgoingMessage,
    TextPart,
    TurnSettings,
    Usage,
)

BAR_MICROS = 300.0
# Appends make a conversation longer, so the short ones are many.
CONVERSATIONS = {10: 50, 100: 10, 1_000: 2, 10_000: 1}
TEXT = "We moved the meeting with Anna to Thursday, so I can bring the garden plans."
OWNER = uuid7()

PLAIN_TABLE = """
CREATE TABLE plain_messages (LIKE messages INCLUDING DEFAULTS, PRIMARY KEY (id));
GRANT INSERT ON plain_messages TO chatrpc_server
"""
INSERT = """
INSERT INTO plain_messages (user_id, conversation_id, branch, depth, id, parent_id, sequence, role, state, parts,
                            tokens, client_message_id, content_hash, turn_settings, actor)
VALUES (%s, %s, 0, %s, %s, NULL, %s, 'user', 'complete', %s, %s, %s, %s, NULL, NULL)
"""


@dataclass(slots=True)
class Level:
    """Conversations of a length, and the times in microseconds of appends to them and of the INSERTs beside them."""

    length: int
    conversations: list[UUID]
    accept: list[float] = field(default_factory=list)
    insert: list[float] = field(default_factory=list)

    @property
    def over(self) -> list[float]:
        return [accept - insert for accept, insert in zip(self.accept, self.insert, strict=True)]


def new_parts() -> tuple[TextPart, ...]:
    """A text that nobody has said yet."""
    return (TextPart(f"{TEXT} {random.getrandbits(64)}"),)


class Writer:
    """Appends, and inserts plainly."""

    def __init__(self, database: Database, user_id: UUID) -> None:
        self._database = database
        self._transcript = Transcript(database)
        self._user_id = user_id

    async def append(self, conversation_id: UUID) -> Accepted:
        message = OutgoingMessage(conversation_id, str(uuid7()), new_parts())
        return await self._transcript.append(self._user_id, message, tokens=24, actor=None, owner=OWNER)

    async def insert(self, conversation_id: UUID) -> None:
        key, parts = str(uuid7()), new_parts()
        body = Jsonb(parts_to_json(parts))
        row = (self._user_id, conversation_id, 1, uuid7(), 1, body, 24, key, content_hash(parts))
        async with self._database.unbound() as connection:
            await connection.execute(INSERT, row, prepare=True, binary=True)

    async def finish(self, accepted: Accepted) -> None:
        finished = FinishedReply(
            conversation_id=accepted.message.conversation_id,
            reply=accepted.reply,
            attempt=1,
            state=MessageState.COMPLETE,
            parts=new_parts(),
            tokens=24,
            model="none",
            finish_reason=FinishReason.STOP,
            error_reason=None,
            usage=Usage(),
            delta_ends=(),
            report=None,
        )
        await self._transcript.finish_reply(self._user_id, finished)

    async def new_conversation(self, length: int) -> UUID:
        created = await Conversations(self._database).create(
            self._user_id, title="", settings=TurnSettings(), labels={}, request_id=None
        )
        for _ in range(length // 2):
            await self.finish(await self.append(created.id))
        return created.id


async def make_levels(writer: Writer) -> list[Level]:
    levels = []
    for length, number in CONVERSATIONS.items():
        ids = await asyncio.gather(*(writer.new_conversation(length) for _ in range(number)))
        levels.append(Level(length, list(ids)))
    return levels


async def compare(writer: Writer, levels: list[Level], pairs: int) -> None:
    for level in levels:
        level.accept.clear()
        level.insert.clear()
    targets = {level.length: cycle(level.conversations) for level in levels}
    for _ in range(pairs):
        for level in random.sample(levels, len(levels)):
            await _pair(writer, level, next(targets[level.length]))


def show(title: str, levels: list[Level]) -> None:
    rows = []
    for level in levels:
        over = level.over
        quartiles = (percentile(over, 0.25), percentile(over, 0.75))
        figures = (median(level.insert), median(level.accept), median(over), *quartiles)
        rows.append([f"{level.length:,}", *(f"{figure:.0f}" for figure in figures)])
    print(f"{title}; microseconds, medians")
    print_table(["message", "plain INSERT", "accept", "over it", "quartile", "to"], rows)
    worst = max(median(level.over) for level in levels)
    print(f"bar: at most {BAR_MICROS:.0f} us over the INSERT: {'met' if worst <= BAR_MICROS else 'MISSED'}\n")


async def _pair(writer: Writer, level: Level, conversation_id: UUID) -> None:
    insert_first = random.random() < 0.5
    if insert_first:
        level.insert.append(await _micros(lambda: writer.insert(conversation_id)))
    accepted: list[Accepted] = []

    async def accept() -> None:
        accepted.append(await writer.append(conversation_id))

    level.accept.append(await _micros(accept))
    if not insert_first:
        level.insert.append(await _micros(lambda: writer.insert(conversation_id)))
    await writer.finish(accepted[0])


async def _micros(work: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await work()
    return 1e6 * (time.perf_counter() - started)


async def run(pairs: int) -> None:
    async with fresh_database() as (postgres, database):
        async with await AsyncConnection.connect(postgres.url, autocommit=True) as superuser:
            await superuser.execute(PLAIN_TABLE)
            writer = Writer(database, uuid7())
            levels = await make_levels(writer)
            print(f"{pairs} pairs at each length\n")
            await compare(writer, levels, pairs)
            show("a database that has just grown", levels)
            await superuser.execute("ANALYZE")
            await compare(writer, levels, pairs)
            show("the same after ANALYZE", levels)
        user_id = uuid7()
        conversation_id = await Writer(database, user_id).new_conversation(0)
        accept = await on_the_wire(postgres.url, lambda own: Writer(own, user_id).append(conversation_id))
        insert = await on_the_wire(postgres.url, lambda own: Writer(own, user_id).insert(conversation_id))
    print(f"round trips and statements: accept {accept[0]} and {accept[1]}, plain INSERT {insert[0]} and {insert[1]}")
    print(f"bar: one round trip: {'met' if accept[0] == 1 else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300, help="at each length")
    uvloop.run(run(parser.parse_args().pairs))


if __name__ == "__main__":
    main()
