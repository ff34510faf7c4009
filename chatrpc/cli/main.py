"""The command group. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import os
import sys

import click

from chatrpc.dev.stack import PartEndedError
from chatrpc.edge.binary import EnvoyError
from chatrpc.errors import SettingsError

COMMANDS = {
    "dev": "Run the whole embedded stack: PostgreSQL, the server, Envoy and a token issuer.",
    "serve": "Run the server, configured by the environment.",
    "worker": "Run the background work alone: embeddings and summaries.",
    "migrate": "Bring the database to the newest schema.",
    "index": "Give users with very many messages an index of their own.",
    "calibrate": "Measure on text of yours which passages are too far from a message to be remembered.",
    "envoy": "Print Envoy's bootstrap for the settings in the environment.",
    "token": "Mint a token of the local issuer that `chatrpc dev` made.",
    "chat": "Talk to a server in the terminal.",
    "documents": "Add documents to what is remembered; list, search, watch and delete them.",
    "explain": "Tell what the model was given for a reply, and why.",
    "usage": "Tell how many tokens were used, and what is left of the quota.",
}


class _Lazy(click.Group):
    """Finds the command `name` as the function `name` of the module `chatrpc.cli.name`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"chatrpc.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy)
def chatrpc() -> None:
    """A gRPC chat backend that remembers."""


def main() -> None:
    """Run the command line. What a person can mend is one sentence, not a traceback."""
    # Envoy and PostgreSQL are started as programs; gRPC need not survive a fork for that, and says so when it tries.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        chatrpc(prog_name="chatrpc")
    except (SettingsError, EnvoyError, PartEndedError) as error:
        click.echo(f"chatrpc: {error}", err=True)
        sys.exit(2)
