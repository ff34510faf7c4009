"""The terms of a text: what lexical search compares.

Messages are cut into terms when they are stored, and queries when they are asked, by the same rules. Languages are not
told apart: accents are dropped, words of plain Latin letters are stemmed by English rules, which do little harm to
other languages, since both sides lose the same endings; words of other scripts stay whole, and scripts that write no
space between words are cut into pairs of characters.

Two marks, which no word can equal, stand among the terms of a text: who speaks, where it begins with a name as in a
transcript, and that it ends by asking.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import Stemmer

from chatrpc.db.terms import MOST_QUERY_TERMS
from chatrpc.models.embedding.template import speaker

LEXICON_VERSION = 2
"""Stored terms answer only queries that were cut by the same rules: whoever changes them changes this number, and the
terms of all texts are made anew."""

LONGEST_TERM = 64
"""Characters of a term at most; of a longer one, such as encoded data, only the beginning counts."""

SPEAKER = ":"
"""The last character of the mark of who speaks: `melani:` for "Melanie: I went …", and for a query about Melanie."""

ASKS = "?"
"""The mark of a text that ends by asking. Each query holds it, to know those texts."""

_MOST_NAMES = 7

_WORD = re.compile(r"\w+")
_CONTRACTION = re.compile(r"(?:n't|'(?:s|re|ve|ll|d|m))\b")
_QUESTION_MARKS = ("?", "\uff1f", "\u061f")
# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han with its extensions, and Hangul, whose
# words carry their particles with them.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    r"\uf900-\ufaff\U00020000-\U0003134f]+"
)
# Words that tell nothing of what a text is about. Question words belong to them: they are rare in what people tell, so
# their IDF alone would make them the most telling words of a question.
_STOP_WORDS = frozenset(
    _WORD.findall("""
    a about above after again against all also am an and any are as at be because been before being below between both
    but by can could did do does doing done down during each few for from further had has have having he her here hers
    him his how i if in into is it its itself just let me might more most must my no nor not now of off on once only or
    other our ours out over own please same shall she should so some such than that the their theirs them then there
    these they this those through to too under until up us very was we were what when where which while who whom whose
    why will with would you your yours
    """)
)
_STEMMER = Stemmer.Stemmer("english")


def terms(text: str) -> Counter[str]:
    """The terms of a text, marks included, and how often it holds each; their sum is its length for BM25."""
    found = Counter(_terms(text))
    found.update({each + SPEAKER: 1 for each in _terms(speaker(text) or "")})
    if text.rstrip().endswith(_QUESTION_MARKS):
        found[ASKS] = 1
    return found


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


def _terms(text: str) -> Iterator[str]:
    plain = (text if text.isascii() else _without_marks(text)).casefold()
    for match in _WORD.finditer(_CONTRACTION.sub("", plain)):
        word = match.group()
        if word.isascii():
            if word not in _STOP_WORDS:
                yield _STEMMER.stemWord(word[:LONGEST_TERM])
        else:
            yield from _pieces(word)


def _without_marks(text: str) -> str:
    """The text without accents and vowel signs, which people leave out, and which `\\w` takes for the end of a word."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", text) if unicodedata.category(each)[0] != "M")
    return unicodedata.normalize("NFKC", plain).replace("\u2019", "'")


def _pieces(word: str) -> Iterator[str]:
    """The word itself, but of its stretches without spaces the pairs of neighbouring characters."""
    end = 0
    for match in _UNSPACED.finditer(word):
        if match.start() > end:
            yield word[end : match.start()][:LONGEST_TERM]
        stretch = match.group()
        yield from (stretch[place : place + 2] for place in range(max(1, len(stretch) - 1)))
        end = match.end()
    if end < len(word):
        yield word[end:][:LONGEST_TERM]
