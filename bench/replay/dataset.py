"""LoCoMo's conversations: two people who talk over many sessions, and questions about what they said.

The format is that of `data/locomo10.json` in github.com/snap-research/LoCoMo (CC BY-NC 4.0), which is read from a
path or an address and never kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx

# As in LoCoMo's own evaluation code.
CATEGORIES: Mapping[int, str] = {
    1: "multi-hop",
    2: "temporal",
    3: "open-domain",
    4: "single-hop",
    5: "adversarial",
}

# "D8:6", and how it is written by mistake: "D:11:26", "D30:05", several in one string.
_DIALOGUE_ID = re.compile(r"D:?(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one of the two said.

    Attributes:
        id: Session and place in it, as `D8:6`.
        words: `Speaker: words`, and the caption of a shared image as LoCoMo's evaluation adds it.
        session_date: Of its session, as it is written, where it is the session's first.
        said_at: One minute after the turn before; sessions begin when their dates say.
    """

    id: str
    words: str
    session_date: str | None
    said_at: datetime

    @property
    def text(self) -> str:
        """The words, behind the date where a session begins."""
        return self.words if self.session_date is None else f"({self.session_date}) {self.words}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the conversation.

    Attributes:
        evidence: Ids of the turns that the answer stands in; empty where LoCoMo names none.
        unmatched: Evidence that is no turn of the conversation, as it is written.
    """

    text: str
    category: int
    evidence: frozenset[str]
    unmatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation of the data set."""

    name: str
    sessions: int
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]


def load(source: str) -> list[dict[str, Any]]:
    """The conversations of a data set, by its path or its http(s) address."""
    if re.match(r"https?://", source):
        response = httpx.get(source, follow_redirects=True, timeout=60.0)
        text = response.raise_for_status().text
    else:
        text = Path(source).read_text("utf-8")
    samples: list[dict[str, Any]] = json.loads(text)
    return samples


def dialogues(samples: Iterable[dict[str, Any]]) -> list[Dialogue]:
    """All conversations of a data set."""
    return [_dialogue(sample) for sample in samples]


def dialogue(samples: Iterable[dict[str, Any]], name: str | None) -> Dialogue:
    """The conversation of a name; the first where none is given.

    Raises:
        LookupError: There is none of that name.
    """
    samples = list(samples)
    for sample in samples:
        if name in (None, sample["sample_id"]):
            return _dialogue(sample)
    known = ", ".join(sample["sample_id"] for sample in samples)
    raise LookupError(f"The data set has no conversation {name}; it has {known or 'none'}.")


def _dialogue(sample: dict[str, Any]) -> Dialogue:
    conversation = sample["conversation"]
    turns: list[Turn] = []
    sessions = 0
    for number in count(1):
        if f"session_{number}_date_time" not in conversation:
            break
        # Some sessions have a date and no turns.
        said = conversation.get(f"session_{number}", [])
        sessions += bool(said)
        date = conversation[f"session_{number}_date_time"]
        began = datetime.strptime(date, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        for place, turn in enumerate(said):
            said_at = began + timedelta(minutes=place)
            turns.append(Turn(turn["dia_id"], _words(turn), None if place else date, said_at))
    ids = {turn.id for turn in turns}
    questions = tuple(_question(each, ids) for each in sample["qa"])
    return Dialogue(sample["sample_id"], sessions, tuple(turns), questions)


def _words(turn: Mapping[str, str]) -> str:
    words = f"{turn['speaker']}: {turn['text']}"
    if caption := turn.get("blip_caption"):
        words += f" and shared {caption}."
    return words


def _question(question: Mapping[str, Any], ids: Collection[str]) -> Question:
    evidence: set[str] = set()
    unmatched: list[str] = []
    for written in question["evidence"]:
        named = [f"D{int(session)}:{int(place)}" for session, place in _DIALOGUE_ID.findall(written)]
        evidence.update(each for each in named if each in ids)
        unmatched += [each for each in named if each not in ids] or ([] if named else [written])
    return Question(question["question"], question["category"], frozenset(evidence), tuple(unmatched))
