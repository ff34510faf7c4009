"""`chatrpc serve`."""

from __future__ import annotations

import click

from chatrpc.cli.runtime import configure_logs, run
from chatrpc.dev.stack import stopped_by_signals
from chatrpc.server import Settings, run_server
from chatrpc.settings import LogSettings, load


@click.command()
def serve() -> None:
    """Run the server, configured by the environment; see .env.example.

    SIGTERM drains it: health turns NOT_SERVING, streams are told, running replies finish within the grace period.
    """
    settings = Settings.load()
    configure_logs(load(LogSettings))

    async def work() -> None:
        with stopped_by_signals():
            async with run_server(settings, wait_ready=False) as server:
                await server.failed()

    run(work())
