"""A stand-in for a language model that summarises: it reads the prompt that it is given, and does what that asks.

It knows nothing of what a test plants. What it takes for a fact is what a plain reader would: the statements that the
user makes of themself and what is theirs, but for what they only did, saw or thought.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = r"<{0}>\n(.*?)\n</{0}>"
_MESSAGE = re.compile(r"^\[(\d+) (user|assistant)\] ")
_OWN = re.compile(r"\b(?:I|I'm|I've|we|We|my|My|our|Our|Remember|Please|please)\b")
# What somebody did or thinks at the moment, which says nothing of them for good.
_PASSING = re.compile(r"\b(?:went|saw|talked|thought|think|have been|had|was|were|let me|read that)\b", re.IGNORECASE)
_KINDS = (
    ("open_question", r"\b(?:undecided|haven't|not sure|don't know|find out)\b"),
    ("decision", r"\b(?:decided|agreed|going with|booked)\b"),
    ("preference", r"\b(?:prefer|hate|love|favou?rite|allergic|always|never)\b"),
    ("name", r"\b(?:called|name is)\b"),
)
_FILLING = frozenset(
    re.findall(r"\S+", "a an and are at by for from i i'm i've in is it me my of on our that the to was we will with")
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the prompt shows it."""

    number: int
    role: str
    text: str


def block(prompt: str, name: str) -> str:
    """What stands between the tags of a name; empty where there are none."""
    found = re.search(_BLOCK.format(name), prompt, re.DOTALL)
    return found[1] if found else ""


def messages_of(prompt: str) -> list[Message]:
    """The messages that a prompt shows."""
    found: list[Message] = []
    for line in block(prompt, "messages").splitlines():
        if match := _MESSAGE.match(line):
            found.append(Message(int(match[1]), match[2], line[match.end() :]))
        elif found:
            last = found.pop()
            found.append(Message(last.number, last.role, f"{last.text} {line.strip()}"))
    return found


def facts_of(prompt: str) -> list[tuple[str, str, str]]:
    """Key, kind and text of each known fact that a prompt shows."""
    lines = (line.split(" | ", 2) for line in block(prompt, "facts").splitlines())
    return [(key, kind, text) for key, kind, text in lines]


def answer_of(story: str, changes: list[str]) -> str:
    """An answer in the form that the instructions ask for."""
    return "\n".join(["STORY", story, "FACTS", *changes, "END"])


def follow(prompt: str, max_words: int = 60) -> str | None:
    """The answer to a summariser's prompt, to fold or to merge; None where the prompt is none."""
    messages = messages_of(prompt)
    if not messages:
        return merge(prompt) if prompt.endswith("Write the changes.") else None
    known = {text for _, _, text in facts_of(prompt)}
    changes: list[str] = []
    for message in messages:
        said = re.split(r"(?<=[.!?])\s+", message.text) if message.role == "user" else []
        changes += (
            f"+ {key_of(sentence)} | {kind_of(sentence)} | {sentence} | {message.number}"
            for sentence in said
            if is_fact(sentence) and sentence not in known
        )
    asked = [message.text.split()[:8] for message in messages if message.role == "user"][:2]
    sentences = [*block(prompt, "story").splitlines(), *(f"The user said: {' '.join(each)} ..." for each in asked)]
    while len(sentences) > 1 and sum(len(each.split()) for each in sentences) > max_words:
        sentences.pop(0)
    return answer_of("\n".join(sentences), changes)


def merge(prompt: str) -> str:
    """Says each fact without the words that carry nothing, and joins those that begin alike."""
    changes: list[str] = []
    for key, kind, text in facts_of(prompt):
        short = " ".join(word for word in text.split() if word.lower() not in _FILLING)
        if len(short) < len(text):
            changes.append(f"+ {key} | {kind} | {short}")
    return "\n".join(["FACTS", *changes, "END"])


def is_fact(sentence: str) -> bool:
    return not sentence.rstrip().endswith("?") and bool(_OWN.search(sentence)) and not _PASSING.search(sentence)


def key_of(sentence: str) -> str:
    return "_".join(word for word in re.findall(r"\w+", sentence.lower()) if word not in _FILLING)[:40]


def kind_of(sentence: str) -> str:
    return next((kind for kind, pattern in _KINDS if re.search(pattern, sentence)), "detail")
