"""`chatrpc chat` as a person meets it, over a real server whose language model waits for the test."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatapi.v1.conversation_pb2 import CONVERSATION_MEMORY_TEMPORARY
from chatapi.v1.conversation_service_pb2 import GetConversationRequest, ListConversationsRequest, ListMessagesRequest
from chatapi.v1.message_pb2 import MESSAGE_STATE_CANCELLED, MESSAGE_STATE_COMPLETE, Message

from tests.cli.terminal import Terminal, terminal
from tests.rpc.signer import signer
from tests.rpc.stage import Stage, signed_in


def arguments(stage: Stage, **claims: object) -> tuple[str, ...]:
    return "--endpoint", f"127.0.0.1:{stage.port}", "--token", signer("main").sign(**claims)


async def messages(stage: Stage, conversation_id: str) -> list[Message]:
    request = ListMessagesRequest(conversation_id=conversation_id)
    return list((await stage.conversations.ListMessages(request, metadata=signed_in())).messages)


async def conversation_of(person: Terminal) -> str:
    """The id that is shown when a conversation begins."""
    await person.shows("[conversation ")
    return await person.shows("]")


async def test_an_answer_is_shown_word_by_word_and_the_end_of_input_leaves(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("hello")
        conversation_id = await conversation_of(person)
        speaker = await stage.model.asked()
        speaker.say("Good ")
        await person.shows("Good ")
        speaker.say("day.")
        speaker.finish()
        person.end_input()
        assert await person.code() == 0
        assert person.shown.endswith("Good day.\n")
        assert "\x1b" not in person.shown
        assert person.errors == ""
    assert [message.parts[0].text.text for message in await messages(stage, conversation_id)] == ["hello", "Good day."]


async def test_lines_typed_during_an_answer_wait_for_its_end(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("one", "two", "/quit")
        first = await stage.model.asked()
        first.say("first")
        await person.shows("first")
        first.finish()
        second = await stage.model.asked()
        assert [prompt.content for prompt in second.request.prompt][-3:] == ["one", "first", "two"]
        second.say("second")
        second.finish()
        assert await person.code() == 0
        assert person.shown.endswith("first\nsecond\n")


@pytest.mark.parametrize("way", ["/cancel", "Ctrl-C"])
async def test_an_answer_is_stopped_and_keeps_its_text(stage: Stage, way: str) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("hello")
        conversation_id = await conversation_of(person)
        speaker = await stage.model.asked()
        speaker.say("As I was say")
        await person.shows("As I was say")
        if way == "Ctrl-C":
            person.press_ctrl_c()
        else:
            person.type("/cancel")
        await person.shows("\n[stopped]\n")
        person.type("/cancel")
        await person.shows("Nothing is being answered.")
        person.end_input()
        assert await person.code() == 0
    _, reply = await messages(stage, conversation_id)
    assert reply.state == MESSAGE_STATE_CANCELLED
    assert reply.parts[0].text.text == "As I was say"


async def test_a_stop_that_comes_before_the_answer_takes_effect_with_it(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("hello", "/cancel", "/quit")
        await person.shows("[stopped]")
        assert await person.code() == 0


async def test_ctrl_c_leaves_while_nothing_is_being_answered(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("/help")
        await person.shows("/cancel")
        person.press_ctrl_c()
        assert await person.code() == 0
        assert person.errors == ""


async def test_a_conversation_is_gone_on_with_and_its_pending_answer_is_told(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("hello")
        conversation_id = await conversation_of(person)
        speaker = await stage.model.asked()
        speaker.say("first half, ")
        await person.shows("first half, ")
    # The process was killed; the answer goes on.
    async with terminal(*arguments(stage), "--conversation", conversation_id) as person:
        await person.shows("first half, ")
        speaker.say("second half")
        speaker.finish()
        await person.shows("second half\n")
        person.type("/history")
        await person.shows("#1 you: hello\n#2 assistant (staged): first half, second half\n")
        person.type("/history 1", "/quit")
        assert await person.code() == 0
        assert person.shown.count("#1 you") == 1
        assert person.shown.count("#2 assistant") == 2


async def test_the_context_of_the_last_answer_is_told_in_words(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("/context", "hello", "/context", "/quit")
        await person.shows("There is no answer yet")
        speaker = await stage.model.asked()
        speaker.say("Good day.")
        speaker.finish()
        assert await person.code() == 0
        report = person.shown.split("Good day.\n")[1]
    assert report.startswith("Model: staged; embeddings by ")
    assert "Summary: none\n" in report
    assert "Word for word: 1 message with yours, number 1, " in report
    assert "your message " in report


async def test_a_new_conversation_begins_with_the_next_message(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("one")
        first_id = await conversation_of(person)
        first = await stage.model.asked()
        first.finish()
        person.type("/new", "/context", "/history", "two")
        await person.shows("begins a new conversation")
        await person.shows("There is no answer yet")
        await person.shows("Nothing has been said yet")
        second_id = await conversation_of(person)
        (await stage.model.asked()).finish()
        person.end_input()
        assert await person.code() == 0
    assert first_id != second_id
    assert [message.state for message in await messages(stage, second_id)] == [MESSAGE_STATE_COMPLETE] * 2


async def test_nothing_is_created_before_something_is_said(stage: Stage) -> None:
    async with terminal(*arguments(stage, sub="silent")) as person:
        person.type("", "   ", "/nonsense", "/history x", "/quit")
        assert await person.code() == 0
        assert person.errors == (
            "There is no command /nonsense; /help lists them.\n/history takes a number of messages, not 'x'.\n"
        )
    listed = await stage.conversations.ListConversations(ListConversationsRequest(), metadata=signed_in(sub="silent"))
    assert len(listed.conversations) == 0


async def test_control_characters_of_an_answer_do_not_reach_the_terminal(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("/etc/hosts, what is it?")
        speaker = await stage.model.asked()
        speaker.say("\x1b]0;owned\x07red\x1b[31m\x9b1m\r\n\tend")
        speaker.finish()
        person.end_input()
        assert await person.code() == 0
        assert person.shown.endswith("�]0;owned�red�[31m�1m\n\tend\n")


async def test_a_line_that_is_not_utf_8_is_told_and_the_next_one_is_read(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type_bytes(b"\xff\xfe\n")
        person.type("/help")
        await person.shows("Type a message")
        person.end_input()
        assert await person.code() == 0
        assert person.errors == "That line is not UTF-8; set the terminal to UTF-8 and say it again.\n"


async def test_messages_can_come_from_a_file_whose_last_line_has_no_end(stage: Stage, tmp_path: Path) -> None:
    script = tmp_path / "messages.txt"
    script.write_text("/help\nfrom a file")
    with script.open() as opened:
        async with terminal(*arguments(stage), stdin=opened.fileno()) as person:
            speaker = await stage.model.asked()
            assert speaker.request.prompt[-1].content == "from a file"
            speaker.finish()
            assert await person.code() == 0


async def test_endpoint_and_token_can_come_from_the_environment(stage: Stage) -> None:
    async with terminal(
        CHATRPC_ENDPOINT=f"http://127.0.0.1:{stage.port}", CHATRPC_TOKEN=signer("main").sign()
    ) as person:
        person.type("/quit")
        assert await person.code() == 0
        assert person.errors == ""


async def test_a_person_at_a_terminal_gets_a_prompt(stage: Stage) -> None:
    async with terminal(*arguments(stage), tty=True) as person:
        await person.shows("/help lists the commands.")
        await person.shows("> ")
        person.type("hello")
        speaker = await stage.model.asked()
        speaker.say("Good day.")
        speaker.finish()
        await person.shows("Good day.")
        await person.shows("> ")
        person.type_bytes(b"\x04")
        assert await person.code() == 0


async def test_conversations_are_temporary_where_asked_for(stage: Stage) -> None:
    async with terminal(*arguments(stage), "--temporary") as person:
        person.type("hello")
        conversation_id = await conversation_of(person)
    request = GetConversationRequest(conversation_id=conversation_id)
    made = (await stage.conversations.GetConversation(request, metadata=signed_in())).conversation
    assert made.memory == CONVERSATION_MEMORY_TEMPORARY
