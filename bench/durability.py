"""What the durability of a turn costs the database: `uv run python -m bench.durability`.

A turn is a message and its reply, by `chatrpc.turns` over a pool of one connection, of which libpq keeps a trace: a
round trip is a change of direction, a statement an Execute. The language model answers inside the process, once at
once and once over five seconds at 50 tokens a second; the user has a quota, so that the ledger reserves and settles.
The first turn prepares the statements and is not counted.

Compared are the turn as servers run it, alone and with a Redis that holds the reply log, with a bare one: no
checkpoints and a log in memory. The ledger cannot be taken out, since it has no statements of its own: it is a part of
those that accept and finish, which the bare turn has as well. A server's lease is renewed every three seconds whatever
the number of turns, over a pool of its own here, and not counted.

Bar: at most two more round trips than the bare turn, and one for each second of streaming; none for a delta.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import uvloop
from uuid_utils.compat import uuid7

from bench.table import print_table
from bench.turn_cpu.servers import ConstantEmbedder, ScriptedModel
from chatrpc.cli.runtime import configure_logs
from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database, open_database
from chatrpc.db.migrate import upgrade
from chatrpc.db.processes import Processes
from chatrpc.db.reports import Reports
from chatrpc.db.transcript import Transcript
from chatrpc.db.vectors import VectorStore
from chatrpc.dev.postgres import run_postgres
from chatrpc.domain import Caller, OutgoingMessage, Quota, TextPart, TurnSettings
from chatrpc.memory import Memory, MemorySettings
from chatrpc.models.profiles import load_profiles
from chatrpc.server import open_reply_logs
from chatrpc.settings import (
    AuthSettings,
    ContextSettings,
    DatabaseSettings,
    EmbedderSettings,
    KnowledgeSettings,
    LogSettings,
    ModelSettings,
    RedisSettings,
)
from chatrpc.turns.events import Delta
from chatrpc.turns.generation import TurnParts
from chatrpc.turns.lease import process_lease
from chatrpc.turns.service import Turns
from chatrpc.turns.stored import StoredReplies
from tests.support.redis_server import RedisServer

EXTRA_BAR = 2
RATE = 50.0
REPLIES = {"at once": (1, 0.0), "5 s": (250, RATE)}
WARM_UPS = 2

# A line of the trace: time, direction (F to the server, B back), length, kind, content up to the next line.
EVENT = re.compile(r"^\d\S+ \S+\t([FB])\t\d+\t(\w+)(.*?)(?=^\d\S+ \S+\t[FB]\t|\Z)", re.MULTILINE | re.DOTALL)
PARSED = re.compile(r'\s*"(\w*)" "(.*)"', re.DOTALL)
BOUND = re.compile(r'\s*"\w*" "(\w*)"')
FUNCTION = re.compile(r"(?:FROM|SELECT)\s+(\w+)\s*\(")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one turn took."""

    round_trips: int
    statements: Counter[str]
    deltas: int
    seconds: float


def cost_of(trace: str, names: dict[str, str], deltas: int, seconds: float) -> Cost:
    """Read a trace. `names` gathers what prepared statements do, from the traces of the turns before, too."""
    directions, statements = [], Counter[str]()
    for direction, kind, content in EVENT.findall(trace):
        directions.append(direction)
        if kind == "Parse" and (parsed := PARSED.match(content)):
            name, query = parsed.groups()
            function = FUNCTION.search(query)
            names[name] = function[1] if function else " ".join(query.split()[:3])
        if kind == "Bind" and (bound := BOUND.match(content)):
            statements[names.get(bound[1], "?")] += 1
    turns = sum(before == "F" and after == "B" for before, after in pairwise(directions))
    return Cost(turns, statements, deltas, seconds)


async def measure(url: str, redis_url: str | None, tokens: int, rate: float) -> Cost:
    """One turn, after those that prepare the statements."""
    settings = MemorySettings(
        DatabaseSettings(url=url), ModelSettings(), EmbedderSettings(), ContextSettings(), KnowledgeSettings()
    )
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(DatabaseSettings(url=url, pool_size=1)))
        others = await stack.enter_async_context(open_database(DatabaseSettings(url=url)))
        lease = await stack.enter_async_context(process_lease(Processes(others)))
        embedder, model = ConstantEmbedder(), ScriptedModel(tokens, rate)
        space_id = await VectorStore(others).register_space(embedder.space)
        memory = Memory(database, embedder, model, space_id, load_profiles(settings.model), embedder, embedder)
        auth = AuthSettings(issuer="issuer", jwks_file="none")
        parts = TurnParts(Transcript(database), memory.assembler(settings, auth), model, 0.04, lambda: None)
        stored = StoredReplies(parts.transcript, Reports(database))
        logs = await stack.enter_async_context(open_reply_logs(RedisSettings(url=redis_url), stored))
        turns = Turns(parts, stored, lease, logs)
        caller = Caller(uuid7(), "alice", "issuer", None, frozenset(), inf, Quota(tokens=10_000_000, turns=1_000))
        created = await Conversations(others).create(
            caller.user_id, title="", settings=TurnSettings(), labels={}, request_id=None
        )
        names: dict[str, str] = {}
        for _ in range(WARM_UPS):
            await traced(turns, database, caller, created.id, names)
        return await traced(turns, database, caller, created.id, names)


async def traced(
    turns: Turns, database: Database, caller: Caller, conversation_id: UUID, names: dict[str, str]
) -> Cost:
    loop = asyncio.get_running_loop()
    message = OutgoingMessage(conversation_id, str(uuid7()), (TextPart("Say it."),))
    with tempfile.TemporaryFile() as trace:
        async with database.unbound() as connection:
            connection.pgconn.trace(trace.fileno())
        began, deltas = loop.time(), 0
        _, events = await turns.send(caller, message)
        async for event in events:
            deltas += isinstance(event.event, Delta)
        seconds = loop.time() - began
        async with database.unbound() as connection:
            connection.pgconn.untrace()
        trace.seek(0)
        return cost_of(trace.read().decode(errors="replace"), names, deltas, seconds)


async def run() -> None:
    with tempfile.TemporaryDirectory(prefix="chatrpc-bench-") as scratch:
        async with run_postgres(Path(scratch, "postgres")) as postgres, RedisServer(Path(scratch)) as redis:
            await asyncio.to_thread(upgrade, postgres.url)
            costs: dict[tuple[str, str], Cost] = {}
            for reply, (tokens, rate) in REPLIES.items():
                with patch("chatrpc.turns.checkpoints.INTERVAL", 1e9):
                    costs[reply, "bare"] = await measure(postgres.url, None, tokens, rate)
                costs[reply, "a process alone"] = await measure(postgres.url, None, tokens, rate)
                costs[reply, "with Redis"] = await measure(postgres.url, redis.url, tokens, rate)
    report(costs)


def report(costs: dict[tuple[str, str], Cost]) -> None:
    rows: list[list[object]] = []
    met = True
    for (reply, turn), cost in costs.items():
        extra = cost.round_trips - costs[reply, "bare"].round_trips
        met = met and extra <= EXTRA_BAR + int(cost.seconds)
        statements = ", ".join(f"{name} {number}" for name, number in cost.statements.items())
        rows.append([f"{reply}, {turn}", cost.deltas, cost.round_trips, extra, statements])
    print_table(["reply, turn", "deltas", "round trips", "over bare", "statements"], rows)
    print(f"\nbar: at most {EXTRA_BAR} over bare, and one for each second of streaming: {'met' if met else 'MISSED'}")


def main() -> None:
    configure_logs(LogSettings(level="warning"))
    uvloop.run(run())


if __name__ == "__main__":
    main()
