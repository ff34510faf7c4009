"""`chatrpc chat`: a conversation in the terminal."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum, auto
from functools import partial

import click
from chatapi.v1.chat_service_pb2 import RegenerateReplyRequest
from chatapi.v1.message_pb2 import (
    BUSY_POLICY_INTERRUPT,
    MESSAGE_STATE_PENDING,
    ROLE_ASSISTANT,
    ROLE_USER,
    Message,
    OutgoingMessage,
)

from chatrpc.cli.access import Access, needs_access
from chatrpc.cli.answer import Answer, ending_of, text_of
from chatrpc.cli.branches import branches_text, message_named
from chatrpc.cli.context_text import context_text
from chatrpc.cli.remote import Remote
from chatrpc.cli.terminal import Lines, printable
from chatrpc.client import CallError, ChatSession, StatusCode, Turn, text_message
from chatrpc.domain import counted
from chatrpc.errors import InvalidInput

HELP = """\
Type a message and press Enter. Commands:
  /cancel        stop the answer that is being written; Ctrl-C does the same
  /context       what the model was given for the last answer, and why
  /history [N]   the last N messages of the conversation, 20 by default
  /regenerate    another answer to the last message; the one before stays
  /branches      where there are several versions of a message or an answer
  /switch N      go on from the version that is message number N
  /fork [N]      go on in a copy of the conversation that ends with message N, the last by default
  /new           begin a new conversation with the next message
  /help          this list
  /quit          leave; so do Ctrl-D, and Ctrl-C while nothing is being answered"""

HISTORY = 20
# Of what a context left out for one reason, so many are named.
LISTED = 5

# A path such as /etc/hosts is no command.
_COMMAND = re.compile(r"/\w*")


class _Signal(Enum):
    """What is no line."""

    INTERRUPT = auto()
    END = auto()


@click.command()
@needs_access
@click.option("--conversation", "conversation_id", default="", help="Id of a conversation to go on with.")
@click.option("--temporary", is_flag=True, help="Remember nothing of the conversations that are begun.")
def chat(access: Access, conversation_id: str, temporary: bool) -> None:
    """Talk to a server in the terminal; /help lists the commands."""
    access.run(_chat(access, conversation_id, temporary), partial(problem_of, access))


def problem_of(access: Access, error: CallError) -> str:
    """What went wrong and what to do about it, for the person at the terminal."""
    problem = access.problem(error)
    if error.reason == "CONVERSATION_NOT_FOUND":
        return f"{problem} Begin a new one with /new, or by leaving out --conversation."
    return problem


async def _chat(access: Access, conversation_id: str, temporary: bool) -> None:
    async with access.client() as client, client.chat() as session:
        talk = _Talk(Remote(client), session, access, temporary)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, talk.interrupt)
        await talk.run(conversation_id)


class _Talk:
    """Reads lines and does what they say, one after the other. More are read meanwhile: a `/cancel` stops the answer
    that is being written, whatever stands before it; all others wait their turn."""

    def __init__(self, remote: Remote, session: ChatSession, access: Access, temporary: bool) -> None:
        self._remote = remote
        self._session = session
        self._access = access
        self._temporary = temporary
        self._interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._inputs: deque[str | _Signal] = deque()
        self._changed = asyncio.Event()
        self._conversation_id = ""
        self._reply_id = ""
        self._answer: Answer | None = None
        self._unsure: OutgoingMessage | None = None

    def interrupt(self) -> None:
        """Ctrl-C was pressed."""
        self._hear(_Signal.INTERRUPT)

    def _hear(self, heard: str | _Signal) -> None:
        self._inputs.append(heard)
        self._changed.set()

    async def run(self, conversation_id: str) -> None:
        """Until the person leaves.

        Raises:
            CallError: The server cannot be reached to begin with, or does not take the token any more.
        """
        reading = asyncio.create_task(self._read())
        try:
            staying = await self._attend(self._enter(conversation_id))
            while staying and (line := await self._prompt()) is not None:
                try:
                    staying = await self._attend(self._obey(line))
                except CallError as error:
                    if error.code is StatusCode.UNAUTHENTICATED:
                        raise
                    click.echo(problem_of(self._access, error), err=True)
        finally:
            reading.cancel()

    async def _read(self) -> None:
        lines = Lines(sys.stdin.fileno())
        while True:
            try:
                line = await lines.next()
            except InvalidInput as error:
                click.echo(error.message, err=True)
            else:
                self._hear(_Signal.END if line is None else line.strip())
                if line is None:
                    return

    async def _prompt(self) -> str | None:
        """The next line; None to leave."""
        if self._interactive and not self._inputs:
            click.echo("> ", nl=False)
        while not self._inputs:
            self._changed.clear()
            await self._changed.wait()
        heard = self._inputs.popleft()
        if isinstance(heard, str):
            return None if heard == "/quit" else heard
        if self._interactive:
            click.echo()
        return None

    async def _attend(self, work: Coroutine[None, None, None]) -> bool:
        """Do something while lines are read. False to leave, with the work undone.

        Raises:
            CallError: The work failed.
        """
        task = asyncio.create_task(work)
        try:
            while not task.done():
                self._changed.clear()
                if not self._obey_stops():
                    return False
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            await task
            return True
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _obey_stops(self) -> bool:
        """Obey what has come in and cannot wait. False to leave."""
        while _Signal.INTERRUPT in self._inputs:
            self._inputs.remove(_Signal.INTERRUPT)
            if self._answer is None or self._answer.stopping:
                return False
            self._answer.stop()
        if self._answer is not None and not self._answer.stopping and "/cancel" in self._inputs:
            self._inputs.remove("/cancel")
            self._answer.stop()
        return True

    async def _enter(self, conversation_id: str) -> None:
        if conversation_id:
            await self._go_on_with(conversation_id)
        else:
            # Nothing is created before there is something to say, but a wrong address or token is told at once.
            await self._remote.check()
        if self._interactive:
            click.secho(f"Connected to {self._access.endpoint}. /help lists the commands.", dim=True)

    async def _go_on_with(self, conversation_id: str) -> None:
        found = await self._remote.conversation(conversation_id)
        self._conversation_id, self._reply_id = conversation_id, ""
        title = printable(found.title)
        click.secho(f"[conversation {conversation_id}: {title}, {counted(found.message_count, 'message')}]", dim=True)
        for message in await self._remote.newest_messages(conversation_id, 1):
            if message.role == ROLE_ASSISTANT:
                self._reply_id = message.id
                if message.state == MESSAGE_STATE_PENDING:
                    with self._answering() as answer:
                        await answer.write(self._session.resume(message.id))

    async def _obey(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        match command:
            case "":
                pass
            case "/cancel":
                click.echo("Nothing is being answered.")
            case "/context":
                await self._show_context()
            case "/help":
                click.echo(HELP)
            case "/history":
                await self._show_history(argument.strip())
            case "/regenerate":
                await self._regenerate()
            case "/branches":
                await self._show_branches()
            case "/switch":
                await self._switch(argument.strip())
            case "/fork":
                await self._fork(argument.strip())
            case "/new":
                self._conversation_id = self._reply_id = ""
                click.echo("The next message begins a new conversation.")
            case _ if _COMMAND.fullmatch(command):
                click.echo(f"There is no command {command}; /help lists them.", err=True)
            case _:
                await self._say(line)

    async def _regenerate(self) -> None:
        last = await self._named("")
        if last is None:
            return
        with self._answering() as answer:
            request = RegenerateReplyRequest(
                conversation_id=self._conversation_id,
                message_id=last.id,
                busy_policy=BUSY_POLICY_INTERRUPT,
            )
            turn = await self._session.regenerate(request)
            self._reply_id = turn.reply_id
            await answer.write(turn)

    async def _show_branches(self) -> None:
        if not self._conversation_id:
            click.echo("Nothing has been said yet.")
            return
        conversation = await self._remote.conversation(self._conversation_id)
        messages, siblings = await self._remote.tree(self._conversation_id)
        click.echo(printable(branches_text(messages, siblings, conversation.head_message_id)))

    async def _switch(self, argument: str) -> None:
        if not argument:
            click.echo("/switch takes the number of a message, as /branches shows it.", err=True)
            return
        message = await self._named(argument)
        if message is not None:
            conversation = await self._remote.switch(message.id)
            await self._go_on_with(conversation.id)

    async def _fork(self, argument: str) -> None:
        message = await self._named(argument)
        if message is not None:
            conversation = await self._remote.fork(message.id)
            await self._go_on_with(conversation.id)

    async def _named(self, argument: str) -> Message | None:
        """The message of a number, the last of the path by default; None, and a word about it, where there is none."""
        if not self._conversation_id:
            click.echo("Nothing has been said yet.")
            return None
        if not argument:
            [last] = await self._remote.newest_messages(self._conversation_id, 1)
            return last
        messages, _ = await self._remote.tree(self._conversation_id)
        try:
            return message_named(messages, argument)
        except InvalidInput as error:
            click.echo(error.message, err=True)
            return None

    async def _say(self, text: str) -> None:
        with self._answering() as answer:
            if not self._conversation_id:
                self._conversation_id = await self._remote.create_conversation(text, temporary=self._temporary)
                click.secho(f"[conversation {self._conversation_id}]", dim=True)
            turn = await self._send(text)
            self._reply_id = turn.reply_id
            await answer.write(turn)

    async def _send(self, text: str) -> Turn:
        message = self._unsure
        # Whoever says the same again after a failure that left it open means the same message.
        if message is None or (message.conversation_id, text_of(message.parts)) != (self._conversation_id, text):
            message = text_message(self._conversation_id, text)
        self._unsure = message
        try:
            turn = await self._session.send(message)
        except CallError as error:
            if not error.temporary:
                self._unsure = None
            raise
        self._unsure = None
        return turn

    @contextmanager
    def _answering(self) -> Iterator[Answer]:
        self._answer = Answer()
        # A stop may have come in already, right behind the message.
        self._changed.set()
        try:
            yield self._answer
        finally:
            self._answer = None

    async def _show_context(self) -> None:
        if not self._reply_id:
            click.echo("There is no answer yet; say something first.")
            return
        answer = await self._remote.context_report(self._reply_id)
        click.echo(printable(context_text(answer.report, datetime.now(UTC), LISTED)))

    async def _show_history(self, argument: str) -> None:
        if argument and not (argument.isdecimal() and int(argument)):
            click.echo(f"/history takes a number of messages, not {argument!r}.", err=True)
            return
        number = int(argument or HISTORY)
        messages = await self._remote.newest_messages(self._conversation_id, number) if self._conversation_id else []
        for message in messages:
            who = "you" if message.role == ROLE_USER else f"assistant ({message.model})"
            text = f"{text_of(message.parts)} {ending_of(message)}".rstrip()
            click.echo(printable(f"#{message.sequence} {who}: {text}"))
        if not messages:
            click.echo("Nothing has been said yet.")
