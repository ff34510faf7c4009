"""What an idle `Chat` stream costs the server: `uv run python -m bench.idle_streams [--streams N]`.

It starts what `chatrpc dev` starts, in a temporary directory, and opens 10,000 streams straight to the server, 100 on a
connection, from several client processes. A stream counts as open once it has answered a ping. The server's resident
memory is read from /proc before, when all are open, and after a further round of heartbeats; Envoy and PostgreSQL are
processes of their own. The growth holds the share of the connections, too. Bar: at most 32 KB a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import uvloop
from chatapi.v1.chat_service_pb2 import ChatRequest, ChatResponse, Ping
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub

from bench.child import obey, run_child
from bench.stack import Stack, run_stack
from bench.table import print_table
from chatrpc.settings import ServerSettings, load

BAR_KILOBYTES = 32.0
CLIENTS = 4
# What imports itself with the first streams is no stream's cost.
WARM_UP = 100

_Stream = grpc.aio.StreamStreamCall[ChatRequest, ChatResponse]


async def hold(target: str, token: str, streams: int, per_connection: int) -> None:
    """As a client process: open the streams, say so, and keep them until told to end."""
    metadata = (("authorization", f"Bearer {token}"),)
    # Channels with a pool of their own share no connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(-(-streams // per_connection))]
    held: list[_Stream] = []
    for start, channel in zip(range(0, streams, per_connection), channels, strict=True):
        stub = ChatServiceStub(channel)
        some = [stub.Chat(metadata=metadata) for _ in range(min(per_connection, streams - start))]
        await asyncio.gather(*(_ping(stream) for stream in some))
        held += some

    async def still_open(_: str) -> dict[str, Any]:
        return {"open": sum(not stream.done() for stream in held)}

    await obey({}, still_open)
    for stream in held:
        stream.cancel()
    await asyncio.gather(*(channel.close() for channel in channels))


async def _ping(stream: _Stream) -> None:
    await stream.write(ChatRequest(request_id="open", ping=Ping()))
    response = await stream.read()
    assert isinstance(response, ChatResponse), "the stream has ended"
    assert response.pong.request_id == "open", "a pong answers the ping"


def resident_kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


async def measure(stack: Stack, streams: int) -> None:
    settings = load(ServerSettings)
    client = ("--client", stack.direct_endpoint, stack.token, "--per-connection", str(settings.max_streams))
    async with run_child("bench.idle_streams", *client, "--streams", str(WARM_UP)):
        pass
    before = resident_kilobytes(stack.pid)
    rows: list[list[object]] = [["before", 0, before, None]]
    shares = [str(streams // CLIENTS + (number < streams % CLIENTS)) for number in range(CLIENTS)]
    async with AsyncExitStack() as held:
        started = time.monotonic()
        opening = [run_child("bench.idle_streams", *client, "--streams", share) for share in shares]
        clients = await asyncio.gather(*(held.enter_async_context(each) for each in opening))
        seconds = time.monotonic() - started
        for title, pause in (("all open", 0.0), ("a heartbeat later", 1.5 * settings.heartbeat)):
            await asyncio.sleep(pause)
            still_open = sum([(await each.ask())["open"] for each in clients])
            resident = resident_kilobytes(stack.pid)
            grown = (resident - before) / max(still_open, 1)
            rows.append([title, still_open, resident, f"{grown:.1f}"])
    print_table(["", "streams", "resident KB", "KB a stream"], rows)
    print(f"\nopened in {seconds:.0f} s, {settings.max_streams} on a connection")
    met = still_open == streams and grown <= BAR_KILOBYTES
    print(f"bar: at most {BAR_KILOBYTES:.0f} KB a stream, all of them open: {'met' if met else 'MISSED'}")


async def run(streams: int) -> None:
    async with run_stack() as stack:
        await measure(stack, streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--client", nargs=2, metavar=("TARGET", "TOKEN"), help=argparse.SUPPRESS)
    parser.add_argument("--per-connection", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        target, token = options.client
        uvloop.run(hold(target, token, options.streams, options.per_connection))
    else:
        uvloop.run(run(options.streams))


if __name__ == "__main__":
    main()
