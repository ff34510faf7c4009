"""`chatrpc token`."""

from __future__ import annotations

from pathlib import Path

import click

from chatrpc.dev.issuer import LocalIssuer
from chatrpc.dev.stack import DataDirectory


@click.command()
@click.option("--user", required=True, help="The token's subject.")
@click.option(
    "--ttl", default=3600, show_default=True, type=click.IntRange(1, 366 * 24 * 3600), help="Seconds until it expires."
)
@click.option("--scope", "scopes", multiple=True, help="A scope, such as chat.act_as; may be repeated.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".chatrpc"),
    show_default=True,
    help="Where `chatrpc dev` keeps its data.",
)
def token(user: str, ttl: int, scopes: tuple[str, ...], data_dir: Path) -> None:
    """Mint a token of the local issuer that `chatrpc dev` made."""
    if not user.strip():
        raise click.BadParameter("it is empty; name a user, such as alice.", param_hint="'--user'")
    issuer = LocalIssuer.open(DataDirectory(data_dir).issuer)
    click.echo(issuer.mint(user, ttl=ttl, scopes=scopes))
