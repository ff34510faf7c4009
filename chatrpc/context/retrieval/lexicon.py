"""The terms of a text: what lexical search compares.

Messages are cut into terms when they are stored, and queries when they are asked, by the same rules: those of
`chatrpc.models.words`. Words of plain Latin letters are then stemmed by English rules, which do little harm to other
languages, since both sides lose the same endings. Nothing cuts stored texts anew: after a release, other rules would
hide what was stored before from lexical search.

Two marks, which no word can equal, stand among the terms of a text: who speaks, where it begins with a name as in a
transcript, and that it ends by asking.
"""

from __future__ import annotations

import re
from collections import Counter

import Stemmer

from chatrpc.db.terms import MOST_QUERY_TERMS
from chatrpc.models.embedding.template import speaker
from chatrpc.models.words import split_words

LONGEST_TERM = 64
"""Characters of a term at most; of a longer one, such as encoded data, only the beginning counts."""

SPEAKER = ":"
"""The last character of the mark of who speaks: `melani:` for "Melanie: I went …", and for a query about Melanie."""

ASKS = "?"
"""The mark of a text that ends by asking. Each query holds it, to know those texts."""

_MOST_NAMES = 7

_WORD = re.compile(r"\w+")
_QUESTION_MARKS = ("?", "\uff1f", "\u061f")
_STEMMER = Stemmer.Stemmer("english")


def terms(text: str) -> Counter[str]:
    """The terms of a text, marks included, and how often it holds each; their sum is its length for BM25."""
    found = Counter(_terms(text))
    for each in _terms(speaker(text) or ""):
        found[each + SPEAKER] = 1
    if text.rstrip().endswith(_QUESTION_MARKS):
        found[ASKS] = 1
    return found


def initials(text: str) -> frozenset[str]:
    """Numbers as they stand, and how other words begin: the same for texts of the same terms, and for few others.

    Stemming, which takes longer, changes neither.
    """
    cut = [word[:LONGEST_TERM] for word in split_words(text)]
    return frozenset([word if word.isdigit() else word[0] for word in cut])


def query_terms(text: str) -> tuple[str, ...]:
    """The different terms of a query, longest first: the longer a word, the rarer, and the more it tells.

    Behind them the marks: of its capitalised words, each of which may name a speaker, and of asking. At most
    `MOST_QUERY_TERMS` in all.
    """
    words = sorted(dict.fromkeys(_terms(text)), key=len, reverse=True)
    capitalised = " ".join(word for word in _WORD.findall(text) if word[0].isupper())
    names = dict.fromkeys(each + SPEAKER for each in _terms(capitalised))
    marks = (*names,)[:_MOST_NAMES]
    return (*words[: MOST_QUERY_TERMS - len(marks) - 1], *marks, ASKS)


def _terms(text: str) -> list[str]:
    words = [word[:LONGEST_TERM] for word in split_words(text)]
    if text.isascii():
        stemmed: list[str] = _STEMMER.stemWords(words)
        return stemmed
    return [_STEMMER.stemWord(word) if word.isascii() else word for word in words]
