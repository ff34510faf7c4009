"""The commands of `chatrpc chat` that branch a conversation."""

from __future__ import annotations

import pytest
from chatapi.v1.conversation_service_pb2 import ListMessagesRequest, Siblings
from chatapi.v1.message_pb2 import ROLE_ASSISTANT, ROLE_USER, Message, Part, TextPart

from chatrpc.cli.branches import branches_text, message_named
from chatrpc.errors import InvalidInput
from tests.cli.terminal import terminal
from tests.cli.test_chat import arguments, conversation_of
from tests.rpc.stage import Stage, signed_in


def message(name: str, sequence: int, parent: str, text: str) -> Message:
    role = ROLE_USER if name.startswith("u") else ROLE_ASSISTANT
    parts = [Part(text=TextPart(text=text))]
    return Message(id=name, sequence=sequence, parent_id=parent, role=role, parts=parts)


TREE = [
    message("u1", 1, "", "Hi."),
    message("a1", 2, "u1", "one"),
    message("a2", 3, "u1", "two\nlines " + "x" * 60),
    message("u2", 4, "", "Hello."),
    message("a3", 5, "u2", "three"),
]
GROUPS = [Siblings(parent_id="u1", message_ids=["a1", "a2"]), Siblings(message_ids=["u1", "u2"])]


def test_versions_are_shown_with_their_numbers_and_the_active_ones_marked() -> None:
    assert branches_text(TREE, GROUPS, "a1").splitlines() == [
        "2 versions of an answer:",
        "  * #2 one",
        f"    #3 two lines {'x' * 50}...",
        "2 versions of a message of yours:",
        "  * #1 Hi.",
        "    #4 Hello.",
    ]
    assert branches_text(TREE[:2], [], "a1") == "There is one version of everything."


def test_a_message_is_named_by_its_number() -> None:
    assert message_named(TREE, "#3").id == message_named(TREE, "3").id == "a2"
    with pytest.raises(InvalidInput, match="no message '9'"):
        message_named(TREE, "9")


async def test_an_answer_is_had_anew_switched_and_forked(stage: Stage) -> None:
    async with terminal(*arguments(stage)) as person:
        person.type("/regenerate", "hello")
        await person.shows("Nothing has been said yet.")
        source = await conversation_of(person)
        first = await stage.model.asked()
        first.say("one")
        first.finish()
        await person.shows("one")
        person.type("/regenerate")
        again = await stage.model.asked()
        again.say("two")
        again.finish()
        await person.shows("two")
        person.type("/branches", "/switch 2", "/fork")
        await person.shows("2 versions of an answer:\n    #2 one\n  * #3 two\n")
        await conversation_of(person)
        fork = (await conversation_of(person)).partition(":")[0]
        person.type("/history", "/switch", "/switch 7", "/quit")
        await person.shows("#1 you: hello\n#2 assistant (staged): one\n")
        assert await person.code() == 0
        assert "/switch takes the number" in person.errors
        assert "There is no message '7'" in person.errors
    assert fork != source.partition(":")[0]
    listed = await stage.conversations.ListMessages(ListMessagesRequest(conversation_id=source), metadata=signed_in())
    assert [each.parts[0].text.text for each in listed.messages] == ["hello", "one"]
