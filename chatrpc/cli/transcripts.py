"""Conversations in files: a message a line, or JSON Lines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from chatrpc.context.calibration import Said
from chatrpc.domain import Role

# Others, such as `system`, are nobody's messages.
_ROLES = {role.value: role for role in Role}


def read_transcripts(paths: Sequence[Path]) -> list[Said]:
    """The messages of files. Each file is a conversation, but for files in `.jsonl`, whose objects may name one.

    Raises:
        click.ClickException: A file is no text, or a line is none of the objects that are read.
    """
    numbers: defaultdict[Hashable, int] = defaultdict(lambda: len(numbers))
    return [
        Said(numbers[path, conversation], role, text)
        for path in paths
        for conversation, role, text in (_objects(path) if path.suffix == ".jsonl" else _lines(path))
    ]


def _lines(path: Path) -> Iterator[tuple[Hashable, Role, str]]:
    for line in _text(path).split("\n"):
        yield None, Role.USER, line


def _objects(path: Path) -> Iterator[tuple[Hashable, Role, str]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            said = list(_messages(json.loads(line), number))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise click.ClickException(
                f"{path}, line {number}: this is no JSON object with a `text`, nor one with `messages` of a `content`."
            ) from None
        yield from said


def _messages(read: dict[str, Any], line: int) -> Iterator[tuple[Hashable, Role, str]]:
    if "messages" in read:
        for message in read["messages"]:
            if message.get("role", "user") in _ROLES:
                yield line, _ROLES[message.get("role", "user")], str(message["content"])
    elif read.get("role", "user") in _ROLES:
        # Not the number of a line: a name is a text here.
        yield str(read.get("conversation", "")), _ROLES[read.get("role", "user")], str(read["text"])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise click.ClickException(f"{path} is not UTF-8 text.") from None
