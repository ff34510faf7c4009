"""The command; see `bench.rolling`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import uvloop

import bench.rolling
from bench.child import Child, run_child
from bench.rolling.load import WORDS, Phase
from bench.served import Server, run_servers, server_environment
from bench.table import percentile, print_table
from chatrpc.db.migrate import upgrade
from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.dev.postgres import run_postgres
from chatrpc.settings import AuthSettings
from tests.edge.edge import Edge, edge_before_two, until
from tests.edge.upstream import Upstream
from tests.support.redis_server import RedisServer

USERS = 24
# Seconds of quiet before the first restart, between two and after the last.
QUIET = 5.0


@asynccontextmanager
async def provider() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.provider", "--rate", "40", "--deltas", str(WORDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def healthy(edge: Edge, number: int) -> None:
    async def counted() -> bool:
        return await edge.figure("cluster.chatrpc.membership_healthy") == number

    await until(counted)


async def restart(server: Server, edge: Edge, clients: Child) -> float:
    """Seconds that it was away or draining."""
    began = time.monotonic()
    await clients.ask("phase one drains or is away")
    await server.stop()
    await server.start()
    await healthy(edge, 2)
    await clients.ask("phase both run")
    return time.monotonic() - began


async def run(rate: float, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatrpc-bench-")))
        issuer = LocalIssuer.create(scratch / "issuer")
        postgres = await stack.enter_async_context(run_postgres(scratch / "postgres"))
        redis = await stack.enter_async_context(RedisServer(scratch))
        await asyncio.to_thread(upgrade, postgres.url)
        environment = server_environment(postgres.url, redis.url, issuer, await stack.enter_async_context(provider()))
        servers = await stack.enter_async_context(run_servers(2, environment))
        auth = AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(issuer.jwks_file))
        one, other = (cast("Upstream", SimpleNamespace(port=server.port)) for server in servers)
        edge = await stack.enter_async_context(edge_before_two(one, other, auth))
        await healthy(edge, 2)
        tokens = [issuer.mint(f"user-{number}") for number in range(USERS)]
        clients = await stack.enter_async_context(
            run_child("bench.rolling.load", f"127.0.0.1:{edge.port}", str(rate), *tokens)
        )
        await clients.ask("begin")
        away = []
        for server in servers * rounds:
            await asyncio.sleep(QUIET)
            away.append(await restart(server, edge, clients))
        await asyncio.sleep(QUIET)
        told = await clients.ask("end")
    report({name: Phase(**phase) for name, phase in told["phases"].items()}, told["going_away"])
    print("seconds from SIGTERM to healthy again: " + ", ".join(f"{seconds:.1f}" for seconds in away))
    for server in servers:
        print(f"why calls at the server on port {server.port} ended: {server.reasons}")


def report(phases: dict[str, Phase], going_away: int) -> None:
    rows: list[list[object]] = []
    for name, phase in phases.items():
        times = [f"{percentile(phase.first, share):.0f}" for share in (0.5, 0.99)]
        lag = f"{percentile(phase.lag, 0.99):.0f}"
        rows.append([name, len(phase.lag), len(phase.failed), phase.restarted, phase.repeated, *times, lag])
    print_table(["", "turns", "failed", "began anew", "repeated", "p50 ms", "p99 ms", "lag p99"], rows)
    failed = [failure for phase in phases.values() for failure in phase.failed]
    for failure in sorted(set(failed)):
        print(f"failed {failed.count(failure)} times: {failure}")
    print(f"\nbar: no failed turn: {'MISSED' if failed else 'met'}")
    print(f"going_away heard and followed: {going_away}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rolling",
        description=bench.rolling.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rate", type=float, default=50.0, help="messages a second")
    parser.add_argument("--rounds", type=int, default=1, help="restarts of each server")
    options = parser.parse_args()
    uvloop.run(run(options.rate, options.rounds))


if __name__ == "__main__":
    main()
