"""`chatrpc worker`."""

from __future__ import annotations

import click

from chatrpc.cli.runtime import configure_logs, run
from chatrpc.dev.stack import stopped_by_signals
from chatrpc.memory import MemorySettings, open_memory
from chatrpc.settings import LogSettings, load


@click.command()
def worker() -> None:
    """Embed messages, summarise them and ingest documents in the background, configured by the environment.

    Servers do this themselves unless CHATRPC_SERVER_EMBEDDED_WORKER is false.
    """
    settings = MemorySettings.load()
    configure_logs(load(LogSettings))

    async def work() -> None:
        with stopped_by_signals():
            async with open_memory(settings) as memory:
                await memory.background(settings, memory.worker(settings), memory.ingest_worker(settings))

    run(work())
