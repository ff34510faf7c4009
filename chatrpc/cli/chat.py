"""`chatrpc chat`: a conversation in the terminal."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections import deque
from collections.abc import Coroutine
from enum import Enum, auto
from uuid import uuid4

import click
from chatapi.v1.conversation_pb2 import Conversation
from chatapi.v1.conversation_service_pb2 import (
    CreateConversationRequest,
    GetContextReportRequest,
    GetConversationRequest,
    ListConversationsRequest,
    ListMessagesRequest,
)
from chatapi.v1.message_pb2 import MESSAGE_STATE_PENDING, ROLE_ASSISTANT, ROLE_USER, Message

from chatrpc.cli.answer import Answer, ending_of
from chatrpc.cli.context_text import context_text
from chatrpc.cli.terminal import Lines, printable
from chatrpc.client import CallError, ChatClient, ChatSession, RetryPolicy, StatusCode, Turn, connect, text_message
from chatrpc.errors import InvalidInput
from chatrpc.settings import ClientSettings, load

HELP = """\
Type a message and press Enter. Commands:
  /cancel        stop the answer that is being written; Ctrl-C does the same
  /context       what the model was given for the last answer, and why
  /history [N]   the last N messages of the conversation, 20 by default
  /new           begin a new conversation with the next message
  /help          this list
  /quit          leave; so do Ctrl-D, and Ctrl-C while nothing is being answered"""

# A wrong address should be told soon, not after the patience that a running conversation deserves.
FIRST_CALL = RetryPolicy(tries=3)
# Seconds; a shorter wait before another try needs no words.
WORTH_TELLING = 0.5
TITLE_CHARACTERS = 80
HISTORY = 20
PAGE = 100

# A path such as /etc/hosts is no command.
_COMMAND = re.compile(r"/\w*")


class _Signal(Enum):
    """What is no line."""

    INTERRUPT = auto()
    END = auto()


@click.command()
@click.option("--endpoint", help="Where the server is; CHATRPC_ENDPOINT or http://127.0.0.1:8080 by default.")
@click.option("--token", help="Access token; CHATRPC_TOKEN by default.")
@click.option("--conversation", "conversation_id", default="", help="Id of a conversation to go on with.")
def chat(endpoint: str | None, token: str | None, conversation_id: str) -> None:
    """Talk to a server in the terminal; /help lists the commands."""
    settings = load(ClientSettings)
    if token is None:
        token = settings.token.get_secret_value() if settings.token is not None else ""
    if not token.strip():
        raise click.ClickException(
            "There is no token: give --token or set CHATRPC_TOKEN; `chatrpc token --user alice` mints one."
        )
    endpoint = endpoint or settings.endpoint
    try:
        asyncio.run(_chat(endpoint, token.strip(), conversation_id))
    except InvalidInput as error:
        raise click.ClickException(error.message) from None
    except CallError as error:
        raise click.ClickException(explain(error, endpoint)) from None


def explain(error: CallError, endpoint: str) -> str:
    """What went wrong and what to do about it, for the person at the terminal."""
    sentence = printable(error.message or error.code.name).rstrip(".") + "."
    if error.code is StatusCode.UNAUTHENTICATED:
        return f"{sentence} Get a new token with `chatrpc token --user alice`, and give it by --token or CHATRPC_TOKEN."
    if error.temporary and not error.reason:
        return f"The server at {endpoint} cannot be reached; `chatrpc dev` starts one on this machine."
    if error.reason == "CONVERSATION_NOT_FOUND":
        return f"{sentence} Begin a new one with /new, or by leaving out --conversation."
    return sentence


async def _chat(endpoint: str, token: str, conversation_id: str) -> None:
    def tell_of_retry(error: CallError, delay: float) -> None:
        if delay >= WORTH_TELLING:
            click.echo(f"[{explain(error, endpoint)} Trying again in {delay:.1f} s.]", err=True)

    async with connect(endpoint, token, on_retry=tell_of_retry) as client, client.chat() as session:
        talk = _Talk(client, session, endpoint)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, talk.interrupt)
        await talk.run(conversation_id)


class _Talk:
    """Reads lines and does what they say, one after the other. While one is done, the next are read: `/cancel` takes
    effect at once, all others wait their turn."""

    def __init__(self, client: ChatClient, session: ChatSession, endpoint: str) -> None:
        self._client = client
        self._session = session
        self._endpoint = endpoint
        self._interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._inputs: asyncio.Queue[str | _Signal] = asyncio.Queue()
        self._held: deque[str | _Signal] = deque()
        self._conversation_id = ""
        self._reply_id = ""
        self._answer: Answer | None = None

    def interrupt(self) -> None:
        """Ctrl-C was pressed."""
        self._inputs.put_nowait(_Signal.INTERRUPT)

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
                    click.echo(explain(error, self._endpoint), err=True)
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
                self._inputs.put_nowait(_Signal.END if line is None else line.strip())
                if line is None:
                    return

    async def _prompt(self) -> str | None:
        """The next line; None to leave."""
        if self._interactive and not self._held:
            click.echo("> ", nl=False)
        heard = self._held.popleft() if self._held else await self._inputs.get()
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
        hearing = asyncio.create_task(self._inputs.get())
        try:
            while not task.done():
                await asyncio.wait({task, hearing}, return_when=asyncio.FIRST_COMPLETED)
                if hearing.done():
                    if not self._mind(hearing.result()):
                        return False
                    hearing = asyncio.create_task(self._inputs.get())
            await task
            return True
        finally:
            hearing.cancel()
            task.cancel()
            await asyncio.wait({task, hearing})

    def _mind(self, heard: str | _Signal) -> bool:
        """What is heard while something is being done. False to leave."""
        if heard is _Signal.INTERRUPT:
            if self._answer is None or self._answer.stopping:
                return False
            self._answer.stop()
        elif heard == "/cancel" and self._answer is not None:
            self._answer.stop()
        else:
            self._held.append(heard)
        return True

    async def _enter(self, conversation_id: str) -> None:
        if conversation_id:
            await self._go_on_with(conversation_id)
        else:
            # Nothing is created before there is something to say, but a wrong address or token is told at once.
            request = ListConversationsRequest(page_size=1)
            await self._client.call(self._client.conversations.ListConversations, request, retry=FIRST_CALL)
        if self._interactive:
            click.secho(f"Connected to {self._endpoint}. /help lists the commands.", dim=True)

    async def _go_on_with(self, conversation_id: str) -> None:
        request = GetConversationRequest(conversation_id=conversation_id)
        found = await self._client.call(self._client.conversations.GetConversation, request, retry=FIRST_CALL)
        self._conversation_id = conversation_id
        click.secho(
            f"[conversation {conversation_id}: {printable(found.conversation.title)}, "
            f"{found.conversation.message_count:,} messages]",
            dim=True,
        )
        for message in await self._newest(1):
            if message.role == ROLE_ASSISTANT:
                self._reply_id = message.id
                if message.state == MESSAGE_STATE_PENDING:
                    self._answer = Answer()
                    await self._write(self._answer, self._session.resume(message.id))

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
            case "/new":
                self._conversation_id = self._reply_id = ""
                click.echo("The next message begins a new conversation.")
            case _ if _COMMAND.fullmatch(command):
                click.echo(f"There is no command {command}; /help lists them.", err=True)
            case _:
                await self._say(line)

    async def _say(self, text: str) -> None:
        self._answer = answer = Answer()
        try:
            if not self._conversation_id:
                await self._begin_conversation(text)
            turn = await self._session.send(text_message(self._conversation_id, text))
            self._reply_id = turn.reply_id
        except BaseException:
            self._answer = None
            raise
        await self._write(answer, turn)

    async def _write(self, answer: Answer, turn: Turn) -> None:
        try:
            await answer.write(turn)
        finally:
            self._answer = None

    async def _begin_conversation(self, text: str) -> None:
        request = CreateConversationRequest(
            conversation=Conversation(title=text[:TITLE_CHARACTERS]), request_id=str(uuid4())
        )
        created = await self._client.call(self._client.conversations.CreateConversation, request)
        self._conversation_id = created.conversation.id
        click.secho(f"[conversation {self._conversation_id}]", dim=True)

    async def _show_context(self) -> None:
        if not self._reply_id:
            click.echo("There is no answer yet; say something first.")
            return
        request = GetContextReportRequest(reply_id=self._reply_id)
        found = await self._client.call(self._client.conversations.GetContextReport, request)
        click.echo(printable(context_text(found.report)))

    async def _show_history(self, argument: str) -> None:
        if argument and not (argument.isdecimal() and int(argument)):
            click.echo(f"/history takes a number of messages, not {argument!r}.", err=True)
            return
        messages = await self._newest(int(argument or HISTORY)) if self._conversation_id else []
        for message in reversed(messages):
            who = "you" if message.role == ROLE_USER else f"assistant ({message.model})"
            text = "".join(part.text.text for part in message.parts)
            click.echo(printable(f"#{message.sequence} {who}: {text} {ending_of(message)}".rstrip()))
        if not messages:
            click.echo("Nothing has been said yet.")

    async def _newest(self, number: int) -> list[Message]:
        """The last messages of the conversation, newest first."""
        messages: list[Message] = []
        request = ListMessagesRequest(
            conversation_id=self._conversation_id, page_size=min(number, PAGE), newest_first=True
        )
        while True:
            page = await self._client.call(self._client.conversations.ListMessages, request)
            messages += page.messages
            if len(messages) >= number or not page.next_page_token:
                return messages[:number]
            request.page_token = page.next_page_token
