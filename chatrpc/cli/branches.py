"""The tree of a conversation in the terminal: where it branches, and how one of its messages is named."""

from __future__ import annotations

from collections.abc import Sequence

from chatapi.v1.conversation_service_pb2 import Siblings
from chatapi.v1.message_pb2 import ROLE_USER, Message

from chatrpc.cli.answer import text_of
from chatrpc.errors import InvalidInput

# Of each version so many characters are shown.
SHOWN = 60


def branches_text(messages: Sequence[Message], siblings: Sequence[Siblings], head_id: str) -> str:
    """Each place with several versions of a message, the active one marked, in words for a person."""
    by_id = {message.id: message for message in messages}
    active: set[str] = set()
    message_id = head_id
    while message_id in by_id:
        active.add(message_id)
        message_id = by_id[message_id].parent_id
    lines: list[str] = []
    for group in siblings:
        versions = [by_id[each] for each in group.message_ids if each in by_id]
        lines.append(f"{len(versions)} versions of {'a message of yours' if _is_users(versions) else 'an answer'}:")
        for version in versions:
            text = " ".join(text_of(version.parts).split())
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
            lines.append(f"  {'*' if version.id in active else ' '} #{version.sequence} {shown}".rstrip())
    return "\n".join(lines) or "There is one version of everything."


def message_named(messages: Sequence[Message], argument: str) -> Message:
    """The message of a number, as `/history` and `/branches` show it.

    Raises:
        InvalidInput: There is none.
    """
    number = argument.removeprefix("#")
    for message in messages:
        if number == str(message.sequence):
            return message
    raise InvalidInput("message", f"There is no message {argument!r}; /history and /branches show their numbers.")


def _is_users(versions: Sequence[Message]) -> bool:
    return bool(versions) and versions[0].role == ROLE_USER
