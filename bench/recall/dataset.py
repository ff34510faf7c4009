"""What is searched, and what for: LoCoMo, or an operator's own messages and questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bench.replay.dataset import CATEGORIES, Dialogue, dialogues
from chatrpc.domain import Role

TUNING = frozenset({"conv-26", "conv-30", "conv-41", "conv-42", "conv-43"})
"""LoCoMo's conversations that the policy's constants were chosen on."""
ADVERSARIAL = "adversarial"
"""Questions with a false premise. The LoCoMo paper's retrieval figures, and the overall ones here, leave them out."""


@dataclass(frozen=True, slots=True)
class Message:
    id: str
    conversation: str
    role: Role
    text: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a user's messages.

    Attributes:
        evidence: Ids of the messages that answer it, one at least.
        asked_at: What "yesterday" is seen from.
    """

    id: str
    text: str
    category: str
    evidence: frozenset[str]
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Memory:
    """All messages of a user, in order, and the questions to them.

    Attributes:
        tuned_on: Whether the policy's constants were chosen on it.
    """

    user: str
    messages: tuple[Message, ...]
    questions: tuple[Question, ...]
    tuned_on: bool = False


def from_locomo(samples: Sequence[dict[str, Any]]) -> list[Memory]:
    """One user for each conversation. Questions for which no evidence is named are left out."""
    return [_memory(dialogue) for dialogue in dialogues(samples)]


def _memory(dialogue: Dialogue) -> Memory:
    messages = tuple(Message(turn.id, dialogue.name, Role.USER, turn.words, turn.said_at) for turn in dialogue.turns)
    questions = tuple(
        Question(
            id=f"{dialogue.name}_qa{number}",
            text=each.text,
            category=CATEGORIES[each.category],
            evidence=each.evidence,
            asked_at=messages[-1].created_at,
        )
        for number, each in enumerate(dialogue.questions)
        if each.evidence
    )
    return Memory(dialogue.name, messages, questions, dialogue.name in TUNING)


def corrected(memories: Sequence[Memory], errata: Iterable[Mapping[str, Any]]) -> list[Memory]:
    """The memories with the evidence that an audit of LoCoMo names, which knows conversations by their order.

    Raises:
        ValueError: An erratum is about another question than the data set has there.
    """
    right: dict[str, frozenset[str]] = {}
    texts = {question.id: question.text for memory in memories for question in memory.questions}
    for each in errata:
        number, question = re.fullmatch(r"locomo_(\d+)_qa(\d+)", each["question_id"]).groups()  # type: ignore[union-attr]
        known = f"{memories[int(number)].user}_qa{question}"
        if texts.get(known, each["question"]) != each["question"]:
            raise ValueError(f"The erratum {each['question_id']} is about another question than {known}.")
        right[known] = frozenset(each["correct_evidence"])
    return [
        replace(memory, questions=tuple(_corrected(memory, right.get(each.id), each) for each in memory.questions))
        for memory in memories
    ]


def _corrected(memory: Memory, evidence: frozenset[str] | None, question: Question) -> Question:
    known = (evidence or frozenset()) & {message.id for message in memory.messages}
    return replace(question, evidence=known) if known else question


def from_jsonl(path: Path) -> list[Memory]:
    """Messages and questions by user; docs/recall.md has the format.

    Raises:
        ValueError: A line is not of the format; the text names it.
    """
    messages: dict[str, list[Message]] = {}
    asked: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            user = fields.get("user", "")
            if "question" in fields:
                asked.setdefault(user, []).append((number, fields))
            else:
                messages.setdefault(user, []).append(_message(fields))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error!r}") from error
    return [
        Memory(user, tuple(said), tuple(_question(number, each, said) for number, each in asked.get(user, ())))
        for user, said in messages.items()
    ]


def _message(fields: Mapping[str, Any]) -> Message:
    return Message(
        id=fields["id"],
        conversation=fields.get("conversation", ""),
        role=Role(fields.get("role", "user")),
        text=fields["text"],
        created_at=_moment(fields["created_at"]),
    )


def _question(number: int, fields: Mapping[str, Any], said: Sequence[Message]) -> Question:
    evidence = frozenset(fields.get("evidence", ()))
    unknown = evidence - {message.id for message in said}
    if unknown or not evidence:
        raise ValueError(
            f"line {number}: the evidence names {', '.join(sorted(unknown)) or 'nothing'}, no message's id"
        )
    last = max(message.created_at for message in said)
    return Question(
        id=fields.get("id", f"line {number}"),
        text=fields["question"],
        category=fields.get("category", "questions"),
        evidence=evidence,
        asked_at=_moment(fields["asked_at"]) if "asked_at" in fields else last + timedelta(minutes=1),
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
