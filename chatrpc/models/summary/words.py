"""The words that a text is about, for telling how much of one text is in another."""

from __future__ import annotations

import re

# Scripts that write no space between words count by characters.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
_COMMON = frozenset(
    _WORD.findall("""
    about also and any are assistant been but can did does for from get had has have her hers him his how into its
    just let like not now our out said says she should some than that the their them then there they this too user
    was we were what when where which who why will with would you your
    """)
)


def words(text: str) -> frozenset[str]:
    """Words of some weight, in lower case: three letters long, or with a digit, or of another script than Latin."""
    found = _WORD.findall(text.casefold())
    return frozenset(
        word
        for word in found
        if word not in _COMMON and (len(word) > 2 or not word.isascii() or any(map(str.isdigit, word)))
    )


def share(part: frozenset[str], whole: frozenset[str]) -> float:
    """How much of `part` is in `whole`, 0 to 1; 1 where there is nothing to look for."""
    return len(part & whole) / len(part) if part else 1.0
