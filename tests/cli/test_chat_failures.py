"""What `chatrpc chat` says when things go wrong: one sentence, with what to do about it."""

from __future__ import annotations

import asyncio
import socket

import pytest
from chatapi.v1 import chat_service_pb2 as pb
from chatapi.v1.message_pb2 import FINISH_REASON_LENGTH, MESSAGE_STATE_COMPLETE, MESSAGE_STATE_FAILED, Message
from grpc import StatusCode

from tests.cli.terminal import PATIENCE, terminal
from tests.client.scripted import (
    CONVERSATION,
    REPLY,
    Line,
    Script,
    completed,
    delta,
    failing,
    report,
    restarted,
    staged,
    status,
)


async def sentence_of(*arguments: str, code: int = 1, **environment: str) -> str:
    """The one line that the command ends with, instead of a conversation."""
    async with terminal(*arguments, **environment) as person:
        assert await person.code() == code
        assert person.shown == ""
        [line] = person.errors.splitlines()
        return line


async def test_no_token() -> None:
    assert await sentence_of() == (
        "Error: There is no token: give --token or set CHATRPC_TOKEN; `chatrpc token --user alice` mints one."
    )


async def test_no_server() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        assert await sentence_of("--token", "t", "--endpoint", endpoint) == (
            f"Error: The server at {endpoint} cannot be reached; `chatrpc dev` starts one on this machine."
        )


async def test_no_endpoint() -> None:
    assert await sentence_of("--token", "t", "--endpoint", "ftp://x") == (
        "Error: The endpoint 'ftp://x' must be http://host:port, https://host:port or host:port."
    )


async def test_no_conversation_of_this_id() -> None:
    missing = failing(StatusCode.NOT_FOUND, "Conversation 'x' does not exist.", "CONVERSATION_NOT_FOUND")
    async with staged(answers=(missing,)) as stage:
        endpoint = f"127.0.0.1:{stage.port}"
        assert await sentence_of("--token", "t", "--endpoint", endpoint, "--conversation", "x") == (
            "Error: Conversation 'x' does not exist. Begin a new one with /new, or by leaving out --conversation."
        )


async def test_a_token_that_expires_ends_the_conversation_and_says_how_to_get_another() -> None:
    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(delta(1, "half"))
        await line.end_with(status(StatusCode.UNAUTHENTICATED, "The token has expired.", "TOKEN_EXPIRED"))

    async with staged(script) as stage, terminal("--token", "t", "--endpoint", f"127.0.0.1:{stage.port}") as person:
        person.type("hello")
        assert await person.code() == 1
        assert person.shown.endswith("half\n")
        assert person.errors == (
            "Error: The token has expired. Get a new token with `chatrpc token --user alice`, and give it by --token "
            "or CHATRPC_TOKEN.\n"
        )


def failed_reply(sequence: int) -> pb.ReplyEvent:
    model_away = status(StatusCode.UNAVAILABLE, "The model is away; send the message again later.", "MODEL_UNAVAILABLE")
    failed = pb.ReplyFailed(status=model_away, message=Message(id=REPLY, state=MESSAGE_STATE_FAILED))
    return pb.ReplyEvent(reply_id=REPLY, attempt=1, sequence=sequence, failed=failed)


def cut_short(sequence: int) -> pb.ReplyEvent:
    message = Message(id=REPLY, state=MESSAGE_STATE_COMPLETE, finish_reason=FINISH_REASON_LENGTH)
    return pb.ReplyEvent(reply_id=REPLY, attempt=1, sequence=sequence, completed=pb.ReplyCompleted(message=message))


def telling(*events: pb.ReplyEvent) -> Script:
    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(*events)
        await line.closed()

    return script


@pytest.mark.parametrize(
    ("events", "shown", "errors"),
    [
        ((delta(1, "so"), failed_reply(2)), "so\n", "The model is away; send the message again later.\n"),
        ((delta(1, "so"), cut_short(2)), "so\n[cut at the limit of output tokens]\n", ""),
        (
            (delta(1, "one"), restarted(), delta(2, "two", 2), completed(3, attempt=2)),
            "one\n[the answer begins anew; what stands above is void]\ntwo\n",
            "",
        ),
        (
            (report(model="chatrpc-offline"), delta(2, "I quote"), completed(3)),
            "[chatrpc-offline: no language model is configured; this quotes what it would have been given]\nI quote\n",
            "",
        ),
    ],
)
async def test_how_an_answer_ends_is_told(events: tuple[pb.ReplyEvent, ...], shown: str, errors: str) -> None:
    async with (
        staged(telling(*events)) as stage,
        terminal("--token", "t", "--endpoint", f"127.0.0.1:{stage.port}") as person,
    ):
        person.type("hello", "/quit")
        assert await person.code() == 0
        assert person.shown == f"[conversation {CONVERSATION}]\n{shown}"
        assert person.errors == errors


async def test_a_cut_stream_is_mended_without_a_word() -> None:
    async def first(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(delta(1, "one "))
        await line.end()

    async def second(line: Line) -> None:
        await line.hear("resume")
        await line.tell(delta(2, "two"), completed(3))
        await line.closed()

    async with (
        staged(first, second) as stage,
        terminal("--token", "t", "--endpoint", f"127.0.0.1:{stage.port}") as person,
    ):
        person.type("hello", "/quit")
        assert await person.code() == 0
        assert person.shown.endswith("one two\n")
        assert person.errors == ""


async def test_a_refused_message_is_told_and_the_conversation_goes_on() -> None:
    async def script(line: Line) -> None:
        too_long = status(StatusCode.INVALID_ARGUMENT, "text: at most 32768 characters", "INVALID_FIELD")
        await line.reject(await line.hear("send"), too_long)
        await line.accept(await line.hear("send"))
        await line.tell(delta(1, "better"), completed(2))
        await line.closed()

    async with staged(script) as stage, terminal("--token", "t", "--endpoint", f"127.0.0.1:{stage.port}") as person:
        person.type("too long", "shorter", "/quit")
        assert await person.code() == 0
        assert person.shown.endswith("better\n")
        assert person.errors == "text: at most 32768 characters.\n"


async def test_the_same_words_after_an_open_failure_are_the_same_message() -> None:
    keys = []

    async def script(line: Line) -> None:
        for reason in ("TOO_MUCH", "TOO_MUCH"):
            refused = await line.hear("send")
            keys.append(refused.send.client_message_id)
            # So long a wait is not made, so the message's fate is open.
            await line.reject(refused, status(StatusCode.UNAVAILABLE, "Come tomorrow.", reason, retry_after=86_400))
        request = await line.hear("send")
        keys.append(request.send.client_message_id)
        await line.accept(request)
        await line.tell(completed(1))
        await line.closed()

    async with staged(script) as stage, terminal("--token", "t", "--endpoint", f"127.0.0.1:{stage.port}") as person:
        person.type("hello", "hello", "something else", "/quit")
        assert await person.code() == 0
        assert person.errors == "Come tomorrow.\n" * 2
    assert keys[0] == keys[1] != keys[2]


async def test_a_second_ctrl_c_leaves_at_once() -> None:
    asked = asyncio.Event()

    async def script(line: Line) -> None:
        await line.accept(await line.hear("send"))
        await line.tell(delta(1, "on and on"))
        await line.hear("cancel")
        asked.set()
        # It never stops.
        await line.closed()

    async with staged(script) as stage, terminal("--token", "t", "--endpoint", f"127.0.0.1:{stage.port}") as person:
        person.type("hello")
        await person.shows("on and on")
        person.press_ctrl_c()
        await asyncio.wait_for(asked.wait(), PATIENCE)
        person.press_ctrl_c()
        assert await person.code() == 0
        assert person.errors == ""
