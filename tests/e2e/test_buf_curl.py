"""`buf curl` at both doors, as an engineer uses it: reflection lists every service, and every kind of call works."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.stack import PATIENCE, ROOT, SCRIPTS, Dev, environment

SERVICES = [
    "chatapi.v1.AccountService",
    "chatapi.v1.ChatService",
    "chatapi.v1.ConversationService",
    "chatapi.v1.KnowledgeService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]
LIST = "chatapi.v1.ConversationService/ListMessages"
CREATE = "chatapi.v1.ConversationService/CreateConversation"
SEND = "chatapi.v1.ChatService/SendMessage"

Json = dict[str, Any]


@dataclass(frozen=True)
class Curl:
    """The command against one door. Where no schema is named, it asks the server's reflection.

    Attributes:
        options: Of every call, such as the protocol.
    """

    door: str
    token: str | None
    options: tuple[str, ...] = ("--protocol", "grpc")

    @asynccontextmanager
    async def running(self, method: str, *options: str) -> AsyncIterator[Process]:
        signed = () if self.token is None else ("--header", f"authorization: Bearer {self.token}")
        reflecting = () if "--schema" in self.options else ("--reflect-header", "*")
        process = await asyncio.create_subprocess_exec(
            SCRIPTS / "buf",
            "curl",
            *(*self.options, *reflecting, *signed, *options),
            f"http://{self.door}/{method}",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            cwd=ROOT,
            env=environment(),
        )
        try:
            async with asyncio.timeout(PATIENCE):
                yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def finished(self, method: str, *options: str) -> tuple[int, str, str]:
        """Exit code and what was printed."""
        async with self.running(method, *options) as process:
            output, errors = await process.communicate()
            assert process.returncode is not None
            return process.returncode, output.decode(), errors.decode()

    async def stream(self, method: str, request: Json) -> list[Json]:
        """All responses of a call that succeeds."""
        code, output, errors = await self.finished(method, "--data", json.dumps(request))
        assert code == 0, errors
        return documents(output)

    async def call(self, method: str, request: Json) -> Json:
        [response] = await self.stream(method, request)
        return response

    async def refused(self, method: str, request: Json) -> tuple[int, Json]:
        """Status code and error of a call that fails; the command exits with eight times the code."""
        code, output, errors = await self.finished(method, "--data", json.dumps(request))
        assert (output, code % 8) == ("", 0)
        return code // 8, json.loads(errors)

    async def conversation(self) -> str:
        created = await self.call(CREATE, {"conversation": {"title": "By buf curl"}})
        assert created["conversation"]["title"] == "By buf curl"
        return str(created["conversation"]["id"])


def documents(text: str) -> list[Json]:
    decoder, found, position = json.JSONDecoder(), [], 0
    while text := text[position:].lstrip():
        document, position = decoder.raw_decode(text)
        found.append(document)
    return found


async def next_document(process: Process) -> Json:
    """The next one that the command prints; it ends with a brace in the first column."""
    assert process.stdout is not None  # It is piped.
    text = b""
    while line := await process.stdout.readline():
        text += line
        if line.startswith((b"}", b"{}")):
            return dict(json.loads(text))
    raise AssertionError(f"buf curl ended: {text.decode()}")


def message(conversation_id: str, text: str = "The ferry leaves at noon.", key: str = "key") -> Json:
    return {"conversationId": conversation_id, "clientMessageId": key, "parts": [{"text": {"text": text}}]}


def assert_whole_turn(events: list[Json]) -> Json:
    """Check the events of one turn; the stored reply."""
    accepted, *replies = events
    told = [event["reply"] for event in replies]
    assert {event["replyId"] for event in told} == {accepted["accepted"]["replyId"]}
    assert [event["sequence"] for event in told] == list(range(1, len(told) + 1))
    assert "contextReport" in told[0]
    stored: Json = told[-1]["completed"]["message"]
    deltas = [event["delta"]["text"] for event in told[1:-1]]
    assert len(deltas) > 1
    assert "".join(deltas) == stored["parts"][0]["text"]["text"]
    return stored


@pytest.fixture
def curl(door: str, token: str) -> Curl:
    return Curl(door, token)


@pytest.mark.parametrize("reflection", ["grpc-v1", "grpc-v1alpha"])
async def test_reflection_lists_every_service(curl: Curl, reflection: str) -> None:
    code, output, errors = await curl.finished("", "--list-services", "--reflect-protocol", reflection)
    assert (code, output.split()) == (0, SERVICES), errors


@pytest.mark.parametrize("reflection", ["grpc-v1", "grpc-v1alpha"])
async def test_reflection_describes_every_method(curl: Curl, reflection: str) -> None:
    code, output, errors = await curl.finished("", "--list-methods", "--reflect-protocol", reflection)
    assert code == 0, errors
    assert {SEND, CREATE, "chatapi.v1.ChatService/Chat", "grpc.health.v1.Health/Watch"} <= set(output.split())


async def test_a_conversation_call_by_call(curl: Curl) -> None:
    conversation_id = await curl.conversation()
    events = await curl.stream(SEND, {"message": message(conversation_id)})
    reply = assert_whole_turn(events)
    listed = await curl.call(LIST, {"conversationId": conversation_id})
    assert listed["messages"] == [events[0]["accepted"]["message"], reply]
    recorded = await curl.call("chatapi.v1.ConversationService/GetContextReport", {"replyId": reply["id"]})
    assert recorded["report"] == events[1]["reply"]["contextReport"]
    dry_run = await curl.call(
        "chatapi.v1.ConversationService/PreviewContext",
        {"conversationId": conversation_id, "parts": [{"text": {"text": "When does it leave?"}}]},
    )
    verbatim = [each.get("messageId", "the dry run's own") for each in dry_run["report"]["verbatim"]]
    assert verbatim == [*(each["id"] for each in listed["messages"]), "the dry run's own"]
    assert dry_run["prompt"][-1]["content"].endswith("When does it leave?")
    assert await curl.call(LIST, {"conversationId": conversation_id}) == listed


async def test_chat_answers_before_the_next_request_is_typed(curl: Curl) -> None:
    conversation_id = await curl.conversation()
    async with curl.running("chatapi.v1.ChatService/Chat", "--data", "@-") as process:
        assert process.stdin is not None  # It is piped.
        process.stdin.write(json.dumps({"requestId": "first", "ping": {}}).encode())
        assert await next_document(process) == {"pong": {"requestId": "first"}}
        for number in (1, 2):
            said = message(conversation_id, f"Number {number}.", key=str(number))
            process.stdin.write(json.dumps({"requestId": f"send {number}", "send": said}).encode())
            events = [await next_document(process)]
            while "completed" not in events[-1].get("reply", {}):
                events.append(await next_document(process))
            assert events[0]["accepted"]["requestId"] == f"send {number}"
            assert_whole_turn(events)
        process.stdin.close()
        assert await process.wait() == 0


async def test_health_is_told_once_and_watched(curl: Curl) -> None:
    for service in ("", "chatapi.v1.ChatService"):
        assert await curl.call("grpc.health.v1.Health/Check", {"service": service}) == {"status": "SERVING"}
    async with curl.running("grpc.health.v1.Health/Watch", "--data", "{}") as process:
        assert await next_document(process) == {"status": "SERVING"}
        assert process.returncode is None


@pytest.mark.parametrize("schema", [(), ("--schema", "proto")], ids=["http2", "http1"])
async def test_grpc_web_through_envoy(dev: Dev, token: str, schema: tuple[str, ...]) -> None:
    web = Curl(dev.edge, token, ("--protocol", "grpcweb", *schema))
    conversation_id = await web.conversation()
    reply = assert_whole_turn(await web.stream(SEND, {"message": message(conversation_id)}))
    listed = await web.call(LIST, {"conversationId": conversation_id})
    assert listed["messages"][-1] == reply
    code, error = await web.refused("chatapi.v1.ConversationService/GetContextReport", {"replyId": conversation_id})
    assert (code, error["code"]) == (5, "not_found")
    assert [detail["type"] for detail in error["details"]] == ["google.rpc.ErrorInfo", "google.rpc.ResourceInfo"]


@pytest.mark.parametrize("protocol", ["grpc", "grpcweb"])
async def test_envoy_refuses_a_call_without_a_token(dev: Dev, protocol: str) -> None:
    stranger = Curl(dev.edge, None, ("--protocol", protocol, "--schema", "proto"))
    code, error = await stranger.refused(CREATE, {})
    assert (code, error["code"]) == (16, "unauthenticated")


async def test_an_error_names_the_field(curl: Curl) -> None:
    code, error = await curl.refused(SEND, {"message": message(await curl.conversation(), text="")})
    assert (code, error["code"]) == (3, "invalid_argument")
    assert "message.parts[0].text.text" in error["message"]
