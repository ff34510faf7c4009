"""`chatrpc envoy`."""

from __future__ import annotations

import click

from chatrpc.edge.bootstrap import build_bootstrap, render
from chatrpc.settings import AuthSettings, EdgeSettings, ServerSettings, load


@click.command()
def envoy() -> None:
    """Print Envoy's bootstrap for the settings in the environment; see docs/edge.md."""
    click.echo(render(build_bootstrap(load(EdgeSettings), load(AuthSettings), load(ServerSettings))))
