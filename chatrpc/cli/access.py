"""How the commands that talk to a server reach it, and what they say where they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from chatrpc.cli.terminal import printable
from chatrpc.client import CallError, ChatClient, StatusCode, connect
from chatrpc.errors import InvalidInput
from chatrpc.settings import ClientSettings, load

# Seconds; a shorter wait before another try needs no words.
WORTH_TELLING = 0.5


@dataclass(frozen=True, slots=True)
class Access:
    """Where the server is, and the token for it."""

    endpoint: str
    token: str

    def run(self, work: Coroutine[None, None, None], problem: Callable[[CallError], str] | None = None) -> None:
        """Run a command's work. What goes wrong with the server is told in a sentence, the command's own if given."""
        try:
            asyncio.run(work)
        except InvalidInput as error:
            raise click.ClickException(error.message) from None
        except CallError as error:
            raise click.ClickException((problem or self.problem)(error)) from None

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[ChatClient, None]:
        """A client until the end of the block, which tells the person when it waits for another try."""

        def tell_of_retry(error: CallError, delay: float) -> None:
            if delay >= WORTH_TELLING:
                click.echo(f"[{self.problem(error)} Trying again in {delay:.1f} s.]", err=True)

        async with connect(self.endpoint, self.token, on_retry=tell_of_retry) as client:
            yield client

    def problem(self, error: CallError) -> str:
        """What went wrong and what to do about it, for the person at the terminal."""
        sentence = printable(error.message or error.code.name).rstrip(".") + "."
        if error.code is StatusCode.UNAUTHENTICATED:
            remedy = "Get a new token with `chatrpc token --user alice`, and give it by --token or CHATRPC_TOKEN."
            return f"{sentence} {remedy}"
        if error.code is StatusCode.UNIMPLEMENTED and not error.reason:
            return (
                f"What answers at {self.endpoint} is no chatrpc server, or an older one; see --endpoint. ({sentence})"
            )
        if error.temporary and not error.reason:
            return f"The server at {self.endpoint} cannot be reached; `chatrpc dev` starts one on this machine."
        return sentence


def needs_access(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options `--endpoint` and `--token`, and an `Access` made of them as its first argument."""

    @click.option("--endpoint", help="Where the server is; CHATRPC_ENDPOINT or http://127.0.0.1:8080 by default.")
    @click.option("--token", help="Access token; CHATRPC_TOKEN by default.")
    @wraps(command)
    def with_access(endpoint: str | None, token: str | None, **arguments: Any) -> None:
        settings = load(ClientSettings)
        if token is None:
            token = settings.token.get_secret_value() if settings.token is not None else ""
        if not token.strip():
            raise click.ClickException(
                "There is no token: give --token or set CHATRPC_TOKEN; `chatrpc token --user alice` mints one."
            )
        command(Access(endpoint or settings.endpoint, token.strip()), **arguments)

    return with_access
