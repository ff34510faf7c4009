"""The command; see `bench.overload`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop

import bench.overload
from bench.child import Child, run_child
from bench.overload.load import Told
from bench.table import percentile, print_table
from chatrpc.settings import ServerSettings

CLIENTS = 2
CALLERS = 32
# Of each client. Without background work nothing is folded, so that each may take part in a few turns only.
CONVERSATIONS = 400
REFUSAL_BAR = 0.05
FACTOR_BAR = 2.0
UNLOADED = 0.1


class Server:
    """A server and its clients."""

    def __init__(self, clients: list[Child]) -> None:
        self._clients = clients

    async def closed(self, seconds: float) -> Told:
        return await self._all([f"closed {CALLERS // CLIENTS} {seconds}"] * CLIENTS)

    async def open(self, rate: float, seconds: float) -> Told:
        return await self._all([f"open {rate / CLIENTS} {seconds} {seed}" for seed in range(CLIENTS)])

    async def _all(self, commands: list[str]) -> Told:
        told = await asyncio.gather(
            *(client.ask(command) for client, command in zip(self._clients, commands, strict=True))
        )
        each = [Told(**values) for values in told]
        return Told(
            [time for one in each for time in one.first],
            [time for one in each for time in one.refused],
            sum(one.failed for one in each),
            [time for one in each for time in one.lag],
            max(one.seconds for one in each),
        )


@asynccontextmanager
async def served(target_delay_ms: int) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            run_child("bench.turn_cpu.servers", "chatrpc", "10", "0", str(target_delay_ms))
        )
        arguments = (server.ready["target"], server.ready["token"], str(CONVERSATIONS))
        clients = [
            await stack.enter_async_context(run_child("bench.overload.load", *arguments)) for _ in range(CLIENTS)
        ]
        running = Server(clients)
        # The first ones import what no later one does, and each connection to the database plans its statements once:
        # bursts make use of them all.
        await running.closed(1.0)
        for _ in range(5):
            await asyncio.sleep(1.0)
            await running.closed(0.001)
        await asyncio.sleep(1.0)
        yield running


def row(title: str, told: Told, capacity: float) -> list[object]:
    accepted = len(told.first)
    millis = [percentile(told.first, share) / 1_000 for share in (0.5, 0.99)]
    refusals = [percentile(told.refused, share) / 1_000 for share in (0.5, 0.99)]
    goodput = accepted / told.seconds / capacity
    lag = percentile(told.lag, 0.99) / 1_000
    figures = [f"{value:.1f}" if value == value else None for value in (*millis, *refusals)]
    return [title, accepted, *figures[:2], len(told.refused), *figures[2:], told.failed, f"{goodput:.2f}", f"{lag:.1f}"]


async def run(seconds: float, times: float, target: int) -> None:
    async with served(0) as server:
        closed = await server.closed(seconds)
        capacity = len(closed.first) / closed.seconds
        print(f"capacity: {capacity:.0f} turns a second, {CALLERS} callers at once\n", flush=True)
        collapsed = await server.open(times * capacity, seconds)
    async with served(target) as server:
        unloaded = await server.open(UNLOADED * capacity, seconds)
        loaded = await server.open(times * capacity, seconds)
        again = await server.open(UNLOADED * capacity, seconds)
    print_table(
        ["", "accepted", "p50 ms", "p99 ms", "refused", "p50 ms", "p99 ms", "failed", "goodput", "lag p99"],
        [
            row("unloaded", unloaded, capacity),
            row(f"{times:g} times the capacity", loaded, capacity),
            row("unloaded, after it", again, capacity),
            row(f"{times:g} times, no control", collapsed, capacity),
        ],
    )
    factor = percentile(loaded.first, 0.99) / percentile(unloaded.first, 0.99)
    refusal = percentile(loaded.refused, 0.99) / 1e6
    print(f"\np99 of accepted turns: {factor:.2f} times the unloaded")
    print(f"bar: at most {FACTOR_BAR:g} times: {met(factor <= FACTOR_BAR)}")
    print(f"bar: refused within {1_000 * REFUSAL_BAR:.0f} ms, p99: {met(refusal <= REFUSAL_BAR)}")


def met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.overload",
        description=bench.overload.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--times", type=float, default=3.0, help="the capacity that is offered")
    parser.add_argument("--target-delay-ms", type=int, default=ServerSettings.model_fields["target_delay_ms"].default)
    options = parser.parse_args()
    uvloop.run(run(options.seconds, options.times, options.target_delay_ms))


if __name__ == "__main__":
    main()
