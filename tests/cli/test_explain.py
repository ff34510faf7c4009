"""`chatrpc explain` over a real server."""

from __future__ import annotations

import json

from chatapi.v1.chat_service_pb2 import SendMessageRequest

from tests.cli.terminal import terminal
from tests.cli.test_chat import arguments
from tests.rpc.stage import Stage, new_id, outgoing, rest, signed_in


async def said(stage: Stage, conversation_id: str, text: str) -> str:
    """Say something and have it answered; the reply's id."""
    call = stage.chat.SendMessage(SendMessageRequest(message=outgoing(conversation_id, text)), metadata=signed_in())
    accepted = (await call.read()).accepted
    speaker = await stage.model.asked()
    speaker.finish()
    await rest(call)
    return accepted.reply_id


async def explained(stage: Stage, *words: str) -> tuple[int, str, str]:
    async with terminal(*arguments(stage), *words, command="explain") as person:
        code = await person.code()
        return code, person.shown, person.errors


async def test_a_reply_is_explained(stage: Stage) -> None:
    reply_id = await said(stage, await stage.conversation(), "hello")
    code, shown, errors = await explained(stage, reply_id)
    assert (code, errors) == (0, "")
    assert "Model: staged; embeddings by words/384" in shown
    assert "Word for word: 1 message with yours, number 1," in shown


async def test_a_message_that_is_not_sent_is_explained(stage: Stage) -> None:
    conversation_id = await stage.conversation()
    await said(stage, conversation_id, "hello")
    code, shown, _ = await explained(stage, "--conversation", conversation_id, "and now?")
    assert code == 0
    assert "Word for word: 2 messages with yours, number 1," in shown


async def test_programs_get_what_the_server_answers(stage: Stage) -> None:
    conversation_id = await stage.conversation()
    reply_id = await said(stage, conversation_id, "hello")
    _, shown, _ = await explained(stage, "--json", reply_id)
    assert json.loads(shown)["report"]["conversationId"] == conversation_id
    _, shown, _ = await explained(stage, "--json", "--conversation", conversation_id, "and now?")
    assert json.loads(shown)["prompt"][-1]["content"] == "and now?"


async def test_a_reply_that_is_not_there_is_told_in_a_sentence(stage: Stage) -> None:
    missing = new_id()
    code, shown, errors = await explained(stage, missing)
    assert (code, shown) == (1, "")
    assert errors == f"Error: context report of reply '{missing}' does not exist.\n"
