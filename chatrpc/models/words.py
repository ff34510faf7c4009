"""Text as words, for telling what it is about and how much of one text is in another.

Languages are not told apart. Accents are dropped, and scripts that write no space between words are cut into pairs of
characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_WORD = re.compile(r"\w+")
# By ASCII code: of what words are made, the lower case, and a space for all else.
_ASCII_WORDS = bytes(ord(each.lower()) if _WORD.match(each) else ord(" ") for each in map(chr, range(128))).ljust(256)
_CONTRACTION = re.compile(r"(?:n't|'(?:s|re|ve|ll|d|m))\b")
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
# Words of those who write about a conversation, which say nothing of its subject.
_REPORTING = frozenset(_WORD.findall("assistant get like said says user"))


def all_words(text: str) -> list[str]:
    """The words of a text in lower case, in their order."""
    if text.isascii():
        # The same as below, in a third of the time.
        return text.encode().translate(_ASCII_WORDS).decode().split()
    found: list[str] = _WORD.findall(text.casefold())
    return found


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, in their order, without those that tell nothing."""
    plain = (text if text.isascii() else _without_marks(text)).casefold()
    if "'" in plain:
        plain = _CONTRACTION.sub("", plain)
    found = all_words(plain)
    if not plain.isascii():
        found = [piece for word in found for piece in ((word,) if word.isascii() else _pieces(word))]
    return [word for word in found if word not in _STOP_WORDS]


def words(text: str) -> frozenset[str]:
    """Words of some weight: three letters long, or with a digit, or of another script than Latin."""
    return frozenset(
        word
        for word in split_words(text)
        if word not in _REPORTING and (len(word) > 2 or not word.isascii() or any(map(str.isdigit, word)))
    )


def share(part: frozenset[str], whole: frozenset[str]) -> float:
    """How much of `part` is in `whole`, 0 to 1; 1 where there is nothing to look for."""
    return len(part & whole) / len(part) if part else 1.0


def _without_marks(text: str) -> str:
    """The text without accents and vowel signs, which people leave out, and which `\\w` takes for the end of a word."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", text) if unicodedata.category(each)[0] != "M")
    return unicodedata.normalize("NFKC", plain).replace("\u2019", "'")


def _pieces(word: str) -> Iterator[str]:
    """The word itself, but of its stretches without spaces the pairs of neighbouring characters."""
    end = 0
    for match in _UNSPACED.finditer(word):
        if match.start() > end:
            yield word[end : match.start()]
        stretch = match.group()
        yield from (stretch[place : place + 2] for place in range(max(1, len(stretch) - 1)))
        end = match.end()
    if end < len(word):
        yield word[end:]
