"""Facts that a person states about themselves, found by the patterns of English sentences.

It is plain and errs towards silence: a sentence that no pattern knows is no fact here, but may still enter the
narrative and is found by retrieval. A fact is kept as the whole sentence, in the words in which it was said.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from chatrpc.domain import Fact, FactKind, Message
from chatrpc.models.summary.facts import normal_key
from chatrpc.models.summary.salience import salience
from chatrpc.models.words import share, words
from chatrpc.ports import FactChange, Retract, Upsert

_WE = r"\b(?:i|we)(?:'(?:m|re|ve|ll)|\s+(?:am|are|have|will))?\s+(?:(?:really|always|usually|still|also|just|now)\s+)*"
_NOUN = r"(?P<what>(?:[\w'-]+\s+){0,4}?[\w'-]+)"
# A sentence of these says one thing about a person that has one value at a time: a newer one takes its place.
_SLOTS: tuple[tuple[FactKind, str, re.Pattern[str]], ...] = tuple(
    (kind, key, re.compile(pattern, re.IGNORECASE))
    for kind, key, pattern in (
        (
            FactKind.NAME,
            "user.name",
            r"\bmy (?:full |first |real )?name(?:'s| is)\s|\b(?:call me|i(?:'m| am) called)\s",
        ),
        (FactKind.NAME, "{what}.name", rf"\b(?:my|our)\s+{_NOUN}(?:'s name is|\s+(?:is|are)\s+(?:called|named))\s"),
        (FactKind.PREFERENCE, "favourite.{what}", rf"\b(?:my|our)\s+favou?rite\s+{_NOUN}\s+(?:is|are)\s"),
        (FactKind.DETAIL, "user.birthday", r"\bmy birthday(?:'s| is)\s|\bi was born (?:on|in)\s"),
        (FactKind.DETAIL, "user.home", rf"{_WE}(?:lives? in|moved to)\s"),
        (FactKind.DETAIL, "user.work", rf"{_WE}(?:works? (?:as|at|for)|working (?:as|at|for))\s"),
        (
            FactKind.DETAIL,
            "{what}",
            r"\b(?:my|our)\s+(?P<what>(?:[\w'-]+\s+){0,3}?(?:address|allowance|anniversary|appointment|blood type"
            r"|budget|code|deadline|email|flight|goal|height|interview|meeting|number|pin|rent|salary|size|train|weight"
            r"|wedding))"
            r"(?:\s+(?:is|was)\b|'s\s)",
        ),
    )
)
_OPEN = re.compile(
    r"\b(?:still (?:need|have) to|(?:haven't|have not|hasn't) (?:yet )?(?:decided|chosen|figured|settled|picked)"
    r"|(?:not sure|undecided|don't know) (?:yet|whether|which|if|when|where)\b|yet to (?:decide|choose|find)"
    r"|need to (?:decide|find out|figure out)|(?:is|are) (?:still )?(?:open|undecided)|to be decided|remind me to)\b",
    re.IGNORECASE,
)
_DECISION = re.compile(
    rf"{_WE}(?:decided|agreed|chose|chosen|picked|settled on|booked|committed|promised|going with|go with|stick with)\b"
    r"|\blet's (?:go with|use|stick with|settle on)\b|\bfrom now on\b|(?:^|please |must )remember\b|\bdon't forget\b"
    r"|\bthe (?:decision|plan) is\b",
    re.IGNORECASE,
)
_PREFERENCE = re.compile(
    rf"{_WE}(?:prefer|like|love|enjoy|hate|dislike|detest|can't stand|cannot stand|don't (?:like|eat|drink|want)|never "
    r"(?:eat|drink|use|take)|avoid|allergic|vegan|vegetarian)\b"
    r"(?!\s+(?:it|that|this|the|these|those|them|all|how|when|what|your?|his|her|their|to hear|to see)\b)"
    r"|\bi'd rather\b|\ballergic to\b|\bplease (?:always|never|don't|do not)\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"[?\uff1f]\W*$")
_DETAIL_SALIENCE = 1.5
"""What a sentence must be worth to be a detail: it says what a person is, has or does for good."""
_SAME = 0.85
_SETTLES = 0.5
"""Share of an open question's words that a decision must hold to settle it."""
_MOST_WORDS = 40
"""A longer sentence is not one fact."""


def find_facts(facts: Sequence[Fact], spoken: Iterable[tuple[Message, str]]) -> list[tuple[FactChange, str]]:
    """The changes that sentences of the user's bring, each with its sentence."""
    questions = {fact.key: words(fact.text) for fact in facts if fact.kind is FactKind.OPEN_QUESTION}
    known = [words(fact.text) for fact in facts]
    changes: list[tuple[FactChange, str]] = []
    for message, sentence in spoken:
        found = classify(sentence)
        if found is None:
            continue
        kind, key = found
        about = words(sentence)
        if kind is FactKind.OPEN_QUESTION:
            questions[key] = about
        for settled in [each for each, asked in questions.items() if each != key and _settles(kind, about, asked)]:
            changes.append((Retract(settled, sentence, message.sequence), sentence))
            del questions[settled]
        if key.startswith("said.") and any(
            share(about, each) >= _SAME and share(each, about) >= _SAME for each in known
        ):
            continue
        known.append(about)
        changes.append((Upsert(key, kind, f"user: {sentence}", message.sequence), sentence))
    return changes


def classify(sentence: str) -> tuple[FactKind, str] | None:
    """What kind of fact a sentence is, and its key; None where it is none."""
    if _QUESTION.search(sentence) or not 2 < len(sentence.split()) <= _MOST_WORDS:
        return None
    for kind, key, pattern in _SLOTS:
        if match := pattern.search(sentence):
            return kind, normal_key(key.format(what=match.groupdict().get("what", "")))
    for kind, pattern in (
        (FactKind.OPEN_QUESTION, _OPEN),
        (FactKind.DECISION, _DECISION),
        (FactKind.PREFERENCE, _PREFERENCE),
    ):
        if pattern.search(sentence):
            return kind, _key_of(sentence)
    if salience(f"user: {sentence}") >= _DETAIL_SALIENCE:
        return FactKind.DETAIL, _key_of(sentence)
    return None


def _settles(kind: FactKind, about: frozenset[str], asked: frozenset[str]) -> bool:
    return kind is not FactKind.OPEN_QUESTION and bool(asked) and share(asked, about) >= _SETTLES


def _key_of(sentence: str) -> str:
    """A key of the sentence's own: its first words, for people, and a digest of all."""
    digest = hashlib.blake2b(sentence.casefold().encode(), digest_size=4).hexdigest()
    return f"said.{normal_key(sentence)[:24]}_{digest}"
