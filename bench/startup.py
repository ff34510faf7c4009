"""How long a newcomer waits: `uv run python -m bench.startup [--runs N]`.

Each run starts `chatrpc dev` twice on one new data directory, with an empty cache: the first start makes the database
and the embedder's ONNX graph, the second finds both. The clock runs from the start of the process to the first delta of
a reply through Envoy, a new conversation included. The packages are installed already, and mostly in the file cache.
The size is that of the environment that runs this, without Python itself and without caches.

Bars: first start 20 s, second start 6 s; 0.9 GB, no CUDA package.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from statistics import median

from chatapi.v1.conversation_service_pb2 import CreateConversationRequest

from bench.stack import run_stack
from bench.table import print_table
from chatrpc.client import connect, text_message

BARS = {"first start": 20.0, "second start": 6.0}
BAR_BYTES = 0.9e9


async def first_delta(data_dir: Path, cache: Path) -> tuple[float, float]:
    """Seconds until the stack is ready, and until the first words of a reply."""
    started = time.monotonic()
    async with run_stack({"XDG_CACHE_HOME": str(cache)}, data_dir) as stack:
        ready = time.monotonic() - started
        async with connect(stack.endpoint, stack.token) as client, client.chat() as session:
            created = await client.call(client.conversations.CreateConversation, CreateConversationRequest())
            turn = await session.send(text_message(created.conversation.id, "Hello, who are you?"))
            async for event in turn:
                if event.WhichOneof("event") == "delta":
                    break
            told = time.monotonic() - started
            await turn.reply()
    return ready, told


async def measure(runs: int) -> dict[str, list[tuple[float, float]]]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in BARS}
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="chatrpc-bench-") as scratch:
            for name in BARS:
                times[name].append(await first_delta(Path(scratch, "data"), Path(scratch, "cache")))
    return times


def installed_bytes() -> int:
    """Size of the environment on disk, each file once however often it is linked."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for path in Path(sys.prefix).rglob("*"):
        status = path.lstat()
        if (status.st_dev, status.st_ino) not in seen and "__pycache__" not in path.parts:
            seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
    return total


def cuda_packages() -> list[str]:
    names = [distribution.metadata["Name"].lower() for distribution in distributions()]
    return sorted(name for name in names if "nvidia" in name or "cuda" in name or name in ("torch", "triton"))


def show(times: dict[str, list[tuple[float, float]]]) -> None:
    def seconds(values: Sequence[float]) -> list[str]:
        return [f"{figure:.1f}" for figure in (median(values), min(values), max(values))]

    rows = []
    for name, runs in times.items():
        told = [delta for _, delta in runs]
        verdict = "met" if median(told) <= BARS[name] else "MISSED"
        rows.append([name, f"{median(ready for ready, _ in runs):.1f}", *seconds(told), f"{BARS[name]:.0f}", verdict])
    print_table(["seconds", "ready", "first delta", "least", "most", "bar", ""], rows)
    size, cuda = installed_bytes(), cuda_packages()
    print(f"\ninstalled: {size / 1e9:.2f} GB; CUDA packages: {cuda or 'none'}")
    print(f"bar: {BAR_BYTES / 1e9} GB, no CUDA package: {'met' if size <= BAR_BYTES and not cuda else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    show(asyncio.run(measure(parser.parse_args().runs)))


if __name__ == "__main__":
    main()
