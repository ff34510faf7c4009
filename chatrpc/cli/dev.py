"""`chatrpc dev`: the whole embedded stack in one command, and nothing of it left when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import click

from chatrpc.cli.runtime import configure_logs, run
from chatrpc.db.migrate import upgrade
from chatrpc.dev.issuer import AUDIENCE, ISSUER, LocalIssuer
from chatrpc.dev.lock import held
from chatrpc.dev.ports import free_port, require_free_port
from chatrpc.dev.postgres import run_postgres
from chatrpc.dev.ready import Ready
from chatrpc.dev.stack import DataDirectory, step, stopped_by_signals, until_one_ends
from chatrpc.edge import run_envoy
from chatrpc.memory import MemorySettings
from chatrpc.server import Settings, run_server
from chatrpc.settings import (
    AuthSettings,
    ContextSettings,
    DatabaseSettings,
    EdgeSettings,
    EmbedderSettings,
    KnowledgeSettings,
    LogSettings,
    ModelSettings,
    QuotaSettings,
    ServerSettings,
    load,
)

LOOPBACK = "127.0.0.1"
# A day of work; `chatrpc token` mints another.
TOKEN_TTL = 24 * 3600.0


@click.command()
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65_535), help="Envoy's port.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".chatrpc"),
    show_default=True,
    help="Where the data stays between runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready, instead of the banner.")
def dev(port: int, data_dir: Path, as_json: bool) -> None:
    """Run the whole embedded stack: PostgreSQL with pgvector, the server, a token issuer and Envoy.

    Language model, embedder, context, documents and quotas are configured by the environment as for `chatrpc serve`;
    without a model, the offline model answers. Ctrl-C or SIGTERM ends everything that was started.
    """
    configure_logs(LogSettings(format="console", level="warning"))
    run(_dev(DataDirectory(data_dir.absolute()), port, as_json))


async def _dev(data: DataDirectory, port: int, as_json: bool) -> None:
    require_free_port(LOOPBACK, port, "--port")
    with stopped_by_signals(), held(data.root):
        async with AsyncExitStack() as stack:
            # Envoy's schema takes a second to import, while PostgreSQL starts.
            bootstrapping = asyncio.create_task(asyncio.to_thread(_bootstrap_renderer))
            with step("PostgreSQL"):
                postgres = await stack.enter_async_context(run_postgres(data.postgres))
            with step("Migrations"):
                await asyncio.to_thread(upgrade, postgres.url)
            issuer = LocalIssuer.create(data.issuer)
            settings = _settings(postgres.url, issuer)
            with step("Server"):
                server = await stack.enter_async_context(run_server(settings))
            edge_settings = EdgeSettings(
                host=LOOPBACK,
                port=port,
                admin_port=free_port(LOOPBACK),
                upstream_host=LOOPBACK,
                upstream_port=server.port,
                allowed_origins=("*",),
            )
            with step("Envoy"):
                bootstrap = (await bootstrapping)(edge_settings, settings.auth, settings.server)
                envoy = await stack.enter_async_context(run_envoy(bootstrap, log_path=data.envoy_log))
            # Replies that are running reach their readers through Envoy, so the server ends before it.
            stack.push_async_callback(server.drain)
            ready = Ready(
                endpoint=f"http://{LOOPBACK}:{port}",
                direct_endpoint=f"{LOOPBACK}:{server.port}",
                token=issuer.mint("alice", ttl=TOKEN_TTL),
                database_url=postgres.url,
                admin_endpoint=f"http://{envoy.admin_address}",
            )
            click.echo(ready.json_line() if as_json else ready.banner())
            await until_one_ends({"Envoy": envoy, "PostgreSQL": postgres})


def _bootstrap_renderer() -> Callable[[EdgeSettings, AuthSettings, ServerSettings], str]:
    from chatrpc.edge.bootstrap import build_bootstrap, render

    return lambda edge, auth, server: render(build_bootstrap(edge, auth, server))


def _settings(database_url: str, issuer: LocalIssuer) -> Settings:
    memory = MemorySettings(
        DatabaseSettings(url=database_url),
        load(ModelSettings),
        load(EmbedderSettings),
        load(ContextSettings),
        load(KnowledgeSettings),
    )
    auth = AuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(issuer.jwks_file), jwks_url=None)
    return Settings(memory, auth, ServerSettings(host=LOOPBACK, port=0, drain_delay=0), quota=load(QuotaSettings))
