"""Streams of entries in Redis, and the channels that announce them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from chatrpc.settings import RedisSettings

log = structlog.get_logger(__name__)

APPEND = Path(__file__).with_name("append.lua").read_text()
# Entries of one stream at most, roughly. A reply has one for each delta, and models end long before.
LONGEST = 100_000
# Seconds between attempts to reach Redis again.
PAUSE = 0.5
# Seconds after which a call is given up.
TIMEOUT = 2.0


class StreamsAway(Exception):  # noqa: N818 - a state of affairs, which passes
    """Redis cannot be reached; try again."""


class Verdict(StrEnum):
    """What has become of a batch; see `append.lua`."""

    OK = "ok"
    GAP = "gap"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries to append to a stream.

    Attributes:
        first: Number of the first one within its attempt.
        life: Seconds for which the stream is kept from now on.
    """

    key: str
    attempt: int
    first: int
    entries: Sequence[bytes]
    life: float


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it is read."""

    attempt: int
    number: int
    data: bytes


class Streams:
    """One process's way to Redis: a connection that listens for all its channels, and a few that write and read.

    Attributes:
        on_message: Called with each channel and message heard.
        on_loss: Called when the connection that listens is lost: what was said meanwhile was not heard, and every
            channel has to be subscribed to again.
    """

    def __init__(self, client: Redis, listener: Redis) -> None:
        self.on_message: Callable[[str, bytes], None] = lambda channel, data: None
        self.on_loss: Callable[[], None] = lambda: None
        self._client = client
        self._listener = listener
        self._append = client.register_script(APPEND)
        self._listening: PubSub | None = None
        self._lasting: set[str] = set()
        self._awaited: dict[str, asyncio.Future[None]] = {}

    async def append(self, batches: Sequence[Batch]) -> list[Verdict]:
        """Append to streams and announce them, in one call.

        Raises:
            StreamsAway: Some of it may have happened.
        """
        arguments: list[Any] = [LONGEST]
        for batch in batches:
            arguments += (batch.attempt, batch.first, round(batch.life * 1000), len(batch.entries), *batch.entries)
        async with _translated():
            answers = await self._append(keys=[batch.key for batch in batches], args=arguments)
        return [Verdict(answer.decode()) for answer in answers]

    async def read(self, places: Mapping[str, tuple[int, int]]) -> dict[str, list[Entry]]:
        """The entries of streams after (attempt, number), in one round trip.

        Raises:
            StreamsAway
        """
        async with _translated(), self._client.pipeline(transaction=False) as pipeline:
            for key, (attempt, number) in places.items():
                pipeline.xrange(key, min=f"{attempt}-{number + 1}")
            found = await pipeline.execute()
        return {key: [_entry(*each) for each in entries] for key, entries in zip(places, found, strict=True)}

    async def delete(self, *keys: str) -> None:
        """Raises: StreamsAway."""
        async with _translated():
            await self._client.delete(*keys)

    async def say(self, channel: str, data: bytes) -> bool:
        """Say something to whoever listens; whether anybody does. Raises StreamsAway."""
        async with _translated():
            return bool(await self._client.publish(channel, data))

    async def subscribe(self, channel: str, *, lasting: bool = False) -> None:
        """Hear a channel from now on; what is said after the return is heard.

        Args:
            lasting: Whether it is subscribed to again, by itself, after a loss.

        Raises:
            StreamsAway
        """
        if lasting:
            self._lasting.add(channel)
        listening = self._connected()
        if listening is None:
            raise StreamsAway
        confirmed = self._awaited.setdefault(channel, asyncio.get_running_loop().create_future())
        async with _translated(), asyncio.timeout(TIMEOUT):
            await listening.subscribe(channel)
            await asyncio.shield(confirmed)

    async def unsubscribe(self, channel: str) -> None:
        self._lasting.discard(channel)
        listening = self._connected()
        if listening is not None:
            with suppress(StreamsAway):
                async with _translated():
                    await listening.unsubscribe(channel)

    def _connected(self) -> PubSub | None:
        """What listens, unless its connection is lost: the client library would mend it by whatever is asked of it, and
        `listen`, which reads from the same connection, would not learn of the loss."""
        listening = self._listening
        connection = None if listening is None else listening.connection
        return listening if connection is not None and connection.is_connected else None

    async def listen(self) -> None:
        """Listen until cancelled, again and again while Redis is away."""
        away = False
        while True:
            listening = self._listener.pubsub()
            try:
                async with _translated():
                    # A channel of no meaning, since a connection without any cannot listen.
                    await listening.subscribe("chatrpc")
                    self._listening = listening
                    if self._lasting:
                        await listening.subscribe(*self._lasting)
                    if away:
                        log.info("redis_back")
                        away = False
                while True:
                    async with _translated():
                        said = await listening.get_message(timeout=None)
                    self._hear(said)
            except StreamsAway as error:
                if not away:
                    log.warning("redis_away", problem=str(error.__cause__))
                away = True
                self._lose()
                await asyncio.sleep(PAUSE)
            finally:
                self._listening = None
                with suppress(StreamsAway):
                    async with _translated():
                        await listening.aclose()  # type: ignore[no-untyped-call]

    def _hear(self, said: Mapping[str, Any] | None) -> None:
        match said:
            case {"type": "message", "channel": channel, "data": data}:
                self.on_message(channel.decode(), data)
            case {"type": "subscribe", "channel": channel}:
                confirmed = self._awaited.pop(channel.decode(), None)
                if confirmed is not None and not confirmed.done():
                    confirmed.set_result(None)

    def _lose(self) -> None:
        self._listening = None
        awaited, self._awaited = self._awaited, {}
        for confirmed in awaited.values():
            if not confirmed.done():
                # Cancelled, it would look as if its waiter's own task were.
                confirmed.set_exception(StreamsAway())
                # Where nobody waits any more, that is nobody's trouble.
                confirmed.exception()
        self.on_loss()


def _entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    attempt, _, number = entry_id.partition(b"-")
    return Entry(int(attempt), int(number), fields[b"e"])


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StreamsAway from error
    except (AttributeError, RuntimeError) as error:
        # The client library writes to a connection that another task has closed meanwhile: to None, or to a transport
        # of uvloop's that says so.
        if getattr(error, "obj", None) is not None:
            raise
        raise StreamsAway from error


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks that talk to Redis, until they have ended: the client may swallow a cancellation that meets an
    answer."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)


@asynccontextmanager
async def open_streams(settings: RedisSettings) -> AsyncIterator[Streams]:
    """The way to Redis; it connects when it is first used, and again after Redis was away."""
    assert settings.url is not None
    # A pooled connection may be one that Redis has closed, so a call is tried twice. The connection that listens must
    # not mend itself without a word.
    async with _client(settings.url, tries=2) as client, _client(settings.url, tries=1) as listener:
        streams = Streams(client, listener)
        listening = asyncio.create_task(streams.listen(), name="redis listener")
        try:
            yield streams
        finally:
            await end(listening)


def _client(url: str, tries: int) -> Redis:
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), tries - 1),
        client_name="chatrpc",
    )
