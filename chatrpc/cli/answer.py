"""An answer on its way to the terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click
from chatapi.v1.chat_service_pb2 import ReplyEvent
from chatapi.v1.message_pb2 import (
    FINISH_REASON_CONTENT_FILTER,
    FINISH_REASON_LENGTH,
    MESSAGE_STATE_CANCELLED,
    MESSAGE_STATE_FAILED,
    Message,
    Part,
)

from chatrpc.cli.terminal import printable
from chatrpc.client import CallError, Turn

# As chatapi.v1.Message.model states it.
OFFLINE_MODEL = "chatrpc-offline"
OFFLINE_LABEL = f"[{OFFLINE_MODEL}: no language model is configured; this quotes what it would have been given]"


class Answer:
    """Writes one reply as it comes.

    Attributes:
        stopping: Whether the person wants it to end.
    """

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._in_line = False

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """End the reply, as soon as there is one; what it has is kept."""
        self._stop.set()

    async def write(self, turn: Turn) -> None:
        """Write until the reply's end.

        Raises:
            CallError: The reply has failed, or cannot be followed any more.
        """
        stopping = asyncio.create_task(self._stop_when_asked(turn))
        try:
            async for event in turn:
                self._show(event)
            await turn.reply()
        finally:
            stopping.cancel()
            self._end_line()

    def _show(self, event: ReplyEvent) -> None:
        match event.WhichOneof("event"):
            case "context_report":
                if event.context_report.model == OFFLINE_MODEL:
                    self._note(OFFLINE_LABEL)
            case "delta":
                text = printable(event.delta.text)
                click.echo(text, nl=False)
                self._in_line = not text.endswith("\n")
            case "restarted":
                self._note("[the answer begins anew; what stands above is void]")
            case "completed":
                ending = ending_of(event.completed.message)
                if ending:
                    self._note(ending)

    def _note(self, text: str) -> None:
        self._end_line()
        click.secho(text, dim=True)

    def _end_line(self) -> None:
        if self._in_line:
            click.echo()
        self._in_line = False

    async def _stop_when_asked(self, turn: Turn) -> None:
        await self._stop.wait()
        try:
            await turn.cancel()
        except CallError as error:
            self._note(f"[the answer could not be stopped: {printable(error.message)}]")


def text_of(parts: Iterable[Part]) -> str:
    """The text of a message; parts of other kinds are left out."""
    return "".join(part.text.text for part in parts)


def ending_of(message: Message) -> str:
    """What a reader should know about how a reply ended; empty where it ended by itself."""
    if message.state == MESSAGE_STATE_CANCELLED:
        return "[stopped]"
    if message.state == MESSAGE_STATE_FAILED:
        return f"[failed: {message.error_reason}]"
    if message.finish_reason == FINISH_REASON_LENGTH:
        return "[cut at the limit of output tokens]"
    if message.finish_reason == FINISH_REASON_CONTENT_FILTER:
        return "[the model's provider withheld the rest]"
    return ""
