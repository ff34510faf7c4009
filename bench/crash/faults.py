"""When what is killed, restarted or stalled: by the turns that are finished, so that all faults fall among turns."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import psycopg

from bench.crash.history import History
from bench.crash.provider import Script
from bench.crash.stack import Server, Stack
from bench.crash.stored import orphans

# Of all kills, those that take both servers at once.
BOTH = 0.1
# Kills that may be late.
SLACK = 3
# Of all stalls, those that outlast a lease; and how long they and the others are, in seconds.
LONG, LONG_STALL, SHORT_STALL = 0.15, (11.0, 16.0), (0.2, 4.0)
# Of all stalls, those that end with the connections cut.
CUT = 0.4
# Seconds for which the database or Redis is gone.
GONE = (0.0, 3.0)
# Seconds for which a server is stopped and knows nothing of it: more than a lease, and less.
PAUSED = ((2.0, 6.0), (11.0, 15.0))


@dataclass
class Faults:
    """Makes them, and counts them."""

    stack: Stack
    history: History
    script: Script
    random: Random
    counts: Counter[str] = field(default_factory=Counter)

    async def keep_up(self, turn: int, turns: int, kills: int) -> None:
        """Wait with a turn until the kills that belong before it are done: servers may start slowly."""
        while (self.counts["kills"] + SLACK) * turns < turn * kills:  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.05)

    async def run(self, turns: int, kills: int, restarts: int) -> None:
        """Spread all faults over the turns; stalls and pauses come in proportion to the kills."""
        stalls, pauses = kills // 2, kills // 10
        # A database that is being restarted is not restarted.
        away = asyncio.Lock()
        async with asyncio.TaskGroup() as work:
            self._work = work
            work.create_task(self._spread(turns, kills, self._kill))
            work.create_task(self._spread(turns, restarts, lambda: self._restart(away)))
            work.create_task(self._spread(turns, stalls, self._stall))
            work.create_task(self._spread(turns, pauses, self._pause))

    async def _spread(self, turns: int, number: int, fault: Callable[[], Awaitable[None]]) -> None:
        """Make so many faults, each at a moment of its own share of the turns."""
        for place in range(number):
            due = turns * (place + self.random.uniform(0.1, 0.9)) / number
            while self.history.finished < due:  # noqa: ASYNC110 - a run has many turns, and few that wait
                await asyncio.sleep(0.02)
            await fault()

    async def _some_server(self) -> Server:
        """One that serves; soon there is one."""
        while True:
            ready = [server for server in self.stack.servers if server.ready and not server.paused]
            if ready:
                return self.random.choice(ready)
            await asyncio.sleep(0.02)

    async def _kill(self) -> None:
        """Kill a server and start it again at once; what it leaves behind is noted."""
        first = await self._some_server()
        victims = [first]
        if self.random.random() < BOTH:
            victims += [server for server in self.stack.servers if server is not first and server.ready]
        leases: set[str] = set()
        for victim in victims:
            leases |= await victim.kill()
            victim.paused = False
            self.counts["kills"] += 1
        killed = time.monotonic()
        self._work.create_task(self._start(victims))
        try:
            self.history.orphans += await orphans(self.stack.postgres.server.url, leases, killed)
        except psycopg.Error:
            self.counts["kills while the database was away"] += 1

    async def _start(self, victims: list[Server]) -> None:
        async with self._outage("both servers", not any(server.ready for server in self.stack.servers)):
            await asyncio.gather(*(victim.start() for victim in victims))

    async def _restart(self, away: asyncio.Lock) -> None:
        kind = ("redis killed", "postgres killed", "postgres ended at once")[self.counts["restarts"] % 3]
        self.counts["restarts"] += 1
        self.counts[kind] += 1
        async with away:
            if kind == "redis killed":
                await self.stack.redis.kill()
                await asyncio.sleep(self.random.uniform(*GONE))
                await self.stack.redis.start()
                return
            async with self._outage("database"):
                await self.stack.postgres.end(signal.SIGKILL if kind == "postgres killed" else signal.SIGQUIT)
                await asyncio.sleep(self.random.uniform(*GONE))
                await self.stack.postgres.start()

    async def _stall(self) -> None:
        server = self.random.choice(self.stack.servers)
        what = self.random.choice(list(server.links))
        link = server.links[what]
        self.counts["stalls"] += 1
        self.counts[f"stalls of {what}"] += 1
        # A takeover needs the database alone.
        async with self._outage(f"{server.name}'s {what}", what == "database"):
            self._disturb(what)
            link.stall()
            seconds = LONG_STALL if self.random.random() < LONG else SHORT_STALL
            await asyncio.sleep(self.random.uniform(*seconds))
            self._disturb(what)
            if self.random.random() < CUT:
                link.cut()
            link.flow()

    def _disturb(self, what: str) -> None:
        if what == "provider":
            self.script.disturb()

    async def _pause(self) -> None:
        """Stop a server in its tracks, and let it go on as if nothing had been."""
        server = await self._some_server()
        self.counts["pauses"] += 1
        process = server.process
        async with self._outage(f"{server.name} paused"):
            server.pause()
            self.script.disturb()
            await asyncio.sleep(self.random.uniform(*self.random.choice(PAUSED)))
            if server.process is process and server.paused:
                server.go_on()

    @asynccontextmanager
    async def _outage(self, what: str, counts: bool = True) -> AsyncIterator[None]:
        """Note when something is away that a takeover may have to wait for."""
        began = time.monotonic()
        try:
            yield
        finally:
            if counts:
                self.history.outages.append((what, began, time.monotonic()))
